// The end of a row of flash attention, and the sum of what several parts of the keys have left of it, in their order.
// A block does a row, each of its warps every fourth part of it; what those have is added in order. All weights are
// known to every warp, from the parts' lse, so that no warp waits for another but at the end; the first parts are on
// their way before the weights are known.
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

template <class T>
__global__ void __launch_bounds__(128) flash_attention_combine(const __grid_constant__ AttentionArgs p) {
  constexpr int kAhead = 4, kEach = kMostAttentionSplits / 32;
  __shared__ float4 sets[3][32];
  const int splits = static_cast<int>(p.by_splits.value), set = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t rows = p.batch * p.sq * p.hq;
  ptx::wait_for_earlier_kernels();
  ptx::let_next_kernel_begin();
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const float* const from = p.partial + row * p.dv;
    const int64_t step = rows * p.dv;
    const auto part = [&](int i, int c) {
      return i < splits && c < p.dv ? *reinterpret_cast<const float4*>(from + i * step + c) : float4{};
    };
    float lse[kEach];
#pragma unroll
    for (int i = 0; i < kEach; i++) {
      const int n = i * 32 + lane;
      lse[i] = n < splits ? p.part_lse[n * rows + row] : -INFINITY;
    }
    float4 ahead[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; i++) ahead[i] = part(set + i * 4, lane * 4);
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
    if (threadIdx.x == 0) put_lse(p, row, end.lse);
    for (int c0 = 0; c0 < p.dv; c0 += 128) {
      const int c = c0 + lane * 4;
      float4 x{};
      const auto add = [&](int i, const float4& y, float weight) {
        if (i >= splits || weight == 0) return;  // a part without weight was not written
        x.x = fmaf(y.x, weight, x.x);
        x.y = fmaf(y.y, weight, x.y);
        x.z = fmaf(y.z, weight, x.z);
        x.w = fmaf(y.w, weight, x.w);
      };
#pragma unroll
      for (int e = 0; e < kEach; e++)
#pragma unroll 4
        for (int i = 0; i < 8; i++) {
          const int n = e * 32 + i * 4 + set;
          if (e * 32 + i * 4 >= splits) break;
          const float weight = __shfl_sync(kFullWarp, lse[e], n % 32);
          add(n, c0 == 0 && e == 0 && i < kAhead ? ahead[i % kAhead] : part(n, c), weight);
        }
      __syncthreads();  // the last columns' sums have been read
      if (set > 0) sets[set - 1][lane] = x;
      __syncthreads();
      if (set > 0 || c >= p.dv) continue;
#pragma unroll
      for (int i = 0; i < 3; i++) {
        const float4 y = sets[i][lane];
        x.x += y.x;
        x.y += y.y;
        x.z += y.z;
        x.w += y.w;
      }
      Floats<4> value{{x.x * end.by, x.y * end.by, x.z * end.by, x.w * end.by}};
      if (end.by == 0) value = {};
      store<4>(static_cast<T*>(p.out) + row * p.dv + c, value);
    }
  }
}

}  // namespace seqmix::cuda
