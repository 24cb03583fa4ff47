// Setting kernels off. A launcher reads one problem, chooses a kernel for its shape, its strides and the number of
// multiprocessors (never for anything else, so that the bits repeat), names it, and puts it on the stream.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "core/problem/problem.h"
#include "cuda/allocator.h"

namespace seqmix::cuda {

constexpr int64_t kHanded = 2048;  // Context::handed

struct Context {
  int device;
  cudaStream_t stream;
  int multiprocessors;
  uint64_t* index_error;  // on the device: the queue's error word
  Allocator* memory;
  const char* kernel = "";  // set by the launcher: cuda.any.selective_scan
  std::vector<std::pair<void*, int64_t>> scratch_blocks;
  Pool* pool = nullptr;   // the graph's whose problem this is
  bool overlap = false;   // kernels may be set off while the one before runs: compute capability 9, for which the
                          // library has machine code that waits (what is compiled from PTX of 8.0 does not)
  int* handed = nullptr;  // kHanded words of the stream's, 0: a launch that sets them leaves them 0; may be null

  // Device memory until the kernels set off by this launch have ended.
  template <class T>
  T* scratch(int64_t count) {
    const int64_t bytes = std::max<int64_t>(count, 1) * static_cast<int64_t>(sizeof(T));
    scratch_blocks.reserve(scratch_blocks.size() + 1);
    void* const block = memory->allocate(bytes, pool);
    scratch_blocks.emplace_back(block, bytes);
    return static_cast<T*>(block);
  }
};

using Launcher = void (*)(Context&, const Problem&);
Launcher launcher_of(Op);

void launch_copy(Context&, const Problem&);
void launch_fill(Context&, const Problem&);
void launch_silu(Context&, const Problem&);
void launch_add(Context&, const Problem&);
void launch_mul(Context&, const Problem&);
void launch_softmax(Context&, const Problem&);
void launch_argmax(Context&, const Problem&);
void launch_topk(Context&, const Problem&);
void launch_sample(Context&, const Problem&);
void launch_embedding(Context&, const Problem&);
void launch_linear(Context&, const Problem&);
void launch_rms_norm(Context&, const Problem&);
void launch_causal_conv1d(Context&, const Problem&);
void launch_causal_conv1d_update(Context&, const Problem&);
void launch_selective_scan(Context&, const Problem&);
void launch_selective_state_update(Context&, const Problem&);
void launch_ssd_chunk_scan(Context&, const Problem&);
void launch_increment(Context&, const Problem&);
void launch_flash_attention(Context&, const Problem&);
void launch_gelu(Context&, const Problem&);
void launch_rotary(Context&, const Problem&);
void launch_softcap(Context&, const Problem&);

// float32, float16, bfloat16: the order of every table of kernels by dtype.
constexpr int kFloatDtypes = 3;
constexpr int dtype_index(DType dtype) { return static_cast<int>(dtype); }

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Sets off a kernel that begins with ptx::wait_for_earlier_kernels, while the one before it may still run. `shared`:
// bytes of dynamic shared memory.
template <class... P, class... A>
void set_off_with(const Context& c, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, const A&... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = c.stream;
  config.attrs = &attribute;
  config.numAttrs = c.overlap ? 1 : 0;
  (void)cudaLaunchKernelEx(&config, kernel, P(arguments)...);  // the caller asks cudaGetLastError
}
template <class... P, class... A>
void set_off(const Context& c, void (*kernel)(P...), dim3 grid, dim3 block, const A&... arguments) {
  set_off_with(c, kernel, grid, block, 0, arguments...);
}

// Blocks of a grid-stride loop over `items`: one each where that is not far more than the chip runs at a time.
inline unsigned grid_for(const Context& c, int64_t items, int64_t blocks_per_multiprocessor) {
  const int64_t most = c.multiprocessors * blocks_per_multiprocessor;
  return static_cast<unsigned>(std::max<int64_t>(1, std::min(items, most)));
}

// Rows of V elements at a time: each row of (rows, n) begins on a multiple of such an access.
inline bool rows_aligned(const View& v, int64_t V) {
  const int64_t size = size_of(v.dtype), access = std::min<int64_t>(16, V * size);
  return !v.present || (reinterpret_cast<uintptr_t>(v.data) % static_cast<uintptr_t>(access) == 0 &&
                        (v.shape[0] <= 1 || v.stride[0] * size % access == 0));
}
// A vector's elements lie side by side, and V of them are an aligned access wherever a multiple of V begins.
inline bool together(const View& v, int64_t V) {
  const int64_t access = std::min<int64_t>(16, V * size_of(v.dtype));
  return v.stride[0] == 1 && reinterpret_cast<uintptr_t>(v.data) % static_cast<uintptr_t>(access) == 0;
}
inline bool aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }
// Each row of (rows, n) begins on 16 bytes, float32.
inline bool rows_aligned16(const View& v) {
  return !v.present || (aligned16(v.data) && (v.shape[0] <= 1 || v.stride[0] % 4 == 0));
}

}  // namespace seqmix::cuda
