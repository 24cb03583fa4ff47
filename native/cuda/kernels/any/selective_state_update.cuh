// One token of the selective scan, any n, any strides, any dtypes: h = exp(Δ A) h + Δ B x, in place;
// out = (C·h + D x) silu(z). Neighbouring lanes share a channel of a row, a state each at a time. What has its states
// side by side goes by selective_state_update_wide.cuh instead.
#pragma once
#include "cuda/kernels/any/divide.cuh"
#include "cuda/kernels/any/math.cuh"
#include "cuda/kernels/any/reduce.cuh"
#include "cuda/kernels/any/vector.cuh"
#include "cuda/ptx/grid.cuh"

namespace seqmix::cuda {

struct StateUpdateArgs {
  void* state;
  const void *x, *dt, *z, *A, *B, *C, *D, *bias;  // z, D and bias may be null
  const int32_t* indices;                         // may be null
  void* out;
  DType state_dtype, dtype, A_dtype, D_dtype, bias_dtype;  // dtype: of x, dt, z, B, C and out
  bool softplus;
  int lanes_log;  // of the lanes of a channel, at most 32
  int64_t b, h, p, n, slots, groups_B, groups_C;
  int64_t state_b, state_h, state_p, state_n, x_b, x_h, x_p, dt_b, dt_h, dt_p, z_b, z_h, z_p, out_b, out_h, out_p;
  int64_t A_h, A_p, A_n, B_b, B_g, B_n, C_b, C_g, C_n, D_h, D_p, bias_h, bias_p, indices_b;
  uint64_t* index_error;
  uint64_t error;
  // For selective_state_update_wide.cuh, where all places but those of rows of states have 32 bits:
  uint32_t units;                            // channels, or sets of channels of a head, that lanes share
  Divisor by_units, by_heads_B, by_heads_C;  // units of a head; heads of a group
  int first_row;
};

static __global__ void __launch_bounds__(128) selective_state_update(const __grid_constant__ StateUpdateArgs a) {
  const int lanes = 1 << a.lanes_log, lane = static_cast<int>(threadIdx.x) % lanes;
  const int64_t channels = a.b * a.h * a.p, step = gridDim.x * int64_t{blockDim.x} >> a.lanes_log;
  const int64_t first = (blockIdx.x * int64_t{blockDim.x} + threadIdx.x) >> a.lanes_log;
  // All lanes of a warp go round together, for the shuffles.
  const int64_t warp_first = (blockIdx.x * int64_t{blockDim.x} + threadIdx.x / 32 * 32) >> a.lanes_log;
  ptx::wait_for_earlier_kernels();
  ptx::let_next_kernel_begin();
  for (int64_t ahead = 0; warp_first + ahead < channels; ahead += step) {
    const int64_t channel = first + ahead;
    const bool in = channel < channels;
    int64_t p = 0, h = 0, b = 0;
    if (in && channels <= INT32_MAX) {
      const uint32_t c = static_cast<uint32_t>(channel), ph = static_cast<uint32_t>(a.p),
                     hs = static_cast<uint32_t>(a.h);
      const uint32_t rest = c / ph, row = rest / hs;
      p = c - rest * ph;
      h = rest - row * hs;
      b = row;
    } else if (in) {
      p = channel % a.p;
      h = channel / a.p % a.h;
      b = channel / a.p / a.h;
    }
    const int64_t slot = in && a.indices ? a.indices[b * a.indices_b] : b;
    const bool good = in && slot >= 0 && slot < a.slots;
    if (in && slot >= a.slots) report_index_error(a.index_error, a.error);
    float y = 0, x = 0;
    if (good) {
      float delta = float_at(a.dt, a.dtype, b * a.dt_b + h * a.dt_h + p * a.dt_p);
      if (a.bias) delta += float_at(a.bias, a.bias_dtype, h * a.bias_h + p * a.bias_p);
      if (a.softplus) delta = softplus(delta);
      x = float_at(a.x, a.dtype, b * a.x_b + h * a.x_h + p * a.x_p);
      const float input = delta * x;
      const int64_t state = slot * a.state_b + h * a.state_h + p * a.state_p, A = h * a.A_h + p * a.A_p;
      const int64_t B = b * a.B_b + h * a.groups_B / a.h * a.B_g, C = b * a.C_b + h * a.groups_C / a.h * a.C_g;
      for (int64_t i = lane; i < a.n; i += lanes) {
        const Raw<1> s = load_raw<1>(a.state, a.state_dtype, state + i * a.state_n);
        const Raw<1> Ai = load_raw<1>(a.A, a.A_dtype, A + i * a.A_n), Bi = load_raw<1>(a.B, a.dtype, B + i * a.B_n),
                     Ci = load_raw<1>(a.C, a.dtype, C + i * a.C_n);
        const float next = decay(delta, widen(Ai, a.A_dtype).v[0] * kLog2E)
                               .apply(widen(s, a.state_dtype).v[0], input * widen(Bi, a.dtype).v[0]);
        y = fmaf(next, widen(Ci, a.dtype).v[0], y);
        store_as(a.state, a.state_dtype, state + i * a.state_n, next);
      }
    }
    for (int i = 1; i < lanes; i <<= 1) y += __shfl_xor_sync(kFullWarp, y, i);
    if (!in || lane != 0) continue;
    if (good) {
      if (a.D) y = fmaf(float_at(a.D, a.D_dtype, h * a.D_h + p * a.D_p), x, y);
      if (a.z) y *= silu(float_at(a.z, a.dtype, b * a.z_b + h * a.z_h + p * a.z_p));
    }
    store_as(a.out, a.dtype, b * a.out_b + h * a.out_h + p * a.out_p, y);
  }
}

}  // namespace seqmix::cuda
