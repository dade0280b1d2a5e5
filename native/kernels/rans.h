// Interleaved range asymmetric numeral systems (Duda, arXiv 1311.2540; interleaving: Giesen, arXiv 1402.3392).
// The stream is that of kernels/rans.py: symbol i belongs to lane i % lanes; a state is at least 2^16 and below 2^32,
// 16-bit words carry what leaves it. The encoder runs backwards and writes forwards: [words][states].
// Included once per instruction set (see isa.cpp).
#pragma once

// One step of the encoder for `count` symbols, one per lane.
inline uint8_t* rans_put_few(const uint8_t* symbols, int count, const EncodeTable& t, uint32_t* states, uint8_t* out) {
    for (int i = 0; i < count; ++i) {
        const uint8_t s = symbols[i];
        const uint32_t freq = t.packed[s] & 0xFFFFu;
        if ((states[i] >> 20) >= freq) {
            const uint16_t word = uint16_t(states[i]);
            std::memcpy(out, &word, 2);
            out += 2;
            states[i] >>= 16;
        }
        states[i] = ((states[i] / freq) << kProbBits) + states[i] % freq + (t.packed[s] >> 16);
    }
    return out;
}

inline const uint8_t* rans_take_few(const uint8_t* in, const uint8_t* begin, int count, const uint32_t* table,
                                    uint32_t* states, uint8_t* symbols) {
    uint32_t need = 0;
    for (int i = 0; i < count; ++i) {
        const uint32_t entry = table[states[i] & (kProbs - 1)];
        symbols[i] = uint8_t(entry);
        states[i] = (entry >> 20) * (states[i] >> kProbBits) + ((entry >> 8) & (kProbs - 1));
        need += states[i] < kLow;
    }
    if (size_t(in - begin) < 2 * need) return nullptr;
    in -= 2 * need;
    const uint8_t* from = in;
    for (int i = 0; i < count; ++i)
        if (states[i] < kLow) {
            uint16_t word;
            std::memcpy(&word, from, 2);
            from += 2;
            states[i] = states[i] << 16 | word;
        }
    return in;
}

// `Turn`: the states of 16 lanes. rans_put_16 and rans_take_16: one step for them.
#if defined(__AVX512BW__)
using Turn = __m512i;

// table[index] of 16 lanes. Loads of their own: on several processors the gather instruction takes three times as long.
TW_INLINE __m512i gather(__m512i index, const uint32_t* table) {
    alignas(64) uint32_t at[16];
    _mm512_store_si512(at, index);
    auto four = [&](int i) __attribute__((always_inline)) {
        __m128i x = _mm_cvtsi32_si128(int(table[at[i]]));
        x = _mm_insert_epi32(x, int(table[at[i + 1]]), 1);
        x = _mm_insert_epi32(x, int(table[at[i + 2]]), 2);
        return _mm_insert_epi32(x, int(table[at[i + 3]]), 3);
    };
    const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(four(0)), four(4), 1);
    const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(four(8)), four(12), 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

// `Few` (of EncodeTable): the tables are in registers.
template <int Few>
TW_INLINE uint8_t* rans_put_16(const uint8_t* symbols, const EncodeTable& t, Turn& state, uint8_t* out) {
    const __m512i s = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)symbols));
    const __m512i packed = Few ? _mm512_permutexvar_epi32(s, _mm512_loadu_si512(t.packed))
                               : gather(s, t.packed);
    const __m512i freq = _mm512_and_si512(packed, _mm512_set1_epi32(0xFFFF)), start = _mm512_srli_epi32(packed, 16);
    const __mmask16 full = _mm512_cmpge_epu32_mask(_mm512_srli_epi32(state, 20), freq);
    _mm256_storeu_si256((__m256i*)out, _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(full, state)));
    state = _mm512_mask_srli_epi32(state, full, state, 16);
    // The quotient is below 2^20, and every rounding goes down: what comes out is right or one too low.
    const __m512 x = _mm512_cvt_roundepu32_ps(state, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
    const __m512 ratio = Few ? _mm512_mul_ps(x, _mm512_permutexvar_ps(s, _mm512_loadu_ps(t.inverse)))
                             : _mm512_div_round_ps(x, _mm512_cvtepi32_ps(freq), _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
    const __m512i q = _mm512_cvttps_epi32(ratio);
    const __m512i rest = _mm512_sub_epi32(state, _mm512_mullo_epi32(q, freq));
    const __mmask16 low = _mm512_cmpge_epu32_mask(rest, freq);
    const __m512i next = _mm512_add_epi32(_mm512_add_epi32(_mm512_slli_epi32(q, kProbBits), rest), start);
    state = _mm512_mask_add_epi32(next, low, next, _mm512_sub_epi32(_mm512_set1_epi32(kProbs), freq));
    return out + 2 * __builtin_popcount(full);
}

TW_INLINE const uint8_t* rans_take_16(const uint8_t* in, const uint32_t* table, Turn& state, uint8_t* symbols) {
    const __m512i entry = gather(_mm512_and_si512(state, _mm512_set1_epi32(kProbs - 1)), table);
    _mm_storeu_si128((__m128i*)symbols, _mm512_cvtepi32_epi8(entry));
    const __m512i scaled = _mm512_mullo_epi32(_mm512_srli_epi32(entry, 20), _mm512_srli_epi32(state, kProbBits));
    const __m512i next =
        _mm512_add_epi32(scaled, _mm512_and_si512(_mm512_srli_epi32(entry, 8), _mm512_set1_epi32(kProbs - 1)));
    const __mmask16 low = _mm512_cmplt_epu32_mask(next, _mm512_set1_epi32(kLow));
    in -= 2 * __builtin_popcount(low);
    const __m512i words = _mm512_maskz_expand_epi32(low, _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)in)));
    state = _mm512_mask_or_epi32(next, low, words, _mm512_slli_epi32(next, 16));
    return in;
}

#elif defined(__AVX2__)
struct Turn { __m256i low, high; };

// Of 8 lanes, those in the mask in their order: as bytes of 8 halves, and as lanes into which words are spread.
struct Orders {
    alignas(16) uint8_t packed[256][16];
    alignas(8) uint8_t spread[256][8];
    constexpr Orders() : packed(), spread() {
        for (int mask = 0; mask < 256; ++mask) {
            int count = 0;
            for (int lane = 0; lane < 8; ++lane) {
                spread[mask][lane] = uint8_t(count);
                if (!(mask >> lane & 1)) continue;
                packed[mask][2 * count] = uint8_t(2 * lane);
                packed[mask][2 * count + 1] = uint8_t(2 * lane + 1);
                ++count;
            }
        }
    }
};
inline constexpr Orders kOrders;

// table[index] of 8 lanes. Loads of their own: the gather instruction takes longer on several processors.
TW_INLINE __m256i gather(__m256i index, const uint32_t* table) {
    const __m128i low = _mm256_castsi256_si128(index), high = _mm256_extracti128_si256(index, 1);
    auto four = [&](__m128i at) __attribute__((always_inline)) {
        const uint64_t ab = uint64_t(_mm_cvtsi128_si64(at)), cd = uint64_t(_mm_extract_epi64(at, 1));
        const __m128i x = _mm_insert_epi32(_mm_cvtsi32_si128(int(table[uint32_t(ab)])), int(table[ab >> 32]), 1);
        const __m128i y = _mm_insert_epi32(_mm_cvtsi32_si128(int(table[uint32_t(cd)])), int(table[cd >> 32]), 1);
        return _mm_unpacklo_epi64(x, y);
    };
    return _mm256_inserti128_si256(_mm256_castsi128_si256(four(low)), four(high), 1);
}

// table[s], its `Few` (of EncodeTable) entries in registers.
template <int Few> TW_INLINE __m256i look_up(const void* table, __m256i s) {
    const __m256i low = _mm256_permutevar8x32_epi32(load<__m256i>(table), s);
    if constexpr (Few == 8) return low;
    const __m256i high = _mm256_permutevar8x32_epi32(load<__m256i>((const char*)table + 32), s);
    const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(s, 28));
    return _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(low), _mm256_castsi256_ps(high), upper));
}

template <int Few> TW_INLINE uint8_t* rans_put_8(const uint8_t* symbols, const EncodeTable& t, __m256i& state, uint8_t* out) {
    const __m256i s = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)symbols));
    const __m256i packed = Few ? look_up<Few>(t.packed, s) : gather(s, t.packed);
    const __m256i freq = _mm256_and_si256(packed, _mm256_set1_epi32(0xFFFF)), start = _mm256_srli_epi32(packed, 16);
    const __m256i stays = _mm256_cmpgt_epi32(freq, _mm256_srli_epi32(state, 20));
    const int full = _mm256_movemask_ps(_mm256_castsi256_ps(stays)) ^ 0xFF;
    const __m256i words = _mm256_and_si256(state, _mm256_set1_epi32(0xFFFF));
    const __m128i halves = _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128((__m128i*)out, _mm_shuffle_epi8(halves, load<__m128i>(kOrders.packed[full])));
    state = _mm256_blendv_epi8(_mm256_srli_epi32(state, 16), state, stays);
    // The quotient is below 2^20. Without the state's lowest bit a signed conversion does: that makes the quotient too
    // low by at most 1 / freq. Every rounding is off by at most 2^-24 of it.
    const __m256 half = _mm256_cvtepi32_ps(_mm256_srli_epi32(state, 1));
    const __m256 ratio = Few ? _mm256_mul_ps(half, _mm256_castsi256_ps(look_up<Few>(t.inverse, s)))
                             : _mm256_div_ps(half, _mm256_cvtepi32_ps(freq));
    const __m256i q = _mm256_cvttps_epi32(_mm256_add_ps(ratio, ratio));
    const __m256i rest = _mm256_sub_epi32(state, _mm256_mullo_epi32(q, freq));
    const __m256i more = _mm256_sub_epi32(_mm256_set1_epi32(kProbs), freq);  // one more of q, freq less of the rest
    __m256i next = _mm256_add_epi32(_mm256_add_epi32(_mm256_slli_epi32(q, kProbBits), rest), start);
    next = _mm256_add_epi32(next, _mm256_andnot_si256(_mm256_cmpgt_epi32(freq, rest), more));   // one too low
    if (!Few) next = _mm256_sub_epi32(next, _mm256_and_si256(_mm256_srai_epi32(rest, 31), more));  // one too high
    state = next;
    return out + 2 * __builtin_popcount(unsigned(full));
}
template <int Few> TW_INLINE uint8_t* rans_put_16(const uint8_t* symbols, const EncodeTable& t, Turn& state, uint8_t* out) {
    out = rans_put_8<Few>(symbols, t, state.low, out);
    return rans_put_8<Few>(symbols + 8, t, state.high, out);
}

// 8 lanes before they take words; `low`: which of them need one.
TW_INLINE __m256i rans_take_8(const uint32_t* table, __m256i& state, unsigned* low) {
    const __m256i mask = _mm256_set1_epi32(kProbs - 1);
    const __m256i entry = gather(_mm256_and_si256(state, mask), table);
    const __m256i scaled = _mm256_mullo_epi32(_mm256_srli_epi32(entry, 20), _mm256_srli_epi32(state, kProbBits));
    state = _mm256_add_epi32(scaled, _mm256_and_si256(_mm256_srli_epi32(entry, 8), mask));
    const __m256i empty = _mm256_cmpeq_epi32(_mm256_srli_epi32(state, 16), _mm256_setzero_si256());
    *low = unsigned(_mm256_movemask_ps(_mm256_castsi256_ps(empty)));
    return entry;
}
TW_INLINE void rans_fill_8(const uint8_t* in, unsigned low, __m256i& state) {
    const __m256i words = _mm256_cvtepu16_epi32(load<__m128i>(in));
    const __m256i order = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)kOrders.spread[low]));
    const __m256i filled = _mm256_or_si256(_mm256_slli_epi32(state, 16), _mm256_permutevar8x32_epi32(words, order));
    const __m256i empty = _mm256_cmpeq_epi32(_mm256_srli_epi32(state, 16), _mm256_setzero_si256());
    state = _mm256_blendv_epi8(state, filled, empty);
}
TW_INLINE const uint8_t* rans_take_16(const uint8_t* in, const uint32_t* table, Turn& state, uint8_t* symbols) {
    unsigned low, high;
    const __m256i byte = _mm256_set1_epi32(0xFF);
    const __m256i a = _mm256_and_si256(rans_take_8(table, state.low, &low), byte);
    const __m256i b = _mm256_and_si256(rans_take_8(table, state.high, &high), byte);
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xD8);
    _mm_storeu_si128((__m128i*)symbols,
                     _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
    in -= 2 * __builtin_popcount(low | high << 8);
    rans_fill_8(in, low, state.low);
    rans_fill_8(in + 2 * __builtin_popcount(low), high, state.high);
    return in;
}
#endif

#ifdef __AVX2__
template <int Few>
TW_INLINE uint8_t* rans_put_all(const uint8_t* symbols, size_t count, const EncodeTable& t, uint32_t* states, uint8_t* out) {
    Turn a = load<Turn>(states), b = load<Turn>(states + 16), c = load<Turn>(states + 32), d = load<Turn>(states + 48);
    for (size_t i = count; i;) {
        i -= kLanes;
        out = rans_put_16<Few>(symbols + i, t, a, out);
        out = rans_put_16<Few>(symbols + i + 16, t, b, out);
        out = rans_put_16<Few>(symbols + i + 32, t, c, out);
        out = rans_put_16<Few>(symbols + i + 48, t, d, out);
    }
    store(states, a);
    store(states + 16, b);
    store(states + 32, c);
    store(states + 48, d);
    return out;
}
#endif

// One segment's symbols into the stream. `out` has room for 2 bytes a symbol and 32 more.
inline uint8_t* rans_put(const uint8_t* symbols, size_t count, const EncodeTable& t, int lanes, uint32_t* states,
                         uint8_t* out) {
    const size_t whole = count / size_t(lanes) * size_t(lanes);
    for (int first = 0; first < int(count - whole); first += kTurn)
        out = rans_put_few(symbols + whole + first, std::min(kTurn, int(count - whole) - first), t, states + first, out);
#ifdef __AVX2__
    if (lanes == kLanes) {
        if (t.few == 8) return rans_put_all<8>(symbols, whole, t, states, out);
        if (t.few == 16) return rans_put_all<16>(symbols, whole, t, states, out);
        return rans_put_all<0>(symbols, whole, t, states, out);
    }
#endif
    for (size_t i = whole; i;) {
        i -= size_t(lanes);
        for (int first = 0; first < lanes; first += kTurn)
            out = rans_put_few(symbols + i + first, std::min(kTurn, lanes - first), t, states + first, out);
    }
    return out;
}

// One segment's symbols out of the stream, backwards from `in`; null when it holds too few words.
// 32 bytes behind `in` must be readable.
inline const uint8_t* rans_take(const uint8_t* in, const uint8_t* begin, size_t count, const uint32_t* table, int lanes,
                                uint32_t* states, uint8_t* symbols) {
    size_t i = 0;
#ifdef __AVX2__
    if (lanes == kLanes) {
        Turn a = load<Turn>(states), b = load<Turn>(states + 16), c = load<Turn>(states + 32), d = load<Turn>(states + 48);
        const auto step = [&](const uint8_t* at) __attribute__((always_inline)) {
            at = rans_take_16(at, table, d, symbols + i + 48);
            at = rans_take_16(at, table, c, symbols + i + 32);
            at = rans_take_16(at, table, b, symbols + i + 16);
            return rans_take_16(at, table, a, symbols + i);
        };
        // A step takes at most 2 * kLanes bytes: while that many are left, nothing needs to be checked.
        for (; i + kLanes <= count && in - begin >= 2 * kLanes; i += kLanes) in = step(in);
        if (i + kLanes <= count) {  // The last of the bytes, where others stand before them. (So few may hold many symbols.)
            constexpr size_t kAhead = 2 * kLanes, kBehind = 32;
            uint8_t room[2 * kAhead + kBehind] = {};
            const size_t left = size_t(in - begin);
            const uint8_t *const low = room + kAhead, *at = low + left;
            std::memcpy(room + kAhead, begin, left + kBehind);  // behind the words are the states
            for (; at >= low && i + kLanes <= count; i += kLanes) at = step(at);
            in = at < low ? nullptr : begin + (at - low);
        }
        store(states, a);
        store(states + 16, b);
        store(states + 32, c);
        store(states + 48, d);
    }
#endif
    for (; in && i < count; i += size_t(lanes)) {
        const int here = int(std::min(size_t(lanes), count - i));
        for (int first = (here - 1) / kTurn * kTurn; in && first >= 0; first -= kTurn)
            in = rans_take_few(in, begin, std::min(kTurn, here - first), table, states + first, symbols + i + first);
    }
    return in;
}
