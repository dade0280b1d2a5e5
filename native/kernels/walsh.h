// The Walsh-Hadamard transform of rows, within vectors and across them.
// Included once per instruction set (see isa.cpp).
#pragma once

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

// Walsh-Hadamard over 32 * N values, N a power of two: one half after the other, so that few registers are alive.
// `first`: whether the butterflies of neighbours are still to be done.
template <int N> TW_INLINE void walsh(Pair* v, bool first) {
    if constexpr (N == 1) {
        const Pair x = first ? Pair{v->even + v->odd, v->even - v->odd} : *v;
        v->even = butterfly<8>(butterfly<4>(butterfly<2>(butterfly<1>(x.even))));
        v->odd = butterfly<8>(butterfly<4>(butterfly<2>(butterfly<1>(x.odd))));
    } else {
        walsh<N / 2>(v, first);
        walsh<N / 2>(v + N / 2, first);
        TW_EACH(N / 2, 0, i) {
            const Pair a = v[i], b = v[i + N / 2];
            v[i] = {a.even + b.even, a.odd + b.odd};
            v[i + N / 2] = {a.even - b.even, a.odd - b.odd};
        });
    }
}
// n pairs are cut into powers of two, largest first (5 = 4 + 1): a block-diagonal Hadamard.
template <int N> TW_INLINE void walsh_blocks(Pair* v, int n, bool first) {
    if constexpr (N > 0) {
        walsh<N>(v, first);
    } else {
        while (n) {
            if (n >= 32) { walsh<32>(v, first); v += 32; n -= 32; }
            else if (n >= 16) { walsh<16>(v, first); v += 16; n -= 16; }
            else if (n >= 8) { walsh<8>(v, first); v += 8; n -= 8; }
            else if (n >= 4) { walsh<4>(v, first); v += 4; n -= 4; }
            else if (n >= 2) { walsh<2>(v, first); v += 2; n -= 2; }
            else { walsh<1>(v, first); v += 1; n -= 1; }
        }
    }
}
