// What every instruction set provides. The contract is that of src/tightwire/kv/kernels/, bit for bit.
#pragma once
#include <cstddef>
#include <cstdint>

namespace tightwire {

constexpr size_t kMaxDim = 1024;

enum class Mode {
    plain,   // the values themselves
    rotate,  // times `down`, then Walsh-Hadamard; back: Walsh-Hadamard, then times `up`
    scale,   // minus `offset`, times `down`; back: times `up`, plus `offset`
};

// One segment: bf16 [rows, dim], quantised along dim in cells of `group` neighbours.
struct Shape {
    size_t rows;
    size_t dim;    // a multiple of 32, at most kMaxDim
    size_t group;  // divides dim, a multiple of 32
};

// Each [dim], every 32 as 16 even places, then 16 odd ones.
struct Weights {
    const float* down;
    const float* up;
    const float* offset;
};

// Values as symbols of their coordinates in `directions`, one direction's tokens after the other's.
struct Coordinates {
    const uint8_t* symbols;           // [directions, tokens]
    const uint16_t *lo, *step;        // [directions]
    const uint32_t* places;           // [directions], among those of the space; in the others all is 0
    size_t directions, tokens;
};

// x = coordinates times basis, plus mean; then each pair (i, i + dim / 2) of a head is turned, where there are cosines.
// In `features`, and in dim / 2, every 32 stand as 16 even places, then 16 odd ones.
struct Space {
    const float* basis;               // [features / 32, directions, 32]
    const float* mean;                // [features]
    const float *cos, *sin;           // [tokens, dim / 2], dim a multiple of 64; or null
    size_t directions;
    size_t features, dim;             // multiples of 32
};
constexpr size_t kTogether = 16;      // tokens that are worked on together
constexpr size_t scratch_floats(const Coordinates& c, const Space& s) { return kTogether * (c.directions + s.features); }

// What coordinates are taken in: y = basis · (x less the mean), where the pairs (i, i + dim / 2) of a head were turned
// first, where there are cosines.
constexpr size_t kBasisDirections = 8;
constexpr uint16_t kTame = 0x7180;    // 2^100 as bf16: what is no larger overflows in no sum
struct Directions {
    const float* basis;               // [directions / 8, features, 8]
    const float* offset;              // [directions], basis · mean
    const float *cos, *sin;           // [tokens, dim / 2]; or null
    size_t count, features, dim;
};
constexpr size_t scratch_floats(const Directions& d) {
    return d.dim + kTogether * (d.features + 2 * (d.count + kBasisDirections));
}

// Entropy coder: probabilities are in units of 2^-12, a state is at least 2^16.
constexpr int kProbBits = 12;
constexpr uint32_t kProbs = 1u << kProbBits, kLow = 1u << 16;
constexpr int kLanes = 64, kFewLanes = 4;
constexpr int kTurn = 16;               // lanes that leave their words together
constexpr size_t kManySymbols = 16384;  // from here on, a run has kLanes lanes

struct EncodeTable {
    uint32_t packed[256];  // frequency, and start << 16
    float inverse[16];     // of the frequency; a little less where it is not exact
    int few;               // 8 or 16: no symbol is above; 0: one is
};

struct Kernels {
    const char* isa;
    // bits 1..8: packed; 0: one symbol to a byte. False if a value or a parameter is not finite: nothing is usable.
    bool (*encode)(const uint16_t* in, const Shape&, Mode, const Weights&, int levels, int bits,
                   uint16_t* lo, uint16_t* step, uint8_t* symbols);
    // False if a packed symbol is not below `levels`. past_caches: nobody reads `out` soon.
    bool (*decode)(const uint8_t* symbols, const uint16_t* lo, const uint16_t* step, const Shape&, Mode,
                   const Weights&, int levels, int bits, bool past_caches, uint16_t* out);
    // out: bf16 [features / dim, tokens, dim], heads `stride` apart; scratch: scratch_floats; filled: [kTogether * directions].
    void (*reconstruct)(const Coordinates&, const Space&, float* scratch, uint32_t* filled, uint16_t* out, size_t stride);
    // in: bf16 heads `stride` apart; y [directions, tokens], low and high [directions]; scratch: scratch_floats. False: a
    // value is not finite or above kTame, and nothing is usable.
    bool (*project)(const uint16_t* in, size_t stride, const Directions&, size_t tokens, float* scratch, float* y, float* low,
                    float* high);
    // Values between `low` and `high`; false: a parameter is not finite.
    bool (*quantize_row)(const float* y, size_t count, float low, float high, int levels, uint16_t* lo, uint16_t* step,
                         uint8_t* symbols);
    uint8_t* (*rans_put)(const uint8_t* symbols, size_t count, const EncodeTable&, int lanes, uint32_t* states,
                         uint8_t* out);
    const uint8_t* (*rans_take)(const uint8_t* in, const uint8_t* begin, size_t count, const uint32_t* table, int lanes,
                                uint32_t* states, uint8_t* symbols);
    // How often each symbol occurs, those being below `levels`.
    void (*count)(const uint8_t* symbols, size_t count, int levels, uint32_t counts[256]);
    uint8_t (*largest)(const uint8_t* symbols, size_t count);
    void (*split)(const uint16_t* in, size_t count, uint8_t* exponents, uint8_t* rest);
    void (*merge)(const uint8_t* exponents, const uint8_t* rest, size_t count, uint16_t* out);
};

namespace portable { extern const Kernels kernels; }
namespace avx2 { extern const Kernels kernels; }
namespace avx512 { extern const Kernels kernels; }

}  // namespace tightwire
