// y = x W^T + bias in float32 for any number of rows of x; W float32 as the checkpoint has it, or
// int8 rows with a scale each.
//
// W is read from memory once per ROW_BLOCK rows of x, strip by strip (some rows of W that fit the
// L2 cache); all rows of x go over a strip while the next one is fetched, evenly spread over the
// passes. Threads take pieces of W as they go, so that a core which other processes disturb takes
// fewer. Every output is summed in the same order whatever the other rows of x and the number of
// threads: its bits do not depend on the batch (`linear_tile.h`). int8 is widened in registers each
// time it is read: beside the products that is free.

#include <algorithm>
#include <atomic>
#include <vector>

#include "ends.h"
#include "linear_tile.h"
#include "op.h"
#include "team.h"

namespace {

constexpr int64_t ROW_BLOCK = 512; // bounds the packed x, which stays in the last cache
constexpr int64_t STRIP_BYTES = 192 << 10; // as float32
constexpr int PIECES = 16;                 // per thread
constexpr int64_t ALONE = 1 << 19; // multiplications, done before other threads would have begun
constexpr int64_t ALONE_PACKED = 1 << 16; // floats of x, packed before threads would have met

// Memory that is kept between calls, aligned for vectors.
class Scratch {
  public:
    float* floats(int64_t count) {
        const size_t needed = (count + PER_LINE - 1) / PER_LINE;
        if (lines.size() < needed) lines.resize(needed);
        return lines.data()->values;
    }

  private:
    static constexpr int PER_LINE = LINE / sizeof(float);
    struct alignas(LINE) Line {
        float values[PER_LINE];
    };
    std::vector<Line> lines;
};

template <class T, int ROWS = MOST_ROWS>
inline void run_pass(const Problem& p, int pass, int64_t from, int64_t to, Rows<T> w, Ahead ahead) {
    const int64_t row = p.first_row(pass), count = p.first_row(pass + 1) - row;
    if constexpr (ROWS > 1)
        if (count < ROWS) return run_pass<T, ROWS - 1>(p, pass, from, to, w, ahead);
    pass_over<ROWS>(p, row, from, to, w, ahead);
}

// x in the order in which tiles read it; rows a multiple of 4 KiB apart would share cache sets.
void pack(const Problem& p, int pass, const float* x, int64_t x_row, float* packed) {
    const int64_t from = p.first_row(pass), to = p.first_row(pass + 1), whole = p.inputs / W * W;
    float* next = packed + from * p.steps * W;
    for (int64_t k = 0; k < whole; k += W)
        for (int64_t r = from; r < to; r++, next += W) store(next, load(x + r * x_row + k));
    if (whole < p.inputs)
        for (int64_t r = from; r < to; r++, next += W)
            store(next, load_first(x + r * x_row + whole, p.inputs - whole));
}

// Outputs in a strip.
int64_t strip_size(int64_t inputs) {
    const int64_t fits = STRIP_BYTES / int64_t(sizeof(float)) / inputs;
    return std::max<int64_t>(fits / STRIP, 1) * STRIP;
}

// Outputs from..to; `upcoming` is where this thread goes on afterwards.
template <class T>
void run_piece(const Problem& p, Rows<T> w, int64_t from, int64_t to, int64_t upcoming) {
    const int64_t row_bytes = w.step * sizeof(T), part = row_bytes / p.passes;
    const int64_t every = p.passes * LINE / int64_t(W * sizeof(T)), strip = strip_size(p.inputs);
    const bool in_order = IN_ORDER && (p.passes > 1 || sizeof(T) < sizeof(float));
    for (; from < to; from += strip) {
        const int64_t end = std::min(to, from + strip), next = end < to ? end : upcoming;
        const char* ahead = (const char*)w.at + next * row_bytes;
        for (int i = 0; i < p.passes; i++, ahead += in_order ? strip * part : part)
            run_pass(p, i, from, end, w.from(from),
                     {ahead, in_order ? part : row_bytes, every, in_order});
    }
}

template <class T>
void run_block(Problem p, const float* x, int64_t x_row, Rows<T> w, int threads) {
    thread_local Scratch scratch;
    p.passes = int((p.rows + MOST_ROWS - 1) / MOST_ROWS);
    p.steps = (p.inputs + W - 1) / W;
    float* packed = scratch.floats(p.rows * p.steps * W);
    p.x = packed;
    const int64_t strip = strip_size(p.inputs), share = p.outputs / (threads * PIECES);
    const int64_t piece = std::max<int64_t>(share / strip, 1) * strip;
    const bool share_packing = p.rows * p.inputs > ALONE_PACKED;
    std::atomic<int> pass{0};
    prelude_team::team().run(share_packing ? threads : 1, [&] {
        for (int i; (i = pass.fetch_add(1)) < p.passes;) pack(p, i, x, x_row, packed);
    });
    std::atomic<int64_t> next{0};
    prelude_team::team().run(p.rows * p.outputs * p.inputs > ALONE ? threads : 1, [&] {
        for (int64_t at = next.fetch_add(piece); at < p.outputs;) {
            const int64_t upcoming = next.fetch_add(piece);
            run_piece(p, w, at, std::min(p.outputs, at + piece), upcoming);
            at = upcoming;
        }
    });
}

template <class T>
void run(Problem p, const float* x, int64_t x_row, Rows<T> w, int64_t rows, int threads) {
    const int64_t blocks = (rows + ROW_BLOCK - 1) / ROW_BLOCK;
    float* y = p.y;
    for (int64_t i = 0; i < blocks; i++) {
        const int64_t first = rows * i / blocks;
        p.rows = rows * (i + 1) / blocks - first;
        p.y = y + first * p.outputs;
        run_block(p, x + first * x_row, x_row, w, threads);
    }
}

bool is_int8(const Tensor& w) { return w.scalar_type() == ScalarType::Char; }

// Whether these are what the kernel reads; torch takes what it does not.
bool readable(const Tensor& x, const Tensor& w, const std::optional<Tensor>& bias) {
    if (!is_float(x) || !(is_float(w) || is_int8(w)) || x.numel() == 0) return false;
    if (bias && !(is_float(*bias) && bias->is_contiguous())) return false;
    return x.stride(1) == 1 && w.stride(1) == 1;
}

Tensor by_torch(const Tensor& x, const Tensor& w, const std::optional<Tensor>& bias) {
    using torch::stable::detail::from;
    StableIValue stack[] = {from(x), from(w), from(bias)};
    STABLE_TORCH_ERROR_CODE_CHECK(
        torch_call_dispatcher("prelude::linear_by_torch", "", stack, TORCH_ABI_VERSION));
    return torch::stable::detail::to<Tensor>(stack[0]);
}

// The op `prelude::linear`: x [rows, inputs], bias [outputs] or none, w [outputs, inputs], or int8
// with the float32 that multiplies a row behind it. Returns [rows, outputs].
Tensor linear(const Tensor& x, const Tensor& w, const std::optional<Tensor>& bias) {
    require(x.dim() == 2 && w.dim() == 2, "linear: x and w must have two dimensions");
    const int64_t rows = x.size(0), outputs = w.size(0), inputs = x.size(1);
    require(w.size(1) == inputs + (is_int8(w) ? int64_t(sizeof(float)) : 0) &&
                (!bias || (bias->dim() == 1 && bias->size(0) == outputs)),
            "linear: shapes cannot be multiplied");
    if (!readable(x, w, bias)) return by_torch(x, w, bias);
    Tensor y = torch::stable::new_empty(x, {rows, outputs});
    const int threads = num_threads();
    const int64_t w_row = w.stride(0);
    Problem p = {nullptr, bias ? floats(*bias) : nullptr, nullptr, mutable_floats(y),
                 0,       rows, outputs, inputs, 0, 0};
    if (is_int8(w)) {
        const auto values = (const int8_t*)w.data_ptr();
        p.scales = (const char*)values + inputs;
        p.scale_step = w_row;
        run<int8_t>(p, floats(x), x.stride(0), {values, w_row}, rows, threads);
    } else {
        run<float>(p, floats(x), x.stride(0), {floats(w), w_row}, rows, threads);
    }
    return y;
}

Registration registration;

} // namespace

extern "C" void prelude_register(int) {
    registration.begin([](StableLibrary& library) {
        library.impl("linear", TORCH_BOX(&linear));
        library.impl("embed", TORCH_BOX(&embed));
        library.impl("rope_tables", TORCH_BOX(&rope_tables));
        library.impl("rms_norm", TORCH_BOX(&rms_norm));
    });
}

extern "C" void prelude_unregister() { registration.end(); }
