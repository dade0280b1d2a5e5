// Symbols -> values -> transform back -> bf16 rows. The contract is kernels/reference.py, bit for bit.
// Included once per instruction set (see isa.cpp).
#pragma once

// Past this, what is decoded may overflow bf16, and is looked at again.
constexpr uint16_t kHuge = 0x7400;  // 2^105

TW_INLINE uint16_t size_of(float x) { return uint16_t(bits_of(x) >> 16 & 0x7FFF); }

// Infinite values become the largest finite ones.
[[gnu::noinline]] inline void clip(uint16_t* out, size_t count) {
    for (size_t i = 0; i < count; ++i)
        if ((out[i] & 0x7FFF) == 0x7F80) --out[i];
}

// All values that a cell of at most kFew levels can have, as bf16: a symbol is looked up.
#if defined(__AVX512BW__)
constexpr int kFew = 32;
struct CellValues {
    __m512i values;
    TW_INLINE CellValues(float base, float width) {
        const f32x16 q = to_floats((u32x16)kLane * 2);
        values = (__m512i)narrow({q * width + base, (q + 1.0f) * width + base});
    }
    TW_INLINE u16x32 operator[](u16x32 q) const { return (u16x32)_mm512_permutexvar_epi16((__m512i)q, values); }
};
#elif defined(__AVX2__)
constexpr int kFew = 16;
struct CellValues {
    __m256i low, high;  // bytes, twice
    TW_INLINE CellValues(float base, float width) {
        const f32n q = {0, 1, 2, 3, 4, 5, 6, 7};
        u32n a = (u32n)(q * width + base), b = (u32n)((q + 8.0f) * width + base);
        a = (a + ((a >> 16 & 1u) + 0x7FFFu)) >> 16;
        b = (b + ((b >> 16 & 1u) + 0x7FFFu)) >> 16;
        const __m256i words = _mm256_packus_epi32((__m256i)a, (__m256i)b), mask = _mm256_set1_epi16(0xFF);  // q 0-3 8-11 4-7 12-15
        const __m256i lows = _mm256_and_si256(words, mask), highs = _mm256_srli_epi16(words, 8);
        const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5);
        low = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(lows, lows), order);
        high = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(highs, highs), order);
    }
    TW_INLINE u16x32 operator[](const u16x32& q) const {
        return map<u16x32>([&](auto part) __attribute__((always_inline)) {
            const __m256i twice = _mm256_or_si256((__m256i)part, _mm256_slli_epi16((__m256i)part, 8));
            return (Native<uint16_t>::V)_mm256_blendv_epi8(_mm256_shuffle_epi8(low, twice), _mm256_shuffle_epi8(high, twice),
                                                           _mm256_set1_epi16(short(0xFF00)));
        }, q);
    }
};
#else
constexpr int kFew = 0;
#endif

// N: vectors of 32 a row; G: a cell; 0: known only at run time.
template <int N, int G, Mode M, class From>
[[gnu::noinline]] void decode_rows(From& from, const uint16_t* lo, const uint16_t* step, const Shape& s,
                                   const Weights& w, [[maybe_unused]] int levels, bool past_caches, uint16_t* out) {
    const int n = N ? N : int(s.dim / 32), group = G ? G : int(s.group / 32);
    constexpr int most = N ? N : int(kMaxDim / 32), cells = G ? N / G : 0;
    uint16_t* const begin = out;
    past_caches &= reinterpret_cast<uintptr_t>(out) % kNative == 0;
    auto put = [&](int i, const u16x32& values) __attribute__((always_inline)) {
        if (past_caches) stream(out + 32 * i, values);
        else store(out + 32 * i, values);
    };
    uint16_t huge = 0;
    if constexpr (M == Mode::scale)
        for (size_t i = 0; i < s.dim; ++i)
            if (size_of(w.up[i]) >= 0x5D80 || size_of(w.offset[i]) >= 0x5D80) huge = kHuge;  // 2^60
    const uint16_t limit = M == Mode::scale ? 0x5D80 : kHuge;
    for (size_t r = 0; r < s.rows; ++r, out += s.dim) {
        Pair row[most];
        from.need(n);
        TW_EACH(cells, n / group, c) {
            const uint16_t lo16 = *lo++, step16 = *step++;
            const float base = from_bf16(lo16), width = from_bf16(step16);
            if ((lo16 & 0x7FFF) >= limit || step16 >= limit) huge = kHuge;
            auto take = [&](int i) __attribute__((always_inline)) { return from.get(c * group + i); };
#ifdef __AVX2__
            if (M == Mode::plain && levels <= kFew) {
                const CellValues values(base, width);
                TW_EACH(G, group, i) { put(c * group + i, values[take(i)]); });
                return;
            }
#endif
#ifdef __AVX512BW__
            if (levels <= 16) {
                const __m512 values = (__m512)(to_floats((u32x16)kLane) * width + base);
                TW_EACH(G, group, i) {
                    const u32x16 q = (u32x16)take(i);
                    row[c * group + i] = {(f32x16)_mm512_permutexvar_ps((__m512i)q, values),
                                          (f32x16)_mm512_permutexvar_ps((__m512i)(q >> 16), values)};
                });
                return;
            }
#endif
            const f32x16 wide = f32x16{} + width, low = f32x16{} + base;
            TW_EACH(G, group, i) {
                const u32x16 q = (u32x16)take(i);
                row[c * group + i] = {multiply_add(to_floats(q & 0xFFFF), wide, low),
                                      multiply_add(to_floats(q >> 16), wide, low)};
            });
        });
        from.advance(n);
        if (M == Mode::plain && levels <= kFew) continue;
        if constexpr (M == Mode::rotate) walsh_blocks<N>(row, n, true);
        TW_EACH(N, n, i) {
            if constexpr (M != Mode::plain) {
                row[i].even *= load<f32x16>(w.up + 32 * i);
                row[i].odd *= load<f32x16>(w.up + 32 * i + 16);
            }
            if constexpr (M == Mode::scale) {
                row[i].even += load<f32x16>(w.offset + 32 * i);
                row[i].odd += load<f32x16>(w.offset + 32 * i + 16);
            }
            put(i, narrow(row[i]));
        });
    }
#ifdef __AVX2__
    if (past_caches) _mm_sfence();
#endif
    if (huge) clip(begin, s.rows * s.dim);
}
