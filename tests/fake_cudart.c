/* The part of the CUDA runtime that FlashInfer's planners use, for a machine without a GPU: an H200
 * by its attributes, copies handed to a callback, launches that do nothing. Built as
 * libcudart.so.13 and loaded before a module that needs it; see tests/flashinfer_native.py. */
#include <stddef.h>

typedef int Error;
typedef void (*CopyCallback)(void *target, const void *source, size_t num_bytes);

static CopyCallback copy_callback;
static int handle[16];

void fake_on_copy(CopyCallback callback) { copy_callback = callback; }

Error cudaMemcpyAsync(void *target, const void *source, size_t num_bytes, int kind, void *stream) {
  copy_callback(target, source, num_bytes);
  return 0;
}

Error cudaDeviceGetAttribute(int *value, int attribute, int device) {
  switch (attribute) {
    case 16: *value = 132; break;    /* multiprocessors */
    case 75: *value = 9; break;      /* compute capability */
    case 76: *value = 0; break;
    case 81: *value = 233472; break; /* shared memory per multiprocessor */
    case 97: *value = 232448; break; /* shared memory per block, opted in */
    default: *value = 0;
  }
  return 0;
}

Error cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n, const void *f, int b, size_t s) {
  *n = 4;
  return 0;
}
Error cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *f, int b, size_t s,
                                                             unsigned flags) {
  *n = 4;
  return 0;
}

Error cudaGetDevice(int *device) { *device = 0; return 0; }
Error cudaSetDevice(int device) { return 0; }
Error cudaFuncSetAttribute(const void *f, int attribute, int value) { return 0; }
Error cudaLaunchKernel(const void *f) { return 0; }
Error cudaLaunchKernelExC(const void *config) { return 0; }
Error cudaGetLastError(void) { return 0; }
Error cudaPeekAtLastError(void) { return 0; }
const char *cudaGetErrorString(Error error) { return "fake"; }
const char *cudaGetErrorName(Error error) { return "fake"; }
Error cudaStreamSynchronize(void *stream) { return 0; }

Error __cudaGetKernel(void **kernel, const void *f) { *kernel = (void *)f; return 0; }
Error __cudaLaunchKernel(void) { return 0; }
Error __cudaPushCallConfiguration(void) { return 0; }
Error __cudaPopCallConfiguration(void) { return 0; }
void **__cudaRegisterFatBinary(void *binary) { return (void **)handle; }
void __cudaRegisterFatBinaryEnd(void **binary) {}
void __cudaUnregisterFatBinary(void **binary) {}
void __cudaRegisterFunction(void) {}
void __cudaRegisterVar(void) {}
void __cudaInitModule(void) {}
