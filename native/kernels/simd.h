// Vectors of 16 floats or 32 halves, and what the kernels do with them. Written with GCC/Clang vector types, so that
// every instruction set compiles; AVX-512 spells out what GCC 12 compiles poorly.
// Included once per instruction set, inside that set's namespace (see isa.cpp).
#pragma once

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x32 __attribute__((vector_size(64)));
typedef int16_t i16x32 __attribute__((vector_size(64)));
typedef uint8_t u8x32 __attribute__((vector_size(32)));

#define TW_INLINE [[gnu::always_inline]] inline

template <class V> TW_INLINE V load(const void* p) { V v; std::memcpy(&v, p, sizeof v); return v; }
template <class V> TW_INLINE void store(void* p, V v) { std::memcpy(p, &v, sizeof v); }

// f(0) … f(N-1) with constant arguments, so that arrays indexed by them live in registers; N = 0: a loop over n.
template <int N, class F> TW_INLINE void each(int n, F&& f) {
    if constexpr (N > 0) {
        [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) { (f(I), ...); }
        (std::make_integer_sequence<int, N>{});
    } else {
        for (int i = 0; i < n; ++i) f(i);
    }
}
#define TW_EACH(N, n, i) each<N>(n, [&](int i) __attribute__((always_inline))

constexpr i32x16 kLane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// 32 neighbours are held as two vectors: those at even and those at odd places.
struct Pair { f32x16 even, odd; };

TW_INLINE Pair widen(u16x32 bf16) { return {(f32x16)((u32x16)bf16 << 16), (f32x16)((u32x16)bf16 & 0xFFFF0000u)}; }

TW_INLINE u16x32 join(u32x16 even, u32x16 odd) {  // the low halves
#ifdef __AVX512BW__
    return (u16x32)_mm512_mask_blend_epi16(0xAAAAAAAAu, (__m512i)even, (__m512i)(odd << 16));
#else
    return (u16x32)((even & 0xFFFFu) | (odd << 16));
#endif
}

TW_INLINE u16x32 narrow(Pair x) {  // to bf16: nearest, ties to even
    u32x16 e = (u32x16)x.even + 0x8000u, o = (u32x16)x.odd + 0x8000u;  // ties away from zero …
#ifdef __AVX512BW__
    const __m512i low = _mm512_set1_epi32(0xFFFF), even = _mm512_set1_epi32(int(0xFFFEFFFFu));
    e = (u32x16)_mm512_mask_and_epi32((__m512i)e, _mm512_testn_epi32_mask((__m512i)e, low), (__m512i)e, even);
    o = (u32x16)_mm512_mask_and_epi32((__m512i)o, _mm512_testn_epi32_mask((__m512i)o, low), (__m512i)o, even);
    return (u16x32)_mm512_mask_blend_epi16(0xAAAAAAAAu, (__m512i)(e >> 16), (__m512i)o);
#else
    e = (e & 0xFFFFu) == 0 ? e & 0xFFFEFFFFu : e;  // … but a tie that became odd was even
    o = (o & 0xFFFFu) == 0 ? o & 0xFFFEFFFFu : o;
    return (u16x32)((e >> 16) | (o & 0xFFFF0000u));
#endif
}

TW_INLINE u16x32 widen_bytes(u8x32 x) {
#ifdef __AVX512BW__
    return (u16x32)_mm512_cvtepu8_epi16((__m256i)x);
#else
    return __builtin_convertvector(x, u16x32);
#endif
}
TW_INLINE u8x32 narrow_words(u16x32 x) {
#ifdef __AVX512BW__
    return (u8x32)_mm512_cvtepi16_epi8((__m512i)x);
#else
    return __builtin_convertvector(x, u8x32);
#endif
}

TW_INLINE f32x16 to_floats(u32x16 x) { return __builtin_convertvector((i32x16)x, f32x16); }

TW_INLINE f32x16 min2(f32x16 a, f32x16 b) {
#ifdef __AVX512BW__
    return (f32x16)_mm512_min_ps((__m512)a, (__m512)b);
#else
    return a < b ? a : b;
#endif
}
TW_INLINE f32x16 max2(f32x16 a, f32x16 b) {
#ifdef __AVX512BW__
    return (f32x16)_mm512_max_ps((__m512)a, (__m512)b);
#else
    return a > b ? a : b;
#endif
}
TW_INLINE i32x16 min2(i32x16 a, i32x16 b) {
#ifdef __AVX512BW__
    return (i32x16)_mm512_min_epi32((__m512i)a, (__m512i)b);
#else
    return a < b ? a : b;
#endif
}
TW_INLINE i16x32 min2(i16x32 a, i16x32 b) {
#ifdef __AVX512BW__
    return (i16x32)_mm512_min_epi16((__m512i)a, (__m512i)b);
#else
    return a < b ? a : b;
#endif
}
TW_INLINE i16x32 max2(i16x32 a, i16x32 b) {
#ifdef __AVX512BW__
    return (i16x32)_mm512_max_epi16((__m512i)a, (__m512i)b);
#else
    return a > b ? a : b;
#endif
}
TW_INLINE u16x32 max2(u16x32 a, u16x32 b) {
#ifdef __AVX512BW__
    return (u16x32)_mm512_max_epu16((__m512i)a, (__m512i)b);
#else
    return a > b ? a : b;
#endif
}

// a * b + c where a * b is exact.
TW_INLINE f32x16 multiply_add(f32x16 a, f32x16 b, f32x16 c) {
#ifdef __AVX512F__
    return (f32x16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
    return a * b + c;
#endif
}

TW_INLINE f32x16 multiply_sub(f32x16 a, f32x16 b, f32x16 c) {  // a * b - c
#ifdef __AVX512F__
    return (f32x16)_mm512_fmsub_ps((__m512)a, (__m512)b, (__m512)c);
#else
    return a * b - c;
#endif
}

// The product of two fp32, rounded once to an integer (ties to even); 0 <= a * b < 2^16. Only the low 16 bits count.
TW_INLINE u32x16 round_product(f32x16 a, f32x16 b) {
#if defined(__AVX512F__)
    const __m512 magic = _mm512_set1_ps(12582912.0f);  // 1.5 * 2^23: there, one unit is the last place
    return (u32x16)_mm512_fmadd_ps((__m512)a, (__m512)b, magic);
#elif defined(__FMA__)
    const __m256 magic = _mm256_set1_ps(12582912.0f);
    __m256 half[2], x[2], y[2];
    std::memcpy(x, &a, sizeof a);
    std::memcpy(y, &b, sizeof b);
    for (int i = 0; i < 2; ++i) half[i] = _mm256_fmadd_ps(x[i], y[i], magic);
    return load<u32x16>(half);
#else
    u32x16 out;
    for (int i = 0; i < 16; ++i) {
        double there = double(a[i]) * double(b[i]) + 6755399441055744.0;  // the same with 2^52; the product is exact
        uint64_t bits;
        std::memcpy(&bits, &there, 8);
        out[i] = uint32_t(bits);
    }
    return out;
#endif
}

TW_INLINE float from_bf16(uint16_t h) { uint32_t b = uint32_t(h) << 16; float f; std::memcpy(&f, &b, 4); return f; }
TW_INLINE uint32_t bits_of(float f) { uint32_t b; std::memcpy(&b, &f, 4); return b; }

// One butterfly inside a vector: lane i gets x[i] + x[i^H], or x[i^H] - x[i] where bit H of i is set.
template <int H> TW_INLINE f32x16 butterfly(f32x16 x) {
#ifdef __AVX512F__
    constexpr f32x16 sign = {H & 0 ? -1.f : 1.f, H & 1 ? -1.f : 1.f, H & 2 ? -1.f : 1.f, H & 3 ? -1.f : 1.f,
                             H & 4 ? -1.f : 1.f, H & 5 ? -1.f : 1.f, H & 6 ? -1.f : 1.f, H & 7 ? -1.f : 1.f,
                             H & 8 ? -1.f : 1.f, H & 9 ? -1.f : 1.f, H & 10 ? -1.f : 1.f, H & 11 ? -1.f : 1.f,
                             H & 12 ? -1.f : 1.f, H & 13 ? -1.f : 1.f, H & 14 ? -1.f : 1.f, H & 15 ? -1.f : 1.f};
    __m512 swapped;
    if constexpr (H == 1) swapped = _mm512_permute_ps((__m512)x, 0xB1);
    else if constexpr (H == 2) swapped = _mm512_permute_ps((__m512)x, 0x4E);
    else if constexpr (H == 4) swapped = _mm512_shuffle_f32x4((__m512)x, (__m512)x, 0xB1);
    else swapped = _mm512_shuffle_f32x4((__m512)x, (__m512)x, 0x4E);
    return (f32x16)_mm512_fmadd_ps((__m512)x, (__m512)sign, swapped);  // the product is exact: rounds as a sum does
#else
    const i32x16 swap = kLane ^ H;
    const i32x16 negate = ((kLane & H) != 0) & (int32_t)0x80000000;
    return __builtin_shuffle(x, swap) + (f32x16)((i32x16)x ^ negate);
#endif
}
