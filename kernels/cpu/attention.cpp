// Paged attention for CPUs: append new keys and values, attend over block tables.
//
// Work is cut into items of (row, kv head, a tile of queries, a range of the context). All query
// heads of a kv head are in the same item, so each key and value is read once per group. How a row is cut depends on that row
// alone, never on the other rows or on the number of threads: its result is the same bits in every
// batch. `invariant`: nor does it depend on how many of its tokens are new. Tiles are invariant, for
// keys are taken in the same order and masked ones add an exact zero; streaming and splits are not.
//
// Compiled with -ffast-math.

#include <atomic>
#include <cstdint>
#include <memory>

#include "attention_direct.h"
#include "attention_tile.h"
#include "op.h"
#include "team.h"

namespace {

constexpr int TILE_QUERIES = 64;   // most queries (tokens times group) in a tile
constexpr int DIRECT_QUERIES = 16; // up to so many, stream
constexpr int SPLIT_KEYS = 512;    // context range of an item where a row has few tiles
constexpr int FEW_TILES = 16;      // kv heads times query tiles of a row
constexpr int64_t COPIED = 64; // tokens at a time
constexpr int64_t ALONE = 1 << 18; // multiplications, done before other threads would have begun

constexpr const char* BAD_ROWS = "cu_q: must start at 0, never fall, and end within the tokens of q";
constexpr const char* BAD_CONTEXT =
    "ctx_lens: must be at least the row's new tokens and fit the row's block table";
constexpr const char* BAD_BLOCK =
    "block_tables: a block id within the row's context is not in the KV pool";
constexpr const char* BAD_SLOT = "slot_mapping: a slot is not in the KV pool";

// Partial results of split items: per query, `padded_dim` unnormalised outputs, maximum, sum.
struct Partials {
    std::vector<float> values;
    std::unique_ptr<std::atomic<int>[]> missing;
    std::vector<int> first, count; // per group: its items
};

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
    const int num_queries = item.count * p.group, dim = p.padded_dim;
    find_keys(p, item, scratch.keys);
    const bool stream = num_queries <= DIRECT_QUERIES && !p.invariant;
    const auto attend = !stream        ? attend_tile
                        : p.dim == 128 ? attend_direct<128>
                        : p.dim == 64  ? attend_direct<64>
                                       : attend_direct<0>;
    const Mixed mixed = attend(p, item, scratch);
    for (int m = 0; m < num_queries; m++) {
        const float* from = mixed.out + m * dim;
        if (item.partial < 0) {
            float* to = output(p, item, m);
            const float share = 1.0f / mixed.total[m];
            for (int d = 0; d < p.dim; d++) to[d] = from[d] * share;
        } else {
            float* to = partials.values.data() + (int64_t(item.partial) + m) * (dim + 2);
            std::memcpy(to, from, sizeof(float) * dim);
            to[dim] = mixed.top[m];
            to[dim + 1] = mixed.total[m];
        }
    }
    if (item.partial < 0) return;
    if (partials.missing[item.group_id].fetch_sub(1, std::memory_order_acq_rel) == 1)
        combine(p, items, partials, item.group_id);
}

// Cut a row into items: query tiles, kv heads and, where that leaves few, ranges of the context.
void cut_row(const Problem& p, int row, int first, int num_new, int ctx, std::vector<Item>& items,
             Partials& partials, int& num_partials) {
    if (num_new == 0) return; // padding
    const int tile = num_new * p.group <= DIRECT_QUERIES ? num_new
                                                         : std::max(1, TILE_QUERIES / p.group);
    const bool split = !p.invariant && (num_new + tile - 1) / tile * p.kv_heads < FEW_TILES;
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

// What a step says of its rows.
struct Step {
    const int32_t *cu_q, *ctx_lens, *tables;
    int rows, width;
    int64_t table_row;
};

void check(const Step& step, int block, int64_t blocks, int64_t tokens) {
    require(step.cu_q[0] == 0, BAD_ROWS);
    for (int row = 0; row < step.rows; row++) {
        const int num_new = step.cu_q[row + 1] - step.cu_q[row], ctx = step.ctx_lens[row];
        require(num_new >= 0 && step.cu_q[row + 1] <= tokens, BAD_ROWS);
        if (num_new == 0) continue;
        require(ctx >= num_new && ctx <= int64_t(step.width) * block, BAD_CONTEXT);
        for (int i = 0; i < (ctx + block - 1) / block; i++) {
            const int id = step.tables[row * step.table_row + i];
            require(id >= 0 && id < blocks, BAD_BLOCK);
        }
    }
}

void attend_all(const Problem& p, const Step& step, int64_t tokens, int threads) {
    std::vector<Item> items;
    Partials partials;
    int num_partials = 0;
    for (int row = 0; row < step.rows; row++)
        cut_row(p, row, step.cu_q[row], step.cu_q[row + 1] - step.cu_q[row], step.ctx_lens[row],
                items, partials, num_partials);
    partials.values.resize(size_t(num_partials) * (p.padded_dim + 2));
    partials.missing.reset(new std::atomic<int>[partials.count.size()]);
    for (size_t i = 0; i < partials.count.size(); i++) partials.missing[i] = partials.count[i];
    // Longest first, so that the last items to be taken are short.
    std::vector<int> order(items.size());
    for (size_t i = 0; i < order.size(); i++) order[i] = int(i);
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return items[a].cost > items[b].cost; });
    int64_t work = 0;
    for (const Item& item : items) work += item.cost * p.group * p.dim;
    std::atomic<size_t> next{0};
    const int team = work > ALONE ? std::min(threads, int(order.size())) : 1;
    prelude_team::team().run(team, [&] {
        thread_local Scratch scratch; // kept between calls: fresh pages cost more than the work
        for (size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < order.size();)
            run_item(p, items, items[order[i]], partials, scratch);
    });
    for (int64_t t = step.rows ? step.cu_q[step.rows] : 0; t < tokens; t++)
        for (int h = 0; h < p.heads; h++)
            std::memset(p.out + t * p.out_token + h * p.out_head, 0, sizeof(float) * p.dim);
}

Tensor rows_of(const Tensor& x) {
    require(is_float(x), "the cpu attention backend computes in float32");
    return x.stride(-1) == 1 ? x : torch::stable::contiguous(x);
}

void require_pool(const Tensor& kv) {
    require(is_float(kv) && kv.is_contiguous() && kv.dim() == 5,
            "kv must be a contiguous float32 [blocks, 2, block, kv_heads, head_dim]");
}

const int32_t* ints(const Tensor& x) {
    require(x.scalar_type() == ScalarType::Int && x.stride(-1) == 1,
            "cu_q, ctx_lens and block_tables must be int32 with contiguous rows");
    return (const int32_t*)x.data_ptr();
}

bool invariant = false; // of this process

// The op `prelude::append`, see `prelude.kernels.attention.append`.
void append(const Tensor& k_, const Tensor& v_, const Tensor& kv, const Tensor& slots_) {
    const Tensor k = rows_of(k_), v = rows_of(v_);
    require_pool(kv);
    require(slots_.scalar_type() == ScalarType::Long, "slot_mapping must be int64");
    const Tensor slot_mapping = torch::stable::contiguous(slots_);
    const auto slots = (const int64_t*)slot_mapping.data_ptr();
    const int64_t tokens = k.size(0), num_slots = kv.size(0) * kv.size(2), block = kv.size(2);
    for (int64_t t = 0; t < tokens; t++)
        if (slots[t] < 0 || slots[t] >= num_slots) throw std::out_of_range(BAD_SLOT);
    const int64_t kv_heads = kv.size(3), dim = kv.size(4), size = kv_heads * dim;
    const int64_t k_token = k.stride(0), k_head = k.stride(1);
    const int64_t v_token = v.stride(0), v_head = v.stride(1);
    const float *keys = floats(k), *values = floats(v);
    float* pool = mutable_floats(kv);
    const auto copy = [&](int64_t t) {
        float* key = pool + (slots[t] / block * 2 * block + slots[t] % block) * size;
        float* value = key + block * size;
        for (int64_t h = 0; h < kv_heads; h++) {
            std::memcpy(key + h * dim, keys + t * k_token + h * k_head, sizeof(float) * dim);
            std::memcpy(value + h * dim, values + t * v_token + h * v_head, sizeof(float) * dim);
        }
    };
    std::atomic<int64_t> next{0};
    prelude_team::team().run(tokens > COPIED ? num_threads() : 1, [&] {
        for (int64_t t; (t = next.fetch_add(COPIED)) < tokens;)
            for (const int64_t end = std::min(t + COPIED, tokens); t < end; t++) copy(t);
    });
}

// The op `prelude::attend`, see `prelude.kernels.attention.attend`.
void attend(const Tensor& q_, const Tensor& kv, const Tensor& cu_q, const Tensor& ctx_lens,
            const Tensor& block_tables, double scale, int64_t window, const Tensor& out) {
    const Tensor q = rows_of(q_);
    require_pool(kv);
    require(is_float(out) && out.stride(-1) == 1,
            "attend: out must be float32 with contiguous heads");
    const Step step = {ints(cu_q), ints(ctx_lens), ints(block_tables), int(block_tables.size(0)),
                       int(block_tables.size(1)), block_tables.stride(0)};
    const int64_t tokens = q.size(0);
    const int block = int(kv.size(2)), heads = int(q.size(1)), kv_heads = int(kv.size(3));
    const int dim = int(kv.size(4));
    check(step, block, kv.size(0), tokens);
    const Problem p = {floats(q), floats(kv), mutable_floats(out), step.tables, q.stride(0),
                       q.stride(1), out.stride(0), out.stride(1), step.table_row, heads, kv_heads,
                       heads / kv_heads, dim, round_up(dim, W), block, int(window),
                       float(scale) * 1.4426950408889634f, invariant};
    attend_all(p, step, tokens, num_threads());
}

Registration registration;

} // namespace

// `invariant_`: a token's bits depend on its context alone, not on how many are attended together.
extern "C" void prelude_register(int invariant_) {
    invariant = invariant_ != 0;
    registration.begin([](StableLibrary& library) {
        library.impl("append", TORCH_BOX(&append));
        library.impl("attend", TORCH_BOX(&attend));
    });
}

extern "C" void prelude_unregister() { registration.end(); }
