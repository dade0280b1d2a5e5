// The entropy-coded stream of a tensor: segments in runs, each run a stream of its own. The format is written down in
// src/tightwire/kv/kernels/rans.py.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels.h"
#include "model.h"

namespace tightwire {

constexpr size_t kRunSymbols = 1u << 18;  // a run has at least as many, where the tensor has them

// Frequencies by level count, when they do not stand in the stream.
using Static = std::map<int, Frequencies>;

struct Runs {
    size_t segments, count;  // segments of `count` symbols
    const uint16_t* levels;  // of each segment
    const Static* tables;    // or null: each run brings its own

    size_t per_run() const { return std::max<size_t>(1, (kRunSymbols + count - 1) / count); }
    size_t runs() const { return (segments + per_run() - 1) / per_run(); }
};

struct Unmap {
    size_t size = 0;
    void operator()(uint8_t* pages) const;
};
// A part of the stream in pages of its own: whoever copies it into a frame gives them back one by one, where a heap
// would keep them all.
class Bytes {
public:
    Bytes() = default;
    Bytes(const uint8_t* from, size_t size);
    uint8_t* data() const { return pages_.get(); }
    size_t size() const { return pages_.get_deleter().size; }

private:
    std::unique_ptr<uint8_t[], Unmap> pages_;
};
// provide(segment, to): writes its symbols; false: give up. consume(segment, from): reads them; false: refused.
std::vector<Bytes> encode_runs(const Kernels&, const Runs&, const std::function<bool(size_t, uint8_t*)>& provide);
// What is wrong with the stream; empty: nothing.
std::string decode_runs(const Kernels&, const Runs&, const uint8_t* data, size_t size,
                        const std::function<bool(size_t, const uint8_t*)>& consume);

}  // namespace tightwire
