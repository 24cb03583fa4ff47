#include "core/problem/selective_state_update.h"

#include "cuda/kernels/any/selective_state_update.cuh"
#include "cuda/launch/launch.h"

namespace seqmix::cuda {

namespace {

constexpr int kThreads = 128;

// Four states of v at a time: its last dimension is dense (or one number repeated), and every row begins on 16 bytes.
bool by_four(const View& v) {
  const int last = v.rank - 1;
  if (v.stride[last] == 0) return true;
  if (v.stride[last] != 1 || !aligned16(v.data)) return false;
  for (int i = 0; i < last; i++)
    if (v.shape[i] > 1 && v.stride[i] % 4 != 0) return false;
  return true;
}

StateUpdateArgs args_of(const SelectiveStateUpdate& p) {
  StateUpdateArgs a{};
  a.state = p.state.as<float>();
  a.slots = p.state.shape[0];
  a.h = p.state.shape[1];
  a.p = p.state.shape[2];
  a.n = p.state.shape[3];
  a.b = p.x.shape[0];
  a.groups_B = p.B.shape[1];
  a.groups_C = p.C.shape[1];
  a.state_b = p.state.stride[0];
  a.state_h = p.state.stride[1];
  a.state_p = p.state.stride[2];
  a.state_n = p.state.stride[3];
  a.x = p.x.as<const float>();
  a.x_b = p.x.stride[0];
  a.x_h = p.x.stride[1];
  a.x_p = p.x.stride[2];
  a.dt = p.dt.as<const float>();
  a.dt_b = p.dt.stride[0];
  a.dt_h = p.dt.stride[1];
  a.dt_p = p.dt.stride[2];
  if (p.z.present) a.z = p.z.as<const float>();
  a.z_b = p.z.stride[0];
  a.z_h = p.z.stride[1];
  a.z_p = p.z.stride[2];
  a.A = p.A.as<const float>();
  a.A_h = p.A.stride[0];
  a.A_p = p.A.stride[1];
  a.A_n = p.A.stride[2];
  a.B = p.B.as<const float>();
  a.B_b = p.B.stride[0];
  a.B_g = p.B.stride[1];
  a.B_n = p.B.stride[2];
  a.C = p.C.as<const float>();
  a.C_b = p.C.stride[0];
  a.C_g = p.C.stride[1];
  a.C_n = p.C.stride[2];
  if (p.D.present) a.D = p.D.as<const float>();
  a.D_h = p.D.stride[0];
  a.D_p = p.D.stride[1];
  if (p.dt_bias.present) a.bias = p.dt_bias.as<const float>();
  a.bias_h = p.dt_bias.stride[0];
  a.bias_p = p.dt_bias.stride[1];
  if (p.state_indices.present) a.indices = p.state_indices.as<const int32_t>();
  a.indices_b = p.state_indices.stride[0];
  a.out = p.out.as<float>();
  a.out_b = p.out.stride[0];
  a.out_h = p.out.stride[1];
  a.out_p = p.out.stride[2];
  a.softplus = p.dt_softplus;
  a.heads_B = static_cast<int>(a.h / std::max<int64_t>(a.groups_B, 1));
  a.heads_C = static_cast<int>(a.h / std::max<int64_t>(a.groups_C, 1));
  return a;
}

using Kernel = void (*)(StateUpdateArgs);

// For states of at most 8, 16, 32, 64, 128 and 256, by rows a thread: 1, 2, 4.
struct RowsKernels {
  int lanes;
  Kernel by_rows[3];
};
constexpr RowsKernels rows_kernels[] = {
    {2, {selective_state_update_rows<2, 1, 1>, selective_state_update_rows<2, 1, 2>, nullptr}},
    {4,
     {selective_state_update_rows<4, 1, 1>, selective_state_update_rows<4, 1, 2>,
      selective_state_update_rows<4, 1, 4>}},
    {8,
     {selective_state_update_rows<8, 1, 1>, selective_state_update_rows<8, 1, 2>,
      selective_state_update_rows<8, 1, 4>}},
    {16,
     {selective_state_update_rows<16, 1, 1>, selective_state_update_rows<16, 1, 2>,
      selective_state_update_rows<16, 1, 4>}},
    {32,
     {selective_state_update_rows<32, 1, 1>, selective_state_update_rows<32, 1, 2>,
      selective_state_update_rows<32, 1, 4>}},
    {32, {selective_state_update_rows<32, 2, 1>, selective_state_update_rows<32, 2, 2>, nullptr}},
};

// The most rows a thread that leave threads enough for the chip.
void launch_rows(const Context& c, const StateUpdateArgs& a) {
  int i = 0;
  while (i < 5 && (8 << i) < a.n) i++;
  const RowsKernels& kernels = rows_kernels[i];
  const int64_t threads = a.h * a.p * kernels.lanes;
  int rows = 2;  // its logarithm
  while (rows > 0 && (!kernels.by_rows[rows] || a.b < (1 << rows) ||
                      threads * ceil_div(a.b, 1 << rows) < c.multiprocessors * int64_t{512}))
    rows--;
  const dim3 grid(static_cast<unsigned>(ceil_div(threads, kThreads)),
                  static_cast<unsigned>(std::min<int64_t>(ceil_div(a.b, 1 << rows), 65535)));
  kernels.by_rows[rows]<<<grid, kThreads, 0, c.stream>>>(a);
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
  a.lanes = 1;
  while (a.lanes < 32 && a.lanes * 4 < a.n) a.lanes *= 2;
  const bool quads =
      a.n % 4 == 0 && p.state.stride[3] == 1 && by_four(p.state) && by_four(p.A) && by_four(p.B) && by_four(p.C);
  const bool small = a.n > 4 && a.n <= 256 && a.h * a.p * 32 <= INT32_MAX && a.b <= INT32_MAX;
  if (quads && small && a.B_n == 1 && a.C_n == 1) return launch_rows(c, a);
  const auto kernel = quads ? selective_state_update<4> : selective_state_update<1>;
  kernel<<<grid_for(c, ceil_div(channels * a.lanes, kThreads), 32), kThreads, 0, c.stream>>>(a);
}

}  // namespace seqmix::cuda
