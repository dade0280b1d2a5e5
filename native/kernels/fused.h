// Interface of the fused kernels; the contract is that of kv/kernels/reference.py, bit for bit.
#pragma once
#include <cstddef>
#include <cstdint>

namespace tightwire {

// One [rows, dim] matrix of bf16, quantised along dim in groups.
struct FusedShape {
    size_t rows;    // L * H * T
    size_t dim;     // head_dim, a multiple of 16, at most kMaxDim
    size_t group;   // elements that share (lo, step); divides dim, a multiple of 16
    int levels;     // 2..256
    int bits;       // bits per packed symbol, 1..8 (8: one byte per symbol)
};
constexpr size_t kMaxDim = 1024;

// weights: [dim], sign / sqrt(block size) of each element, or null for no transform.
struct FusedTransform {
    const float* weights;
};

// in: bf16 [rows, dim]; lo, step: bf16 [rows, dim/group]; packed: [rows, dim*bits/8].
// Returns false if the input holds NaN or Inf, or a range that fp32 cannot hold; the output is then unusable.
using EncodeFn = bool (*)(const uint16_t* in, const FusedShape&, const FusedTransform&,
                          uint16_t* lo, uint16_t* step, uint8_t* packed);
using DecodeFn = void (*)(const uint16_t* lo, const uint16_t* step, const uint8_t* packed,
                          const FusedShape&, const FusedTransform&, uint16_t* out);

#define TW_DECLARE(isa)                                                                              \
    namespace isa {                                                                                  \
    bool encode(const uint16_t*, const FusedShape&, const FusedTransform&, uint16_t*, uint16_t*, uint8_t*); \
    void decode(const uint16_t*, const uint16_t*, const uint8_t*, const FusedShape&,                 \
                const FusedTransform&, uint16_t*);                                                   \
    }
TW_DECLARE(portable)
TW_DECLARE(avx2)
TW_DECLARE(avx512)
#undef TW_DECLARE

}  // namespace tightwire
