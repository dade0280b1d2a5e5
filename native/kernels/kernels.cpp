// Python module tightwire._kernels: checks shapes, releases the GIL, dispatches by instruction set.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <atomic>
#include <stdexcept>
#include <string>

#include "module.h"
#include "pool.h"
#include "runs.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace tightwire;

using Owned = nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>;

namespace {

bool runs_here(const Kernels& k) {
#ifdef TW_X86
    __builtin_cpu_init();
    if (&k == &avx512::kernels)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (&k == &avx2::kernels) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return &k == &portable::kernels;
}

const std::vector<const Kernels*>& available() {  // best last
    static const std::vector<const Kernels*> found = [] {
        std::vector<const Kernels*> list{&portable::kernels};
#ifdef TW_X86
        for (const Kernels* k : {&avx2::kernels, &avx512::kernels})
            if (runs_here(*k)) list.push_back(k);
#endif
        return list;
    }();
    return found;
}

constexpr size_t kCached = 16u << 20;

int bits_for(int levels) {
    int bits = 1;
    while ((1 << bits) < levels) ++bits;
    return bits;
}

// Weights in the order of the kernels, for every segment or one for all.
class Ordered {
public:
    Ordered(const Array<const float, 2>& values, size_t segments, size_t dim) : dim_(dim) {
        const size_t rows = values.shape(0);
        require(rows == 0 || ((rows == 1 || rows == segments) && values.shape(1) == dim),
                "weights must be [segments, dim], [1, dim] or empty");
        shared_ = rows == 1;
        data_.resize(rows * dim);
        for (size_t r = 0; r < rows; ++r)
            for (size_t i = 0; i < dim; ++i)
                data_[r * dim + i / 32 * 32 + i % 2 * 16 + i % 32 / 2] = values.data()[r * dim + i];
    }
    const float* of(size_t segment) const {
        return data_.empty() ? nullptr : data_.data() + (shared_ ? 0 : segment * dim_);
    }

private:
    size_t dim_;
    bool shared_;
    std::vector<float> data_;
};

// A tensor as the kernels see it: S segments [T, D] with their parameters.
struct Tensor {
    size_t segments;
    Shape shape;
    Mode mode;
    Ordered down, up, offset;
    std::vector<uint16_t> levels;

    Tensor(size_t s, size_t rows, size_t dim, size_t cells, const Array<const uint16_t, 1>& level_counts, int mode_number,
           const Array<const float, 2>& downs, const Array<const float, 2>& ups, const Array<const float, 2>& offsets)
        : segments(s), shape{rows, dim, 0}, mode(Mode(mode_number)), down(downs, s, dim), up(ups, s, dim),
          offset(offsets, s, dim), levels(level_counts.data(), level_counts.data() + level_counts.shape(0)) {
        require(segments && rows && dim && dim % 32 == 0 && dim <= kMaxDim,
                "values must be [segments, tokens, dim], dim a multiple of 32, at most 1024");
        require(cells && cells % rows == 0 && dim % (cells / rows) == 0 && dim / (cells / rows) % 32 == 0,
                "cells must be multiples of 32 neighbours that fill dim");
        shape.group = dim / (cells / rows);
        require(levels.size() == segments, "levels must be one for each segment");
        for (int each : levels) require(each >= 2 && each <= 256, "levels must be 2..256");
        require(mode_number >= 0 && mode_number <= 2, "mode must be 0 (plain), 1 (rotate) or 2 (scale)");
        require(mode == Mode::plain || (down.of(0) && up.of(0)), "this mode needs weights");
        require(mode != Mode::scale || offset.of(0), "this mode needs offsets");
    }
    // Whether its values are more than caches hold.
    bool past_caches() const { return segments * count() * sizeof(uint16_t) >= kCached; }
    size_t count() const { return shape.rows * shape.dim; }
    size_t cells() const { return shape.rows * (shape.dim / shape.group); }
    Weights weights(size_t s) const { return {down.of(s), up.of(s), offset.of(s)}; }
    // Where each segment's symbols begin: packed by its own level count, or one to a byte.
    std::vector<size_t> starts(bool packed) const {
        std::vector<size_t> found{0};
        for (int each : levels)
            found.push_back(found.back() + (packed ? (count() * size_t(bits_for(each)) + 7) / 8 : count()));
        return found;
    }
};

template <class P> void check_cells(const Tensor& t, const P& lo, const P& step) {
    require(lo.shape(0) == t.segments && step.shape(0) == t.segments && step.shape(1) == lo.shape(1),
            "lo and step must be [segments, cells]");
}

Static static_tables(const Array<const uint16_t, 1>& levels, const Array<const uint16_t, 2>& frequencies) {
    require(frequencies.shape(0) == levels.shape(0) && (levels.shape(0) == 0 || frequencies.shape(1) == 256),
            "frequencies must be [tables, 256], one for each level count");
    Static tables;
    for (size_t i = 0; i < levels.shape(0); ++i) {
        auto& freq = tables[levels.data()[i]];
        uint32_t sum = 0;
        for (int s = 0; s < 256; ++s) {
            freq[s] = frequencies.data()[i * 256 + size_t(s)];
            require(freq[s] < kProbs, "a frequency must be below 4096");
            require((freq[s] != 0) == (s < levels.data()[i]), "every symbol must have a frequency");
            sum += freq[s];
        }
        require(sum == kProbs, "frequencies must add up to 4096");
    }
    return tables;
}
void check_static(const Static& tables, const std::vector<uint16_t>& levels) {
    for (int each : levels)
        require(tables.empty() || tables.count(each), "there is no table for a level count that occurs");
}

Owned own(Bytes&& bytes) {
    auto* kept = new Bytes(std::move(bytes));
    nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<Bytes*>(p); });
    return Owned(kept->data(), {kept->size()}, owner);
}

// The sizes of the runs, then the runs.
nb::list own_runs(std::vector<Bytes>&& runs) {
    std::vector<uint32_t> sizes;
    for (const auto& run : runs) sizes.push_back(uint32_t(run.size()));
    nb::list parts;
    parts.append(own(Bytes(reinterpret_cast<const uint8_t*>(sizes.data()), 4 * sizes.size())));
    for (auto& run : runs) parts.append(own(std::move(run)));
    return parts;
}

}  // namespace

const Kernels& tightwire::choose(const std::string& isa) {
    if (isa.empty()) return *available().back();
    for (const Kernels* k : available())
        if (isa == k->isa) return *k;
    throw std::invalid_argument("no such instruction set here: " + isa);
}

NB_MODULE(_kernels, m) {
    m.doc() = "Native kernels of the kv codec; the contract is tightwire.kv.kernels.{reference,rans}.";
    m.attr("isa") = available().back()->isa;
    nb::list isas;
    for (const Kernels* k : available()) isas.append(k->isa);
    m.attr("isas") = isas;
    m.def("set_threads", &set_threads, "threads"_a, nb::call_guard<nb::gil_scoped_release>());
    m.def("threads", &threads);

    m.def("encode",
          [](Values values, Array<const uint16_t, 1> levels, int mode, Array<const float, 2> down,
             Array<const float, 2> offset, Array<uint16_t, 2> lo, Array<uint16_t, 2> step, Array<uint8_t, 1> out,
             bool packed, const std::string& isa) {
              Tensor t(values.shape(0), values.shape(1), values.shape(2), lo.shape(1), levels, mode, down, down, offset);
              check_strides(values);
              check_cells(t, lo, step);
              const auto starts = t.starts(packed);
              require(out.shape(0) == starts.back(), "the symbols have another size");
              const Kernels& k = choose(isa);
              nb::gil_scoped_release release;
              std::atomic<bool> good{true};
              parallel(t.segments, [&](size_t s) {
                  if (!k.encode(segment(values, s), t.shape, t.mode, t.weights(s), t.levels[s],
                                packed ? bits_for(t.levels[s]) : 0, lo.data() + s * t.cells(), step.data() + s * t.cells(),
                                out.data() + starts[s]))
                      good = false;
              });
              return bool(good);
          },
          "values"_a, "levels"_a, "mode"_a, "down"_a, "offset"_a, "lo"_a, "step"_a, "out"_a, "packed"_a, "isa"_a = "");
    m.def("decode",
          [](Array<const uint8_t, 1> data, Array<const uint16_t, 1> levels, int mode, Array<const float, 2> up,
             Array<const float, 2> offset, Array<const uint16_t, 2> lo, Array<const uint16_t, 2> step, ValuesOut out,
             bool packed, const std::string& isa) {
              Tensor t(out.shape(0), out.shape(1), out.shape(2), lo.shape(1), levels, mode, up, up, offset);
              check_strides(out);
              check_cells(t, lo, step);
              const auto starts = t.starts(packed);
              require(data.shape(0) == starts.back(), "the symbols have another size");
              const Kernels& k = choose(isa);
              nb::gil_scoped_release release;
              std::atomic<bool> good{true};
              parallel(t.segments, [&](size_t s) {
                  if (!k.decode(data.data() + starts[s], lo.data() + s * t.cells(), step.data() + s * t.cells(), t.shape,
                                t.mode, t.weights(s), t.levels[s], packed ? bits_for(t.levels[s]) : 0, t.past_caches(),
                                segment(out, s)))
                      good = false;
              });
              return bool(good);
          },
          "data"_a, "levels"_a, "mode"_a, "up"_a, "offset"_a, "lo"_a, "step"_a, "out"_a, "packed"_a, "isa"_a = "");

    m.def("encode_rans",
          [](Values values, Array<const uint16_t, 1> levels, int mode, Array<const float, 2> down,
             Array<const float, 2> offset, Array<uint16_t, 2> lo, Array<uint16_t, 2> step,
             Array<const uint16_t, 1> table_levels, Array<const uint16_t, 2> frequencies,
             const std::string& isa) -> std::optional<nb::list> {
              Tensor t(values.shape(0), values.shape(1), values.shape(2), lo.shape(1), levels, mode, down, down, offset);
              check_strides(values);
              check_cells(t, lo, step);
              const Static tables = static_tables(table_levels, frequencies);
              check_static(tables, t.levels);
              const Kernels& k = choose(isa);
              const Runs r{t.segments, t.count(), t.levels.data(), tables.empty() ? nullptr : &tables};
              std::vector<Bytes> runs;
              {
                  nb::gil_scoped_release release;
                  runs = encode_runs(k, r, [&](size_t s, uint8_t* to) {
                      return k.encode(segment(values, s), t.shape, t.mode, t.weights(s), t.levels[s], 0,
                                      lo.data() + s * t.cells(), step.data() + s * t.cells(), to);
                  });
              }
              if (runs.empty()) return std::nullopt;
              return own_runs(std::move(runs));
          },
          "values"_a, "levels"_a, "mode"_a, "down"_a, "offset"_a, "lo"_a, "step"_a, "table_levels"_a, "frequencies"_a,
          "isa"_a = "");
    m.def("decode_rans",
          [](Array<const uint8_t, 1> data, Array<const uint16_t, 1> levels, int mode, Array<const float, 2> up,
             Array<const float, 2> offset, Array<const uint16_t, 2> lo, Array<const uint16_t, 2> step,
             Array<const uint16_t, 1> table_levels, Array<const uint16_t, 2> frequencies, ValuesOut out,
             const std::string& isa) {
              Tensor t(out.shape(0), out.shape(1), out.shape(2), lo.shape(1), levels, mode, up, up, offset);
              check_strides(out);
              check_cells(t, lo, step);
              const Static tables = static_tables(table_levels, frequencies);
              check_static(tables, t.levels);
              const Kernels& k = choose(isa);
              const Runs r{t.segments, t.count(), t.levels.data(), tables.empty() ? nullptr : &tables};
              nb::gil_scoped_release release;
              return decode_runs(k, r, data.data(), data.shape(0), [&](size_t s, const uint8_t* from) {
                  return k.decode(from, lo.data() + s * t.cells(), step.data() + s * t.cells(), t.shape, t.mode,
                                  t.weights(s), t.levels[s], 0, t.past_caches(), segment(out, s));
              });
          },
          "data"_a, "levels"_a, "mode"_a, "up"_a, "offset"_a, "lo"_a, "step"_a, "table_levels"_a, "frequencies"_a,
          "out"_a, "isa"_a = "");

    m.def("rans_encode",
          [](Array<const uint8_t, 2> symbols, Array<const uint16_t, 1> levels, Array<const uint16_t, 1> table_levels,
             Array<const uint16_t, 2> frequencies, const std::string& isa) {
              const Static tables = static_tables(table_levels, frequencies);
              require(levels.shape(0) == symbols.shape(0) && symbols.shape(0) && symbols.shape(1),
                      "levels must be one for each segment");
              check_static(tables, {levels.data(), levels.data() + levels.shape(0)});
              const Kernels& k = choose(isa);
              const Runs r{symbols.shape(0), symbols.shape(1), levels.data(), tables.empty() ? nullptr : &tables};
              std::vector<Bytes> runs;
              {
                  nb::gil_scoped_release release;
                  runs = encode_runs(k, r, [&](size_t s, uint8_t* to) {
                      std::memcpy(to, symbols.data() + s * r.count, r.count);
                      return k.largest(to, r.count) < levels.data()[s];
                  });
              }
              require(!runs.empty(), "a symbol is not below the number of levels of its segment");
              return own_runs(std::move(runs));
          },
          "symbols"_a, "levels"_a, "table_levels"_a, "frequencies"_a, "isa"_a = "");
    m.def("rans_decode",
          [](Array<const uint8_t, 1> data, Array<const uint16_t, 1> levels, Array<const uint16_t, 1> table_levels,
             Array<const uint16_t, 2> frequencies, Array<uint8_t, 2> out, const std::string& isa) {
              const Static tables = static_tables(table_levels, frequencies);
              require(levels.shape(0) == out.shape(0) && out.shape(0) && out.shape(1), "levels must be one for each segment");
              check_static(tables, {levels.data(), levels.data() + levels.shape(0)});
              const Kernels& k = choose(isa);
              const Runs r{out.shape(0), out.shape(1), levels.data(), tables.empty() ? nullptr : &tables};
              nb::gil_scoped_release release;
              return decode_runs(k, r, data.data(), data.shape(0), [&](size_t s, const uint8_t* from) {
                  std::memcpy(out.data() + s * r.count, from, r.count);
                  return true;  // a table holds no symbol at or above its level count
              });
          },
          "data"_a, "levels"_a, "table_levels"_a, "frequencies"_a, "out"_a, "isa"_a = "");

    m.def("exponent_encode",
          [](Values values, Array<uint8_t, 1> rest, const std::string& isa) {
              check_strides(values);
              const size_t segments = values.shape(0), count = values.shape(1) * values.shape(2);
              require(segments && count && rest.shape(0) == segments * count, "rest must have a byte for each value");
              const Kernels& k = choose(isa);
              const std::vector<uint16_t> levels(segments, 256);
              std::vector<Bytes> runs;
              {
                  nb::gil_scoped_release release;
                  runs = encode_runs(k, {segments, count, levels.data(), nullptr}, [&](size_t s, uint8_t* to) {
                      k.split(segment(values, s), count, to, rest.data() + s * count);
                      return true;
                  });
              }
              return own_runs(std::move(runs));
          },
          "values"_a, "rest"_a, "isa"_a = "");
    m.def("exponent_decode",
          [](Array<const uint8_t, 1> rest, Array<const uint8_t, 1> data, ValuesOut out, const std::string& isa) {
              check_strides(out);
              const size_t segments = out.shape(0), count = out.shape(1) * out.shape(2);
              require(segments && count && rest.shape(0) == segments * count, "rest must have a byte for each value");
              const Kernels& k = choose(isa);
              const std::vector<uint16_t> levels(segments, 256);
              nb::gil_scoped_release release;
              return decode_runs(k, {segments, count, levels.data(), nullptr}, data.data(), data.shape(0),
                                 [&](size_t s, const uint8_t* from) {
                                     k.merge(from, rest.data() + s * count, count, segment(out, s));
                                     return true;
                                 });
          },
          "rest"_a, "data"_a, "out"_a, "isa"_a = "");

    bind_projected(m);
    bind_place(m);
    bind_deadzone(m);
}
