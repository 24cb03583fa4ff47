// What every kernel of `linear` is given, and how each ends: out = act(sum + bias) + residual, summed in float32 and
// rounded once to T, the dtype of x, of the residual and of the result.
#pragma once
#include "cuda/kernels/any/math.cuh"
#include "cuda/kernels/any/vector.cuh"

namespace seqmix::cuda {

struct LinearArgs {
  const void* x;
  const void* weight;
  const void* residual;  // may be null
  void* out;
  Weights bias;
  int64_t rows, features, in;
  int64_t x_stride, weight_stride, residual_stride, out_stride;
  DType x_dtype, weight_dtype;
  bool silu;
  bool wide;       // the residual's and the result's rows take accesses of eight elements
  int splits;      // parts that `in` is cut into
  int64_t part;    // elements of `in` in each
  float* partial;  // (splits, rows, features), where parts are added up by add_parts

  template <class T>
  __device__ __forceinline__ void finish(int64_t row, int64_t feature, float sum) const {
    if (bias.data) sum += bias.at(feature);
    if (silu) sum = cuda::silu(sum);
    if (residual) sum += widen(static_cast<const T*>(residual)[row * residual_stride + feature]);
    static_cast<T*>(out)[row * out_stride + feature] = narrow<T>(sum);
  }

  // Of eight features, 0 where there is none.
  __device__ __forceinline__ Floats<8> bias8(int64_t feature) const {
    Floats<8> b{};
    if (!bias.data) return b;
#pragma unroll
    for (int i = 0; i < 8; i++)
      if (feature + i < features) b.v[i] = bias.at(feature + i);
    return b;
  }

  // Eight features, a multiple of eight first, for T of 16 bits.
  template <class T>
  __device__ __forceinline__ void finish8(int64_t row, int64_t feature, Floats<8> sums, const Floats<8>& b) const {
#pragma unroll
    for (int i = 0; i < 8; i++) sums.v[i] += b.v[i];
    if (silu) {
#pragma unroll
      for (int i = 0; i < 8; i++) sums.v[i] = fast_silu(sums.v[i]);
    }
    const bool whole = wide && feature + 8 <= features;
    if (residual) {
      const T* const from = static_cast<const T*>(residual) + row * residual_stride + feature;
      uint4 raw{};
      T* const r = reinterpret_cast<T*>(&raw);
      if (whole) {
        raw = *reinterpret_cast<const uint4*>(from);
      } else {
#pragma unroll
        for (int i = 0; i < 8; i++)
          if (feature + i < features) r[i] = from[i];
      }
#pragma unroll
      for (int i = 0; i < 8; i++) sums.v[i] += widen(r[i]);
    }
    uint4 raw;
    T* const r = reinterpret_cast<T*>(&raw);
#pragma unroll
    for (int i = 0; i < 8; i++) r[i] = narrow<T>(sums.v[i]);
    T* const to = static_cast<T*>(out) + row * out_stride + feature;
    if (whole) {
      *reinterpret_cast<uint4*>(to) = raw;
    } else {
#pragma unroll
      for (int i = 0; i < 8; i++)
        if (feature + i < features) to[i] = r[i];
    }
  }
};

// A warp's 16 rows by N features of sums, as the tensor cores leave them (row lane/4 and eight below, features 8 j + 2
// (lane % 4) and the next), laid down row by row: a row of `to` is kSlabLine<N> floats, so that neither the stores nor
// the reads of a whole row meet in a bank.
template <int N>
constexpr int kSlabLine = N + 8;

template <int N>
__device__ __forceinline__ void put_slab(const float (*sums)[4], float* to) {
  const int lane = threadIdx.x % 32;
  float* const at = to + lane / 4 * kSlabLine<N> + lane % 4 * 2;
#pragma unroll
  for (int j = 0; j < N / 8; j++) {
    *reinterpret_cast<float2*>(at + 8 * j) = {sums[j][0], sums[j][1]};
    *reinterpret_cast<float2*>(at + 8 * kSlabLine<N> + 8 * j) = {sums[j][2], sums[j][3]};
  }
}

// The slab's rows begin at `row`, its features at `feature`. A lane keeps to its eight features.
template <class T, int N>
__device__ __forceinline__ void finish_slab(const LinearArgs& p, const float* slab, int64_t row, int64_t feature) {
  constexpr int kAcross = N / 8, kRows = 32 / kAcross;
  const int c = threadIdx.x % kAcross * 8, r0 = threadIdx.x % 32 / kAcross;
  if (feature + c >= p.features) return;
  const Floats<8> bias = p.bias8(feature + c);
#pragma unroll 2
  for (int r = r0; r < 16; r += kRows) {
    if (row + r >= p.rows) return;
    const float* const from = slab + r * kSlabLine<N> + c;
    const float4 a = *reinterpret_cast<const float4*>(from), b = *reinterpret_cast<const float4*>(from + 4);
    p.finish8<T>(row + r, feature + c, {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}, bias);
  }
}

}  // namespace seqmix::cuda
