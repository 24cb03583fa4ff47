// dst = src, converted, for views of one shape with any strides. An element a thread, its place found by division;
// where source and target run densely along different dimensions (a transpose), through 32 × 32 tiles in shared memory
// (padded by one, so that columns fall into different banks), so that both sides move whole rows. Floor: each byte
// once.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/kernels/any/nest.cuh"

namespace seqmix::cuda {

struct Bool {
  uint8_t byte;
};

__device__ __forceinline__ float as_float(float x) { return x; }
__device__ __forceinline__ float as_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float as_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T>
constexpr bool is_floating = false;
template <>
inline constexpr bool is_floating<float> = true;
template <>
inline constexpr bool is_floating<__half> = true;
template <>
inline constexpr bool is_floating<__nv_bfloat16> = true;

template <class D>
__device__ __forceinline__ D float_to(float x) = delete;
template <>
__device__ __forceinline__ float float_to<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __half float_to<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __forceinline__ __nv_bfloat16 float_to<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ __forceinline__ int32_t float_to<int32_t>(float x) {
  return x != x ? 0 : __float2int_rz(x);  // saturates
}
template <>
__device__ __forceinline__ int64_t float_to<int64_t>(float x) {
  return x != x ? 0 : __float2ll_rz(x);  // saturates
}
template <>
__device__ __forceinline__ int8_t float_to<int8_t>(float x) {
  return x != x ? 0 : static_cast<int8_t>(max(-128, min(127, __float2int_rz(x))));
}
template <>
__device__ __forceinline__ Bool float_to<Bool>(float x) {
  return {static_cast<uint8_t>(x != 0)};
}

template <class T>
constexpr bool is_truth = false;
template <>
inline constexpr bool is_truth<Bool> = true;

template <class D, class S>
__device__ __forceinline__ D convert(S s) {
  if constexpr (is_floating<S>) {
    return float_to<D>(as_float(s));
  } else if constexpr (is_truth<S>) {
    if constexpr (is_floating<D>)
      return float_to<D>(s.byte ? 1.0f : 0.0f);
    else
      return static_cast<D>(s.byte != 0);
  } else if constexpr (is_floating<D>) {
    return float_to<D>(static_cast<float>(s));
  } else if constexpr (is_truth<D>) {
    return {static_cast<uint8_t>(s != 0)};
  } else {
    return static_cast<D>(s);
  }
}

template <class D, class S>
__global__ void __launch_bounds__(256) copy_converting(const __grid_constant__ Nest<2> nest, D* dst, const S* src) {
  const int64_t step = gridDim.x * int64_t{blockDim.x};
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < nest.size; i += step) {
    int64_t at[2];
    nest.locate(i, at);
    dst[at[0]] = convert<D, S>(src[at[1]]);
  }
}

template <class T>
__global__ void __launch_bounds__(256) copy_strided(const __grid_constant__ Nest<2> nest, T* dst, const T* src) {
  const int64_t step = gridDim.x * int64_t{blockDim.x};
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < nest.size; i += step) {
    int64_t at[2];
    nest.locate(i, at);
    dst[at[0]] = src[at[1]];
  }
}

// The planes that `outer` numbers are transposed: src runs densely over i < rows, dst over j < columns.
struct Transpose {
  Nest<2> outer;
  int64_t rows, columns;
  int64_t dst_row, src_column;  // strides of dst over i, of src over j
};

constexpr int kTile = 32;

template <class T>
__global__ void __launch_bounds__(256) copy_transposed(const __grid_constant__ Transpose p, T* dst, const T* src) {
  __shared__ T tile[kTile][kTile + 1];
  const int64_t tiles_i = (p.rows + kTile - 1) / kTile, tiles_j = (p.columns + kTile - 1) / kTile;
  const int64_t count = p.outer.size * tiles_i * tiles_j;
  const int x = threadIdx.x % kTile, y = threadIdx.x / kTile;
  for (int64_t number = blockIdx.x; number < count; number += gridDim.x) {
    const int64_t plane = number / (tiles_i * tiles_j), rest = number % (tiles_i * tiles_j);
    const int64_t i0 = rest / tiles_j * kTile, j0 = rest % tiles_j * kTile;
    int64_t at[2];
    p.outer.locate(plane, at);
#pragma unroll
    for (int r = y; r < kTile; r += 8)
      if (i0 + x < p.rows && j0 + r < p.columns) tile[r][x] = src[at[1] + (j0 + r) * p.src_column + i0 + x];
    __syncthreads();
#pragma unroll
    for (int r = y; r < kTile; r += 8)
      if (i0 + r < p.rows && j0 + x < p.columns) dst[at[0] + (i0 + r) * p.dst_row + j0 + x] = tile[x][r];
    __syncthreads();
  }
}

}  // namespace seqmix::cuda
