// Symbols <-> bits, 512 symbols at a time, in the layout of kernels/reference.py: pack_bits.
// Included once per instruction set (see isa.cpp).
#pragma once

constexpr int kRows = 16;               // of 32 symbols: a block
constexpr size_t kBlock = 32 * kRows;   // symbols

template <int B> TW_INLINE void pack_block(const u16x32* symbols, uint8_t* out) {
    u16x32 words[B] = {};
    TW_EACH(kRows, kRows, r) {
        const int at = r * B, word = at / 16, shift = at % 16;
        words[word] |= symbols[r] << shift;
        if (shift + B > 16) words[word + 1] |= symbols[r] >> (16 - shift);
    });
    TW_EACH(B, B, w) { store(out + 64 * w, words[w]); });
}

template <int B> TW_INLINE void unpack_block(const uint8_t* in, u16x32* symbols) {
    u16x32 words[B];
    TW_EACH(B, B, w) { words[w] = load<u16x32>(in + 64 * w); });
    TW_EACH(kRows, kRows, r) {
        const int at = r * B, word = at / 16, shift = at % 16;
        u16x32 x = words[word] >> shift;
        if (shift + B > 16) x |= words[word + 1] << (16 - shift);
        symbols[r] = x & uint16_t((1 << B) - 1);
    });
}

// What fills no block: symbol by symbol, the first in the lowest bits.
inline void pack_rest(const uint16_t* symbols, size_t count, int bits, uint8_t* out) {
    uint32_t held = 0;
    int have = 0;
    for (size_t i = 0; i < count; ++i) {
        held |= uint32_t(symbols[i]) << have;
        for (have += bits; have >= 8; have -= 8, held >>= 8) *out++ = uint8_t(held);
    }
    if (have) *out = uint8_t(held);
}
inline void unpack_rest(const uint8_t* in, size_t count, int bits, uint16_t* symbols) {
    uint32_t held = 0;
    int have = 0;
    for (size_t i = 0; i < count; ++i) {
        for (; have < bits; have += 8) held |= uint32_t(*in++) << have;
        symbols[i] = uint16_t(held & ((1u << bits) - 1));
        held >>= bits;
        have -= bits;
    }
}

using PackBlock = void (*)(const u16x32*, uint8_t*);
using UnpackBlock = void (*)(const uint8_t*, u16x32*);
template <int B> [[gnu::noinline]] void pack_out(const u16x32* symbols, uint8_t* out) { pack_block<B>(symbols, out); }
template <int B> [[gnu::noinline]] void unpack_out(const uint8_t* in, u16x32* symbols) { unpack_block<B>(in, symbols); }
constexpr PackBlock kPack[] = {nullptr,     pack_out<1>, pack_out<2>, pack_out<3>, pack_out<4>,
                               pack_out<5>, pack_out<6>, pack_out<7>, pack_out<8>};
constexpr UnpackBlock kUnpack[] = {nullptr,       unpack_out<1>, unpack_out<2>, unpack_out<3>, unpack_out<4>,
                                   unpack_out<5>, unpack_out<6>, unpack_out<7>, unpack_out<8>};

// Takes a segment's symbols in rows of 32: `put(i, …)` for i below n, then `advance(n)`; writes them one to a byte, or
// packed. What calls another function is in `advance`, so that `put` leaves all registers alone.
struct ByteSink {
    uint8_t* out;
    TW_INLINE void put(int i, u16x32 symbols) { store(out + 32 * i, narrow_words(symbols)); }
    TW_INLINE void advance(int n) { out += 32 * n; }
    void finish() {}
};
struct PackSink {
    uint8_t* out;
    int bits;
    int held = 0;
    alignas(64) u16x32 rows[kRows + kMaxDim / 32];

    PackSink(uint8_t* to, int width) : out(to), bits(width) {}
    TW_INLINE void put(int i, u16x32 symbols) { rows[held + i] = symbols; }
    TW_INLINE void advance(int n) {
        held += n;
        if (held >= kRows) flush();
    }
    [[gnu::noinline]] void flush() {
        int done = 0;
        for (; held - done >= kRows; done += kRows, out += 64 * bits) kPack[bits](rows + done, out);
        held -= done;
        for (int i = 0; i < held; ++i) rows[i] = rows[done + i];
    }
    void finish() { pack_rest(reinterpret_cast<const uint16_t*>(rows), size_t(held) * 32, bits, out); }
};

// Gives them back: `need(n)`, then `get(i)` for i below n, then `advance(n)`. Bytes are trusted to be below the number
// of levels; packed symbols are looked at (`below`) where their width holds more than that.
struct ByteSource {
    const uint8_t* in;
    bool below() const { return true; }
    TW_INLINE void need(int) {}
    TW_INLINE u16x32 get(int i) { return widen_bytes(load<u8x32>(in + 32 * i)); }
    TW_INLINE void advance(int n) { in += 32 * n; }
};
struct PackSource {
    const uint8_t* in;
    size_t left;  // symbols not yet unpacked
    int bits, levels;
    int at = 0, end = 0;
    alignas(64) u16x32 rows[kRows + kMaxDim / 32];
    u16x32 last{};  // the largest symbol

    PackSource(const uint8_t* from, size_t count, int width, int level_count)
        : in(from), left(count), bits(width), levels(level_count) {}
    bool below() const {
        bool all = true;
        for (int i = 0; i < 32; ++i) all &= last[i] < levels;
        return all;
    }
    TW_INLINE void need(int n) {
        if (end - at < n) refill(n);
    }
    TW_INLINE u16x32 get(int i) { return rows[at + i]; }
    TW_INLINE void advance(int n) { at += n; }
    [[gnu::noinline]] void refill(int n) {
        for (int i = at; i < end; ++i) rows[i - at] = rows[i];
        for (end -= at, at = 0; end < n; end += kRows) {
            if (left >= kBlock) {
                kUnpack[bits](in, rows + end);
                in += 64 * bits;
                left -= kBlock;
            } else {
                unpack_rest(in, left, bits, reinterpret_cast<uint16_t*>(rows + end));
                for (size_t i = left; i < kBlock; ++i) reinterpret_cast<uint16_t*>(rows + end)[i] = 0;
                left = 0;
            }
            if (levels != 1 << bits)
                for (int i = 0; i < kRows; ++i) last = max2(rows[end + i], last);
        }
    }
};
