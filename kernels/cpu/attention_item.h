// What both ways through a piece of attention share: the problem, a piece of it, memory to work in.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "vectors.h"

namespace {

constexpr int TILE_KEYS = 64;    // keys per softmax update
constexpr float MASKED = -1e30f; // -ffast-math knows no infinity

struct Problem {
    const float* q; // [tokens, heads, dim], strides below
    const float* kv; // [blocks, 2, block, kv_heads, dim]
    float* out;      // [tokens, heads, dim], strides below
    const int32_t* tables;
    int64_t q_token, q_head, out_token, out_head;
    int64_t table_row; // elements between the block tables of two rows
    int heads, kv_heads, group, dim, padded_dim, block, window;
    float scale; // of queries, times log2(e)
    bool invariant;

    int64_t to_value() const { return int64_t(block) * kv_heads * dim; } // from a key
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

struct Scratch {
    std::vector<const float*> keys;
    std::vector<float> floats;
    float* take(size_t n) {
        if (floats.size() < n + 16) floats.resize(n + 16); // room to align
        auto address = (reinterpret_cast<uintptr_t>(floats.data()) + 63) & ~uintptr_t(63);
        return reinterpret_cast<float*>(address);
    }
};

// An item's unnormalised outputs [queries, padded_dim], and per query the highest score and the sum
// of weights.
struct Mixed {
    float *out, *top, *total;
};

// Pointers to the keys begin..end-1 of an item; values lie `to_value()` on.
inline void find_keys(const Problem& p, const Item& item, std::vector<const float*>& keys) {
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

inline const float* query(const Problem& p, const Item& item, int m) {
    return p.q + (item.first + m / p.group) * p.q_token +
           (item.kv_head * p.group + m % p.group) * p.q_head;
}

} // namespace
