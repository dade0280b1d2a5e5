// Vectors of 16 floats or 32 halves, for every instruction set.
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
