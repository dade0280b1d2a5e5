// Symbols -> coordinates -> values -> rotary embedding -> bf16 rows. The contract is that of the stages (allocate, pca,
// rope), within the rounding of fp32 sums: their products are a BLAS's, whose order is its own.
// Included once per instruction set (see isa.cpp).
#pragma once

// Tokens whose sums are in registers together, 32 features each.
#if defined(__AVX512BW__)
constexpr int kAtOnce = 8;
#elif defined(__AVX2__)
constexpr int kAtOnce = 2;
#else
constexpr int kAtOnce = 1;
#endif

// y[direction][token of the tile]; what is past the last token is 0.
inline void coordinates(const Coordinates& c, size_t first, size_t count, float* y) {
    for (size_t r = 0; r < c.directions; ++r, y += kTogether) {
        const uint8_t* symbols = c.symbols + r * c.tokens + first;
        const float base = from_bf16(c.lo[r]), width = from_bf16(c.step[r]);
        if (count == kTogether) {
            for (size_t t = 0; t < kTogether; ++t) y[t] = float(symbols[t]) * width + base;
        } else {
            for (size_t t = 0; t < kTogether; ++t) y[t] = t < count ? float(symbols[t]) * width + base : 0.0f;
        }
    }
}

// x[token of the tile][feature] for the tokens from 0 to `count`, rounded up to kAtOnce.
inline void products(const float* y, const Space& s, size_t directions, size_t count, float* x) {
    for (size_t column = 0; column < s.features; column += 32) {
        const float* const basis = s.basis + column * directions;
        const f32x16 even = load<f32x16>(s.mean + column), odd = load<f32x16>(s.mean + column + 16);
        for (size_t t = 0; t < count; t += kAtOnce) {
            Pair sums[kAtOnce];
            TW_EACH(kAtOnce, kAtOnce, j) { sums[j] = {even, odd}; });
            const float* w = basis;
            const float* values = y + t;
            for (size_t r = 0; r < directions; ++r, w += 32, values += kTogether) {
                const f32x16 w_even = load<f32x16>(w), w_odd = load<f32x16>(w + 16);
                TW_EACH(kAtOnce, kAtOnce, j) {
                    const f32x16 value = broadcast(values[j]);
                    sums[j].even = multiply_add(value, w_even, sums[j].even);
                    sums[j].odd = multiply_add(value, w_odd, sums[j].odd);
                });
            }
            TW_EACH(kAtOnce, kAtOnce, j) {
                store(x + (t + size_t(j)) * s.features + column, sums[j].even);
                store(x + (t + size_t(j)) * s.features + column + 16, sums[j].odd);
            });
        }
    }
}

TW_INLINE Pair load_pair(const float* p) { return {load<f32x16>(p), load<f32x16>(p + 16)}; }

// One token of one head.
inline void turn_row(const float* x, const float* cos, const float* sin, size_t dim, uint16_t* out) {
    const size_t half = dim / 2;
    for (size_t i = 0; i < half; i += 32) {
        const Pair a = load_pair(x + i), b = load_pair(x + half + i), c = load_pair(cos + i), s = load_pair(sin + i);
        store(out + i, narrow({multiply_sub(a.even, c.even, b.even * s.even), multiply_sub(a.odd, c.odd, b.odd * s.odd)}));
        store(out + half + i,
              narrow({multiply_add(b.even, c.even, a.even * s.even), multiply_add(b.odd, c.odd, a.odd * s.odd)}));
    }
}

void reconstruct(const Coordinates& c, const Space& s, float* scratch, uint16_t* out, size_t stride) {
    float *const y = scratch, *const x = scratch + kTogether * c.directions;
    bool huge = false;
    for (size_t r = 0; r < c.directions; ++r) huge |= (c.lo[r] & 0x7FFF) >= 0x5D80 || c.step[r] >= 0x5D80;  // 2^60
    for (size_t i = 0; i < s.features; ++i) huge |= size_of(s.mean[i]) >= 0x5D80;
    for (size_t first = 0; first < c.tokens; first += kTogether) {
        const size_t count = std::min(kTogether, c.tokens - first);
        coordinates(c, first, count, y);
        products(y, s, c.directions, count, x);
        for (size_t t = 0; t < count; ++t)
            for (size_t head = 0; head < s.features / s.dim; ++head) {
                const float* row = x + t * s.features + head * s.dim;
                uint16_t* to = out + head * stride + (first + t) * s.dim;
                if (s.cos) turn_row(row, s.cos + (first + t) * s.dim / 2, s.sin + (first + t) * s.dim / 2, s.dim, to);
                else for (size_t i = 0; i < s.dim; i += 32) store(to + i, narrow(load_pair(row + i)));
                if (huge) clip(to, s.dim);
            }
    }
}
