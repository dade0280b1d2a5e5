// What is sent behind principal components -> bf16: symbols, then the kernel `reconstruct` for each layer, or each head of
// it. And the way there: coordinates (`project`), then their symbols where rows have ranges of their own (`quantize_rows`).
#include <nanobind/stl/string.h>

#include <atomic>
#include <cstring>
#include <string>
#include <vector>

#include "module.h"
#include "pool.h"
#include "runs.h"

using namespace nanobind::literals;

void tightwire::bind_projected(nb::module_& m) {
    m.def("decode_projected",
          [](Array<const uint8_t, 1> data, Array<const bool, 1> coded, Array<const uint16_t, 1> levels, Array<const uint16_t, 1> lo,
             Array<const uint16_t, 1> step, Array<const float, 4> basis, Array<const float, 2> mean, Array<const float, 2> cos, Array<const float, 2> sin,
             ValuesOut out, const std::string& isa) -> std::string {
              const size_t units = basis.shape(0), features = basis.shape(1) * 32, directions = basis.shape(2);
              const size_t tokens = out.shape(1), dim = out.shape(2), segments = levels.shape(0), all = coded.shape(0);
              check_strides(out);
              require(units && directions && tokens && dim && dim % 32 == 0 && features && features % dim == 0 && basis.shape(3) == 32,
                      "basis must be [units, features / 32, directions, 32], head_dim a multiple of 32 that divides the features");
              require(out.shape(0) == units * (features / dim), "out must be [units * heads, tokens, dim]");
              require(mean.shape(0) == units && mean.shape(1) == features, "mean must be [units, features]");
              const bool turns = cos.shape(0) > 0;
              for (const auto* angles : {&cos, &sin})
                  require(turns ? angles->shape(0) == tokens && 2 * angles->shape(1) == dim && dim % 64 == 0
                                : angles->shape(0) == 0,
                          "cos and sin must be [tokens, dim / 2], dim a multiple of 64, or empty");
              require(all && all % units == 0 && units * directions % all == 0, "coded must be one for equally many directions of a unit");
              const size_t width = units * directions / all, channels = segments * width, count = width * tokens;
              std::vector<size_t> first(units + 1, 0);  // of each unit's segments among those that are coded
              for (size_t s = 0; s < all; ++s) first[s / (all / units) + 1] += coded.data()[s];
              for (size_t u = 0; u < units; ++u) first[u + 1] += first[u];
              require(segments && first[units] == segments, "levels must be one for each segment that is coded");
              require(lo.shape(0) == channels && step.shape(0) == channels, "lo and step must be one for each channel that is coded");
              for (size_t s = 0; s < segments; ++s)
                  require(levels.data()[s] >= 2 && levels.data()[s] <= 256, "levels must be 2 to 256");
              const Kernels& k = choose(isa);
              nb::gil_scoped_release release;
              for (size_t c = 0; c < channels; ++c)
                  if ((lo.data()[c] & 0x7FFF) >= 0x7F80 || step.data()[c] >= 0x7F80) return "a group's parameters are not finite";
              std::vector<uint8_t> symbols(channels * tokens);
              const std::string wrong = decode_runs(k, {segments, count, levels.data(), nullptr}, data.data(), data.shape(0),
                                                    [&](size_t s, const uint8_t* from) {
                                                        std::memcpy(symbols.data() + s * count, from, count);
                                                        return true;  // a table holds no symbol at or above its level count
                                                    });
              if (!wrong.empty()) return wrong;
              parallel(units, [&](size_t u) {
                  const size_t from = first[u] * width, kept = (first[u + 1] - first[u]) * width;
                  std::vector<uint32_t> places;
                  places.reserve(kept);
                  for (size_t r = 0; r < directions; ++r)
                      if (coded.data()[(u * directions + r) / width]) places.push_back(uint32_t(r));
                  const Coordinates coordinates{symbols.data() + from * tokens, lo.data() + from, step.data() + from, places.data(), kept, tokens};
                  const Space space{basis.data() + u * directions * features, mean.data() + u * features,
                                    turns ? cos.data() : nullptr, turns ? sin.data() : nullptr, directions, features, dim};
                  std::vector<float> scratch(scratch_floats(coordinates, space));
                  std::vector<uint32_t> filled(kTogether * kept);
                  k.reconstruct(coordinates, space, scratch.data(), filled.data(), segment(out, u * (features / dim)), size_t(out.stride(0)));
              });
              return {};
          },
          "data"_a, "coded"_a, "levels"_a, "lo"_a, "step"_a, "basis"_a, "mean"_a, "cos"_a, "sin"_a, "out"_a, "isa"_a = "");
    m.def("project",
          [](Values values, Array<const float, 4> basis, Array<const float, 2> offset, Array<const float, 2> cos,
             Array<const float, 2> sin, Array<float, 3> y, Array<float, 2> low, Array<float, 2> high,
             const std::string& isa) -> bool {
              const size_t units = offset.shape(0), directions = offset.shape(1), features = basis.shape(2);
              const size_t tokens = values.shape(1), dim = values.shape(2);
              check_strides(values);
              require(units && directions && tokens && dim && features && features % dim == 0 && values.shape(0) == units * (features / dim),
                      "values must be [units * heads, tokens, dim]");
              require(basis.shape(0) == units && basis.shape(3) == kBasisDirections &&
                          basis.shape(1) == (directions + kBasisDirections - 1) / kBasisDirections,
                      "basis must be [units, directions / 8, features, 8]");
              const bool turns = cos.shape(0) > 0;
              for (const auto* angles : {&cos, &sin})
                  require(turns ? angles->shape(0) == tokens && 2 * angles->shape(1) == dim : angles->shape(0) == 0,
                          "cos and sin must be [tokens, dim / 2], or empty");
              require(y.shape(0) == units && y.shape(1) == directions && y.shape(2) == tokens, "y must be [units, directions, tokens]");
              for (const auto* each : {&low, &high})
                  require(each->shape(0) == units && each->shape(1) == directions, "low and high must be [units, directions]");
              const Kernels& k = choose(isa);
              nb::gil_scoped_release release;
              std::atomic<bool> tame{true};
              parallel(units, [&](size_t u) {
                  const Directions d{basis.data() + u * basis.shape(1) * features * kBasisDirections, offset.data() + u * directions,
                                     turns ? cos.data() : nullptr, turns ? sin.data() : nullptr, directions, features, dim};
                  std::vector<float> scratch(scratch_floats(d));
                  if (!k.project(segment(values, u * (features / dim)), size_t(values.stride(0)), d, tokens, scratch.data(),
                                 y.data() + u * directions * tokens, low.data() + u * directions, high.data() + u * directions))
                      tame = false;
              });
              return tame;
          },
          "values"_a, "basis"_a, "offset"_a, "cos"_a, "sin"_a, "y"_a, "low"_a, "high"_a, "isa"_a = "");
    m.def("quantize_rows",
          [](Array<const float, 2> y, Array<const float, 1> low, Array<const float, 1> high, Array<const uint16_t, 1> levels,
             Array<uint16_t, 1> lo, Array<uint16_t, 1> step, Array<uint8_t, 2> symbols, const std::string& isa) -> bool {
              const size_t rows = y.shape(0), count = y.shape(1);
              require(low.shape(0) == rows && high.shape(0) == rows && lo.shape(0) == rows && step.shape(0) == rows,
                      "low, high, lo and step must be [rows]");
              require(levels.shape(0) && rows % levels.shape(0) == 0, "levels must be one for equally many rows");
              require(symbols.shape(0) == rows && symbols.shape(1) == count, "symbols must be like y");
              for (size_t s = 0; s < levels.shape(0); ++s)
                  require(levels.data()[s] >= 2 && levels.data()[s] <= 256, "levels must be 2 to 256");
              const Kernels& k = choose(isa);
              nb::gil_scoped_release release;
              const size_t each = rows / levels.shape(0);
              bool finite = true;
              for (size_t r = 0; r < rows; ++r)
                  finite &= k.quantize_row(y.data() + r * count, count, low.data()[r], high.data()[r], levels.data()[r / each],
                                           lo.data() + r, step.data() + r, symbols.data() + r * count);
              return finite;
          },
          "y"_a, "low"_a, "high"_a, "levels"_a, "lo"_a, "step"_a, "symbols"_a, "isa"_a = "");
}
