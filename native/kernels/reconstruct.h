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

constexpr int kGroups = int(kTogether) / kAtOnce;  // of such tokens in a tile

TW_INLINE f32x16 floats_of(const uint8_t* bytes) {
#if defined(__AVX512BW__)
    return (f32x16)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load<__m128i>(bytes)));
#elif defined(__AVX2__)
    auto eight = [&](int i) __attribute__((always_inline)) {
        return (f32n)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(bytes + i))));
    };
    return {{eight(0), eight(8)}};
#else
    float out[16];
    for (int i = 0; i < 16; ++i) out[i] = float(bytes[i]);
    return load<f32x16>(out);
#endif
}

// One bit for each of 16 values: whether it is not 0.
TW_INLINE uint32_t not_zero(const f32x16& x) {
#if defined(__AVX512BW__)
    return _mm512_test_epi32_mask((__m512i)x, _mm512_set1_epi32(0x7FFFFFFF));
#else
    uint32_t out = 0;
    for (int i = 0; i < 16; ++i) out |= uint32_t(x[i] != 0.0f) << i;
    return out;
#endif
}

// y[direction][token of the tile]; what is past the last token is 0. `filled` [kGroups][directions]: which directions have a
// coordinate that is not 0 in each group, `counts` how many: behind a quantizer with a wide zero it is half of them.
inline void coordinates(const Coordinates& c, size_t first, size_t count, float* y, uint32_t* filled, size_t* counts) {
    std::fill(counts, counts + kGroups, size_t{0});
    for (size_t r = 0; r < c.directions; ++r, y += kTogether) {
        const uint8_t* symbols = c.symbols + r * c.tokens + first;
        uint8_t last[kTogether] = {};
        if (count < kTogether) symbols = static_cast<uint8_t*>(std::memcpy(last, symbols, count));
        const f32x16 there = floats_of(symbols) * broadcast(from_bf16(c.step[r])) + broadcast(from_bf16(c.lo[r]));
        store(y, there);
        for (size_t t = count; t < kTogether; ++t) y[t] = 0.0f;
        const uint32_t some = not_zero(there);
        for (int g = 0; g < kGroups; ++g) {
            filled[size_t(g) * c.directions + counts[g]] = uint32_t(r);
            counts[g] += (some >> g * kAtOnce & ((1u << kAtOnce) - 1)) != 0;
        }
    }
}

// x[token of the tile][feature] for the tokens from 0 to `count`, rounded up to kAtOnce.
inline void products(const float* y, const uint32_t* filled, const size_t* counts, const Coordinates& c, const Space& s,
                     size_t count, float* x) {
    for (size_t column = 0; column < s.features; column += 32) {
        const float* const basis = s.basis + column * s.directions;
        const f32x16 even = load<f32x16>(s.mean + column), odd = load<f32x16>(s.mean + column + 16);
        for (size_t t = 0; t < count; t += kAtOnce) {
            Pair sums[kAtOnce];
            TW_EACH(kAtOnce, kAtOnce, j) { sums[j] = {even, odd}; });
            const uint32_t* const place = filled + t / kAtOnce * c.directions;
            for (size_t i = 0; i < counts[t / kAtOnce]; ++i) {
                const size_t r = place[i];
                const float *const w = basis + size_t(c.places[r]) * 32, *const values = y + r * kTogether + t;
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

void reconstruct(const Coordinates& c, const Space& s, float* scratch, uint32_t* filled, uint16_t* out, size_t stride) {
    float *const y = scratch, *const x = scratch + kTogether * c.directions;
    size_t counts[kGroups];
    bool huge = false;
    for (size_t r = 0; r < c.directions; ++r) huge |= (c.lo[r] & 0x7FFF) >= 0x5D80 || c.step[r] >= 0x5D80;  // 2^60
    for (size_t i = 0; i < s.features; ++i) huge |= size_of(s.mean[i]) >= 0x5D80;
    for (size_t first = 0; first < c.tokens; first += kTogether) {
        const size_t count = std::min(kTogether, c.tokens - first);
        coordinates(c, first, count, y, filled, counts);
        products(y, filled, counts, c, s, count, x);
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
