// y = x W^T + bias for few rows of x: float32, W [outputs, inputs] as the checkpoint has it.
//
// At few rows a linear is a stream over W from memory. W is read once, strip by strip (some rows of
// W that fit the L2 cache); all rows of x go over a strip while the next one is fetched, evenly
// spread over the passes. Threads take pieces of W as they go, so that a core which other processes
// disturb takes fewer. Every output is summed in the same order whatever the other rows of x and
// the number of threads: its bits do not depend on the batch.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <vector>

#include "vectors.h"

namespace {

#if defined(__AVX512F__)
constexpr int WIDTH[] = {0, 12, 4, 4, 6}; // rows of W in registers, by rows of x
#else
constexpr int WIDTH[] = {0, 12, 4, 3, 3};
#endif
constexpr int MOST_ROWS = 4; // rows of x in one pass
constexpr int STRIP = 12;    // a strip is a multiple of this, and so of every WIDTH
constexpr int64_t STRIP_BYTES = 128 << 10;
constexpr int PIECES = 16; // per thread
constexpr int64_t ALONE = 1 << 19; // multiplications, done before other threads would have begun

struct Problem {
    const float *x, *w, *bias;
    float *y, *packed; // packed: x by passes, [inputs / W][rows of the pass][W]
    int64_t rows, outputs, inputs, whole, x_row, w_row;
    int passes;

    int64_t first_row(int pass) const { return rows * pass / passes; }
};

// Which part of the next strip a pass prefetches: every `passes`-th step one line of each row.
struct Ahead {
    const float* w;
    int64_t every;
};

// What the vectors left out: the last inputs and the bias.
void add_rest(const Problem& p, int64_t row, int rows, int64_t out, int outs) {
    for (int64_t r = row; r < row + rows; r++)
        for (int64_t n = out; n < out + outs; n++) {
            float rest = p.bias ? p.bias[n] : 0;
            for (int64_t k = p.whole; k < p.inputs; k++)
                rest += p.x[r * p.x_row + k] * p.w[n * p.w_row + k];
            p.y[r * p.outputs + n] += rest;
        }
}

template <int ROWS, int OUTS>
inline void finish(const Problem& p, int64_t row, int64_t out, const vec* acc) {
    constexpr int COUNT = (ROWS * OUTS + W - 1) / W * W;
    vec padded[COUNT] = {};
    for (int i = 0; i < ROWS * OUTS; i++) padded[i] = acc[i];
    float totals[COUNT];
    for (int i = 0; i < COUNT; i += W) store(totals + i, sums(padded + i));
    for (int r = 0; r < ROWS; r++)
        for (int n = 0; n < OUTS; n++)
            p.y[(row + r) * p.outputs + out + n] = totals[r * OUTS + n];
    if (p.whole < p.inputs || p.bias) add_rest(p, row, ROWS, out, OUTS);
}

template <int ROWS, int OUTS>
inline void block(const Problem& p, int64_t row, int64_t out, const Ahead& ahead) {
    const float *x = p.packed + row * p.whole, *w = p.w + out * p.w_row;
    vec acc[ROWS][OUTS] = {};
    for (int64_t k = 0, skip = 0, line = 0; k < p.whole; k += W, x += ROWS * W) {
        if (skip == 0) {
            for (int n = 0; n < OUTS; n++)
                __builtin_prefetch(ahead.w + n * p.w_row + line, 0, 2);
            line += W;
            skip = ahead.every;
        }
        skip--;
        vec weights[OUTS];
        for (int n = 0; n < OUTS; n++) weights[n] = load(w + n * p.w_row + k);
        for (int r = 0; r < ROWS; r++) {
            const vec a = load(x + r * W);
            for (int n = 0; n < OUTS; n++) acc[r][n] += a * weights[n];
        }
    }
    finish<ROWS, OUTS>(p, row, out, &acc[0][0]);
}

template <int ROWS>
void pass_over(const Problem& p, int64_t row, int64_t from, int64_t to, Ahead ahead) {
    constexpr int OUTS = WIDTH[ROWS];
    for (; from + OUTS <= to; from += OUTS, ahead.w += OUTS * p.w_row)
        block<ROWS, OUTS>(p, row, from, ahead);
    for (; from < to; from++, ahead.w += p.w_row) block<ROWS, 1>(p, row, from, ahead);
}

using Pass = void (*)(const Problem&, int64_t, int64_t, int64_t, Ahead);
constexpr Pass PASSES[] = {nullptr, pass_over<1>, pass_over<2>, pass_over<3>, pass_over<4>};

// Outputs from..to; `upcoming` is where this thread goes on afterwards.
void run_piece(const Problem& p, int64_t from, int64_t to, int64_t upcoming, int64_t strip) {
    for (; from < to; from += strip) {
        const int64_t end = std::min(to, from + strip), next = end < to ? end : upcoming;
        for (int i = 0; i < p.passes; i++) {
            const int64_t row = p.first_row(i), count = p.first_row(i + 1) - row;
            const Ahead ahead = {p.w + next * p.w_row + p.whole / p.passes * i, p.passes};
            PASSES[count](p, row, from, end, ahead);
        }
    }
}

// x in the order in which blocks read it; rows a multiple of 4 KiB apart would share cache sets.
void pack(const Problem& p) {
    float* to = p.packed;
    for (int i = 0; i < p.passes; i++)
        for (int64_t k = 0; k < p.whole; k += W)
            for (int64_t r = p.first_row(i); r < p.first_row(i + 1); r++, to += W)
                std::memcpy(to, p.x + r * p.x_row + k, sizeof(float) * W);
}

} // namespace

// x [rows, inputs] with rows x_row apart, w [outputs, inputs] with rows w_row apart, bias or null;
// y [rows, outputs] contiguous. rows >= 1.
extern "C" void prelude_linear(const float* x, const float* w, const float* bias, float* y,
                               int64_t rows, int64_t outputs, int64_t inputs, int64_t x_row,
                               int64_t w_row, int threads) {
    thread_local std::vector<float> packed; // kept between calls
    const int64_t whole = inputs / W * W;
    packed.resize(std::max(packed.size(), size_t(rows * whole)));
    const int passes = int((rows + MOST_ROWS - 1) / MOST_ROWS);
    const Problem p = {x, w, bias, y, packed.data(), rows, outputs, inputs, whole, x_row, w_row,
                       passes};
    pack(p);
    const int64_t fits = STRIP_BYTES / int64_t(sizeof(float)) / std::max<int64_t>(inputs, 1);
    const int64_t strip = std::max<int64_t>(fits / STRIP, 1) * STRIP;
    const int64_t share = outputs / (threads * PIECES);
    const int64_t piece = std::max<int64_t>(share / strip, 1) * strip;
    std::atomic<int64_t> next{0};
#pragma omp parallel num_threads(threads) if (rows * outputs * inputs > ALONE)
    for (int64_t at = next.fetch_add(piece); at < outputs;) {
        const int64_t upcoming = next.fetch_add(piece);
        run_piece(p, at, std::min(outputs, at + piece), upcoming, strip);
        at = upcoming;
    }
}
