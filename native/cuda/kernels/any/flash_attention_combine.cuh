// The end of a row of flash attention, and the sum of what several parts of the keys have left of it, in their order.
// A warp does 128 elements of a row. It asks at once for all parts' lse and for the first sixteen parts, so that it
// waits for memory once, mostly; what it reads is found before it waits for the kernel that leaves it.
//
// Floor: the parts' bytes, which are still in L2.
#pragma once
#include "cuda/kernels/any/flash_attention_args.cuh"
#include "cuda/kernels/any/math.cuh"
#include "cuda/kernels/any/vector.cuh"
#include "cuda/ptx/grid.cuh"

namespace seqmix::cuda {

constexpr int kMostAttentionSplits = 128;

struct RowEnd {
  float by, lse;  // what the sum of weights times values is multiplied by; natural
};

// Of a row whose weights, relative to 2^top, sum up to `sum`.
__device__ __forceinline__ RowEnd end_of_row(const AttentionArgs& p, int64_t out_row, float top, float sum, bool idle) {
  float times = 1;
  if (p.sinks.data && !idle) {
    const float sink = p.sinks.at(out_row % p.hq) * kLog2E, higher = fmaxf(top, sink);
    times = ptx::ex2(top - higher);
    sum = fmaf(sum, times, ptx::ex2(sink - higher));
    top = higher;
  }
  if (sum == 0) return {0, -INFINITY};
  return {times / sum, (top + log2f(sum)) * 0.693147181f};
}

constexpr int kCombineWarps = 4;

template <class T>
__global__ void __launch_bounds__(kCombineWarps * 32) flash_attention_combine(const __grid_constant__ AttentionArgs p) {
  constexpr int kAhead = 16, kEach = kMostAttentionSplits / 32;
  const int splits = static_cast<int>(p.by_splits.value), lane = threadIdx.x % 32;
  const int64_t rows = p.batch * p.sq * p.hq, step = rows * p.dv;
  const int pieces = (p.dv + 127) / 128;
  const int64_t warps = int64_t{gridDim.x} * kCombineWarps;
  int64_t row = blockIdx.x * kCombineWarps + threadIdx.x / 32;
  int piece = 0;
  ptx::look_at_arguments(p);
  ptx::let_next_kernel_begin();
  ptx::wait_for_earlier_kernels_after(static_cast<int>((row * p.dv | step) & INT32_MAX));
  while (row < rows) {
    const int c = piece * 128 + lane * 4;
    const float* const from = p.partial + row * p.dv + c;
    float lse[kEach];
#pragma unroll
    for (int i = 0; i < kEach; i++) {
      const int n = i * 32 + lane;
      lse[i] = n < splits ? p.part_lse[n * rows + row] : -INFINITY;
    }
    float4 part[kAhead];
    const auto ask = [&](int first) {
#pragma unroll
      for (int i = 0; i < kAhead; i++)
        if (first + i < splits && c < p.dv) part[i] = *reinterpret_cast<const float4*>(from + (first + i) * step);
    };
    ask(0);
    float top = -1e37f, sum = 0;
    bool lost = false;
#pragma unroll
    for (int i = 0; i < kEach; i++) {
      lost = lost || lse[i] == INFINITY;
      top = fmaxf(top, lse[i]);
    }
    lost = __any_sync(kFullWarp, lost);
    top = warp_reduce(top, Max());
#pragma unroll
    for (int i = 0; i < kEach; i++) {
      lse[i] = ptx::ex2(lse[i] - top);  // now the part's weight
      sum += lse[i];
    }
    sum = warp_reduce(sum, Sum());
    RowEnd end = end_of_row(p, row, top, sum, false);
    if (lost) end = {0, -INFINITY};
    if (piece == 0 && lane == 0) put_lse(p, row, end.lse);
    float4 x{};
#pragma unroll 1
    for (int first = 0; first < splits; first += kAhead) {
      if (first > 0) ask(first);
      float weights = lse[0];
#pragma unroll
      for (int i = 1; i < kEach; i++)
        if (first / 32 == i) weights = lse[i];
#pragma unroll
      for (int i = 0; i < kAhead; i++) {
        const float weight = __shfl_sync(kFullWarp, weights, first % 32 + i);
        if (weight == 0) continue;  // there is no such part, or it was not written
        x.x = fmaf(part[i].x, weight, x.x);
        x.y = fmaf(part[i].y, weight, x.y);
        x.z = fmaf(part[i].z, weight, x.z);
        x.w = fmaf(part[i].w, weight, x.w);
      }
    }
    Floats<4> value{{x.x * end.by, x.y * end.by, x.z * end.by, x.w * end.by}};
    if (end.by == 0) value = {};
    if (c < p.dv) store<4>(static_cast<T*>(p.out) + row * p.dv + c, value);
    if (++piece < pieces) continue;
    piece = 0;
    row += warps;
  }
}

}  // namespace seqmix::cuda
