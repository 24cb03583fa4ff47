// One token of the selective scan where the states of a channel lie side by side and begin on 16 bytes:
// h = exp(Δ A) h + Δ B x, in place; out = (C·h + D x) silu(z). T is the dtype of x, dt, z, B, C and out; the state has
// a dtype S of its own, to which it is rounded when it is written; A, D and the bias have any, known at run time.
// Neighbouring lanes, a power of two of them, take a channel, V states each, and every load is on its way before the
// first is used: a thread holds 16 to 64 bytes of states, a multiprocessor 40 KB and more.
//
//   selective_state_update_heads: Mamba-2's form, where Δ and A are one number a head. A lane takes its states in four
//     channels of a head, which share B, C and one exponential; lane k looks after channel k (x, D, z, out).
//   selective_state_update_rows: anything else, R rows of the batch at once, so that A is read once for them. Lane r
//     looks after row r: it works out that row's Δ alone and hands it to the others (of a single row every lane works
//     it out for itself, which is sooner). A thread takes one set of rows and ends: what it would keep from one set to
//     the next costs more, in registers that other threads could have, than it saves.
// The order of every sum depends on n and S alone, so that a row's bits are the same in any batch.
//
// Floor: the state read and written once and A read once (A, B and C come from the caches for a larger batch); 6
// (heads) to 20 instructions a state, under half of what the chip issues in the time of the bytes.
#pragma once
#include <type_traits>

#include "cuda/kernels/any/selective_state_update.cuh"

namespace seqmix::cuda {

constexpr int kHeadChannels = 4;

__device__ __forceinline__ int small(int64_t value) { return static_cast<int>(value); }

// Where a lane's part is.
struct StatePlace {
  int h, p, lane, i;     // p: the first channel; i: the first state
  bool in, active;       // active: has states
  int state, A, B, C;    // of the first state
  int x, dt, z, out, D;  // of channel `own`
  int bias;

  __device__ __forceinline__ StatePlace(const StateUpdateArgs& a, int V, int channels) {
    const uint32_t number = (blockIdx.x * blockDim.x + threadIdx.x) >> a.lanes_log;
    in = number < a.units;
    const uint32_t unit = in ? number : 0, head = a.by_units.quotient(unit);
    h = static_cast<int>(head);
    p = static_cast<int>(unit - head * a.by_units.value) * channels;
    lane = static_cast<int>(threadIdx.x) & ((1 << a.lanes_log) - 1);
    i = lane * V;
    active = in && i < small(a.n);
    state = h * small(a.state_h) + p * small(a.state_p) + i;
    A = h * small(a.A_h) + p * small(a.A_p) + (a.A_n ? i : 0);
    B = static_cast<int>(a.by_heads_B.quotient(head)) * small(a.B_g) + i;
    C = static_cast<int>(a.by_heads_C.quotient(head)) * small(a.C_g) + i;
    const int own = p + lane % channels;
    x = h * small(a.x_h) + own * small(a.x_p);
    dt = h * small(a.dt_h) + own * small(a.dt_p);
    z = h * small(a.z_h) + own * small(a.z_p);
    out = h * small(a.out_h) + own * small(a.out_p);
    D = h * small(a.D_h) + own * small(a.D_p);
    bias = h * small(a.bias_h) + own * small(a.bias_p);
  }
};

// Row `row`'s slot; -1: no state is touched.
__device__ __forceinline__ int slot_of(const StateUpdateArgs& a, int row) {
  if (!a.indices) return row;
  const int slot = a.indices[row * a.indices_b];
  if (slot < a.slots) return slot;
  report_index_error(a.index_error, a.error);
  return -1;
}

// The lane of this one's channel that looks after number r.
__device__ __forceinline__ int holder(int r, int lanes) {
  return (static_cast<int>(threadIdx.x) & 31 & ~(lanes - 1)) | r;
}

// Sum r over a channel's lanes, of which there are at least R, to every lane l with l % R == r. The same order of
// additions for every R.
template <int R>
__device__ __forceinline__ float sum_over_lanes(const float (&y)[R], int lanes) {
  const unsigned lane = threadIdx.x;
  float v[R];
#pragma unroll
  for (int r = 0; r < R; r++) v[r] = y[r];
  if constexpr (R == 4) {  // halves are exchanged: each lane goes on with the two sums it will need
    const bool upper = lane & 2;
    float kept[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const float given = upper ? v[r] : v[r + 2], own = upper ? v[r + 2] : v[r];
      kept[r] = own + __shfl_xor_sync(kFullWarp, given, 2);
    }
    v[0] = kept[0];
    v[1] = kept[1];
  } else if (lanes >= 4) {
#pragma unroll
    for (int r = 0; r < R; r++) v[r] += __shfl_xor_sync(kFullWarp, v[r], 2);
  }
  if constexpr (R >= 2) {
    const bool upper = lane & 1;
    const float given = upper ? v[0] : v[1], own = upper ? v[1] : v[0];
    v[0] = own + __shfl_xor_sync(kFullWarp, given, 1);
  } else if (lanes >= 2) {
    v[0] += __shfl_xor_sync(kFullWarp, v[0], 1);
  }
  for (int i = 4; i < lanes; i <<= 1) v[0] += __shfl_xor_sync(kFullWarp, v[0], i);
  return v[0];
}

// At least kHeadChannels lanes a channel.
template <class S, int V, class T>
__global__ void __launch_bounds__(128) selective_state_update_heads(const __grid_constant__ StateUpdateArgs a) {
  constexpr int K = kHeadChannels;
  const StatePlace at(a, V, K);
  const int lanes = 1 << a.lanes_log, channels = small(a.p) - at.p;
  const bool has = at.in && at.lane % K < channels;
  ptx::wait_for_earlier_kernels();
  for (int row = static_cast<int>(blockIdx.y); row < small(a.b); row += static_cast<int>(gridDim.y)) {
    const int slot = slot_of(a, row);
    const bool good = at.active && slot >= 0;
    S* const states = static_cast<S*>(a.state) + (slot * a.state_b + at.state);
    Packed<S, V> s[K] = {};
#pragma unroll
    for (int k = 0; k < K; k++)
      if (good && k < channels) s[k] = load_packed<V>(states + k * small(a.state_p));
    Packed<T, V> raw_B{}, raw_C{};
    if (at.active) {
      raw_B = load_packed<V>(static_cast<const T*>(a.B) + (row * small(a.B_b) + at.B));
      raw_C = load_packed<V>(static_cast<const T*>(a.C) + (row * small(a.C_b) + at.C));
    }
    T raw_dt{}, raw_x{}, raw_z{};
    Raw<1> raw_A{}, raw_bias{}, raw_D{};
    if (at.in) {
      raw_dt = static_cast<const T*>(a.dt)[row * small(a.dt_b) + at.dt];
      raw_A = load_raw<1>(a.A, a.A_dtype, at.A);
      if (a.bias) raw_bias = load_raw<1>(a.bias, a.bias_dtype, at.bias);
    }
    if (has) {
      raw_x = static_cast<const T*>(a.x)[row * small(a.x_b) + at.x];
      if (a.z) raw_z = static_cast<const T*>(a.z)[row * small(a.z_b) + at.z];
      if (a.D) raw_D = load_raw<1>(a.D, a.D_dtype, at.D);
    }
    ptx::let_next_kernel_begin();

    float delta = widen(raw_dt);
    if (a.bias) delta += widen(raw_bias, a.bias_dtype).v[0];
    if (a.softplus) delta = softplus(delta);
    const Decay keep = decay(delta, widen(raw_A, a.A_dtype).v[0] * kLog2E);
    const float x = widen(raw_x), input = delta * x;
    const Floats<V> B = widen(raw_B), C = widen(raw_C);
    float y[K];
#pragma unroll
    for (int k = 0; k < K; k++) {
      const float from = __shfl_sync(kFullWarp, input, holder(k, lanes));
      y[k] = 0;
      if (!at.active) continue;  // not even a NaN, of an infinite step, from lanes without states
      Floats<V> state = widen(s[k]);
#pragma unroll
      for (int j = 0; j < V; j++) {
        state.v[j] = keep.apply(state.v[j], from * B.v[j]);
        y[k] = fmaf(state.v[j], C.v[j], y[k]);
      }
      if (good && k < channels) store<V>(states + k * small(a.state_p), state);
    }
    float sum = sum_over_lanes<K>(y, lanes);
    if (!has || at.lane >= K) continue;
    if (a.D) sum = fmaf(widen(raw_D, a.D_dtype).v[0], x, sum);
    if (a.z) sum *= silu(widen(raw_z));
    static_cast<T*>(a.out)[row * small(a.out_b) + at.out] = narrow<T>(slot >= 0 ? sum : 0.0f);
  }
}

// What the narrowest of the two may be computed to.
template <class S, class T>
using Wider = std::conditional_t<(sizeof(S) > sizeof(T)), S, T>;

// Blocks a multiprocessor has room for, by the states of a thread.
constexpr int row_blocks(int states) { return states <= 8 ? 7 : states <= 16 ? 6 : 5; }

// Rows from first_row + R blockIdx.y on. At least R lanes a channel.
template <class S, int V, class T, int R>
__global__ void __launch_bounds__(128, row_blocks(R* V))
    selective_state_update_rows(const __grid_constant__ StateUpdateArgs a) {
  static_assert(R == 1 || R == 2 || R == 4);
  const StatePlace at(a, V, 1);
  const int lanes = 1 << a.lanes_log, row0 = a.first_row + static_cast<int>(blockIdx.y) * R, own = row0 + at.lane % R;
  ptx::wait_for_earlier_kernels_after(at.state | at.A | at.B | at.C | at.x | at.dt | at.z | at.out | at.D | at.bias);
  const int own_slot = at.in && own < small(a.b) ? slot_of(a, own) : -1;
  S* states[R];
  bool good[R];
  Packed<S, V> s[R] = {};
#pragma unroll
  for (int r = 0; r < R; r++) {
    int slot = own_slot;
    if constexpr (R > 1) slot = __shfl_sync(kFullWarp, own_slot, holder(r, lanes));
    good[r] = at.active && slot >= 0;
    states[r] = static_cast<S*>(a.state) + (slot * a.state_b + at.state);
    if (good[r]) s[r] = load_packed<V>(states[r]);
  }
  T raw_dt{}, raw_x{}, raw_z{};
  if (own_slot >= 0) {
    raw_dt = static_cast<const T*>(a.dt)[own * small(a.dt_b) + at.dt];
    raw_x = static_cast<const T*>(a.x)[own * small(a.x_b) + at.x];
    if (a.z) raw_z = static_cast<const T*>(a.z)[own * small(a.z_b) + at.z];
  }
  Raw<V> raw_A{};
  Raw<1> raw_bias{}, raw_D{};
  if (at.active && a.A_n) raw_A = load_raw<V>(a.A, a.A_dtype, at.A);
  if (at.active && !a.A_n) raw_A.w[0] = load_raw<1>(a.A, a.A_dtype, at.A).w[0];
  if (at.in && a.bias) raw_bias = load_raw<1>(a.bias, a.bias_dtype, at.bias);
  if (at.in && a.D) raw_D = load_raw<1>(a.D, a.D_dtype, at.D);
  Packed<T, V> raw_B[R] = {}, raw_C[R] = {};
#pragma unroll
  for (int r = 0; r < R; r++) {
    if (!good[r]) continue;
    raw_B[r] = load_packed<V>(static_cast<const T*>(a.B) + ((row0 + r) * small(a.B_b) + at.B));
    raw_C[r] = load_packed<V>(static_cast<const T*>(a.C) + ((row0 + r) * small(a.C_b) + at.C));
  }
  ptx::let_next_kernel_begin();

  using W = Wider<S, T>;
  float delta = widen(raw_dt);
  if (a.bias) delta += widen(raw_bias, a.bias_dtype).v[0];
  if (a.softplus) delta = fast_softplus<W>(delta);
  const float x = widen(raw_x), input = delta * x;
  const Floats<V> A = widen(raw_A, a.A_dtype);
  float y[R];
#pragma unroll
  for (int r = 0; r < R; r++) {
    float step = delta, from = input;
    if constexpr (R > 1) {
      step = __shfl_sync(kFullWarp, delta, holder(r, lanes));
      from = __shfl_sync(kFullWarp, input, holder(r, lanes));
    }
    y[r] = 0;
    // Sooner, the next kernel's blocks would take places beside this one's, more on some multiprocessors than on
    // others.
    if (r == (R > 1)) ptx::let_next_kernel_begin();
    if (!at.active) continue;  // not even a NaN, of an infinite step, from lanes without states
    const Floats<V> B = widen(raw_B[r]), C = widen(raw_C[r]);
    Floats<V> state = widen(s[r]);
    if (a.A_n) {
#pragma unroll
      for (int j = 0; j < V; j++) state.v[j] = fast_decay<W>(step, A.v[j] * kLog2E).apply(state.v[j], from * B.v[j]);
    } else {
      const auto keep = fast_decay<W>(step, A.v[0] * kLog2E);
#pragma unroll
      for (int j = 0; j < V; j++) state.v[j] = keep.apply(state.v[j], from * B.v[j]);
    }
#pragma unroll
    for (int j = 0; j < V; j++) y[r] = fmaf(state.v[j], C.v[j], y[r]);
    if (good[r]) store<V>(states[r], state);
  }
  float sum = sum_over_lanes<R>(y, lanes);
  if (!at.in || own >= small(a.b) || at.lane >= R) return;
  if (a.D) sum = fmaf(widen(raw_D, a.D_dtype).v[0], x, sum);
  if (a.z) sum *= fast_silu(widen(raw_z));
  static_cast<T*>(a.out)[own * small(a.out_b) + at.out] = narrow<T>(own_slot >= 0 ? sum : 0.0f);
}

}  // namespace seqmix::cuda
