// A decoder's layers one after the other through their compiled programs, in one call: Python is
// neither run nor locked out until the last layer is done.
//
// Both classes are TorchScript's, for these are what torch calls with its interpreter lock released.

#include <omp.h>

#include <ATen/Parallel.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/custom_class.h>
#include <torch/library.h>

namespace {

using at::Tensor;
using Tensors = std::vector<Tensor>;

// Floats of the residual stream, for each thread that would help, up to which what lies between the
// kernels is done by one: OpenMP's others would have to be woken for each loop, or spin in the way
// of the kernels' own (`kernels/cpu/team.h`).
constexpr int64_t ALONE = 1 << 19;

// While it lives, parallel regions have one thread: those of compiled programs, which ask for more
// at every number of tokens. Kernels have threads of their own (`kernels/cpu/team.h`).
class Alone {
  public:
    explicit Alone(bool alone) : levels(omp_get_max_active_levels()) {
        if (alone) omp_set_max_active_levels(0);
    }
    ~Alone() { omp_set_max_active_levels(levels); }
    Alone(const Alone&) = delete;

  private:
    const int levels;
};

// A package, loaded.
struct Program : torch::CustomClassHolder {
    explicit Program(const std::string& path) : loader(path) {}

    torch::inductor::AOTIModelPackageLoader loader;
};

using ProgramPtr = c10::intrusive_ptr<Program>;

// Layers with the program and the weights of each.
struct Layers : torch::CustomClassHolder {
    Layers(std::vector<ProgramPtr> programs, std::vector<Tensors> weights)
        : programs(std::move(programs)), weights(std::move(weights)) {}

    // As many layers as `kv` has tensors; `step` is what describes the step to every layer.
    Tensor run(Tensor x, const Tensor& cos, const Tensor& sin, const Tensors& kv,
               const Tensors& step) const {
        const Alone alone(x.numel() * (at::get_num_threads() - 1) <= ALONE);
        for (size_t i = 0; i < kv.size(); i++) {
            Tensors inputs = {std::move(x), cos, sin, kv[i]};
            inputs.insert(inputs.end(), step.begin(), step.end());
            inputs.insert(inputs.end(), weights.at(i).begin(), weights.at(i).end());
            x = programs.at(i)->loader.boxed_run(std::move(inputs)).at(0);
        }
        return x;
    }

    const std::vector<ProgramPtr> programs;
    const std::vector<Tensors> weights;
};

} // namespace

TORCH_LIBRARY_FRAGMENT(prelude, library) {
    library.class_<Program>("Program").def(torch::init<std::string>());
    library.class_<Layers>("Layers")
        .def(torch::init<std::vector<ProgramPtr>, std::vector<Tensors>>())
        .def("run", &Layers::run);
}
