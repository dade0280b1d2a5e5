// Vectors of 16 floats or 32 halves, and what the kernels do with them, for every instruction set.
// AVX-512 holds one in a register (GCC/Clang vector types, and intrinsics where GCC 12 compiles those poorly);
// elsewhere it is a struct of native vectors, which stay in registers where one 64-byte type would go through memory.
// Included once per instruction set, inside that set's namespace (see isa.cpp).
#pragma once

#define TW_INLINE [[gnu::always_inline]] inline

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

#if defined(__AVX512BW__)
constexpr int kNative = 64;  // bytes of a register
#elif defined(__AVX2__)
constexpr int kNative = 32;
#else
constexpr int kNative = 16;
#endif

template <class T> struct Native;
#define TW_NATIVE(T) template <> struct Native<T> { typedef T V __attribute__((vector_size(kNative))); }
TW_NATIVE(float);
TW_NATIVE(int32_t);
TW_NATIVE(uint32_t);
TW_NATIVE(int16_t);
TW_NATIVE(uint16_t);
TW_NATIVE(uint8_t);
#undef TW_NATIVE
using f32n = Native<float>::V;  // one register
using u32n = Native<uint32_t>::V;
using i16n = Native<int16_t>::V;
constexpr int kLanes32 = kNative / 4;

#ifdef __AVX512BW__
typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x32 __attribute__((vector_size(64)));
typedef int16_t i16x32 __attribute__((vector_size(64)));
typedef uint8_t u8x32 __attribute__((vector_size(32)));
constexpr i32x16 kLane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#else
template <class T, int Bytes> struct Wide {
    using Part = typename Native<T>::V;
    static constexpr int kParts = Bytes / kNative, kEach = kNative / int(sizeof(T));
    Part p[kParts];

    TW_INLINE T operator[](int i) const { return p[i / kEach][i % kEach]; }
    template <class U> TW_INLINE explicit operator Wide<U, Bytes>() const {  // the same bits
        Wide<U, Bytes> out;
        TW_EACH(kParts, kParts, i) { out.p[i] = (typename Native<U>::V)p[i]; });
        return out;
    }
};
using f32x16 = Wide<float, 64>;
using i32x16 = Wide<int32_t, 64>;
using u32x16 = Wide<uint32_t, 64>;
using u16x32 = Wide<uint16_t, 64>;
using i16x32 = Wide<int16_t, 64>;
using u8x32 = Wide<uint8_t, 32>;

template <class W> struct is_wide : std::false_type {};
template <class T, int B> struct is_wide<Wide<T, B>> : std::true_type {};
template <class To, class F, class... V> TW_INLINE To map(F f, const V&... v) {
    To out;
    TW_EACH(To::kParts, To::kParts, i) { out.p[i] = f(v.p[i]...); });
    return out;
}
template <class T, int B> TW_INLINE Wide<T, B> fill(T x) {
    return map<Wide<T, B>>([&](auto zero) __attribute__((always_inline)) { return zero + x; }, Wide<T, B>{});
}
#define TW_OPERATOR(op)                                                                                     \
    template <class T, int B> TW_INLINE Wide<T, B> operator op(const Wide<T, B>& a, const Wide<T, B>& b) {  \
        return map<Wide<T, B>>([](auto x, auto y) __attribute__((always_inline)) { return x op y; }, a, b); \
    }                                                                                                       \
    template <class T, int B> TW_INLINE Wide<T, B> operator op(const Wide<T, B>& a, std::type_identity_t<T> b) { \
        return map<Wide<T, B>>([&](auto x) __attribute__((always_inline)) { return x op b; }, a);           \
    }                                                                                                       \
    template <class T, int B> TW_INLINE Wide<T, B> operator op(std::type_identity_t<T> a, const Wide<T, B>& b) { \
        return map<Wide<T, B>>([&](auto y) __attribute__((always_inline)) { return a op y; }, b);           \
    }
TW_OPERATOR(+)
TW_OPERATOR(-)
TW_OPERATOR(*)
TW_OPERATOR(/)
TW_OPERATOR(&)
TW_OPERATOR(|)
TW_OPERATOR(^)
#undef TW_OPERATOR
template <class T, int B> TW_INLINE Wide<T, B> operator<<(const Wide<T, B>& a, int n) {
    return map<Wide<T, B>>([&](auto x) __attribute__((always_inline)) { return x << n; }, a);
}
template <class T, int B> TW_INLINE Wide<T, B> operator>>(const Wide<T, B>& a, int n) {
    return map<Wide<T, B>>([&](auto x) __attribute__((always_inline)) { return x >> n; }, a);
}
template <class T, int B> TW_INLINE Wide<T, B>& operator|=(Wide<T, B>& a, const Wide<T, B>& b) { return a = a | b; }
template <class T, int B> TW_INLINE Wide<T, B>& operator+=(Wide<T, B>& a, const Wide<T, B>& b) { return a = a + b; }
template <class T, int B> TW_INLINE Wide<T, B>& operator*=(Wide<T, B>& a, const Wide<T, B>& b) { return a = a * b; }
#endif

template <class V> TW_INLINE V load(const void* p) {
    V v;
#ifndef __AVX512BW__
    if constexpr (is_wide<V>::value) {  // register by register: GCC copies a struct in pieces that cannot be forwarded
        TW_EACH(V::kParts, 0, i) { std::memcpy(&v.p[i], (const char*)p + kNative * i, kNative); });
        return v;
    }
#endif
    std::memcpy(&v, p, sizeof v);
    return v;
}
template <class V> TW_INLINE void store(void* p, const V& v) {
#ifndef __AVX512BW__
    if constexpr (is_wide<V>::value) {
        TW_EACH(V::kParts, 0, i) { std::memcpy((char*)p + kNative * i, &v.p[i], kNative); });
        return;
    }
#endif
    std::memcpy(p, &v, sizeof v);
}

// Past the caches: where nothing will be read again soon, a line need not be fetched before it is overwritten.
// `p` is aligned to kNative.
template <class V> TW_INLINE void stream(void* p, const V& v) {
#if defined(__AVX512BW__)
    _mm512_stream_si512((__m512i*)p, (__m512i)v);
#elif defined(__AVX2__)
    TW_EACH(V::kParts, 0, i) { _mm256_stream_si256((__m256i*)p + i, (__m256i)v.p[i]); });
#else
    store(p, v);
#endif
}

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

// --- one butterfly inside a vector: lane i gets x[i] + x[i^H], or x[i^H] - x[i] where bit H of i is set ---

template <int H> TW_INLINE f32n butterfly_in(f32n x) {  // H below the lanes of a register
#if defined(__AVX512F__)
    constexpr f32n sign = {H & 0 ? -1.f : 1.f, H & 1 ? -1.f : 1.f, H & 2 ? -1.f : 1.f, H & 3 ? -1.f : 1.f,
                           H & 4 ? -1.f : 1.f, H & 5 ? -1.f : 1.f, H & 6 ? -1.f : 1.f, H & 7 ? -1.f : 1.f,
                           H & 8 ? -1.f : 1.f, H & 9 ? -1.f : 1.f, H & 10 ? -1.f : 1.f, H & 11 ? -1.f : 1.f,
                           H & 12 ? -1.f : 1.f, H & 13 ? -1.f : 1.f, H & 14 ? -1.f : 1.f, H & 15 ? -1.f : 1.f};
    __m512 swapped;
    if constexpr (H == 1) swapped = _mm512_permute_ps((__m512)x, 0xB1);
    else if constexpr (H == 2) swapped = _mm512_permute_ps((__m512)x, 0x4E);
    else if constexpr (H == 4) swapped = _mm512_shuffle_f32x4((__m512)x, (__m512)x, 0xB1);
    else swapped = _mm512_shuffle_f32x4((__m512)x, (__m512)x, 0x4E);
    return (f32n)_mm512_fmadd_ps((__m512)x, (__m512)sign, swapped);  // the product is exact: rounds as a sum does
#elif defined(__AVX2__)
    constexpr f32n sign = {H & 0 ? -1.f : 1.f, H & 1 ? -1.f : 1.f, H & 2 ? -1.f : 1.f, H & 3 ? -1.f : 1.f,
                           H & 4 ? -1.f : 1.f, H & 5 ? -1.f : 1.f, H & 6 ? -1.f : 1.f, H & 7 ? -1.f : 1.f};
    __m256 swapped;
    if constexpr (H == 1) swapped = _mm256_permute_ps((__m256)x, 0xB1);
    else if constexpr (H == 2) swapped = _mm256_permute_ps((__m256)x, 0x4E);
    else swapped = _mm256_permute2f128_ps((__m256)x, (__m256)x, 0x01);
    return (f32n)_mm256_fmadd_ps((__m256)x, (__m256)sign, swapped);
#else
    typedef int32_t i32x4 __attribute__((vector_size(16)));
    if constexpr (H == 1) {
        const f32n a = __builtin_shuffle(x, i32x4{0, 0, 2, 2}), b = __builtin_shuffle(x, i32x4{1, 1, 3, 3});
        return __builtin_shuffle(a + b, a - b, i32x4{0, 5, 2, 7});
    } else {
        const f32n a = __builtin_shuffle(x, i32x4{0, 1, 0, 1}), b = __builtin_shuffle(x, i32x4{2, 3, 2, 3});
        return __builtin_shuffle(a + b, a - b, i32x4{0, 1, 6, 7});
    }
#endif
}
template <int H> TW_INLINE f32x16 butterfly(f32x16 x) {
#ifdef __AVX512F__
    return butterfly_in<H>(x);
#else
    f32x16 out;
    TW_EACH(f32x16::kParts, 0, i) {
        if constexpr (H < kLanes32) {
            out.p[i] = butterfly_in<H>(x.p[i]);
        } else {
            constexpr int other = H / kLanes32;
            out.p[i] = i & other ? x.p[i ^ other] - x.p[i] : x.p[i] + x.p[i ^ other];
        }
    });
    return out;
#endif
}
