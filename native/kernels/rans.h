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

#ifdef __AVX512BW__
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

// `Few`: at most 16 symbols, the tables are in registers.
template <bool Few>
TW_INLINE uint8_t* rans_put_16(const uint8_t* symbols, const EncodeTable& t, __m512i& state, uint8_t* out) {
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

TW_INLINE const uint8_t* rans_take_16(const uint8_t* in, const uint32_t* table, __m512i& state, uint8_t* symbols) {
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

template <bool Few>
TW_INLINE uint8_t* rans_put_all(const uint8_t* symbols, size_t count, const EncodeTable& t, uint32_t* states, uint8_t* out) {
    __m512i a = _mm512_loadu_si512(states), b = _mm512_loadu_si512(states + 16);
    __m512i c = _mm512_loadu_si512(states + 32), d = _mm512_loadu_si512(states + 48);
    for (size_t i = count; i;) {
        i -= kLanes;
        out = rans_put_16<Few>(symbols + i, t, a, out);
        out = rans_put_16<Few>(symbols + i + 16, t, b, out);
        out = rans_put_16<Few>(symbols + i + 32, t, c, out);
        out = rans_put_16<Few>(symbols + i + 48, t, d, out);
    }
    _mm512_storeu_si512(states, a);
    _mm512_storeu_si512(states + 16, b);
    _mm512_storeu_si512(states + 32, c);
    _mm512_storeu_si512(states + 48, d);
    return out;
}
#endif

// One segment's symbols into the stream. `out` has room for 2 bytes a symbol and 32 more.
inline uint8_t* rans_put(const uint8_t* symbols, size_t count, const EncodeTable& t, int lanes, uint32_t* states,
                         uint8_t* out) {
    const size_t whole = count / size_t(lanes) * size_t(lanes);
    for (int first = 0; first < int(count - whole); first += kTurn)
        out = rans_put_few(symbols + whole + first, std::min(kTurn, int(count - whole) - first), t, states + first, out);
#ifdef __AVX512BW__
    if (lanes == kLanes)
        return t.few ? rans_put_all<true>(symbols, whole, t, states, out) : rans_put_all<false>(symbols, whole, t, states, out);
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
#ifdef __AVX512BW__
    if (lanes == kLanes) {
        __m512i a = _mm512_loadu_si512(states), b = _mm512_loadu_si512(states + 16);
        __m512i c = _mm512_loadu_si512(states + 32), d = _mm512_loadu_si512(states + 48);
        // A step takes at most 2 * kLanes bytes: while that many are left, nothing needs to be checked.
        for (; i + kLanes <= count && in - begin >= 2 * kLanes; i += kLanes) {
            in = rans_take_16(in, table, d, symbols + i + 48);
            in = rans_take_16(in, table, c, symbols + i + 32);
            in = rans_take_16(in, table, b, symbols + i + 16);
            in = rans_take_16(in, table, a, symbols + i);
        }
        _mm512_storeu_si512(states, a);
        _mm512_storeu_si512(states + 16, b);
        _mm512_storeu_si512(states + 32, c);
        _mm512_storeu_si512(states + 48, d);
    }
#endif
    for (; in && i < count; i += size_t(lanes)) {
        const int here = int(std::min(size_t(lanes), count - i));
        for (int first = (here - 1) / kTurn * kTurn; in && first >= 0; first -= kTurn)
            in = rans_take_few(in, begin, std::min(kTurn, here - first), table, states + first, symbols + i + first);
    }
    return in;
}
