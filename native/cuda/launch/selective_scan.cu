// selective_scan: what most models ask for goes through the pipeline, the rest through the general form.
#include "cuda/launch/selective_scan.h"

#include <numeric>

#include "core/problem/selective_scan.h"
#include "cuda/kernels/any/selective_scan.cuh"

namespace seqmix::cuda {

namespace {

using ScanKernel = void (*)(ScanArgs);

struct Choice {
  int lanes, states;  // a channel
  ScanKernel kernel[kFloatDtypes];
  int64_t shared, shared_constant;  // bytes
};

template <int S, int R>
constexpr Choice choice() {
  static_assert(scan_shared_bytes<S, R>(true) <= 48 * 1024 && scan_shared_bytes<S, R>(false) <= 48 * 1024);
  return {S,
          S * R,
          {selective_scan<float, S, R>, selective_scan<Half, S, R>, selective_scan<Brain, S, R>},
          scan_shared_bytes<S, R>(false),
          scan_shared_bytes<S, R>(true)};
}

// By the states they hold, then by lanes.
constexpr Choice kChoices[] = {choice<1, 16>(), choice<4, 4>(), choice<8, 4>(), choice<8, 8>(), choice<8, 16>()};
constexpr int64_t kMostStates = 128;
// Warps a multiprocessor should have before more lanes go to a channel: two for each of its four schedulers.
constexpr int64_t kWarps = 8;

// Among the kernels that hold n states in as little room as can be, the one with the fewest lanes a channel that fills
// the chip, or the one with the most.
const Choice& choose(const Context& c, int64_t channels, int64_t n) {
  const Choice* best = nullptr;
  for (const Choice& k : kChoices) {
    if (k.states < n) continue;
    if (best && k.states > best->states) break;
    best = &k;
    if (channels * k.lanes >= c.multiprocessors * kWarps * 32) break;
  }
  return *best;
}

ScanTile tile_of(const View& v) {
  if (!v.present) return {};
  return {v.data, v.stride[0], v.stride[1], v.stride[2], v.stride[2] == 1 && v.stride[1] != 1, false};
}

ScanMatrix matrix_of(const View& v, int64_t d) {
  ScanMatrix m{};
  m.data = v.data;
  m.dtype = v.dtype;
  m.constant = v.rank == 2;
  m.group_size = d;
  if (m.constant) {
    m.d = v.stride[0];
    m.n = v.stride[1];
    return m;
  }
  m.b = v.stride[0];
  m.g = v.stride[1];
  m.n = v.stride[2];
  m.t = v.stride[3];
  m.by_token = m.t == 1 && m.n != 1;
  m.group_size = d / v.shape[1];
  return m;
}

ScanArgs args_of(const SelectiveScan& p) {
  ScanArgs a{};
  a.batch = p.u.shape[0];
  a.d = p.u.shape[1];
  a.L = p.u.shape[2];
  a.n = p.A.shape[1];
  a.u = tile_of(p.u);
  a.delta = tile_of(p.delta);
  a.z = tile_of(p.z);
  a.out = tile_of(p.out);
  a.B = matrix_of(p.B, a.d);
  a.C = matrix_of(p.C, a.d);
  a.unit = std::gcd(a.B.group_size, a.C.group_size);
  a.A = p.A.data;
  a.A_dtype = p.A.dtype;
  a.A_d = p.A.stride[0];
  a.A_n = p.A.stride[1];
  a.D = weights_of(p.D);
  a.bias = weights_of(p.delta_bias);
  if (p.initial_state.present) a.initial = p.initial_state.data;
  a.initial_dtype = p.initial_state.dtype;
  a.initial_b = p.initial_state.stride[0];
  a.initial_d = p.initial_state.stride[1];
  a.initial_n = p.initial_state.stride[2];
  if (p.seq_idx.present) a.seq = p.seq_idx.as<const int32_t>();
  a.seq_b = p.seq_idx.stride[0];
  a.seq_t = p.seq_idx.stride[1];
  if (p.last_state.present) a.last = p.last_state.as<float>();
  a.last_b = p.last_state.stride[0];
  a.last_d = p.last_state.stride[1];
  a.last_n = p.last_state.stride[2];
  a.softplus = p.delta_softplus;
  a.finishes = true;
  return a;
}

void launch_plain(Context& c, ScanArgs a, const SelectiveScan& p) {
  const Choice& k = choose(c, a.batch * a.d, std::min(a.n, kMostStates));
  const int64_t channels = kScanThreads / k.lanes;
  const int64_t tasks = a.batch * (a.d / a.unit) * ceil_div(a.unit, channels);
  const unsigned grid = static_cast<unsigned>(std::min<int64_t>(tasks, INT32_MAX));
  const int64_t shared = a.B.constant || a.C.constant ? k.shared_constant : k.shared;
  if (a.n > kMostStates) a.sums = c.scratch<float>(p.out.size());  // out is dense
  for (a.state = 0; a.state == 0 || a.state < a.n; a.state += kMostStates) {
    a.adds = a.state > 0;
    a.finishes = a.state + kMostStates >= a.n;
    k.kernel[dtype_index(p.u.dtype)]<<<grid, kScanThreads, static_cast<size_t>(shared), c.stream>>>(a);
  }
}

}  // namespace

void launch_selective_scan(Context& c, const Problem& problem) {
  const auto& p = static_cast<const SelectiveScan&>(problem);
  c.kernel = "cuda.any.selective_scan.plain";
  if (p.u.shape[0] == 0 || p.u.shape[1] == 0) return;  // with no tokens there is still the last state
  const ScanArgs a = args_of(p);
  const bool varies = !a.B.constant && !a.C.constant;
  if (varies && a.n <= kPipelineStates && launch_scan_pipeline(c, a, p.u.dtype)) return;
  launch_plain(c, a, p);
}

}  // namespace seqmix::cuda
