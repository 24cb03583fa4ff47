// out = act(x Wᵀ + bias) + residual for up to sixteen rows: x and W of one 16-bit dtype T, rows beginning on 16 bytes,
// `in` a multiple of eight. The weights' bytes are the cost, and they go from memory straight into the operands of the
// tensor cores, which add up over `in` without a shuffle.
//
// A block takes 16 MT features, and each of its warps every so many 32 elements of `in`. W is the left operand (16
// features by 16 elements), x the right one (16 elements by 8 rows; NT times 8 rows in all). A lane reads 16 bytes of
// a row at once, eight elements: that these are not the eight the instruction names does not matter as long as W's and
// x's are the same, for a sum takes its terms in any order. The warps' sums meet in shared memory and are added in the
// order of the warps.
//
// Where features are few, `in` is cut into parts, one for each block of a cluster (Hopper), which read each other's
// sums, and the first adds them in order.
//
// Floor: the weights' bytes.
#pragma once
#include "cuda/kernels/any/linear_args.cuh"
#include "cuda/ptx/hopper.cuh"
#include "cuda/ptx/tensor.cuh"

namespace seqmix::cuda {

constexpr int kMostFewWarps = 16;

template <class T, int MT, int NT>
__global__ void __launch_bounds__(kMostFewWarps * 32) linear_few(const __grid_constant__ LinearArgs p) {
  constexpr int kFeatures = 16 * MT, kRows = 8 * NT;
  constexpr int kAhead = 4 / MT;  // pieces of 32 elements whose loads are under way at once
  __shared__ __align__(16) float met[kMostFewWarps][kRows][kFeatures];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  const int64_t n0 = blockIdx.x / p.splits * int64_t{kFeatures};
  const int rank = static_cast<int>(blockIdx.x % p.splits);
  const int64_t begin = rank * p.part, end = min(begin + p.part, p.in);
  const T *weight[2 * MT], *x[NT];
#pragma unroll
  for (int i = 0; i < 2 * MT; i++) {  // features beyond the last are computed as the last and not kept
    const int64_t feature = min(n0 + 8 * i + lane / 4, p.features - 1);
    weight[i] = static_cast<const T*>(p.weight) + feature * p.weight_stride;
  }
#pragma unroll
  for (int i = 0; i < NT; i++) {
    const int64_t row = 8 * i + lane / 4;
    x[i] = row < p.rows ? static_cast<const T*>(p.x) + row * p.x_stride : nullptr;
  }
  float sums[MT][NT][4] = {};
  for (int64_t piece = begin + warp * 32; piece < end; piece += warps * 32 * kAhead) {
    uint4 w[kAhead][2 * MT], v[kAhead][NT];
#pragma unroll
    for (int a = 0; a < kAhead; a++) {
      const int64_t k = piece + a * warps * 32 + lane % 4 * 8;
#pragma unroll
      for (int i = 0; i < 2 * MT; i++) w[a][i] = ptx::load_once(weight[i] + k, k < end);
#pragma unroll
      for (int i = 0; i < NT; i++) v[a][i] = ptx::load_often(x[i] + k, k < end && x[i]);
    }
    __syncwarp();  // keeps the loads together, before the first use: the compiler would move each to its use
#pragma unroll
    for (int a = 0; a < kAhead; a++)
#pragma unroll
      for (int m = 0; m < MT; m++) {
        const uint4 &u = w[a][2 * m], &l = w[a][2 * m + 1];
        const uint32_t first[4] = {u.x, l.x, u.y, l.y}, second[4] = {u.z, l.z, u.w, l.w};
#pragma unroll
        for (int n = 0; n < NT; n++) {
          ptx::mma(sums[m][n], first, v[a][n].x, v[a][n].y, T());
          ptx::mma(sums[m][n], second, v[a][n].z, v[a][n].w, T());
        }
      }
  }
#pragma unroll
  for (int m = 0; m < MT; m++)
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
      for (int q = 0; q < 4; q++)
        met[warp][8 * n + lane % 4 * 2 + q % 2][16 * m + lane / 4 + q / 2 * 8] = sums[m][n][q];
  __syncthreads();
  // A thread keeps to its elements of the result from here on.
  float* const result = &met[0][0][0];
  for (int at = threadIdx.x; at < kFeatures * kRows; at += blockDim.x) {
    float sum = result[at];
    for (int w = 1; w < warps; w++) sum += (&met[w][0][0])[at];
    result[at] = sum;
  }
#if __CUDA_ARCH__ >= 900
  if (p.splits > 1) {
    ptx::cluster_meet();
    if (rank == 0) {
      for (int at = threadIdx.x; at < kFeatures * kRows; at += blockDim.x) {
        const uint32_t place = ptx::shared_address(result + at);
        float sum = result[at];
        for (int q = 1; q < p.splits; q++) sum += ptx::cluster_load(ptx::cluster_address(place, q));
        result[at] = sum;
      }
    }
    ptx::cluster_meet();  // none goes while its sums are read
    if (rank > 0) return;
  }
#endif
  for (int at = threadIdx.x; at < kFeatures * kRows; at += blockDim.x) {
    const int64_t row = at / kFeatures, feature = n0 + at % kFeatures;
    if (row < p.rows && feature < p.features) p.finish<T>(row, feature, result[at]);
  }
}

}  // namespace seqmix::cuda
