#include "runs.h"

#include <sys/mman.h>

#include <atomic>
#include <cstring>
#include <mutex>
#include <new>

#include "pool.h"

namespace tightwire {
namespace {

// Memory of a thread, kept for its next run.
uint8_t* scratch(int which, size_t size) {
    struct Buffer { std::unique_ptr<uint8_t[]> data; size_t size = 0; };
    thread_local Buffer buffers[2];
    Buffer& buffer = buffers[which];
    if (buffer.size < size) {
        buffer.data.reset();
        buffer.data.reset(new uint8_t[size]);
        buffer.size = size;
    }
    return buffer.data.get();
}

int lanes_for(size_t symbols) { return symbols >= kManySymbols ? kLanes : kFewLanes; }

bool encode_run(const Kernels& k, const Runs& r, size_t first, size_t end,
                const std::function<bool(size_t, uint8_t*)>& provide, Bytes& out) {
    const size_t total = (end - first) * r.count;
    uint8_t* symbols = scratch(0, total + 64);
    std::map<int, uint32_t[256]> counts;
    for (size_t s = first; s < end; ++s) {
        uint8_t* at = symbols + (s - first) * r.count;
        if (!provide(s, at)) return false;
        if (r.tables) continue;
        uint32_t here[256];
        k.count(at, r.count, r.levels[s], here);
        auto& sum = counts[r.levels[s]];
        for (int i = 0; i < 256; ++i) sum[i] += here[i];
    }
    uint8_t* const begin = scratch(1, 2 * total + counts.size() * 400 + 4 * kLanes + 64);
    uint8_t* at = begin;
    std::map<int, EncodeTable> encoders;
    for (auto& [levels, sum] : counts) {
        Frequencies freq;
        normalise(sum, freq);
        at += write_frequencies(freq, at);
        make_encoder(freq, encoders[levels]);
    }
    const int lanes = lanes_for(total);
    uint32_t states[kLanes];
    std::fill(states, states + lanes, kLow);
    for (size_t s = end; s-- > first;) {
        const int levels = r.levels[s];
        if (r.tables && !encoders.count(levels)) make_encoder(r.tables->at(levels), encoders[levels]);
        at = k.rans_put(symbols + (s - first) * r.count, r.count, encoders[levels], lanes, states, at);
    }
    std::memcpy(at, states, 4 * size_t(lanes));
    at += 4 * lanes;
    out = Bytes(begin, size_t(at - begin));
    return true;
}

std::string decode_run(const Kernels& k, const Runs& r, size_t first, size_t end, const uint8_t* in, size_t size,
                       const std::function<bool(size_t, const uint8_t*)>& consume) {
    std::map<int, std::unique_ptr<uint32_t[]>> decoders;
    for (size_t s = first; s < end; ++s) decoders[r.levels[s]];
    for (auto& [levels, table] : decoders) {
        Frequencies freq;
        const Frequencies* use = &freq;
        if (r.tables) {
            use = &r.tables->at(levels);
        } else {
            const size_t read = read_frequencies(in, size, levels, freq);
            if (!read) return "a frequency table is not one that an encoder writes";
            in += read;
            size -= read;
        }
        table.reset(new uint32_t[kProbs]);
        make_decoder(*use, table.get());
    }
    const int lanes = lanes_for((end - first) * r.count);
    if (size < 4 * size_t(lanes) || size % 2) return "a run is too short";
    const uint8_t* at = in + size - 4 * lanes;
    uint32_t states[kLanes];
    std::memcpy(states, at, 4 * size_t(lanes));
    for (int i = 0; i < lanes; ++i)
        if (states[i] < kLow) return "a state is out of range";
    uint8_t* symbols = scratch(0, r.count + 64);
    for (size_t s = first; s < end; ++s) {
        at = k.rans_take(at, in, r.count, decoders[r.levels[s]].get(), lanes, states, symbols);
        if (!at) return "a run ends too early";
        if (!consume(s, symbols)) return "a symbol is not below the number of levels of its segment";
    }
    if (at != in) return "a run holds more than its symbols";
    for (int i = 0; i < lanes; ++i)
        if (states[i] != kLow) return "a run does not end where it began";
    return "";
}

}  // namespace

Bytes::Bytes(const uint8_t* from, size_t size) {
    void* pages = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) throw std::bad_alloc();
    pages_ = std::unique_ptr<uint8_t[], Unmap>(static_cast<uint8_t*>(pages), Unmap{size});
    std::memcpy(pages, from, size);
}
void Unmap::operator()(uint8_t* pages) const { munmap(pages, size); }

std::vector<Bytes> encode_runs(const Kernels& k, const Runs& r, const std::function<bool(size_t, uint8_t*)>& provide) {
    std::vector<Bytes> runs(r.runs());
    std::atomic<bool> good{true};
    parallel(runs.size(), [&](size_t i) {
        const size_t first = i * r.per_run();
        if (!encode_run(k, r, first, std::min(first + r.per_run(), r.segments), provide, runs[i])) good = false;
    });
    if (!good) runs.clear();
    return runs;
}

std::string decode_runs(const Kernels& k, const Runs& r, const uint8_t* data, size_t size,
                        const std::function<bool(size_t, const uint8_t*)>& consume) {
    const size_t runs = r.runs();
    if (size < 4 * runs) return "the sizes of the runs are missing";
    std::vector<size_t> starts(runs + 1, 4 * runs);
    for (size_t i = 0; i < runs; ++i) {
        uint32_t bytes;
        std::memcpy(&bytes, data + 4 * i, 4);
        starts[i + 1] = starts[i] + bytes;
    }
    if (starts[runs] != size) return "the runs do not fill the payload";
    std::mutex mutex;
    std::string wrong;
    parallel(runs, [&](size_t i) {
        const size_t first = i * r.per_run();
        std::string error = decode_run(k, r, first, std::min(first + r.per_run(), r.segments), data + starts[i],
                                       starts[i + 1] - starts[i], consume);
        if (error.empty()) return;
        std::lock_guard lock(mutex);
        wrong = error;
    });
    return wrong;
}

}  // namespace tightwire
