// bf16 rows -> transform -> min-max symbols. The contract is kernels/reference.py, bit for bit.
// Included once per instruction set (see isa.cpp).
#pragma once

// The minimum of `low` and the maximum of `high`, which is merged as a negated minimum.
TW_INLINE void extremes(f32x16 low, f32x16 high, float* min, float* max) {
    f32n both = merge<1>(fold_min(low), -fold_max(high));
    both = merge<2>(both, both);
    if constexpr (kLanes32 > 4) both = merge<4>(both, both);
    if constexpr (kLanes32 > 8) both = merge<8>(both, both);
    *min = both[0];
    *max = -both[1];
}

// bf16 as integers in the order of their values; what is not finite lies outside of ±0x7F7F.
TW_INLINE i16x32 ordered(u16x32 bf16) { return (i16x32)bf16 ^ (((i16x32)bf16 >> 15) & int16_t(0x7FFF)); }
TW_INLINE uint16_t bf16_of(int16_t key) { return uint16_t(key ^ ((key >> 15) & 0x7FFF)); }
TW_INLINE void extremes(i16x32 low, i16x32 high, int16_t* min, int16_t* max) {
#ifdef __AVX512BW__
    // one 8-lane vector each of unsigned keys, whose minimum one instruction finds
    __m512i l = (__m512i)(low ^ int16_t(-0x8000)), h = (__m512i)(high ^ int16_t(0x7FFF));
    __m256i l2 = _mm256_min_epu16(_mm512_castsi512_si256(l), _mm512_extracti64x4_epi64(l, 1));
    __m256i h2 = _mm256_min_epu16(_mm512_castsi512_si256(h), _mm512_extracti64x4_epi64(h, 1));
    __m128i l1 = _mm_min_epu16(_mm256_castsi256_si128(l2), _mm256_extracti128_si256(l2, 1));
    __m128i h1 = _mm_min_epu16(_mm256_castsi256_si128(h2), _mm256_extracti128_si256(h2, 1));
    *min = int16_t(uint16_t(_mm_cvtsi128_si32(_mm_minpos_epu16(l1))) ^ 0x8000u);
    *max = int16_t(uint16_t(_mm_cvtsi128_si32(_mm_minpos_epu16(h1))) ^ 0x7FFFu);
#else
    int16_t a = low[0], b = high[0];
    for (int i = 1; i < 32; ++i) { a = low[i] < a ? low[i] : a; b = high[i] > b ? high[i] : b; }
    *min = a;
    *max = b;
#endif
}

// Rotated values stay below this, or the way back could overflow.
constexpr float kBound = 0x1p100f;

// Values that are asked for ahead of their use.
constexpr int kAhead = 4096;

// --- Rows of shapes known at compile time: tiles of cells whose parameters are computed together. ---

TW_INLINE bool any(u32n x) {
#if defined(__AVX512BW__)
    return _mm512_test_epi32_mask((__m512i)x, (__m512i)x) != 0;
#elif defined(__AVX2__)
    return !_mm256_testz_si256((__m256i)x, (__m256i)x);
#else
    return x[0] | x[1] | x[2] | x[3];
#endif
}

// The upper halves of the first `count` lanes.
TW_INLINE void store_upper(uint16_t* out, u32n x, int count) {
    typedef uint16_t Halves __attribute__((vector_size(kNative / 2)));
    const Halves halves = __builtin_convertvector(x >> 16, Halves);
    if (count == kLanes32) {
        store(out, halves);
    } else {
        for (int i = 0; i < count; ++i) out[i] = halves[i];
    }
}

constexpr int kTile = 16;  // cells

// Parameters of up to kLanes32 cells from bf16-floored minima (fp32 bits) and maxima; false when one is not finite.
// Lanes past `count` hold zeros.
TW_INLINE bool close_cells(u32n low, f32n max, float inverse_top, int count, uint16_t* lo, uint16_t* step, float* base,
                           float* inverse) {
    low = low == 0x80000000u ? u32n{} : low;
    const f32n bottom = (f32n)low;
    u32n width = ((u32n)((max - bottom) * inverse_top) + 0xFFFFu) & 0x7FFF0000u;  // rounded up
    const u32n normal = width < 0x00800000u ? u32n{} + 0x00800000u : width;        // its inverse is finite
    width = width == 0 ? width : normal;
    store(base, bottom);
    store(inverse, 1.0f / (width == 0 ? f32n{} + 1.0f : (f32n)width));
    store_upper(lo, low, count);
    store_upper(step, width, count);
    return !any((u32n)((low & 0x7F800000u) == 0x7F800000u) | (u32n)(width >= 0x7F800000u));
}

// Rotated or scaled rows.
template <int N, int G, Mode M, class To>
[[gnu::noinline]] bool encode_tiles(const uint16_t* in, const Shape& s, const Weights& w, int levels,
                                    uint16_t* lo, uint16_t* step, To& to) {
    constexpr int cells = N / G, most = kTile / cells;  // rows of a tile
    static_assert(M != Mode::plain && cells <= 2);
    const float inverse_top = 1.0f / float(levels - 1);
    alignas(64) Pair tile[most * N];
    alignas(64) float base[kTile], inverse[kTile];
    u16x32 widest{};  // to find NaN and Inf where the rotation does not show them
    for (size_t left = s.rows; left;) {
        const int rows = left < size_t(most) ? int(left) : most;
        bool fits;
        {
            f32n low[most], high[most];
            for (int r = rows; r < most; ++r) low[r] = high[r] = f32n{};
            for (int r = 0; r < rows; ++r) {
                Pair row[N];
                for (int i = 0; i < N; ++i) __builtin_prefetch(in + (r * N + i) * 32 + kAhead);
                TW_EACH(N, N, i) {
                    const u16x32 raw = load<u16x32>(in + (r * N + i) * 32);
                    const f32x16 even = load<f32x16>(w.down + 32 * i), odd = load<f32x16>(w.down + 32 * i + 16);
                    row[i] = widen(raw);
                    if constexpr (M == Mode::rotate) {  // one bad value spoils its whole row, and the cells show it
                        const f32x16 other = row[i].odd * odd;  // exact: a power of two
                        row[i] = {multiply_add(row[i].even, even, other), multiply_sub(row[i].even, even, other)};
                    } else {
                        row[i] = {(row[i].even - load<f32x16>(w.offset + 32 * i)) * even,
                                  (row[i].odd - load<f32x16>(w.offset + 32 * i + 16)) * odd};
                        widest = max2(u16x32(raw & 0x7FFF), widest);
                    }
                });
                if constexpr (M == Mode::rotate) walsh<N>(row, false);
                f32n lows[cells], highs[cells];
                TW_EACH(cells, cells, c) {
                    f32x16 bottom = min2(row[c * G].even, row[c * G].odd), top = max2(row[c * G].even, row[c * G].odd);
                    TW_EACH(G, G, i) {
                        if (i) {
                            bottom = min2(row[c * G + i].odd, min2(row[c * G + i].even, bottom));
                            top = max2(row[c * G + i].odd, max2(row[c * G + i].even, top));
                        }
                    });
                    lows[c] = fold_min(bottom);
                    highs[c] = -fold_max(top);
                });
                if constexpr (cells == 2) {
                    lows[0] = merge<1>(lows[0], lows[1]);
                    highs[0] = merge<1>(highs[0], highs[1]);
                }
                low[r] = lows[0];
                high[r] = highs[0];
                TW_EACH(N, N, i) { tile[r * N + i] = row[i]; });
            }
            fits = true;
            TW_EACH(kTile / kLanes32, 0, part) {
                constexpr int step_rows = kLanes32 / cells;
                u32n bottom = (u32n)merge_all<cells>(low + part * step_rows);
                const u32n inexact = (u32n)((bottom & 0xFFFFu) != 0) & (bottom >> 31 << 16);
                bottom = (bottom & 0xFFFF0000u) + inexact;  // rounded down to bf16: away from zero when negative
                const f32n top = -merge_all<cells>(high + part * step_rows);
                const int first = part * kLanes32, count = std::min(std::max(rows * cells - first, 0), kLanes32);
                fits &= close_cells(bottom, top, inverse_top, count, lo + first, step + first, base + first, inverse + first);
                if constexpr (M == Mode::rotate) fits &= !any(~(u32n)(((f32n)bottom > -kBound) & (top < kBound)));
            });
        }
        for (int r = 0; r < rows; ++r) {
            TW_EACH(N, N, i) {
                const f32x16 bottom = f32x16{} + base[r * cells + i / G], up = f32x16{} + inverse[r * cells + i / G];
                const Pair x = tile[r * N + i];
                to.put(i, join(round_product(x.even - bottom, up), round_product(x.odd - bottom, up)));
            });
            to.advance(N);
        }
        if (!fits) return false;
        left -= size_t(rows);
        in += rows * N * 32;
        lo += rows * cells;
        step += rows * cells;
    }
    to.finish();
    bool finite = true;
    for (int i = 0; i < 32; ++i) finite &= widest[i] < 0x7F80;
    return finite;
}

#if defined(__AVX2__) && !defined(__AVX512BW__)
TW_INLINE u32n bf16_bits(__m128i x) { return (u32n)_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16); }

// Rows as they are: minima and maxima of bf16, 16 cells a tile.
template <int N, int G, class To>
[[gnu::noinline]] bool encode_plain_tiles(const uint16_t* in, const Shape& s, int levels, uint16_t* lo, uint16_t* step,
                                          To& to) {
    constexpr int cells = N / G, most = 16 / cells;  // rows of a tile
    const float inverse_top = 1.0f / float(levels - 1);
    alignas(64) float base[16], inverse[16];
    for (size_t left = s.rows; left;) {
        const int rows = left < size_t(most) ? int(left) : most;
        __m256i low[16], high[16];
        for (int i = rows * cells; i < 16; ++i) low[i] = high[i] = _mm256_setzero_si256();
        for (int r = 0; r < rows; ++r)
            TW_EACH(cells, cells, c) {
                __builtin_prefetch(in + (r * N + c * G) * 32 + kAhead);
                i16x32 bottom = ordered(load<u16x32>(in + (r * N + c * G) * 32)), top = bottom;
                TW_EACH(G, G, i) {
                    if (i) {
                        __builtin_prefetch(in + (r * N + c * G + i) * 32 + kAhead);
                        const i16x32 key = ordered(load<u16x32>(in + (r * N + c * G + i) * 32));
                        bottom = min2(key, bottom);
                        top = max2(key, top);
                    }
                });
                low[r * cells + c] = (__m256i)fold_min(bottom);
                high[r * cells + c] = ~(__m256i)fold_max(top);  // the maximum as a minimum
            });
        const i16n bottom = (i16n)merge16_all(low), top = ~(i16n)merge16_all(high);
        bool fits = !any((u32n)((bottom < int16_t(-0x7F80)) | (top > int16_t(0x7F7F))));
        const __m256i bottoms = (__m256i)(bottom ^ ((bottom >> 15) & 0x7FFF)), tops = (__m256i)(top ^ ((top >> 15) & 0x7FFF));
        const u32n first = bf16_bits(_mm256_castsi256_si128(bottoms)), second = bf16_bits(_mm256_extracti128_si256(bottoms, 1));
        const int count = rows * cells;
        fits &= close_cells(first, (f32n)bf16_bits(_mm256_castsi256_si128(tops)), inverse_top, std::min(count, 8), lo, step,
                            base, inverse);
        if (count > 8)
            fits &= close_cells(second, (f32n)bf16_bits(_mm256_extracti128_si256(tops, 1)), inverse_top, count - 8, lo + 8,
                                step + 8, base + 8, inverse + 8);
        if (!fits) return false;
        for (int r = 0; r < rows; ++r) {
            TW_EACH(N, N, i) {
                const f32x16 floor = f32x16{} + base[r * cells + i / G], up = f32x16{} + inverse[r * cells + i / G];
                const Pair x = widen(load<u16x32>(in + (r * N + i) * 32));
                to.put(i, join(round_product(x.even - floor, up), round_product(x.odd - floor, up)));
            });
            to.advance(N);
        }
        left -= size_t(rows);
        in += rows * N * 32;
        lo += rows * cells;
        step += rows * cells;
    }
    to.finish();
    return true;
}
#endif

// --- Everything else: row by row. N: vectors of 32 a row; G: a cell; 0: known only at run time. ---

struct Cell { float base, inverse; };

// lo, step -> memory and -> Cell; false when they are not finite.
TW_INLINE bool close_cell(uint16_t lo16, float max, float inverse_top, uint16_t* lo, uint16_t* step, Cell* cell) {
    if (lo16 == 0x8000) lo16 = 0;
    const float base = from_bf16(lo16);
    uint16_t step16 = uint16_t((bits_of((max - base) * inverse_top) + 0xFFFFu) >> 16 & 0x7FFF);  // rounded up
    if (step16 && step16 < 0x0080) step16 = 0x0080;  // the smallest normal: its inverse is finite
    *lo = lo16;
    *step = step16;
    *cell = {base, 1.0f / (step16 ? from_bf16(step16) : 1.0f)};
    return (lo16 & 0x7F80) != 0x7F80 && step16 < 0x7F80;
}

template <int N, int G, Mode M, class To>
[[gnu::noinline]] bool encode_rows(const uint16_t* in, const Shape& s, const Weights& w, int levels,
                                   uint16_t* lo, uint16_t* step, To& to) {
    static_assert(N == 0 || M == Mode::plain);
    const int n = N ? N : int(s.dim / 32), group = G ? G : int(s.group / 32);
    constexpr int most = N ? N : int(kMaxDim / 32), cells = G ? N / G : 0;
    const float inverse_top = 1.0f / float(levels - 1);
    bool fits = true;
    u16x32 widest{};  // to find NaN and Inf where the order does not show them
    for (size_t r = 0; r < s.rows; ++r, in += s.dim) {
        Cell cell[most];
        if constexpr (M == Mode::plain) {
            u16x32 row[most];
            TW_EACH(N, n, i) { row[i] = load<u16x32>(in + 32 * i); });
            TW_EACH(cells, n / group, c) {
                i16x32 low = ordered(row[c * group]), high = low;
                TW_EACH(G, group, i) {
                    const i16x32 key = ordered(row[c * group + i]);
                    low = min2(key, low);
                    high = max2(key, high);
                });
                int16_t min, max;
                extremes(low, high, &min, &max);
                fits &= min >= -0x7F80 && max <= 0x7F7F;
                fits &= close_cell(bf16_of(min), from_bf16(bf16_of(max)), inverse_top, lo++, step++, &cell[c]);
            });
            TW_EACH(N, n, i) {
                const Cell& p = cell[i / group];
                const f32x16 base = f32x16{} + p.base, inverse = f32x16{} + p.inverse;
                const Pair x = widen(row[i]);
                to.put(i, join(round_product(x.even - base, inverse), round_product(x.odd - base, inverse)));
            });
        } else {
            Pair row[most];
            for (int i = 0; i < n; ++i) {
                const u16x32 raw = load<u16x32>(in + 32 * i);
                row[i] = widen(raw);
                const f32x16 even = load<f32x16>(w.down + 32 * i), odd = load<f32x16>(w.down + 32 * i + 16);
                if constexpr (M == Mode::rotate) {
                    const f32x16 other = row[i].odd * odd;  // exact: a power of two
                    row[i] = {multiply_add(row[i].even, even, other), multiply_sub(row[i].even, even, other)};
                } else {
                    const f32x16 at_even = load<f32x16>(w.offset + 32 * i), at_odd = load<f32x16>(w.offset + 32 * i + 16);
                    row[i] = {(row[i].even - at_even) * even, (row[i].odd - at_odd) * odd};
                }
                widest = max2(u16x32(raw & 0x7FFF), widest);
            }
            if constexpr (M == Mode::rotate) walsh_blocks<0>(row, n, false);
            for (int c = 0; c < n / group; ++c) {
                f32x16 low = min2(row[c * group].even, row[c * group].odd);
                f32x16 high = max2(row[c * group].even, row[c * group].odd);
                for (int i = 0; i < group; ++i) {
                    if (i) {
                        const Pair x = row[c * group + i];
                        low = min2(x.odd, min2(x.even, low));
                        high = max2(x.odd, max2(x.even, high));
                    }
                }
                float min, max;
                extremes(low, high, &min, &max);
                if constexpr (M == Mode::rotate) fits &= min > -kBound && max < kBound;
                const uint32_t b = bits_of(min);  // rounded down to bf16
                const uint16_t lo16 = uint16_t((b >> 16) + ((b >> 31) && (b & 0xFFFFu) ? 1 : 0));
                fits &= close_cell(lo16, max, inverse_top, lo++, step++, &cell[c]);
            }
            for (int i = 0; i < n; ++i) {
                const Cell& p = cell[i / group];
                const f32x16 base = f32x16{} + p.base, inverse = f32x16{} + p.inverse;
                to.put(i, join(round_product(row[i].even - base, inverse), round_product(row[i].odd - base, inverse)));
            }
        }
        to.advance(n);
        if (!fits) return false;
    }
    to.finish();
    for (int i = 0; i < 32; ++i) fits &= widest[i] < 0x7F80;
    return fits;
}
