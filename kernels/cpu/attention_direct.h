// Attention of few queries (decode): keys and values are streamed once, at memory speed, with all
// queries of the item against each. Scores are kept [key][query], a vector holding W / ROWS keys.
#pragma once

#include "attention_item.h"

namespace {

constexpr int FETCH_AHEAD = 32; // keys; into the second-level cache, the first is too small

inline void fetch(const float* p, int dim) {
    for (int d = 0; d < dim; d += 16) __builtin_prefetch(p + d, 0, 2);
}

// A tile's keys, and how many follow in the item, for fetching ahead.
struct Stream {
    const float* const* keys;
    int count, ahead;
    int64_t to_value;
};

// scores[k][r] = queries[r] . keys[k]. Keys past the count repeat the last one.
template <int ROWS, int DIM>
inline void dots(int dim_, const float* queries, int q_stride, const Stream& s, float* scores) {
    constexpr int PER = W / ROWS; // keys at a time: W sums are reduced together
    const int dim = DIM ? DIM : dim_;
    const int whole = dim / W * W;
    for (int k = 0; k < s.count; k += PER) {
        vec acc[PER * ROWS];
        const float* key[PER];
        for (int i = 0; i < PER; i++) {
            key[i] = s.keys[std::min(k + i, s.count - 1)];
            if (k + i + FETCH_AHEAD < s.ahead) fetch(s.keys[k + i + FETCH_AHEAD], dim);
            vec score[ROWS] = {};
            for (int d = 0; d < whole; d += W) {
                const vec x = load(key[i] + d);
                for (int r = 0; r < ROWS; r++)
                    score[r] = add_product(score[r], x, load(queries + r * q_stride + d));
            }
            for (int r = 0; r < ROWS; r++) acc[i * ROWS + r] = score[r];
        }
        store(scores + k * ROWS, sums(acc));
        for (int d = whole; d < dim; d++)
            for (int i = 0; i < PER * ROWS; i++)
                scores[k * ROWS + i] += key[i / ROWS][d] * queries[i % ROWS * q_stride + d];
    }
}

// out[r][d..] = out * decay[r] + sum over k of weights[k][r] * values[k][d..], COLS vectors wide.
template <int ROWS, int COLS>
inline void mix_stream(const Stream& s, int d, const float* weights, const float* decay, float* out,
                       int o_stride) {
    vec acc[ROWS][COLS];
    out += d;
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLS; c++) acc[r][c] = load(out + r * o_stride + c * W) * decay[r];
    for (int k = 0; k < s.count; k++) {
        const float* value = s.keys[k] + s.to_value + d;
        if (k + FETCH_AHEAD < s.ahead) fetch(s.keys[k + FETCH_AHEAD] + s.to_value + d, COLS * W);
        for (int c = 0; c < COLS; c++) {
            const vec v = load(value + c * W);
            for (int r = 0; r < ROWS; r++)
                acc[r][c] = add_product(acc[r][c], splat(weights[k * ROWS + r]), v);
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLS; c++) store(out + r * o_stride + c * W, acc[r][c]);
}

template <int ROWS>
inline void mix_rows(const Stream& s, const float* weights, const float* decay, float* out, int dim,
                     int o_stride) {
    constexpr int COLS = ROWS == 8 ? 2 : 4;
    int d = 0;
    for (; d + COLS * W <= dim; d += COLS * W)
        mix_stream<ROWS, COLS>(s, d, weights, decay, out, o_stride);
    for (; d + W <= dim; d += W) mix_stream<ROWS, 1>(s, d, weights, decay, out, o_stride);
    for (; d < dim; d++)
        for (int r = 0; r < ROWS; r++) {
            float total = out[r * o_stride + d] * decay[r];
            for (int k = 0; k < s.count; k++)
                total += weights[k * ROWS + r] * s.keys[k][s.to_value + d];
            out[r * o_stride + d] = total;
        }
}

// Highest lane and sum of lanes among those of row r: lanes r, r + ROWS, r + 2 ROWS, ...
template <int ROWS> inline float highest(vec x, int r) {
    float lanes[W];
    store(lanes, x);
    float top = lanes[r];
    for (int i = r + ROWS; i < W; i += ROWS) top = std::max(top, lanes[i]);
    return top;
}

template <int ROWS> inline float total(vec x, int r) {
    float lanes[W], total = 0;
    store(lanes, x);
    for (int i = r; i < W; i += ROWS) total += lanes[i];
    return total;
}

// Hide keys past each query's own position, before its window, and the repeated last keys.
template <int ROWS>
inline void mask_scores(const Problem& p, const Item& item, int m, int start, int count,
                        float* scores) {
    for (int r = 0; r < ROWS; r++) {
        const int own = item.position + (m + r) / p.group;
        const int low = p.window > 0 ? own - p.window : -1;
        for (int k = 0; k < count && start + k <= low; k++) scores[k * ROWS + r] = MASKED;
        for (int k = std::max(0, own + 1 - start); k < count; k++) scores[k * ROWS + r] = MASKED;
    }
    for (int i = count * ROWS; i % W; i++) scores[i] = MASKED;
}

// Queries m .. m + ROWS - 1 of the item.
template <int ROWS, int DIM>
void attend_rows(const Problem& p, const Item& item, const std::vector<const float*>& pointers,
                 int m, const float* queries, const Mixed& mixed) {
    const int dim = DIM ? DIM : p.dim, size = int(pointers.size());
    float* out = mixed.out + m * p.padded_dim;
    float scores[(TILE_KEYS + W) * ROWS], decay[W];
    vec top = splat(MASKED), weight_sums = {};
    for (int start = item.begin; start < item.end; start += TILE_KEYS) {
        const int at = start - item.begin, count = std::min(TILE_KEYS, item.end - start);
        const Stream stream = {pointers.data() + at, count, size - at, p.to_value()};
        dots<ROWS, DIM>(dim, queries + m * p.padded_dim, p.padded_dim, stream, scores);
        mask_scores<ROWS>(p, item, m, start, count, scores);
        vec peak = top, added = {};
        for (int i = 0; i < count * ROWS; i += W) peak = max(peak, load(scores + i));
        for (int r = 0; r < ROWS; r++) decay[r] = highest<ROWS>(peak, r);
        for (int i = ROWS; i < W; i++) decay[i] = decay[i - ROWS];
        peak = load(decay);
        for (int i = 0; i < count * ROWS; i += W) {
            const vec weight = exp2(load(scores + i) - peak);
            added += weight;
            store(scores + i, weight);
        }
        const vec shrink = exp2(top - peak);
        store(decay, shrink);
        weight_sums = add_product(added, weight_sums, shrink);
        top = peak;
        mix_rows<ROWS>(stream, scores, decay, out, dim, p.padded_dim);
    }
    for (int r = 0; r < ROWS; r++) {
        mixed.top[m + r] = top[r];
        mixed.total[m + r] = total<ROWS>(weight_sums, r);
    }
}

template <int DIM> Mixed attend_direct(const Problem& p, const Item& item, Scratch& scratch) {
    const int num_queries = item.count * p.group, dim = p.padded_dim;
    float* queries = scratch.take(size_t(num_queries) * (2 * dim + 2));
    float* out = queries + num_queries * dim;
    const Mixed mixed = {out, out + num_queries * dim, out + num_queries * (dim + 1)};
    std::memset(out, 0, sizeof(float) * num_queries * dim);
    for (int m = 0; m < num_queries; m++)
        for (int d = 0; d < p.dim; d++) queries[m * dim + d] = query(p, item, m)[d] * p.scale;
    int m = 0;
    const auto& keys = scratch.keys;
    for (; m + 8 <= num_queries; m += 8) attend_rows<8, DIM>(p, item, keys, m, queries, mixed);
    for (; m + 4 <= num_queries; m += 4) attend_rows<4, DIM>(p, item, keys, m, queries, mixed);
    for (; m + 2 <= num_queries; m += 2) attend_rows<2, DIM>(p, item, keys, m, queries, mixed);
    for (; m < num_queries; m++) attend_rows<1, DIM>(p, item, keys, m, queries, mixed);
    return mixed;
}

} // namespace
