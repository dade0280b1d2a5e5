// The parameters of the quantizer `deadzone` (src/tightwire/kv/stages/quantizers/deadzone.py) as a chain's decoder takes them.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "module.h"

using namespace nanobind::literals;

namespace {

float from_bf16(uint16_t bits) { return std::bit_cast<float>(uint32_t(bits) << 16); }

uint16_t nearest_bf16(float x) {  // ties to even
    const auto bits = std::bit_cast<uint32_t>(x);
    return uint16_t((bits + (0x7FFF + (bits >> 16 & 1))) >> 16);
}

}  // namespace

void tightwire::bind_deadzone(nb::module_& m) {
    m.def("deadzone_parameters",
          [](Array<const uint16_t, 1> steps, Array<const uint8_t, 1> chosen, Array<const uint8_t, 1> peaks, Array<bool, 1> coded,
             Array<uint16_t, 1> levels, Array<uint16_t, 1> lo, Array<uint16_t, 1> step) -> int64_t {
              const size_t heads = steps.shape(0), segments = chosen.shape(0);
              require(heads && segments && segments % heads == 0, "chosen must be one for equally many segments of a head");
              require(coded.shape(0) == segments && levels.shape(0) == segments, "coded and levels must be one for each segment");
              require(lo.shape(0) == step.shape(0) && lo.shape(0) % segments == 0, "lo and step must be one for equally many channels of a segment");
              const size_t width = lo.shape(0) / segments;
              const auto step_of = [&](size_t head) {
                  uint16_t bits;  // a payload may begin at an odd address
                  std::memcpy(&bits, steps.data() + head, 2);
                  return bits;
              };
              for (size_t h = 0; h < heads; ++h)
                  if (step_of(h) >= 0x7F80) return -1;
              size_t count = 0;
              auto take = [&](size_t s, uint8_t peak) {
                  const uint16_t here = step_of(s / (segments / heads));
                  const float low = from_bf16(here) * -float(peak);
                  coded.data()[s] = true;
                  levels.data()[count] = uint16_t(std::max(2 * peak + 1, 2));
                  std::fill_n(lo.data() + count * width, width, nearest_bf16(low));
                  std::fill_n(step.data() + count * width, width, here);
                  ++count;
                  return std::isfinite(low);
              };
              for (size_t s = 0; s < segments; ++s) {
                  if (chosen.data()[s] >= peaks.shape(0)) return -1;
                  const uint8_t peak = peaks.data()[chosen.data()[s]];
                  coded.data()[s] = false;
                  if (peak && !take(s, peak)) return -1;
              }
              if (!count) take(0, 0);
              return int64_t(count);
          },
          "steps"_a, "chosen"_a, "peaks"_a, "coded"_a, "levels"_a, "lo"_a, "step"_a);
}
