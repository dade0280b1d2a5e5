// What the kernels do with wide vectors: extremes, bf16, products.
// Included once per instruction set (see isa.cpp).
#pragma once

// --- minima and maxima ---

TW_INLINE f32n least(f32n a, f32n b) {
#if defined(__AVX512BW__)
    return (f32n)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (f32n)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return a < b ? a : b;
#endif
}
TW_INLINE f32n greatest(f32n a, f32n b) {
#if defined(__AVX512BW__)
    return (f32n)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (f32n)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return a > b ? a : b;
#endif
}
TW_INLINE i16n least(i16n a, i16n b) {
#if defined(__AVX512BW__)
    return (i16n)_mm512_min_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (i16n)_mm256_min_epi16((__m256i)a, (__m256i)b);
#else
    return a < b ? a : b;
#endif
}
TW_INLINE i16n greatest(i16n a, i16n b) {
#if defined(__AVX512BW__)
    return (i16n)_mm512_max_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (i16n)_mm256_max_epi16((__m256i)a, (__m256i)b);
#else
    return a > b ? a : b;
#endif
}
TW_INLINE Native<uint16_t>::V greatest(Native<uint16_t>::V a, Native<uint16_t>::V b) {
#if defined(__AVX512BW__)
    return (Native<uint16_t>::V)_mm512_max_epu16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (Native<uint16_t>::V)_mm256_max_epu16((__m256i)a, (__m256i)b);
#else
    return a > b ? a : b;
#endif
}
#ifdef __AVX512BW__
template <class V> TW_INLINE V min2(V a, V b) { return least(a, b); }
template <class V> TW_INLINE V max2(V a, V b) { return greatest(a, b); }
TW_INLINE f32n fold_min(f32x16 x) { return x; }
TW_INLINE f32n fold_max(f32x16 x) { return x; }
#else
template <class T, int B> TW_INLINE Wide<T, B> min2(const Wide<T, B>& a, const Wide<T, B>& b) {
    return map<Wide<T, B>>([](auto x, auto y) __attribute__((always_inline)) { return least(x, y); }, a, b);
}
template <class T, int B> TW_INLINE Wide<T, B> max2(const Wide<T, B>& a, const Wide<T, B>& b) {
    return map<Wide<T, B>>([](auto x, auto y) __attribute__((always_inline)) { return greatest(x, y); }, a, b);
}
// A wide vector's parts in one register.
template <class W> TW_INLINE auto fold_min(const W& x) {
    auto out = x.p[0];
    TW_EACH(W::kParts, W::kParts, i) { if (i) out = least(out, x.p[i]); });
    return out;
}
template <class W> TW_INLINE auto fold_max(const W& x) {
    auto out = x.p[0];
    TW_EACH(W::kParts, W::kParts, i) { if (i) out = greatest(out, x.p[i]); });
    return out;
}
#endif

// --- registers merged: after merge<1>, merge<2>, … lane l of the last one is the minimum over register l ---

template <int H> TW_INLINE f32n merge(f32n a, f32n b) {
#if defined(__AVX512BW__)
    const i32x16 upper = (kLane & H) != 0;
    return least(__builtin_shuffle(a, b, kLane | (upper & 16)), __builtin_shuffle(a, b, (kLane ^ H) | (upper & 16)));
#elif defined(__AVX2__)
    const __m256 x = (__m256)a, y = (__m256)b;
    if constexpr (H == 1) return least((f32n)_mm256_unpacklo_ps(x, y), (f32n)_mm256_unpackhi_ps(x, y));
    else if constexpr (H == 2)
        return least((f32n)_mm256_unpacklo_pd((__m256d)a, (__m256d)b), (f32n)_mm256_unpackhi_pd((__m256d)a, (__m256d)b));
    else return least((f32n)_mm256_permute2f128_ps(x, y, 0x20), (f32n)_mm256_permute2f128_ps(x, y, 0x31));
#else
    typedef int32_t i32x4 __attribute__((vector_size(16)));
    if constexpr (H == 1) return least(__builtin_shuffle(a, b, i32x4{0, 4, 1, 5}), __builtin_shuffle(a, b, i32x4{2, 6, 3, 7}));
    else return least(__builtin_shuffle(a, b, i32x4{0, 1, 4, 5}), __builtin_shuffle(a, b, i32x4{2, 3, 6, 7}));
#endif
}
// H, 2H … being left to merge.
template <int H> TW_INLINE f32n merge_all(f32n* v) {
    if constexpr (H == kLanes32) {
        return v[0];
    } else {
        TW_EACH(kLanes32 / 2 / H, 0, i) { v[i] = merge<H>(v[2 * i], v[2 * i + 1]); });
        return merge_all<2 * H>(v);
    }
}
#ifdef __AVX2__
// The same for 16 registers of halves.
template <int H> TW_INLINE __m256i merge16(__m256i a, __m256i b) {
    if constexpr (H == 1) return _mm256_min_epi16(_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b));
    else if constexpr (H == 2) return _mm256_min_epi16(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    else if constexpr (H == 4) return _mm256_min_epi16(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    else return _mm256_min_epi16(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
}
template <int H = 1> TW_INLINE __m256i merge16_all(__m256i* v) {
    if constexpr (H == 16) {
        return v[0];
    } else {
        TW_EACH(8 / H, 0, i) { v[i] = merge16<H>(v[2 * i], v[2 * i + 1]); });
        return merge16_all<2 * H>(v);
    }
}
#endif

// --- bf16 and fp32; 32 neighbours are held as those at even and those at odd places ---

struct Pair { f32x16 even, odd; };

TW_INLINE Pair widen(u16x32 bf16) { return {(f32x16)((u32x16)bf16 << 16), (f32x16)((u32x16)bf16 & 0xFFFF0000u)}; }

TW_INLINE u16x32 join(u32x16 even, u32x16 odd) {  // the low halves
#if defined(__AVX512BW__)
    return (u16x32)_mm512_mask_blend_epi16(0xAAAAAAAAu, (__m512i)even, (__m512i)(odd << 16));
#elif defined(__AVX2__)
    return (u16x32)map<u32x16>([](auto e, auto o) __attribute__((always_inline)) {
        return (u32n)_mm256_blend_epi16((__m256i)e, _mm256_slli_epi32((__m256i)o, 16), 0xAA);
    }, even, odd);
#else
    return (u16x32)((even & 0xFFFFu) | (odd << 16));
#endif
}

TW_INLINE u16x32 narrow(const Pair& x) {  // to bf16: nearest, ties to even
    u32x16 e = (u32x16)x.even, o = (u32x16)x.odd;
#ifdef __AVX512BW__
    e += 0x8000u;  // ties away from zero …
    o += 0x8000u;
    const __m512i low = _mm512_set1_epi32(0xFFFF), even = _mm512_set1_epi32(int(0xFFFEFFFFu));
    e = (u32x16)_mm512_mask_and_epi32((__m512i)e, _mm512_testn_epi32_mask((__m512i)e, low), (__m512i)e, even);
    o = (u32x16)_mm512_mask_and_epi32((__m512i)o, _mm512_testn_epi32_mask((__m512i)o, low), (__m512i)o, even);
    return (u16x32)_mm512_mask_blend_epi16(0xAAAAAAAAu, (__m512i)(e >> 16), (__m512i)o);  // … a tie that became odd was even
#else
    e = e + ((e >> 16 & 1u) + 0x7FFFu);
    o = o + ((o >> 16 & 1u) + 0x7FFFu);
#ifdef __AVX2__
    return (u16x32)map<u32x16>([](auto a, auto b) __attribute__((always_inline)) {
        return (u32n)_mm256_blend_epi16(_mm256_srli_epi32((__m256i)a, 16), (__m256i)b, 0xAA);
    }, e, o);
#else
    return (u16x32)((e >> 16) | (o & 0xFFFF0000u));
#endif
#endif
}

TW_INLINE u16x32 widen_bytes(u8x32 x) {
#if defined(__AVX512BW__)
    return (u16x32)_mm512_cvtepu8_epi16((__m256i)x);
#elif defined(__AVX2__)
    const __m256i bytes = load<__m256i>(&x);
    return {{(Native<uint16_t>::V)_mm256_cvtepu8_epi16(_mm256_castsi256_si128(bytes)),
             (Native<uint16_t>::V)_mm256_cvtepu8_epi16(_mm256_extracti128_si256(bytes, 1))}};
#else
    u16x32 out;
    for (int i = 0; i < 32; ++i) out.p[i / 8][i % 8] = x[i];
    return out;
#endif
}
TW_INLINE u8x32 narrow_words(u16x32 x) {  // the low bytes
#if defined(__AVX512BW__)
    return (u8x32)_mm512_cvtepi16_epi8((__m512i)x);
#elif defined(__AVX2__)
    const __m256i low = _mm256_set1_epi16(0xFF);
    const __m256i both = _mm256_packus_epi16(_mm256_and_si256((__m256i)x.p[0], low), _mm256_and_si256((__m256i)x.p[1], low));
    return {{(Native<uint8_t>::V)_mm256_permute4x64_epi64(both, 0xD8)}};
#else
    u8x32 out;
    for (int i = 0; i < 32; ++i) out.p[i / 16][i % 16] = uint8_t(x[i]);
    return out;
#endif
}

TW_INLINE f32x16 to_floats(u32x16 x) {
#ifdef __AVX512BW__
    return __builtin_convertvector((i32x16)x, f32x16);
#else
    return map<f32x16>([](auto part) __attribute__((always_inline)) {
        return __builtin_convertvector((Native<int32_t>::V)part, f32n);
    }, x);
#endif
}

TW_INLINE f32x16 broadcast(float x) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_set1_ps(x);
#else
    f32x16 out;
#ifdef __AVX2__
    TW_EACH(f32x16::kParts, 0, i) { out.p[i] = (f32n)_mm256_set1_ps(x); });
#else
    TW_EACH(f32x16::kParts, 0, i) { out.p[i] = f32n{x, x, x, x}; });
#endif
    return out;
#endif
}

// --- products ---

#if defined(__AVX2__) && !defined(__AVX512BW__)
#define TW_PARTS(function, ...)                                                                              \
    map<f32x16>([](auto... part) __attribute__((always_inline)) { return (f32n)function((__m256)part...); }, \
                __VA_ARGS__)
#endif

// a * b + c where a * b is exact.
TW_INLINE f32x16 multiply_add(f32x16 a, f32x16 b, f32x16 c) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
    return TW_PARTS(_mm256_fmadd_ps, a, b, c);
#else
    return a * b + c;
#endif
}

TW_INLINE f32x16 multiply_sub(f32x16 a, f32x16 b, f32x16 c) {  // a * b - c
#if defined(__AVX512F__)
    return (f32x16)_mm512_fmsub_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
    return TW_PARTS(_mm256_fmsub_ps, a, b, c);
#else
    return a * b - c;
#endif
}

// The product of two fp32, rounded once to an integer (ties to even); 0 <= a * b < 2^16. Only the low 16 bits count.
TW_INLINE u32x16 round_product(f32x16 a, f32x16 b) {
    const f32x16 magic = f32x16{} + 12582912.0f;  // 1.5 * 2^23: there, one unit is the last place
#if defined(__AVX512F__)
    return (u32x16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)magic);
#elif defined(__AVX2__)
    return (u32x16)TW_PARTS(_mm256_fmadd_ps, a, b, magic);
#else
    u32x16 out;
    for (int i = 0; i < 16; ++i) {
        const double there = double(a[i]) * double(b[i]) + 6755399441055744.0;  // 1.5 * 2^52; the product is exact
        uint64_t bits;
        std::memcpy(&bits, &there, 8);
        out.p[i / 4][i % 4] = uint32_t(bits);
    }
    (void)magic;
    return out;
#endif
}

TW_INLINE float from_bf16(uint16_t h) { uint32_t b = uint32_t(h) << 16; float f; std::memcpy(&f, &b, 4); return f; }
TW_INLINE uint32_t bits_of(float f) { uint32_t b; std::memcpy(&b, &f, 4); return b; }
