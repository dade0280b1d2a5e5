// K and V into the cache of vLLM's CPU attention, `cpu-vec` in src/tightwire/kv/engines/vllm/layout.py.
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "module.h"

using namespace nanobind::literals;

namespace {

// [rows, columns] to [columns, rows], in squares that stay in registers' reach.
void turn(const uint16_t* in, size_t rows, size_t columns, uint16_t* out) {
    constexpr size_t kSide = 16;
    for (size_t r = 0; r < rows; r += kSide)
        for (size_t c = 0; c < columns; c += kSide)
            for (size_t j = c; j < std::min(c + kSide, columns); ++j)
                for (size_t i = r; i < std::min(r + kSide, rows); ++i) out[j * rows + i] = in[i * columns + j];
}

}  // namespace

void tightwire::bind_place(nb::module_& m) {
    m.def("place",
          [](const std::vector<Array<uint16_t, 4>>& caches, Array<const int64_t, 1> ids, Values k, Values v) {
              require(!caches.empty() && ids.shape(0), "there must be layers and blocks");
              const size_t heads = caches[0].shape(1), block = caches[0].shape(2), dim = caches[0].shape(3) / 2;
              check_strides(k);
              check_strides(v);
              for (const auto& cache : caches)
                  require(cache.shape(1) == heads && cache.shape(2) == block && cache.shape(3) == 2 * dim,
                          "all caches must be [blocks, heads, block_size, 2 * dim]");
              for (const auto* x : {&k, &v})
                  require(x->shape(0) == caches.size() * heads && x->shape(1) == ids.shape(0) * block && x->shape(2) == dim,
                          "k and v must be [layers * heads, ids * block_size, dim]");
              for (const auto& cache : caches)
                  for (size_t b = 0; b < ids.shape(0); ++b)
                      require(ids.data()[b] >= 0 && size_t(ids.data()[b]) < cache.shape(0), "an id is of no block");
              nb::gil_scoped_release release;
              for (size_t layer = 0; layer < caches.size(); ++layer)
                  for (size_t b = 0; b < ids.shape(0); ++b)
                      for (size_t head = 0; head < heads; ++head) {
                          uint16_t* to = caches[layer].data() + (size_t(ids.data()[b]) * heads + head) * block * dim * 2;
                          const size_t s = layer * heads + head, first = b * block * dim;
                          turn(segment(k, s) + first, block, dim, to);
                          std::memcpy(to + block * dim, segment(v, s) + first, 2 * block * dim);
                      }
          },
          "caches"_a, "ids"_a, "k"_a, "v"_a);
}
