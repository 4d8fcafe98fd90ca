// Attention of many queries at a time. Scores are kept transposed, [key][query]: keys are used as
// they lie in the pages, and softmax needs no operation across vectors.
#pragma once

#include "attention_item.h"

namespace {

// Register blocks: of scores, KEYS by COLUMNS vectors of queries; of outputs, QUERIES by COLUMNS
// vectors of the head. Measured; QUERIES divides W.
#if defined(__AVX512F__)
constexpr int KEYS = 8, QUERIES = 8, COLUMNS = 2;
#else
constexpr int KEYS = 6, QUERIES = 4, COLUMNS = 2;
#endif

// scores[k][m] = keys[k] . queries[:, m] for ROWS keys and COLS vectors of queries.
template <int ROWS, int COLS>
inline void score_block(int dim, const float* const* keys, const float* queries, int m_stride,
                        float* scores) {
    vec acc[ROWS][COLS] = {};
    const float* key[ROWS];
    for (int r = 0; r < ROWS; r++) key[r] = keys[r];
    for (int d = 0; d < dim; d++, queries += m_stride) {
        vec q[COLS];
        for (int c = 0; c < COLS; c++) q[c] = load(queries + c * W);
        for (int r = 0; r < ROWS; r++)
            for (int c = 0; c < COLS; c++)
                acc[r][c] = add_product(acc[r][c], splat(key[r][d]), q[c]);
    }
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLS; c++) store(scores + r * m_stride + c * W, acc[r][c]);
}

template <int ROWS>
inline void score_rows(int dim, const float* const* keys, const float* queries, int m_stride,
                       float* scores) {
    int m = 0;
    for (; m + COLUMNS * W <= m_stride; m += COLUMNS * W)
        score_block<ROWS, COLUMNS>(dim, keys, queries + m, m_stride, scores + m);
    for (; m < m_stride; m += W)
        score_block<ROWS, 1>(dim, keys, queries + m, m_stride, scores + m);
}

// out[m][d] = out[m][d] * decay[m] + sum over k of weights[k][m] * values[k][d], a register block.
template <int ROWS, int COLS>
inline void mix_block(int num_keys, const float* weights, int m_stride, const float* values,
                      int v_stride, const float* decay, float* out, int o_stride) {
    vec acc[ROWS][COLS];
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLS; c++) acc[r][c] = load(out + r * o_stride + c * W) * decay[r];
    for (int k = 0; k < num_keys; k++, weights += m_stride, values += v_stride) {
        vec v[COLS];
        for (int c = 0; c < COLS; c++) v[c] = load(values + c * W);
        for (int r = 0; r < ROWS; r++)
            for (int c = 0; c < COLS; c++)
                acc[r][c] = add_product(acc[r][c], splat(weights[r]), v[c]);
    }
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLS; c++) store(out + r * o_stride + c * W, acc[r][c]);
}

void mix(int num_keys, const float* weights, int m_stride, int num_queries, const float* values,
         int dim, const float* decay, float* out) {
    int d = 0;
    for (; d + COLUMNS * W <= dim; d += COLUMNS * W)
        for (int m = 0; m < num_queries; m += QUERIES)
            mix_block<QUERIES, COLUMNS>(num_keys, weights + m, m_stride, values + d, dim, decay + m,
                                  out + m * dim + d, dim);
    for (; d < dim; d += W)
        for (int m = 0; m < num_queries; m += QUERIES)
            mix_block<QUERIES, 1>(num_keys, weights + m, m_stride, values + d, dim, decay + m,
                            out + m * dim + d, dim);
}

// Hide keys beyond each query's own position and before its window.
void mask_tile(const Problem& p, const Item& item, int start, int num_keys, int m_stride,
               float* scores) {
    for (int m = 0; m < m_stride; m += W) {
        ivec own;
        for (int i = 0; i < W; i++) own[i] = item.position + (m + i) / p.group;
        for (int k = 0; k < num_keys; k++) {
            ivec hidden = start + k > own;
            if (p.window > 0) hidden |= start + k <= own - p.window;
            float* s = scores + k * m_stride + m;
            store(s, hidden ? splat(MASKED) : load(s));
        }
    }
}

// Online softmax over a tile: scores become weights, `decay` what older sums must shrink by.
void soften(int num_keys, int m_stride, float* scores, float* top, float* total, float* decay) {
    for (int m = 0; m < m_stride; m += W) {
        const vec old = load(top + m);
        vec peak = old;
        for (int k = 0; k < num_keys; k++) peak = max(peak, load(scores + k * m_stride + m));
        vec added = {};
        for (int k = 0; k < num_keys; k++) {
            float* s = scores + k * m_stride + m;
            const vec weight = exp2(load(s) - peak);
            added += weight;
            store(s, weight);
        }
        const vec shrink = exp2(old - peak);
        store(decay + m, shrink);
        store(top + m, peak);
        store(total + m, add_product(added, load(total + m), shrink));
    }
}

Mixed attend_tile(const Problem& p, const Item& item, Scratch& scratch) {
    const int num_queries = item.count * p.group, m_stride = round_up(num_queries, W);
    const int dim = p.padded_dim;
    float* queries = scratch.take(size_t(m_stride) * (2 * dim + TILE_KEYS + 3) + TILE_KEYS * dim);
    float* scores = queries + m_stride * dim;      // [key][query]
    float* values = scores + m_stride * TILE_KEYS; // [key][dim], copied together and padded
    float* out = values + TILE_KEYS * dim;
    float* top = out + m_stride * dim;
    float *total = top + m_stride, *decay = total + m_stride;
    std::fill(queries, scores, 0.0f);
    std::fill(values, top, 0.0f);
    std::fill(top, total, MASKED);
    std::fill(total, decay, 0.0f);
    for (int m = 0; m < num_queries; m++)
        for (int d = 0; d < p.dim; d++) queries[d * m_stride + m] = query(p, item, m)[d] * p.scale;
    const int last = item.position + item.count - 1;
    for (int start = item.begin; start < item.end; start += TILE_KEYS) {
        const int num_keys = std::min(TILE_KEYS, item.end - start);
        const float* const* keys = scratch.keys.data() + (start - item.begin);
        int k = 0;
        for (; k + KEYS <= num_keys; k += KEYS)
            score_rows<KEYS>(p.dim, keys + k, queries, m_stride, scores + k * m_stride);
        for (; k < num_keys; k++)
            score_rows<1>(p.dim, keys + k, queries, m_stride, scores + k * m_stride);
        const bool before_window = p.window > 0 && start <= last - p.window;
        if (start + num_keys - 1 > item.position || before_window)
            mask_tile(p, item, start, num_keys, m_stride, scores);
        soften(num_keys, m_stride, scores, top, total, decay);
        for (k = 0; k < num_keys; k++)
            std::memcpy(values + k * dim, keys[k] + p.to_value(), sizeof(float) * p.dim);
        mix(num_keys, scores, m_stride, num_queries, values, dim, decay, out);
    }
    return {out, top, total};
}

} // namespace
