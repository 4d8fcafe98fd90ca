// What a step does before its first layer and after its last: embedding, rotary tables, final norm.
//
// Little work, but torch has a dozen operations for it, whose code each step finds out of cache, and
// MKL wakes OpenMP's threads for the cosines of eight tokens: a quarter of a millisecond together.
// One thread: the largest step has thousands of rows, and then layers that last seconds.
#pragma once

#include <cmath>
#include <cstring>
#include <tuple>

#include "op.h"

namespace {

inline bool is_long(const Tensor& x) { return x.scalar_type() == ScalarType::Long; }
inline const int64_t* longs(const Tensor& x) { return (const int64_t*)x.data_ptr(); }

// The op `prelude::embed`: ids int64 [tokens], matrix float32 [vocab, inputs] or int8 with each row's
// scale behind it. Returns float32 [tokens, inputs].
Tensor embed(const Tensor& ids, const Tensor& matrix) {
    const bool is_int8 = matrix.scalar_type() == ScalarType::Char;
    require(ids.dim() == 1 && is_long(ids) && ids.is_contiguous(), "embed: ids must be int64 [tokens]");
    require(matrix.dim() == 2 && matrix.is_contiguous() && (is_int8 || is_float(matrix)),
            "embed: matrix must be contiguous, float32 or int8");
    const int64_t tokens = ids.size(0), width = matrix.size(1);
    const int64_t inputs = width - (is_int8 ? int64_t(sizeof(float)) : 0);
    Tensor x = torch::stable::new_empty(matrix, {tokens, inputs}, ScalarType::Float);
    const int64_t *next = longs(ids), vocab = matrix.size(0);
    const void* rows = matrix.data_ptr();
    float* out = mutable_floats(x);
    for (int64_t t = 0; t < tokens; t++, out += inputs) {
        const int64_t id = next[t];
        require(0 <= id && id < vocab, "embed: an id is out of range");
        if (is_int8) {
            const auto row = (const int8_t*)rows + id * width;
            float scale;
            std::memcpy(&scale, row + inputs, sizeof scale);
            for (int64_t i = 0; i < inputs; i++) out[i] = float(row[i]) * scale;
        } else {
            std::memcpy(out, (const float*)rows + id * width, sizeof(float) * inputs);
        }
    }
    return x;
}

// The op `prelude::rope_tables`: positions int64 [tokens], inv_freq float32 [half]. Returns cos and
// sin, float32 [tokens, 2 half], each angle twice and both times `factor`.
std::tuple<Tensor, Tensor> rope_tables(const Tensor& positions, const Tensor& inv_freq, double factor) {
    require(positions.dim() == 1 && is_long(positions) && positions.is_contiguous(),
            "rope_tables: positions must be int64 [tokens]");
    require(inv_freq.dim() == 1 && is_float(inv_freq) && inv_freq.is_contiguous(),
            "rope_tables: inv_freq must be float32 [half]");
    const int64_t tokens = positions.size(0), half = inv_freq.size(0);
    Tensor cos = torch::stable::new_empty(inv_freq, {tokens, 2 * half});
    Tensor sin = torch::stable::new_empty(inv_freq, {tokens, 2 * half});
    const int64_t* at = longs(positions);
    const float *frequencies = floats(inv_freq), scale = float(factor);
    float *c = mutable_floats(cos), *s = mutable_floats(sin);
    for (int64_t t = 0; t < tokens; t++, c += 2 * half, s += 2 * half) {
        for (int64_t i = 0; i < half; i++) {
            float of_sin, of_cos; // glibc's, right to the last bit or next to it
            sincosf(float(at[t]) * frequencies[i], &of_sin, &of_cos);
            c[i] = c[half + i] = of_cos * scale;
            s[i] = s[half + i] = of_sin * scale;
        }
    }
    return {cos, sin};
}

// The op `prelude::rms_norm`: x float32 [rows, dim] over its root mean square, times weight [dim].
Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
    require(x.dim() == 2 && is_float(x) && x.is_contiguous() && weight.dim() == 1 &&
                is_float(weight) && weight.is_contiguous() && weight.size(0) == x.size(1),
            "rms_norm: x must be float32 [rows, dim], weight float32 [dim]");
    const int64_t rows = x.size(0), dim = x.size(1);
    Tensor y = torch::stable::new_empty(x, {rows, dim});
    const float *in = floats(x), *weights = floats(weight);
    float* out = mutable_floats(y);
    for (int64_t r = 0; r < rows; r++, in += dim, out += dim) {
        float squares = 0;
        for (int64_t i = 0; i < dim; i++) squares += in[i] * in[i];
        const float scale = 1 / std::sqrt(squares / float(dim) + float(eps));
        for (int64_t i = 0; i < dim; i++) out[i] = weights[i] * (in[i] * scale);
    }
    return y;
}

} // namespace
