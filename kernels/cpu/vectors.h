// Float vectors as GCC and Clang have them: one source for AVX2, AVX-512 and NEON.
#pragma once

#include <cstdint>
#if defined(__AVX2__)
#include <immintrin.h> // where GCC makes many instructions of one
#endif

namespace {

#if defined(__AVX512F__)
constexpr int W = 16; // floats in a vector
#else
constexpr int W = 8;
#endif

typedef float vec __attribute__((vector_size(W * 4)));
typedef int32_t ivec __attribute__((vector_size(W * 4)));
typedef float loose_vec __attribute__((vector_size(W * 4), aligned(4), may_alias));

inline vec load(const float* p) { return *(const loose_vec*)p; }
inline vec load(const int8_t* p) {
#if defined(__AVX512F__)
    return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
#elif defined(__AVX2__)
    return (vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
#else
    typedef int8_t bytes __attribute__((vector_size(W), aligned(1), may_alias));
    return __builtin_convertvector(__builtin_convertvector(*(const bytes*)p, ivec), vec);
#endif
}
inline void store(float* p, vec x) { *(loose_vec*)p = x; }
inline vec splat(float x) { return x - vec{}; }
inline vec max(vec a, vec b) { return a > b ? a : b; }

// sum + a b, rounded once. Left to GCC that depends on the loop around it, and so would results: for
// some processors it takes chains of such sums apart.
inline vec add_product(vec sum, vec a, vec b) {
#if defined(__AVX512F__)
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
#elif defined(__AVX2__) && defined(__FMA__)
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum);
#else
    return sum + a * b;
#endif
}

// GCC would otherwise load a value anew at each of its uses, and be bound by loads.
inline vec in_register(vec x) {
#if defined(__AVX512F__) || defined(__AVX2__)
    asm("" : "+v"(x));
#endif
    return x;
}

// Sums of neighbouring lanes: those of a, then those of b.
inline vec fold(vec a, vec b) {
#if defined(__AVX512F__)
    const vec even = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, //
                                             16, 18, 20, 22, 24, 26, 28, 30);
    const vec odd = __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, //
                                            17, 19, 21, 23, 25, 27, 29, 31);
#else
    const vec even = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
    const vec odd = __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
#endif
    return even + odd;
}

// Lane i of the result is the sum of all lanes of x[i], for N = W vectors.
template <int N = W> inline vec sums(const vec* x) {
    if constexpr (N == 1)
        return x[0];
    else
        return fold(sums<N / 2>(x), sums<N / 2>(x + N / 2));
}

// 2^x for x <= 0, relative error 1e-7; exactly 0 below 2^-126. Minimax polynomial on [-1/2, 1/2].
inline vec exp2(vec x) {
    x = max(x, splat(-127.0f));
    ivec whole = __builtin_convertvector(x - 0.5f, ivec); // truncates: nearest for x <= 0
    vec f = x - __builtin_convertvector(whole, vec);
    vec y = splat(1.534580750e-04f);
    y = add_product(splat(1.339993118e-03f), y, f);
    y = add_product(splat(9.618488974e-03f), y, f);
    y = add_product(splat(5.550328777e-02f), y, f);
    y = add_product(splat(2.402264689e-01f), y, f);
    y = add_product(splat(6.931472057e-01f), y, f);
    y = add_product(splat(1.0f), y, f);
    return y * (vec)((whole + 127) << 23);
}

inline int round_up(int x, int unit) { return (x + unit - 1) / unit * unit; }

} // namespace
