// bf16 rows -> rotary embedding taken back -> coordinates in directions, direction by direction; and the symbols of such
// rows. Coordinates are those of the stages (rope, pca) within the rounding of fp32 sums; symbols of given coordinates are
// those of kernels/reference.py, bit for bit.
// Included once per instruction set (see isa.cpp).
#pragma once

// Directions whose sums are in registers together, kTogether tokens each.
#if defined(__AVX512BW__)
constexpr int kSums = 8;
#elif defined(__AVX2__)
constexpr int kSums = 4;
#else
constexpr int kSums = 2;
#endif
static_assert(kBasisDirections % kSums == 0 && kTogether == 16);

// One token of one head to the column `t` of x [dim, kTogether]; the largest magnitude's bits.
inline uint16_t take_row(const uint16_t* in, const float* cos, const float* sin, size_t dim, float* line, float* x) {
    uint16_t worst = 0;
    for (size_t i = 0; i < dim; ++i) {
        const uint16_t size = in[i] & 0x7FFF;
        worst = size > worst ? size : worst;
        const uint32_t bits = uint32_t(in[i]) << 16;
        std::memcpy(line + i, &bits, 4);
    }
    if (cos) {
        float* const other = line + dim / 2;
        for (size_t i = 0; i < dim / 2; ++i) {
            const float a = line[i], b = other[i];
            line[i] = a * cos[i] - b * sin[i];
            other[i] = b * cos[i] + a * sin[i];
        }
    }
    for (size_t i = 0; i < dim; ++i) x[i * kTogether] = line[i];
    return worst;
}

// Tokens [first, first + count) of the directions from `r` on, from x [features, kTogether].
inline void sum_up(const float* x, const Directions& d, size_t r, size_t first, size_t count, size_t tokens, f32x16* low,
                   f32x16* high, float* y) {
    const float* const basis = d.basis + r / kBasisDirections * kBasisDirections * d.features + r % kBasisDirections;
    f32x16 sums[kSums];
    TW_EACH(kSums, kSums, j) { sums[j] = f32x16{}; });
    for (size_t f = 0; f < d.features; ++f) {
        const f32x16 values = load<f32x16>(x + f * kTogether);
        const float* const weights = basis + f * kBasisDirections;
        TW_EACH(kSums, kSums, j) { sums[j] = multiply_add(values, broadcast(weights[j]), sums[j]); });
    }
    for (size_t j = 0; j < size_t(kSums) && r + j < d.count; ++j) {
        alignas(64) float line[kTogether];
        store(line, sums[j] - broadcast(d.offset[r + j]));
        std::memcpy(y + (r + j) * tokens + first, line, count * sizeof(float));
        for (size_t t = count; t < kTogether; ++t) line[t] = line[0];  // changes no minimum and no maximum
        const f32x16 there = load<f32x16>(line);
        low[j] = first ? min2(there, low[j]) : there;
        high[j] = first ? max2(there, high[j]) : there;
    }
}

bool project(const uint16_t* in, size_t stride, const Directions& d, size_t tokens, float* scratch, float* y, float* low,
             float* high) {
    const size_t padded = (d.count + kBasisDirections - 1) / kBasisDirections * kBasisDirections;
    float *const line = scratch, *const x = line + d.dim, *const lows = x + d.features * kTogether;
    float* const highs = lows + padded * kTogether;
    uint16_t worst = 0;
    for (size_t first = 0; first < tokens; first += kTogether) {
        const size_t count = std::min(kTogether, tokens - first);
        if (count < kTogether) std::fill(x, x + d.features * kTogether, 0.0f);
        for (size_t t = 0; t < count; ++t)
            for (size_t head = 0; head < d.features / d.dim; ++head) {
                const size_t turn = (first + t) * d.dim / 2;
                worst = std::max(worst, take_row(in + head * stride + (first + t) * d.dim, d.cos ? d.cos + turn : nullptr,
                                                 d.cos ? d.sin + turn : nullptr, d.dim, line, x + head * d.dim * kTogether + t));
            }
        for (size_t r = 0; r < d.count; r += kSums) {
            f32x16 least_of[kSums], most_of[kSums];
            for (int j = 0; first && j < kSums; ++j) {
                least_of[j] = load<f32x16>(lows + (r + size_t(j)) * kTogether);
                most_of[j] = load<f32x16>(highs + (r + size_t(j)) * kTogether);
            }
            sum_up(x, d, r, first, count, tokens, least_of, most_of, y);
            for (size_t j = 0; j < size_t(kSums) && r + j < d.count; ++j) {
                store(lows + (r + j) * kTogether, least_of[j]);
                store(highs + (r + j) * kTogether, most_of[j]);
            }
        }
    }
    for (size_t r = 0; r < d.count; ++r)
        extremes(load<f32x16>(lows + r * kTogether), load<f32x16>(highs + r * kTogether), low + r, high + r);
    return worst <= kTame;
}

bool quantize_row(const float* y, size_t count, float low, float high, int levels, uint16_t* lo, uint16_t* step,
                  uint8_t* symbols) {
    const uint32_t bits = bits_of(low);
    const uint16_t floor = uint16_t((bits >> 16) + ((bits >> 31) && (bits & 0xFFFF)));
    Cell cell;
    if (!close_cell(floor, high, 1.0f / float(levels - 1), lo, step, &cell)) return false;
    const f32x16 base = broadcast(cell.base), inverse = broadcast(cell.inverse);
    for (size_t i = 0; i < count; i += 16) {
        const size_t here = std::min<size_t>(16, count - i);
        alignas(64) float line[16] = {};
        alignas(64) uint32_t found[16];
        std::memcpy(line, y + i, here * sizeof(float));
        store(found, round_product(load<f32x16>(line) - base, inverse));
        for (size_t t = 0; t < here; ++t) symbols[i + t] = uint8_t(found[t]);
    }
    return true;
}
