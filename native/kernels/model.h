// Symbol frequencies: normalising, their place in the stream, and the tables made of them. As in kernels/rans.py.
#pragma once
#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "kernels.h"

namespace tightwire {

using Frequencies = uint16_t[256];  // each below 4096; their sum is 4096

// Rounded shares of 4096, at least 1 for what occurs; what is missing goes to the most frequent, what is too much comes
// from it, by at most half.
inline void normalise(const uint32_t* counts, Frequencies& freq) {
    uint64_t total = 0;
    for (int s = 0; s < 256; ++s) total += counts[s];
    int64_t left = kProbs;
    for (int s = 0; s < 256; ++s) {
        uint64_t share = total ? (counts[s] * uint64_t(kProbs) + total / 2) / total : 0;
        if (counts[s] && !share) share = 1;
        freq[s] = uint16_t(share);
        left -= int64_t(share);
    }
    while (left) {
        uint16_t* most = std::max_element(freq, freq + 256);
        const int64_t change = left > 0 ? left : std::max<int64_t>(left, -(*most / 2));
        *most = uint16_t(*most + change);
        left -= change;
    }
    uint16_t* only = std::max_element(freq, freq + 256);
    if (*only == kProbs) {  // a table's fields hold 12 bits
        *only = kProbs - 1;
        freq[only == freq ? 1 : 0] = 1;
    }
}

// First and last symbol that occur, then 12 bits for each from the first to the one before the last.
inline size_t write_frequencies(const Frequencies& freq, uint8_t* out) {
    int first = 0, last = 255;
    while (!freq[first]) ++first;
    while (!freq[last]) --last;
    out[0] = uint8_t(first);
    out[1] = uint8_t(last);
    uint8_t* at = out + 2;
    uint32_t held = 0;
    int have = 0;
    for (int s = first; s < last; ++s) {
        held |= uint32_t(freq[s]) << have;
        for (have += kProbBits; have >= 8; have -= 8, held >>= 8) *at++ = uint8_t(held);
    }
    if (have) *at++ = uint8_t(held);
    return size_t(at - out);
}

// How many bytes were read; 0 when this is not what write_frequencies writes for symbols below `levels`.
inline size_t read_frequencies(const uint8_t* in, size_t size, int levels, Frequencies& freq) {
    if (size < 2 || in[0] >= in[1] || in[1] >= levels) return 0;
    const int first = in[0], last = in[1];
    const size_t bytes = 2 + (size_t(last - first) * kProbBits + 7) / 8;
    if (size < bytes) return 0;
    std::memset(freq, 0, sizeof freq);
    uint32_t held = 0, sum = 0;
    int have = 0;
    const uint8_t* at = in + 2;
    for (int s = first; s < last; ++s) {
        for (; have < kProbBits; have += 8) held |= uint32_t(*at++) << have;
        freq[s] = uint16_t(held & (kProbs - 1));
        held >>= kProbBits;
        have -= kProbBits;
        sum += freq[s];
    }
    if (sum >= kProbs || sum == 0) return 0;
    freq[last] = uint16_t(kProbs - sum);
    return freq[last] < kProbs ? bytes : 0;
}

inline void make_encoder(const Frequencies& freq, EncodeTable& table) {
    uint32_t start = 0;
    int symbols = 0;
    for (int s = 0; s < 256; ++s) {
        table.packed[s] = freq[s] | start << 16;
        if (s < 16) table.inverse[s] = freq[s] < 2 ? float(freq[s]) : (1.0f / float(freq[s])) * (1.0f - 0x1p-22f);
        start += freq[s];
        if (freq[s]) symbols = s + 1;
    }
    table.few = symbols <= 8 ? 8 : symbols <= 16 ? 16 : 0;
}

// For each of 4096 slots: frequency << 20 | slot - start << 8 | symbol.
inline void make_decoder(const Frequencies& freq, uint32_t* table) {
    for (uint32_t s = 0; s < 256; ++s)
        for (uint32_t i = 0; i < freq[s]; ++i) *table++ = uint32_t(freq[s]) << 20 | i << 8 | s;
}

}  // namespace tightwire
