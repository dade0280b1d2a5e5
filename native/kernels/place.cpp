// K and V into the cache of vLLM's CPU attention, `cpu-vec` in src/tightwire/kv/engines/vllm/layout.py.
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "module.h"

using namespace nanobind::literals;

namespace {

using Row = uint16_t __attribute__((vector_size(16)));

// Rows and columns of 8 x 8 values in registers.
inline void turn_eight(const uint16_t* in, size_t columns, uint16_t* out, size_t stride) {
    constexpr Row kLow = {0, 8, 1, 9, 2, 10, 3, 11}, kHigh = {4, 12, 5, 13, 6, 14, 7, 15};
    Row a[8], b[8];
    for (size_t i = 0; i < 8; ++i) std::memcpy(&a[i], in + i * columns, sizeof(Row));
    const auto mix = [&](const Row* from, Row* to) __attribute__((always_inline)) {
        for (size_t i = 0; i < 4; ++i) {
            to[2 * i] = __builtin_shuffle(from[i], from[i + 4], kLow);
            to[2 * i + 1] = __builtin_shuffle(from[i], from[i + 4], kHigh);
        }
    };
    mix(a, b);  // each time the six bits of a value's place are rotated by one
    mix(b, a);
    mix(a, b);
    for (size_t i = 0; i < 8; ++i) std::memcpy(out + i * stride, &b[i], sizeof(Row));
}

// [rows, columns] to [columns, rows], `stride` apart.
void turn(const uint16_t* in, size_t rows, size_t columns, uint16_t* out, size_t stride) {
    constexpr size_t kSide = 8;
    const size_t whole_rows = rows / kSide * kSide, whole_columns = columns / kSide * kSide;
    for (size_t c = 0; c < whole_columns; c += kSide)
        for (size_t r = 0; r < whole_rows; r += kSide) turn_eight(in + r * columns + c, columns, out + c * stride + r, stride);
    for (size_t r = 0; r < rows; ++r)
        for (size_t c = r < whole_rows ? whole_columns : 0; c < columns; ++c) out[c * stride + r] = in[r * columns + c];
}

}  // namespace

void tightwire::bind_place(nb::module_& m) {
    m.def("place",
          [](const std::vector<Array<uint16_t, 4>>& caches, Array<const int64_t, 1> ids, size_t offset, Values k, Values v) {
              require(!caches.empty() && ids.shape(0), "there must be layers and blocks");
              const size_t heads = caches[0].shape(1), block = caches[0].shape(2), dim = caches[0].shape(3) / 2;
              check_strides(k);
              check_strides(v);
              for (const auto& cache : caches)
                  require(cache.shape(1) == heads && cache.shape(2) == block && cache.shape(3) == 2 * dim,
                          "all caches must be [blocks, heads, block_size, 2 * dim]");
              for (const auto* x : {&k, &v})
                  require(x->shape(0) == caches.size() * heads && x->shape(1) == k.shape(1) && x->shape(2) == dim,
                          "k and v must be [layers * heads, tokens, dim]");
              const size_t end = offset + k.shape(1);
              require(offset < block && end > block * (ids.shape(0) - 1) && end <= block * ids.shape(0),
                      "the tokens must be in all blocks of the ids, and begin in the first");
              for (const auto& cache : caches)
                  for (size_t b = 0; b < ids.shape(0); ++b)
                      require(ids.data()[b] >= 0 && size_t(ids.data()[b]) < cache.shape(0), "an id is of no block");
              nb::gil_scoped_release release;
              for (size_t layer = 0; layer < caches.size(); ++layer)
                  for (size_t b = 0; b < ids.shape(0); ++b) {
                      const size_t from = b ? 0 : offset, rows = std::min(block, end - b * block) - from;
                      for (size_t head = 0; head < heads; ++head) {
                          uint16_t* to = caches[layer].data() + (size_t(ids.data()[b]) * heads + head) * block * dim * 2;
                          const size_t s = layer * heads + head, first = (b * block + from - offset) * dim;
                          turn(segment(k, s) + first, rows, dim, to + from, block);
                          std::memcpy(to + (block + from) * dim, segment(v, s) + first, 2 * rows * dim);
                      }
                  }
          },
          "caches"_a, "ids"_a, "offset"_a, "k"_a, "v"_a);
}
