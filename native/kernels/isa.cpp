// The kernels for one instruction set, TW_ISA; compiled once for each (see CMakeLists.txt).
#include "kernels.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace tightwire::TW_ISA {
namespace {

#include "wide.h"
#include "simd.h"
#include "walsh.h"
#include "pack.h"
#include "encode.h"
#include "decode.h"
#include "reconstruct.h"
#include "project.h"
#include "rans.h"

// The shapes of today's models are compiled as such; every other shape takes the general code.
template <Mode M, class Call> TW_INLINE auto by_shape([[maybe_unused]] const Shape& s, Call&& call) {
#ifdef __AVX2__
    if (s.dim == 128 && s.group == 64) return call.template operator()<4, 2, M>();
    if (s.dim == 128 && s.group == 128) return call.template operator()<4, 4, M>();
    if (s.dim == 64 && s.group == 64) return call.template operator()<2, 2, M>();
#endif
    return call.template operator()<0, 0, M>();
}
template <class Call> TW_INLINE auto by_mode(const Shape& s, Mode mode, Call&& call) {
    switch (mode) {
        case Mode::plain: return by_shape<Mode::plain>(s, call);
        case Mode::rotate: return by_shape<Mode::rotate>(s, call);
        default: return by_shape<Mode::scale>(s, call);
    }
}

bool encode(const uint16_t* in, const Shape& s, Mode mode, const Weights& w, int levels, int bits,
            uint16_t* lo, uint16_t* step, uint8_t* symbols) {
    return by_mode(s, mode, [&]<int N, int G, Mode M>() {
        auto rows = [&](auto to) {
            if constexpr (N > 0 && M != Mode::plain) return encode_tiles<N, G, M>(in, s, w, levels, lo, step, to);
#if defined(__AVX2__) && !defined(__AVX512BW__)
            else if constexpr (N > 0) return encode_plain_tiles<N, G>(in, s, levels, lo, step, to);
#endif
            else return encode_rows<N, G, M>(in, s, w, levels, lo, step, to);
        };
        return bits ? rows(PackSink(symbols, bits)) : rows(ByteSink{symbols});
    });
}
bool decode(const uint8_t* symbols, const uint16_t* lo, const uint16_t* step, const Shape& s, Mode mode,
            const Weights& w, int levels, int bits, bool past_caches, uint16_t* out) {
    return by_mode(s, mode, [&]<int N, int G, Mode M>() {
        auto rows = [&](auto from) {
            decode_rows<N, G, M>(from, lo, step, s, w, levels, past_caches, out);
            return from.below();
        };
        return bits ? rows(PackSource(symbols, s.rows * s.dim, bits, levels)) : rows(ByteSource{symbols});
    });
}

using u8n = Native<uint8_t>::V;

// Few symbols: compared with each of them, eight at a time, which counters in registers hold.
void count_few(const uint8_t* symbols, size_t n, int levels, uint32_t counts[256]) {
    constexpr size_t kTurns = 255;  // until a counter of a byte is full
    size_t at = 0;
    for (; at + kNative <= n; at += std::min(kTurns, (n - at) / kNative) * kNative) {
        const size_t turns = std::min(kTurns, (n - at) / kNative);
        for (int first = 0; first < levels; first += 8) {
            u8n seen[8] = {};
            for (size_t t = 0; t < turns; ++t) {
                const u8n x = load<u8n>(symbols + at + t * kNative);
                TW_EACH(8, 8, j) { seen[j] -= (u8n)(x == uint8_t(first + j)); });
            }
            TW_EACH(8, 8, j) {
                for (int lane = 0; lane < kNative; ++lane) counts[first + j] += seen[j][lane];
            });
        }
    }
    for (; at < n; ++at) ++counts[symbols[at]];
}
void count(const uint8_t* symbols, size_t n, int levels, uint32_t counts[256]) {
    std::memset(counts, 0, 256 * sizeof counts[0]);
    if (levels <= 32) return count_few(symbols, n, levels, counts);
    uint32_t four[4][256] = {};  // equal neighbours do not wait for each other
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const uint64_t eight = load<uint64_t>(symbols + i);
        for (int j = 0; j < 8; ++j) ++four[j & 3][(eight >> (8 * j)) & 0xFF];
    }
    for (; i < n; ++i) ++four[0][symbols[i]];
    for (int s = 0; s < 256; ++s) counts[s] = four[0][s] + four[1][s] + four[2][s] + four[3][s];
}

uint8_t largest(const uint8_t* symbols, size_t n) {
    u8n most{};
    size_t i = 0;
    for (; i + kNative <= n; i += kNative) {
        const u8n x = load<u8n>(symbols + i);
        most = x > most ? x : most;
    }
    uint8_t found = 0;
    for (int lane = 0; lane < kNative; ++lane) found = std::max(found, most[lane]);
    for (; i < n; ++i) found = std::max(found, symbols[i]);
    return found;
}

// bf16 = sign, 8 bits of exponent, 7 of mantissa -> exponent, and sign with mantissa.
void split(const uint16_t* in, size_t n, uint8_t* exponents, uint8_t* rest) {
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        const u16x32 x = load<u16x32>(in + i);
        store(exponents + i, narrow_words((x >> 7) & 0xFF));
        store(rest + i, narrow_words((x >> 8 & 0x80) | (x & 0x7F)));
    }
    for (; i < n; ++i) {
        exponents[i] = uint8_t(in[i] >> 7);
        rest[i] = uint8_t((in[i] >> 8 & 0x80) | (in[i] & 0x7F));
    }
}
void merge(const uint8_t* exponents, const uint8_t* rest, size_t n, uint16_t* out) {
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        const u16x32 e = widen_bytes(load<u8x32>(exponents + i)), r = widen_bytes(load<u8x32>(rest + i));
        store(out + i, e << 7 | (r & 0x80) << 8 | (r & 0x7F));
    }
    for (; i < n; ++i) out[i] = uint16_t(exponents[i] << 7 | (rest[i] & 0x80) << 8 | (rest[i] & 0x7F));
}

}  // namespace

extern const Kernels kernels;
const Kernels kernels = {TW_NAME, encode, decode, reconstruct, project, quantize_row, rans_put, rans_take, count, largest, split, merge};

}  // namespace tightwire::TW_ISA
