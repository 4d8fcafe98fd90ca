// A custom op of torch in C++ by torch's stable ABI: whoever calls it through the dispatcher, a
// compiled program above all, comes here without Python.
//
// Such a library registers its ops when it is told to and takes them back likewise, for the choice
// of an implementation belongs to the process (`prelude.kernels.ops`).
#pragma once

#include <stdexcept>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torch::stable::detail::StableLibrary;

// Python sees a ValueError; a compiled program that calls the op, a RuntimeError.
inline void require(bool fine, const char* message) {
    if (!fine) throw std::invalid_argument(message);
}

inline bool is_float(const Tensor& x) { return x.scalar_type() == ScalarType::Float; }
inline const float* floats(const Tensor& x) { return (const float*)x.data_ptr(); }
inline float* mutable_floats(const Tensor& x) { return (float*)x.data_ptr(); }

inline int num_threads() { return int(torch::stable::get_num_threads()); }

// What this library implements on CPU while it is registered. Never destroyed by itself: when a
// process ends, torch may be gone first.
class Registration {
  public:
    void begin(void (*implement)(StableLibrary&)) {
        library = new StableLibrary(StableLibrary::Kind::IMPL, "prelude", "CPU", __FILE__, __LINE__);
        implement(*library);
    }
    void end() {
        delete library;
        library = nullptr;
    }

  private:
    StableLibrary* library = nullptr;
};

} // namespace
