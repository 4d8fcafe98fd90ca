// One register tile of y = x W^T: some rows of x by some rows of W, all inputs.
//
// The vectors of a sum lie along the inputs, so W is read as the checkpoint has it and nothing is
// packed but x. Whatever the tile's shape, an output is the same lanes added in the same order.
#pragma once

#include <cstring>

#include "vectors.h"

namespace {

#if defined(__AVX512F__)
constexpr int WIDTH[] = {0, 12, 8, 8, 6}; // rows of W in registers, by rows of x
constexpr int NARROW = 4; // for MOST_ROWS where it lets them stay in L1, and in a single pass: fewer
                          // rows of W at a time are fetched from memory sooner
constexpr int WIDTH_INT8 = 12; // for one row of x
constexpr bool FETCHES = true; // also where one row of x is all there is to do with float32
constexpr bool IN_ORDER = false;
#else
// One row: a line is two vectors, and rows of W often lie 4 KiB apart, where eight lines are all
// that L1 keeps. So few are seen coming by the processor itself, and prefetching is in their way.
constexpr int WIDTH[] = {0, 6, 4, 3, 3};
constexpr int NARROW = 3;
constexpr int WIDTH_INT8 = 4;
constexpr bool FETCHES = false;
// int8, and more than one pass: prefetched in the order of memory, which the processor goes on with.
constexpr bool IN_ORDER = true;
#endif
constexpr int64_t L1_BYTES = 32 << 10;
constexpr int MOST_ROWS = 4; // rows of x in one pass
constexpr int STRIP = 24;    // a strip is a multiple of this, and so of every WIDTH
constexpr int LINE = 64;     // bytes the memory hands out at once

struct Problem {
    const float* x; // packed by passes: [steps][rows of the pass][W], the last step padded with 0
    const float* bias;
    const char* scales; // of the first row of W, or null; the next row's `scale_step` bytes on
    float* y;
    int64_t scale_step, rows, outputs, inputs, steps;
    int passes;

    int64_t first_row(int pass) const { return rows * pass / passes; }
    float scale(int64_t out) const {
        float s = 1;
        if (scales) std::memcpy(&s, scales + out * scale_step, sizeof s);
        return s;
    }
};

template <class T> struct Rows { // of W
    const T* at;
    int64_t step;

    Rows from(int64_t row) const { return {at + row * step, step}; }
};

// What a pass prefetches of the strip after this one: for each row of W it goes over `row_bytes`, a
// line every so many steps. Lines lie `apart`, each in a row of its own; or are one sequence.
struct Ahead {
    const char* at;
    int64_t row_bytes, every;
    bool in_order;

    int64_t apart() const { return in_order ? LINE : row_bytes; }
    int64_t step(int rows) const { return in_order ? rows * LINE : LINE; }
};

template <class T> inline vec load_first(const T* p, int64_t count) {
    T padded[W] = {};
    std::memcpy(padded, p, sizeof(T) * count);
    return load(padded);
}

template <int ROWS, int OUTS>
inline void finish(const Problem& p, int64_t row, int64_t out, const vec* acc) {
    constexpr int COUNT = (ROWS * OUTS + W - 1) / W * W;
    vec padded[COUNT] = {};
    for (int i = 0; i < ROWS * OUTS; i++) padded[i] = acc[i];
    float totals[COUNT];
    for (int i = 0; i < COUNT; i += W) store(totals + i, sums(padded + i));
    for (int n = 0; n < OUTS; n++) {
        const float scale = p.scale(out + n), bias = p.bias ? p.bias[out + n] : 0;
        for (int r = 0; r < ROWS; r++)
            p.y[(row + r) * p.outputs + out + n] = totals[r * OUTS + n] * scale + bias;
    }
}

template <int ROWS, int OUTS>
inline void multiply(vec (*acc)[OUTS], const float* x, const vec* weights) {
    for (int r = 0; r < ROWS; r++) {
        const vec a = in_register(load(x + r * W));
        for (int n = 0; n < OUTS; n++) acc[r][n] = add_product(acc[r][n], a, weights[n]);
    }
}

template <int ROWS, int OUTS, class T>
inline void tile(const Problem& p, int64_t row, int64_t out, Rows<T> w, const Ahead& ahead) {
    const float* x = p.x + row * p.steps * W;
    const int64_t whole = p.inputs / W * W, rest = p.inputs - whole;
    constexpr bool fetches = FETCHES || ROWS > 1 || sizeof(T) < sizeof(float);
    vec acc[ROWS][OUTS] = {}, weights[OUTS];
    const char* line = ahead.at;
    for (int64_t k = 0, skip = 0; k < whole; k += W, x += ROWS * W) {
        if (fetches && skip == 0) {
            for (int n = 0; n < OUTS; n++) __builtin_prefetch(line + n * ahead.apart(), 0, 2);
            line += ahead.step(OUTS);
            skip = ahead.every;
        }
        skip--;
        for (int n = 0; n < OUTS; n++) weights[n] = in_register(load(w.at + n * w.step + k));
        multiply<ROWS, OUTS>(acc, x, weights);
    }
    if (rest) {
        for (int n = 0; n < OUTS; n++)
            weights[n] = load_first(w.at + n * w.step + whole, rest);
        multiply<ROWS, OUTS>(acc, x, weights);
    }
    finish<ROWS, OUTS>(p, row, out, &acc[0][0]);
}

// Whether the rows of x that a tile reads, which the next one reads again, outlive its rows of W.
template <class T> inline bool stays(const Problem& p, int rows, int outs) {
    return p.inputs * int64_t(rows * sizeof(float) + outs * sizeof(T)) <= L1_BYTES;
}

template <int ROWS, int OUTS, class T>
void tiles(const Problem& p, int64_t row, int64_t from, int64_t to, Rows<T> w, Ahead ahead) {
    for (; from + OUTS <= to; from += OUTS, w = w.from(OUTS), ahead.at += OUTS * ahead.row_bytes)
        tile<ROWS, OUTS>(p, row, from, w, ahead);
    for (; from < to; from++, w = w.from(1), ahead.at += ahead.row_bytes)
        tile<ROWS, 1>(p, row, from, w, ahead);
}

// ROWS rows of x by the rows of W that are the outputs from..to.
template <int ROWS, class T>
void pass_over(const Problem& p, int64_t row, int64_t from, int64_t to, Rows<T> w, Ahead ahead) {
    constexpr int WIDE = ROWS == 1 && sizeof(T) == 1 ? WIDTH_INT8 : WIDTH[ROWS];
    if constexpr (ROWS == MOST_ROWS && NARROW < WIDE)
        if (p.passes == 1 || (!stays<T>(p, ROWS, WIDE) && stays<T>(p, ROWS, NARROW)))
            return tiles<ROWS, NARROW>(p, row, from, to, w, ahead);
    tiles<ROWS, WIDE>(p, row, from, to, w, ahead);
}

} // namespace
