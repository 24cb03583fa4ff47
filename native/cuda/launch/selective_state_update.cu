#include "core/problem/selective_state_update.h"

#include "cuda/kernels/any/selective_state_update_wide.cuh"
#include "cuda/launch/launch.h"

namespace seqmix::cuda {

namespace {

constexpr int kThreads = 128;

const void* data_of(const View& v) { return v.present ? v.data : nullptr; }

StateUpdateArgs args_of(const SelectiveStateUpdate& p) {
  StateUpdateArgs a{};
  a.state = p.state.data;
  a.x = p.x.data;
  a.dt = p.dt.data;
  a.z = data_of(p.z);
  a.A = p.A.data;
  a.B = p.B.data;
  a.C = p.C.data;
  a.D = data_of(p.D);
  a.bias = data_of(p.dt_bias);
  a.indices = p.state_indices.present ? p.state_indices.as<const int32_t>() : nullptr;
  a.out = p.out.data;
  a.state_dtype = p.state.dtype;
  a.dtype = p.x.dtype;
  a.A_dtype = p.A.dtype;
  a.D_dtype = p.D.dtype;
  a.bias_dtype = p.dt_bias.dtype;
  a.softplus = p.dt_softplus;
  a.b = p.x.shape[0];
  a.slots = p.state.shape[0];
  a.h = p.state.shape[1];
  a.p = p.state.shape[2];
  a.n = p.state.shape[3];
  a.groups_B = p.B.shape[1];
  a.groups_C = p.C.shape[1];
  a.state_b = p.state.stride[0];
  a.state_h = p.state.stride[1];
  a.state_p = p.state.stride[2];
  a.state_n = p.state.stride[3];
  a.x_b = p.x.stride[0];
  a.x_h = p.x.stride[1];
  a.x_p = p.x.stride[2];
  a.dt_b = p.dt.stride[0];
  a.dt_h = p.dt.stride[1];
  a.dt_p = p.dt.stride[2];
  a.z_b = p.z.stride[0];
  a.z_h = p.z.stride[1];
  a.z_p = p.z.stride[2];
  a.A_h = p.A.stride[0];
  a.A_p = p.A.stride[1];
  a.A_n = p.A.stride[2];
  a.B_b = p.B.stride[0];
  a.B_g = p.B.stride[1];
  a.B_n = p.B.stride[2];
  a.C_b = p.C.stride[0];
  a.C_g = p.C.stride[1];
  a.C_n = p.C.stride[2];
  a.D_h = p.D.stride[0];
  a.D_p = p.D.stride[1];
  a.bias_h = p.dt_bias.stride[0];
  a.bias_p = p.dt_bias.stride[1];
  a.indices_b = p.state_indices.stride[0];
  a.out_b = p.out.stride[0];
  a.out_h = p.out.stride[1];
  a.out_p = p.out.stride[2];
  return a;
}

// V elements of the last dimension are an aligned access wherever a multiple of V begins.
bool vectors(const View& v, int64_t V) {
  const int last = v.rank - 1;
  const int64_t size = size_of(v.dtype), access = std::min<int64_t>(16, V * size);
  if (v.stride[last] != 1 || reinterpret_cast<uintptr_t>(v.data) % static_cast<uintptr_t>(access) != 0) return false;
  for (int i = 0; i < last; i++)
    if (v.shape[i] > 1 && v.stride[i] * size % access != 0) return false;
  return true;
}

// From dimension `first` on, every element is within 32 bits of the first.
bool in_32_bits(const View& v, int first = 0) {
  int64_t reach = 0;
  for (int i = first; v.present && i < v.rank; i++) {
    if (v.stride[i] < 0 || v.stride[i] > INT32_MAX || v.shape[i] > INT32_MAX) return false;
    reach += std::max<int64_t>(v.shape[i] - 1, 0) * v.stride[i];
    if (reach > INT32_MAX) return false;
  }
  return true;
}

// By the states' dtype (float32 in vectors of four and of eight, then the others) and x's. A cache of the other 16-bit
// dtype than what goes through the model is rare: the general kernel does that.
using Kernel = void (*)(StateUpdateArgs);
struct WideKernels {
  Kernel heads, rows[3];  // for one, two and four rows a thread
};
template <class S, int V, class T>
constexpr WideKernels wide_kernels() {
  WideKernels k{selective_state_update_heads<S, V, T>, {selective_state_update_rows<S, V, T, 1>, nullptr, nullptr}};
  if constexpr (V * sizeof(S) == 16) k.rows[1] = selective_state_update_rows<S, V, T, 2>;
  if constexpr (V * sizeof(S) == 16 && V * sizeof(T) <= 16) k.rows[2] = selective_state_update_rows<S, V, T, 4>;
  return k;
}
constexpr WideKernels kWideKernels[][kFloatDtypes] = {
    {wide_kernels<float, 4, float>(), wide_kernels<float, 4, Half>(), wide_kernels<float, 4, Brain>()},
    {wide_kernels<float, 8, float>(), wide_kernels<float, 8, Half>(), wide_kernels<float, 8, Brain>()},
    {wide_kernels<Half, 8, float>(), wide_kernels<Half, 8, Half>(), {}},
    {wide_kernels<Brain, 8, float>(), {}, wide_kernels<Brain, 8, Brain>()},
};

// States a lane takes: 16 bytes of them, or twice that where 32 lanes would not be enough.
int64_t vector_of(const SelectiveStateUpdate& p) {
  return p.state.dtype == DType::float32 && p.state.shape[3] <= 128 ? 4 : 8;
}
const WideKernels& wide_kernels_of(const SelectiveStateUpdate& p) {
  const int state = dtype_index(p.state.dtype);
  return kWideKernels[vector_of(p) == 4 ? 0 : state + 1][dtype_index(p.x.dtype)];
}

bool goes_wide(const SelectiveStateUpdate& p) {
  const int64_t V = vector_of(p), channels = p.state.shape[1] * p.state.shape[2], n = p.state.shape[3];
  if (!wide_kernels_of(p).heads || n == 0 || n % V != 0 || n > 32 * V) return false;
  if (!vectors(p.state, V) || !vectors(p.B, V) || !vectors(p.C, V)) return false;
  if (p.A.stride[2] != 0 && !vectors(p.A, V)) return false;
  for (const View* const v : {&p.x, &p.dt, &p.z, &p.B, &p.C, &p.out, &p.A, &p.D, &p.dt_bias})
    if (!in_32_bits(*v)) return false;
  return in_32_bits(p.state, 1) && channels <= INT32_MAX / 32 && p.state.shape[0] <= INT32_MAX &&
         p.x.shape[0] <= INT32_MAX / 2;
}

constexpr int64_t kMostSets = 65535;  // of a grid

void launch_wide(Context& c, StateUpdateArgs a, const SelectiveStateUpdate& p) {
  const WideKernels& kernels = wide_kernels_of(p);
  const int64_t V = vector_of(p);
  while (V << a.lanes_log < a.n) a.lanes_log++;
  const int lanes = 1 << a.lanes_log;
  const bool one_a_head = a.A_n == 0 && a.A_p == 0 && a.dt_p == 0 && (!a.bias || a.bias_p == 0);
  const bool by_heads = one_a_head && a.p > 1 && lanes >= kHeadChannels;
  const int64_t units = by_heads ? ceil_div(a.p, kHeadChannels) : a.p;  // of a head
  a.units = static_cast<uint32_t>(a.h * units);
  a.by_units = Divisor(static_cast<uint32_t>(units));
  a.by_heads_B = Divisor(static_cast<uint32_t>(a.h / a.groups_B));
  a.by_heads_C = Divisor(static_cast<uint32_t>(a.h / a.groups_C));
  const int64_t threads = a.units * int64_t{lanes}, blocks = ceil_div(threads, kThreads);
  const auto grid = [&](int64_t sets) {
    return dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(std::min(sets, kMostSets)));
  };
  if (by_heads) {
    c.kernel = "cuda.any.selective_state_update.heads";
    return set_off(c, kernels.heads, grid(a.b), kThreads, a);
  }
  c.kernel = "cuda.any.selective_state_update.rows";
  int rows = 2;  // its logarithm: the most rows a thread that leave threads enough for the chip
  while (rows > 0 && (!kernels.rows[rows] || rows > a.lanes_log || a.b < (1 << rows) ||
                      threads * ceil_div(a.b, 1 << rows) < c.multiprocessors * int64_t{kThreads}))
    rows--;
  const int64_t step = kMostSets << rows;
  for (int64_t first = 0; first < a.b; first += step) {
    a.first_row = static_cast<int>(first);
    set_off(c, kernels.rows[rows], grid(ceil_div(a.b - first, 1 << rows)), kThreads, a);
  }
}

}  // namespace

void launch_selective_state_update(Context& c, const Problem& problem) {
  const auto& p = static_cast<const SelectiveStateUpdate&>(problem);
  c.kernel = "cuda.any.selective_state_update";
  StateUpdateArgs a = args_of(p);
  a.index_error = c.index_error;
  a.error = index_error(p);
  const int64_t channels = a.b * a.h * a.p;
  if (channels == 0) return;
  if (goes_wide(p)) return launch_wide(c, a, p);
  while (a.lanes_log < 5 && 1 << a.lanes_log < a.n) a.lanes_log++;
  set_off(c, selective_state_update, grid_for(c, ceil_div(channels << a.lanes_log, kThreads), 32), kThreads, a);
}

}  // namespace seqmix::cuda
