// Paged attention for CPUs: append new keys and values, attend over block tables.
//
// Plain C interface (pointers, sizes in elements), no torch headers; vectors are GCC/Clang vector
// extensions, so one source serves AVX2, AVX-512 and NEON. Work is cut into items of (row, kv head,
// a tile of queries, a range of the context). All query heads of a kv head are in the same item, so
// each key and value is read once per group. How a row is cut depends on that row alone, never on
// the other rows or on the number of threads: its result is the same bits in every batch.
//
// Two ways through an item. `Tile` (many queries) keeps scores transposed, [key][query]: keys and
// values are used where they lie in the pages and softmax needs no horizontal operations. `Direct`
// (few queries: decode) streams keys and values once at memory speed.
//
// Scores are scaled by log2(e), so softmax is exp2. Compiled with -ffast-math: masked scores are a
// large negative number, never infinity.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int W = 16;      // floats in a vector
constexpr int KEYS = 4;    // register block of score rows
constexpr int COLUMNS = 4; // register block of vectors
#else
constexpr int W = 8;
constexpr int KEYS = 4;
constexpr int COLUMNS = 2;
#endif
constexpr int TILE_KEYS = 64;     // keys per softmax update
constexpr int TILE_QUERIES = 64;  // most queries (tokens times group) in a tile
constexpr int DIRECT_QUERIES = 8; // up to so many, stream
constexpr int SPLIT_KEYS = 512;   // context range of an item where a row has few tiles
constexpr int FEW_TILES = 16;     // kv heads times query tiles of a row
constexpr float MASKED = -1e30f;

typedef float vec __attribute__((vector_size(W * 4)));
typedef int32_t ivec __attribute__((vector_size(W * 4)));
typedef float loose_vec __attribute__((vector_size(W * 4), aligned(4), may_alias));

inline vec load(const float* p) { return *(const loose_vec*)p; }
inline void store(float* p, vec x) { *(loose_vec*)p = x; }
inline vec splat(float x) { return x - vec{}; }
inline vec max(vec a, vec b) { return a > b ? a : b; }
inline int round_up(int x, int unit) { return (x + unit - 1) / unit * unit; }

inline float sum(vec x) {
    float lanes[W], total = 0;
    store(lanes, x);
    for (int i = 0; i < W; i++) total += lanes[i];
    return total;
}

inline float highest(vec x) {
    float lanes[W];
    store(lanes, x);
    return *std::max_element(lanes, lanes + W);
}

// 2^x for x <= 0, relative error 1e-7; exactly 0 below 2^-126. Minimax polynomial on [-1/2, 1/2].
inline vec exp2(vec x) {
    x = max(x, splat(-127.0f));
    ivec whole = __builtin_convertvector(x - 0.5f, ivec); // truncates: nearest for x <= 0
    vec f = x - __builtin_convertvector(whole, vec);
    vec y = splat(1.534580750e-04f);
    y = y * f + 1.339993118e-03f;
    y = y * f + 9.618488974e-03f;
    y = y * f + 5.550328777e-02f;
    y = y * f + 2.402264689e-01f;
    y = y * f + 6.931472057e-01f;
    y = y * f + 1.0f;
    return y * (vec)((whole + 127) << 23);
}

struct Problem {
    const float* q; // [tokens, heads, dim], strides below
    const float* kv; // [blocks, 2, block, kv_heads, dim]
    float* out;      // [tokens, heads, dim], strides below
    const int32_t* tables;
    int64_t q_token, q_head, out_token, out_head;
    int64_t table_row; // elements between the block tables of two rows
    int heads, kv_heads, group, dim, padded_dim, block, window;
    float scale;
};

struct Item {
    int row, kv_head;
    int first, count; // queries: tokens of the whole batch
    int position;     // context position of the first token
    int begin, end;   // range of the context
    int partial;      // where a split item leaves its partial result, or -1
    int group_id;     // counter of the splits that belong together
    int64_t cost;
};

// Partial results of split items: per query, `padded_dim` unnormalised outputs, maximum, sum.
struct Partials {
    std::vector<float> values;
    std::unique_ptr<std::atomic<int>[]> missing;
    std::vector<int> first, count; // per group: its items
};

struct Scratch {
    std::vector<const float*> keys;
    std::vector<float> floats;
    float* take(size_t n) {
        if (floats.size() < n + W) floats.resize(n + W);
        auto address = (reinterpret_cast<uintptr_t>(floats.data()) + 63) & ~uintptr_t(63);
        return reinterpret_cast<float*>(address);
    }
};

// Pointers to the keys begin..end-1 of an item; values lie `block * kv_heads * dim` floats on.
void find_keys(const Problem& p, const Item& item, std::vector<const float*>& keys) {
    const int32_t* table = p.tables + item.row * p.table_row;
    const int64_t token = int64_t(p.kv_heads) * p.dim, page = 2 * p.block * token;
    keys.resize(item.end - item.begin);
    for (int i = item.begin; i < item.end;) {
        const int offset = i % p.block, stop = std::min(item.end, i + p.block - offset);
        const float* base = p.kv + table[i / p.block] * page + offset * token;
        base += int64_t(item.kv_head) * p.dim;
        for (; i < stop; i++, base += token) keys[i - item.begin] = base;
    }
}

// ---- Tile -------------------------------------------------------------------------------------

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
            for (int c = 0; c < COLS; c++) acc[r][c] += key[r][d] * q[c];
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
            for (int c = 0; c < COLS; c++) acc[r][c] += weights[r] * v[c];
    }
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLS; c++) store(out + r * o_stride + c * W, acc[r][c]);
}

void mix(int num_keys, const float* weights, int m_stride, int num_queries, const float* values,
         int dim, const float* decay, float* out) {
    int d = 0;
    for (; d + COLUMNS * W <= dim; d += COLUMNS * W)
        for (int m = 0; m < num_queries; m += 4)
            mix_block<4, COLUMNS>(num_keys, weights + m, m_stride, values + d, dim, decay + m,
                                  out + m * dim + d, dim);
    for (; d < dim; d += W)
        for (int m = 0; m < num_queries; m += 4)
            mix_block<4, 1>(num_keys, weights + m, m_stride, values + d, dim, decay + m,
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
        store(total + m, load(total + m) * shrink + added);
    }
}

void attend_tile(const Problem& p, const Item& item, Scratch& scratch, float*& out, float*& top,
                 float*& total) {
    const int num_queries = item.count * p.group, m_stride = round_up(num_queries, W);
    const int dim = p.padded_dim;
    float* queries = scratch.take(size_t(m_stride) * (2 * dim + TILE_KEYS + 3) + TILE_KEYS * dim);
    float* scores = queries + m_stride * dim; // [key][query]
    float* values = scores + m_stride * TILE_KEYS; // [key][dim], copied together and padded
    out = values + TILE_KEYS * dim;
    top = out + m_stride * dim;
    total = top + m_stride;
    float* decay = total + m_stride;
    std::memset(queries, 0, sizeof(float) * m_stride * dim);
    std::memset(values, 0, sizeof(float) * TILE_KEYS * dim);
    std::memset(out, 0, sizeof(float) * m_stride * dim);
    std::fill(top, top + m_stride, MASKED);
    std::fill(total, total + m_stride, 0.0f);
    for (int m = 0; m < num_queries; m++) {
        const float* q = p.q + (item.first + m / p.group) * p.q_token +
                         (item.kv_head * p.group + m % p.group) * p.q_head;
        for (int d = 0; d < p.dim; d++) queries[d * m_stride + m] = q[d] * p.scale;
    }
    const int last = item.position + item.count - 1;
    const int64_t to_value = int64_t(p.block) * p.kv_heads * p.dim;
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
            std::memcpy(values + k * dim, keys[k] + to_value, sizeof(float) * p.dim);
        mix(num_keys, scores, m_stride, num_queries, values, dim, decay, out);
    }
}

// ---- Direct -----------------------------------------------------------------------------------

inline void prefetch(const float* p, int dim) {
    for (int d = 0; d < dim; d += 16) __builtin_prefetch(p + d);
}

// scores[m][k] = queries[m] . keys[k] for ROWS queries.
template <int ROWS, int DIM>
inline void dots(int dim_, const float* queries, int q_stride, const float* const* keys,
                 int num_keys, int ahead, float* scores) {
    const int dim = DIM ? DIM : dim_;
    for (int k = 0; k < num_keys; k++) {
        if (k + 8 < ahead) prefetch(keys[k + 8], dim);
        vec acc[ROWS] = {};
        const float* key = keys[k];
        int d = 0;
        for (; d + W <= dim; d += W) {
            const vec x = load(key + d);
            for (int r = 0; r < ROWS; r++) acc[r] += x * load(queries + r * q_stride + d);
        }
        for (int r = 0; r < ROWS; r++) {
            float score = sum(acc[r]);
            for (int t = d; t < dim; t++) score += key[t] * queries[r * q_stride + t];
            scores[r * TILE_KEYS + k] = score;
        }
    }
}

// out[m][d..] = out * decay + sum over k of weights[m][k] * values[k][d..], COLS vectors wide.
template <int ROWS, int COLS>
inline void mix_stream(int num_keys, const float* weights, const float* const* keys, int ahead,
                       int64_t to_value, const float* decay, float* out, int o_stride) {
    vec acc[ROWS][COLS];
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLS; c++) acc[r][c] = load(out + r * o_stride + c * W) * decay[r];
    for (int k = 0; k < num_keys; k++) {
        const float* value = keys[k] + to_value;
        if (k + 8 < ahead) prefetch(keys[k + 8] + to_value, COLS * W);
        for (int c = 0; c < COLS; c++) {
            const vec v = load(value + c * W);
            for (int r = 0; r < ROWS; r++) acc[r][c] += weights[r * TILE_KEYS + k] * v;
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLS; c++) store(out + r * o_stride + c * W, acc[r][c]);
}

template <int ROWS>
inline void mix_rows(int num_keys, const float* weights, const float* const* keys, int ahead,
                     int64_t to_value, const float* decay, float* out, int dim, int o_stride) {
    int d = 0;
    for (; d + 4 * W <= dim; d += 4 * W)
        mix_stream<ROWS, 4>(num_keys, weights, keys, ahead, to_value + d, decay, out + d, o_stride);
    for (; d + W <= dim; d += W)
        mix_stream<ROWS, 1>(num_keys, weights, keys, ahead, to_value + d, decay, out + d, o_stride);
    for (; d < dim; d++)
        for (int r = 0; r < ROWS; r++) {
            float total = out[r * o_stride + d] * decay[r];
            for (int k = 0; k < num_keys; k++)
                total += weights[r * TILE_KEYS + k] * keys[k][to_value + d];
            out[r * o_stride + d] = total;
        }
}

// Online softmax of one query's scores over a tile; scores past num_keys are padding.
inline void soften_row(int num_keys, float* scores, float& top, float& total, float& decay) {
    const int padded = round_up(num_keys, W);
    for (int k = num_keys; k < padded; k++) scores[k] = MASKED;
    vec peaks = splat(top), added = {};
    for (int k = 0; k < padded; k += W) peaks = max(peaks, load(scores + k));
    const float peak = highest(peaks);
    for (int k = 0; k < padded; k += W) {
        const vec weight = exp2(load(scores + k) - peak);
        added += weight;
        store(scores + k, weight);
    }
    decay = exp2(splat(top - peak))[0];
    total = total * decay + sum(added);
    top = peak;
}

template <int ROWS, int DIM>
void attend_rows(const Problem& p, const Item& item, const std::vector<const float*>& pointers,
                 int m, const float* queries, float* scores, float* out, float* top, float* total) {
    const int dim = DIM ? DIM : p.dim, size = int(pointers.size());
    const int64_t to_value = int64_t(p.block) * p.kv_heads * p.dim;
    float decay[ROWS];
    for (int start = item.begin; start < item.end; start += TILE_KEYS) {
        const int num_keys = std::min(TILE_KEYS, item.end - start);
        const float* const* keys = pointers.data() + (start - item.begin);
        const int ahead = size - (start - item.begin);
        dots<ROWS, DIM>(dim, queries, p.padded_dim, keys, num_keys, ahead, scores);
        for (int r = 0; r < ROWS; r++) {
            const int own = item.position + (m + r) / p.group;
            const int low = p.window > 0 ? own - p.window : -1;
            for (int k = 0; k < num_keys && start + k <= low; k++)
                scores[r * TILE_KEYS + k] = MASKED;
            for (int k = std::max(0, own + 1 - start); k < num_keys; k++)
                scores[r * TILE_KEYS + k] = MASKED;
            soften_row(num_keys, scores + r * TILE_KEYS, top[r], total[r], decay[r]);
        }
        mix_rows<ROWS>(num_keys, scores, keys, ahead, to_value, decay, out, dim, p.padded_dim);
    }
}

template <int DIM>
void attend_direct(const Problem& p, const Item& item, Scratch& scratch, float*& out, float*& top,
                   float*& total) {
    const int num_queries = item.count * p.group, dim = p.padded_dim;
    float* queries = scratch.take(size_t(num_queries) * (2 * dim + 2) + 4 * TILE_KEYS);
    float* scores = queries + num_queries * dim;
    out = scores + 4 * TILE_KEYS;
    top = out + num_queries * dim;
    total = top + num_queries;
    std::memset(out, 0, sizeof(float) * num_queries * dim);
    std::fill(top, top + num_queries, MASKED);
    std::fill(total, total + num_queries, 0.0f);
    for (int m = 0; m < num_queries; m++) {
        const float* q = p.q + (item.first + m / p.group) * p.q_token +
                         (item.kv_head * p.group + m % p.group) * p.q_head;
        for (int d = 0; d < p.dim; d++) queries[m * dim + d] = q[d] * p.scale;
    }
    int m = 0;
    const auto& keys = scratch.keys;
    for (; m + 4 <= num_queries; m += 4)
        attend_rows<4, DIM>(p, item, keys, m, queries + m * dim, scores, out + m * dim, top + m,
                            total + m);
    for (; m + 2 <= num_queries; m += 2)
        attend_rows<2, DIM>(p, item, keys, m, queries + m * dim, scores, out + m * dim, top + m,
                            total + m);
    for (; m < num_queries; m++)
        attend_rows<1, DIM>(p, item, keys, m, queries + m * dim, scores, out + m * dim, top + m,
                            total + m);
}

// ---- Items ------------------------------------------------------------------------------------

inline float* output(const Problem& p, const Item& item, int m) {
    return p.out + (item.first + m / p.group) * p.out_token +
           (item.kv_head * p.group + m % p.group) * p.out_head;
}

// The last split of a group to finish adds all of them up, in order.
void combine(const Problem& p, const std::vector<Item>& items, const Partials& partials, int id) {
    const int stride = p.padded_dim + 2, first = partials.first[id], count = partials.count[id];
    const Item& item = items[first];
    for (int m = 0; m < item.count * p.group; m++) {
        auto part = [&](int i) {
            return partials.values.data() + (int64_t(items[first + i].partial) + m) * stride;
        };
        float peak = MASKED, total = 0;
        for (int i = 0; i < count; i++) peak = std::max(peak, part(i)[p.padded_dim]);
        float* out = output(p, item, m);
        std::fill(out, out + p.dim, 0.0f);
        for (int i = 0; i < count; i++) {
            const float* values = part(i);
            const float share = exp2(splat(values[p.padded_dim] - peak))[0];
            total += share * values[p.padded_dim + 1];
            for (int d = 0; d < p.dim; d++) out[d] += share * values[d];
        }
        for (int d = 0; d < p.dim; d++) out[d] /= total;
    }
}

void run_item(const Problem& p, const std::vector<Item>& items, const Item& item,
              Partials& partials, Scratch& scratch) {
    float *out, *top, *total;
    find_keys(p, item, scratch.keys);
    if (item.count * p.group > DIRECT_QUERIES)
        attend_tile(p, item, scratch, out, top, total);
    else if (p.dim == 128)
        attend_direct<128>(p, item, scratch, out, top, total);
    else if (p.dim == 64)
        attend_direct<64>(p, item, scratch, out, top, total);
    else
        attend_direct<0>(p, item, scratch, out, top, total);
    const int num_queries = item.count * p.group, dim = p.padded_dim;
    if (item.partial < 0) {
        for (int m = 0; m < num_queries; m++) {
            float* to = output(p, item, m);
            const float share = 1.0f / total[m];
            for (int d = 0; d < p.dim; d++) to[d] = out[m * dim + d] * share;
        }
        return;
    }
    for (int m = 0; m < num_queries; m++) {
        float* to = partials.values.data() + (int64_t(item.partial) + m) * (dim + 2);
        std::memcpy(to, out + m * dim, sizeof(float) * dim);
        to[dim] = top[m];
        to[dim + 1] = total[m];
    }
    if (partials.missing[item.group_id].fetch_sub(1, std::memory_order_acq_rel) == 1)
        combine(p, items, partials, item.group_id);
}

// Cut a row into items: query tiles, kv heads and, where that leaves few, ranges of the context.
void cut_row(const Problem& p, int row, int first, int num_new, int ctx, std::vector<Item>& items,
             Partials& partials, int& num_partials) {
    if (num_new == 0) return; // padding
    const int tile = num_new * p.group <= DIRECT_QUERIES ? num_new
                                                         : std::max(1, TILE_QUERIES / p.group);
    const bool split = (num_new + tile - 1) / tile * p.kv_heads < FEW_TILES;
    for (int at = 0; at < num_new; at += tile) {
        const int count = std::min(tile, num_new - at), position = ctx - num_new + at;
        const int low = p.window > 0 ? std::max(0, position - p.window + 1) : 0;
        const int begin = low / TILE_KEYS * TILE_KEYS, end = position + count;
        const int range = split ? SPLIT_KEYS : end - begin;
        const int pieces = (end - begin + range - 1) / range;
        for (int head = 0; head < p.kv_heads; head++) {
            const int group_id = int(partials.first.size());
            if (pieces > 1) {
                partials.first.push_back(int(items.size()));
                partials.count.push_back(pieces);
            }
            for (int i = 0; i < pieces; i++) {
                const int from = begin + i * range, to = std::min(end, from + range);
                const int partial = pieces > 1 ? num_partials : -1;
                if (pieces > 1) num_partials += count * p.group;
                items.push_back({row, head, first + at, count, position, from, to, partial,
                                 group_id, int64_t(to - from) * count});
            }
        }
    }
}

enum Error { FINE = 0, BAD_ROWS = 1, BAD_CONTEXT = 2, BAD_BLOCK = 3, BAD_SLOT = 4 };

int check(const int32_t* cu_q, const int32_t* ctx_lens, const int32_t* tables, int rows, int width,
          int64_t table_row, int block, int64_t blocks, int64_t tokens) {
    if (cu_q[0] != 0) return BAD_ROWS;
    for (int row = 0; row < rows; row++) {
        const int num_new = cu_q[row + 1] - cu_q[row], ctx = ctx_lens[row];
        if (num_new < 0 || cu_q[row + 1] > tokens) return BAD_ROWS;
        if (num_new == 0) continue;
        if (ctx < num_new || ctx > int64_t(width) * block) return BAD_CONTEXT;
        for (int i = 0; i < (ctx + block - 1) / block; i++) {
            const int id = tables[row * table_row + i];
            if (id < 0 || id >= blocks) return BAD_BLOCK;
        }
    }
    return FINE;
}

} // namespace

extern "C" int prelude_append(const float* k, const float* v, float* kv, const int64_t* slots,
                              int64_t tokens, int64_t blocks, int block, int kv_heads, int dim,
                              int64_t k_token, int64_t k_head, int64_t v_token, int64_t v_head,
                              int threads) {
    for (int64_t t = 0; t < tokens; t++)
        if (slots[t] < 0 || slots[t] >= blocks * block) return BAD_SLOT;
    const int64_t size = int64_t(kv_heads) * dim;
#pragma omp parallel for num_threads(threads) if (tokens > 64)
    for (int64_t t = 0; t < tokens; t++) {
        float* key = kv + (slots[t] / block * 2 * block + slots[t] % block) * size;
        float* value = key + block * size;
        for (int h = 0; h < kv_heads; h++) {
            std::memcpy(key + h * dim, k + t * k_token + h * k_head, sizeof(float) * dim);
            std::memcpy(value + h * dim, v + t * v_token + h * v_head, sizeof(float) * dim);
        }
    }
    return FINE;
}

extern "C" int prelude_attend(const float* q, const float* kv, const int32_t* cu_q,
                              const int32_t* ctx_lens, const int32_t* tables, float* out,
                              int64_t tokens, int64_t blocks, int rows, int width,
                              int64_t table_row, int block, int heads, int kv_heads, int dim, int64_t q_token, int64_t q_head,
                              int64_t out_token, int64_t out_head, float scale, int window,
                              int threads) {
    const int error = check(cu_q, ctx_lens, tables, rows, width, table_row, block, blocks, tokens);
    if (error) return error;
    const Problem p = {q, kv, out, tables, q_token, q_head, out_token, out_head, table_row, heads,
                       kv_heads, heads / kv_heads, dim, round_up(dim, W), block, window,
                       scale * 1.4426950408889634f};
    std::vector<Item> items;
    Partials partials;
    int num_partials = 0;
    for (int row = 0; row < rows; row++)
        cut_row(p, row, cu_q[row], cu_q[row + 1] - cu_q[row], ctx_lens[row], items, partials,
                num_partials);
    partials.values.resize(size_t(num_partials) * (p.padded_dim + 2));
    partials.missing.reset(new std::atomic<int>[partials.count.size()]);
    for (size_t i = 0; i < partials.count.size(); i++) partials.missing[i] = partials.count[i];
    // Longest first, so that the last items to be taken are short.
    std::vector<int> order(items.size());
    for (size_t i = 0; i < order.size(); i++) order[i] = int(i);
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return items[a].cost > items[b].cost; });
    std::atomic<size_t> next{0};
#pragma omp parallel num_threads(std::max(1, std::min(threads, int(order.size()))))
    {
        thread_local Scratch scratch; // kept between calls: fresh pages cost more than the work
        for (size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < order.size();)
            run_item(p, items, items[order[i]], partials, scratch);
    }
    for (int64_t t = rows ? cu_q[rows] : 0; t < tokens; t++)
        for (int h = 0; h < heads; h++)
            std::memset(out + t * out_token + h * out_head, 0, sizeof(float) * dim);
    return FINE;
}
