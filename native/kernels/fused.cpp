// Hadamard -> uniform quantiser -> bit packing in one pass over memory, and back.
// Written with GCC/Clang vector types: compiled once per instruction set (see CMakeLists.txt).
#include "fused.h"

#include <cstring>
#include <utility>

#ifdef __BMI2__
#include <immintrin.h>
#endif

namespace tightwire::TW_ISA {
namespace {

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));
typedef uint8_t u8x16 __attribute__((vector_size(16)));
typedef uint16_t u16x8 __attribute__((vector_size(16)));
typedef uint8_t u8x8 __attribute__((vector_size(8)));
typedef uint64_t u64x8 __attribute__((vector_size(64)));
typedef uint64_t u64x2 __attribute__((vector_size(16)));

template <class V> inline V load(const void* p) { V v; std::memcpy(&v, p, sizeof v); return v; }
template <class V> inline void store(void* p, V v) { std::memcpy(p, &v, sizeof v); }

// Conversions between lane widths. GCC 12 compiles the generic ones poorly, so AVX-512 spells them out.
#ifdef __AVX512BW__
inline f32x16 widen(u16x16 bf16) {
    return (f32x16)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)bf16), 16);
}
inline u16x16 low_halves(u32x16 x) { return (u16x16)_mm512_cvtepi32_epi16((__m512i)x); }
inline f32x16 to_floats(u8x16 x) { return (f32x16)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32((__m128i)x)); }
inline u8x16 to_bytes(u32x16 x) { return (u8x16)_mm512_cvtepi32_epi8((__m512i)x); }
inline u8x8 low_bytes(u64x8 x) {
    __m128i out = _mm512_cvtepi64_epi8((__m512i)x);
    return (u8x8)(uint64_t)_mm_cvtsi128_si64(out);
}
inline u16x8 to_pairs(u8x8 x) {
    return (u16x8)_mm_cvtepu8_epi16(_mm_cvtsi64_si128((int64_t)(uint64_t)x));
}
#else
inline f32x16 widen(u16x16 bf16) { return (f32x16)(__builtin_convertvector(bf16, u32x16) << 16); }
inline u16x16 low_halves(u32x16 x) { return __builtin_convertvector(x, u16x16); }
inline f32x16 to_floats(u8x16 x) {
    return __builtin_convertvector((i32x16)__builtin_convertvector(__builtin_convertvector(x, u16x16), u32x16), f32x16);
}
inline u8x16 to_bytes(u32x16 x) { return __builtin_convertvector(__builtin_convertvector(x, u16x16), u8x16); }
inline u8x8 low_bytes(u64x8 x) { u8x8 out; for (int i = 0; i < 8; ++i) out[i] = uint8_t(x[i]); return out; }
inline u16x8 to_pairs(u8x8 x) { return __builtin_convertvector(x, u16x8); }
#endif
inline u16x16 narrow(f32x16 x) {  // round to nearest, ties to even
    u32x16 bits = (u32x16)x;
    return low_halves((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}
inline float from_bf16(uint16_t h) { uint32_t b = uint32_t(h) << 16; float f; std::memcpy(&f, &b, 4); return f; }
inline uint32_t bits_of(float f) { uint32_t b; std::memcpy(&b, &f, 4); return b; }
inline uint16_t floor_bf16(float f) {  // the largest bf16 that is not above f
    uint32_t b = bits_of(f);
    return uint16_t((b >> 16) + ((b >> 31) && (b & 0xFFFFu) ? 1 : 0));
}
inline uint16_t ceil_bf16(float f) { return uint16_t((bits_of(f) + 0xFFFFu) >> 16); }  // for f >= 0

constexpr i32x16 kLane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// One butterfly inside a vector: lane i gets x[i] + x[i^H], or x[i^H] - x[i] where bit H of i is set.
template <int H> inline f32x16 butterfly(f32x16 x) {
    const i32x16 swap = kLane ^ H;
    const i32x16 negate = ((kLane & H) != 0) & (int32_t)0x80000000;
    return __builtin_shuffle(x, swap) + (f32x16)((i32x16)x ^ negate);
}

// f(0) … f(N-1) with constant arguments, so that arrays indexed by them live in registers; N = 0: a loop over n.
template <int N, class F> [[gnu::always_inline]] inline void each(int n, F&& f) {
    if constexpr (N > 0) {
        [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) { (f(I), ...); }
        (std::make_integer_sequence<int, N>{});
    } else {
        for (int i = 0; i < n; ++i) f(i);
    }
}

// Walsh-Hadamard over 16*N values held in N vectors, N a power of two.
template <int N, int H = 1> [[gnu::always_inline]] inline void walsh_across(f32x16* v) {
    if constexpr (H < N) {
        each<N>(N, [&](int i) __attribute__((always_inline)) {
            if (!(i & H)) {
                f32x16 a = v[i], b = v[i + H];
                v[i] = a + b;
                v[i + H] = a - b;
            }
        });
        walsh_across<N, 2 * H>(v);
    }
}
template <int N> [[gnu::always_inline]] inline void walsh(f32x16* v) {
    each<N>(N, [&](int i) __attribute__((always_inline)) {
        v[i] = butterfly<8>(butterfly<4>(butterfly<2>(butterfly<1>(v[i]))));
    });
    walsh_across<N>(v);
}

// n vectors are cut into powers of two, largest first (5 = 4 + 1): a block-diagonal Hadamard.
template <int N> [[gnu::always_inline]] inline void walsh_blocks(f32x16* v, int n) {
    if constexpr (N > 0) {
        walsh<N>(v);
    } else {
        while (n) {
            if (n >= 64) { walsh<64>(v); v += 64; n -= 64; }
            else if (n >= 32) { walsh<32>(v); v += 32; n -= 32; }
            else if (n >= 16) { walsh<16>(v); v += 16; n -= 16; }
            else if (n >= 8) { walsh<8>(v); v += 8; n -= 8; }
            else if (n >= 4) { walsh<4>(v); v += 4; n -= 4; }
            else if (n >= 2) { walsh<2>(v); v += 2; n -= 2; }
            else { walsh<1>(v); v += 1; n -= 1; }
        }
    }
}

inline f32x16 min2(f32x16 a, f32x16 b) { return a < b ? a : b; }
inline f32x16 max2(f32x16 a, f32x16 b) { return a > b ? a : b; }
template <int H> inline f32x16 fold(f32x16 v) { return min2(__builtin_shuffle(v, kLane ^ H), v); }

// The minimum of `low` and the maximum of `high`: both folded in one vector, the maximum as a negated minimum.
inline void extremes(f32x16 low, f32x16 high, float* min, float* max) {
    const i32x16 upper = kLane >= 8;
    f32x16 both = (f32x16)(((i32x16)low & ~upper) | ((i32x16)-high & upper));
    f32x16 other = (f32x16)(((i32x16)low & upper) | ((i32x16)-high & ~upper));
    both = fold<1>(fold<2>(fold<4>(min2(both, __builtin_shuffle(other, kLane ^ 8)))));
    *min = both[0];
    *max = -both[8];
}

inline uint64_t mask_for(int bits) { return ((uint64_t(1) << bits) - 1) * 0x0101010101010101u; }

// The low bytes of 16 words are symbols, what stands above them is ignored.
// -> 2*bits bytes, first symbol in the lowest bits.
template <int Bits> inline void pack16(u32x16 words, int bits, uint8_t* out) {
    if constexpr (Bits == 4) {
        u64x8 pairs = (u64x8)words;
        store(out, low_bytes(pairs | ((pairs >> 28) & 0xF0)));
    } else if constexpr (Bits == 8) {
        store(out, to_bytes(words));
    } else {
        u64x2 halves = (u64x2)to_bytes(words);
        for (int half = 0; half < 2; ++half) {
#ifdef __BMI2__
            uint64_t word = _pext_u64(halves[half], mask_for(bits));
#else
            uint64_t word = 0;
            for (int i = 0; i < 8; ++i) word |= ((halves[half] >> (8 * i)) & 0xFF) << (i * bits);
#endif
            std::memcpy(out + half * bits, &word, size_t(bits));
        }
    }
}
template <int Bits> inline u8x16 unpack16(const uint8_t* in, int bits) {
    if constexpr (Bits == 4) {
        u16x8 pairs = to_pairs(load<u8x8>(in));
        return (u8x16)((pairs & 0x0F) | ((pairs & 0xF0) << 4));
    } else if constexpr (Bits == 8) {
        return load<u8x16>(in);
    } else {
        u64x2 halves{};
        for (int half = 0; half < 2; ++half) {
            uint64_t word = 0;
            std::memcpy(&word, in + half * bits, size_t(bits));
#ifdef __BMI2__
            halves[half] = _pdep_u64(word, mask_for(bits));
#else
            halves[half] = 0;
            for (int i = 0; i < 8; ++i) halves[half] |= ((word >> (i * bits)) & ((1u << bits) - 1)) << (8 * i);
#endif
        }
        return (u8x16)halves;
    }
}

// N vectors a row and G a group, or 0: known only at run time. Bits: 4, 8, or 0 for any.
template <int N, int G, int Bits, bool Rotate> [[gnu::noinline]]
bool encode_rows(const uint16_t* in, const FusedShape& s, const FusedTransform& t,
                 uint16_t* lo, uint16_t* step, uint8_t* packed) {
    const int n = N ? N : int(s.dim / 16), group = G ? G : int(s.group / 16), bits = Bits ? Bits : s.bits;
    f32x16 row[N ? N : kMaxDim / 16];
    f32x16 bases[G ? N / G : kMaxDim / 16], inverses[G ? N / G : kMaxDim / 16];
    const f32x16 magic = f32x16{} + 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, ties to even
    const float inverse_top = 1.0f / float(s.levels - 1);
    u16x16 bad{};
    for (size_t r = 0; r < s.rows; ++r, in += s.dim) {
        each<N>(n, [&](int i) __attribute__((always_inline)) {
            u16x16 raw = load<u16x16>(in + 16 * i);
            row[i] = widen(raw);
            // After a rotation one bad value spoils its whole block, and the group's parameters show it.
            if constexpr (Rotate) row[i] *= load<f32x16>(t.weights + 16 * i);
            else bad |= (u16x16)((raw & 0x7F80) == 0x7F80);
        });
        if constexpr (Rotate) walsh_blocks<N>(row, n);
        bool fits = true;
        each<G ? N / G : 0>(n / group, [&](int index) __attribute__((always_inline)) {
            const int g = index * group;
            f32x16 low = row[g], high = low;
            each<G>(group, [&](int i) __attribute__((always_inline)) {
                low = min2(row[g + i], low);
                high = max2(row[g + i], high);
            });
            float min, max;
            extremes(low, high, &min, &max);
            const uint16_t lo16 = floor_bf16(min);
            const float base = from_bf16(lo16);
            uint16_t step16 = ceil_bf16((max - base) * inverse_top);
            if (step16 && step16 < 0x0080) step16 = 0x0080;  // the smallest normal: its inverse is finite
            fits &= (lo16 & 0x7F80) != 0x7F80 && step16 < 0x7F80;
            *lo++ = lo16;
            *step++ = step16;
            bases[index] = f32x16{} + base;
            inverses[index] = f32x16{} + 1.0f / (step16 ? from_bf16(step16) : 1.0f);
        });
        // Apart from the loop above: the groups' parameters are computed side by side, not one after the other.
        each<G ? N / G : 0>(n / group, [&](int index) __attribute__((always_inline)) {
            each<G>(group, [&](int i) __attribute__((always_inline)) {
                f32x16 q = (row[index * group + i] - bases[index]) * inverses[index];
                pack16<Bits>((u32x16)(q + magic), bits, packed);  // the integer stands in the low mantissa bits
                packed += 2 * bits;
            });
        });
        if (!fits) return false;
    }
    uint16_t any = 0;
    for (int i = 0; i < 16; ++i) any |= bad[i];
    return any == 0;
}

template <int N, int G, int Bits, bool Rotate> [[gnu::noinline]]
void decode_rows(const uint16_t* lo, const uint16_t* step, const uint8_t* packed,
                 const FusedShape& s, const FusedTransform& t, uint16_t* out) {
    const int n = N ? N : int(s.dim / 16), group = G ? G : int(s.group / 16), bits = Bits ? Bits : s.bits;
    f32x16 row[N ? N : kMaxDim / 16];
    for (size_t r = 0; r < s.rows; ++r, out += s.dim) {
        each<G ? N / G : 0>(n / group, [&](int index) __attribute__((always_inline)) {
            const int g = index * group;
            const f32x16 base = f32x16{} + from_bf16(*lo++), width = f32x16{} + from_bf16(*step++);
            each<G>(group, [&](int i) __attribute__((always_inline)) {
                row[g + i] = to_floats(unpack16<Bits>(packed, bits)) * width + base;
                packed += 2 * bits;
            });
        });
        if constexpr (Rotate) walsh_blocks<N>(row, n);
        each<N>(n, [&](int i) __attribute__((always_inline)) {
            if constexpr (Rotate) row[i] *= load<f32x16>(t.weights + 16 * i);
            store(out + 16 * i, narrow(row[i]));
        });
    }
}

// The shapes of today's models are compiled as such; every other shape takes the general code.
template <class Call> auto dispatch(const FusedShape& s, bool rotate, Call&& call) {
    auto by_bits = [&]<int N, int G>() {
        auto by_transform = [&]<int Bits>() {
            return rotate ? call.template operator()<N, G, Bits, true>() : call.template operator()<N, G, Bits, false>();
        };
        return s.bits == 4 ? by_transform.template operator()<4>()
             : s.bits == 8 ? by_transform.template operator()<8>()
                           : by_transform.template operator()<0>();
    };
    if (s.dim == 128 && s.group == 64) return by_bits.template operator()<8, 4>();
    if (s.dim == 128 && s.group == 128) return by_bits.template operator()<8, 8>();
    if (s.dim == 64 && s.group == 64) return by_bits.template operator()<4, 4>();
    return by_bits.template operator()<0, 0>();
}

}  // namespace

bool encode(const uint16_t* in, const FusedShape& s, const FusedTransform& t,
            uint16_t* lo, uint16_t* step, uint8_t* packed) {
    return dispatch(s, t.weights != nullptr, [&]<int N, int G, int Bits, bool Rotate>() {
        return encode_rows<N, G, Bits, Rotate>(in, s, t, lo, step, packed);
    });
}

void decode(const uint16_t* lo, const uint16_t* step, const uint8_t* packed,
            const FusedShape& s, const FusedTransform& t, uint16_t* out) {
    dispatch(s, t.weights != nullptr, [&]<int N, int G, int Bits, bool Rotate>() {
        decode_rows<N, G, Bits, Rotate>(lo, step, packed, s, t, out);
    });
}

}  // namespace tightwire::TW_ISA
