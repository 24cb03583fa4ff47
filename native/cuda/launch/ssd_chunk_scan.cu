// ssd_chunk_scan: 16-bit operands whose rows lie together go through tensor cores in chunks, all others token by token.
#include "core/problem/ssd_chunk_scan.h"

#include "cuda/kernels/any/ssd_chunk_scan.cuh"
#include "cuda/kernels/sm80/ssd_chunk_scan.cuh"
#include "cuda/kernels/sm90/ssd_chunk_scan.h"
#include "cuda/launch/launch.h"

namespace seqmix::cuda {

namespace {

using SsdKernel = void (*)(SsdArgs);
using SsdChunksKernel = void (*)(SsdArgs, int);

struct Plain {
  int64_t channels, states;  // of a block
  SsdKernel kernel;
  int64_t shared;  // bytes
};

template <int S, int R>
constexpr Plain plain() {
  using Shape = SsdShape<S, R>;
  static_assert(Shape::shared_bytes <= 48 * 1024);
  return {Shape::channels, Shape::states, ssd_plain<S, R>, Shape::shared_bytes};
}
constexpr Plain kPlain[] = {plain<4, 4>(), plain<8, 8>(), plain<8, 16>(), plain<8, 32>()};
constexpr int64_t kMostStates = 256;

struct Chunks {
  int states, heads, threads;
  SsdChunksKernel kernel[2], segment_states[2];  // float16, bfloat16
  int64_t shared[2];                             // bytes, with one stage and with two
};

template <int N, int HEADS, int WARPS>
constexpr Chunks chunks() {
  return {N,
          HEADS,
          HEADS * WARPS * 32,
          {ssd_chunks<Half, N, HEADS, WARPS, false>, ssd_chunks<Brain, N, HEADS, WARPS, false>},
          {ssd_chunks<Half, N, HEADS, WARPS, true>, ssd_chunks<Brain, N, HEADS, WARPS, true>},
          {ssd_shared_bytes<N, HEADS>(1), ssd_shared_bytes<N, HEADS>(2)}};
}
constexpr Chunks kChunks[] = {chunks<64, 2, 4>(), chunks<128, 2, 4>(), chunks<256, 1, 8>()};
constexpr int64_t kMostSegments = 64;
constexpr int64_t kLeastSize = 16;  // fewer tokens, channels or states leave most of the tensor cores' work empty

// Of (b, L, outer, inner).
SsdTensor tensor_of(const View& v) {
  if (!v.present) return {};
  const int64_t inner = v.shape[3] == 1 ? 1 : v.stride[3];
  bool pieces = inner == 1 && v.shape[3] % 8 == 0 && aligned16(v.data);
  for (int i = 0; i < 3; i++) pieces = pieces && (v.shape[i] == 1 || v.stride[i] % 8 == 0);
  return {v.data, v.stride[0], v.stride[1], v.stride[2], inner, pieces};
}

// Rows begin on 4 bytes, of 16-bit elements that come in pairs.
bool in_pairs(const View& v) {
  if (!v.present) return true;
  bool even = reinterpret_cast<uintptr_t>(v.data) % 4 == 0 && v.shape[3] % 2 == 0;
  for (int i = 0; i < 3; i++) even = even && (v.shape[i] == 1 || v.stride[i] % 2 == 0);
  return even;
}

SsdArgs args_of(const SsdChunkScan& p) {
  SsdArgs a{};
  a.x = tensor_of(p.x);
  a.B = tensor_of(p.B);
  a.C = tensor_of(p.C);
  a.z = tensor_of(p.z);
  a.out = tensor_of(p.out);
  a.dtype = p.x.dtype;
  a.dt = p.dt.data;
  a.dt_dtype = p.dt.dtype;
  a.dt_b = p.dt.stride[0];
  a.dt_t = p.dt.stride[1];
  a.dt_h = p.dt.stride[2];
  a.A = weights_of(p.A);
  a.D = weights_of(p.D);
  a.D_p = p.D.stride[1];
  a.dt_bias = weights_of(p.dt_bias);
  if (p.initial_states.present) a.initial = p.initial_states.data;
  a.initial_dtype = p.initial_states.dtype;
  a.initial_b = p.initial_states.stride[0];
  a.initial_h = p.initial_states.stride[1];
  a.initial_p = p.initial_states.stride[2];
  a.initial_n = p.initial_states.stride[3];
  if (p.seq_idx.present) a.seq = p.seq_idx.as<const int32_t>();
  a.seq_b = p.seq_idx.stride[0];
  a.seq_t = p.seq_idx.stride[1];
  if (p.final_states.present) a.final = p.final_states.as<float>();
  a.batch = p.x.shape[0];
  a.L = p.x.shape[1];
  a.heads = p.x.shape[2];
  a.P = p.x.shape[3];
  a.N = p.B.shape[3];
  a.per_group = a.heads / p.B.shape[2];
  a.dt_low = static_cast<float>(p.dt_min);
  a.dt_high = static_cast<float>(p.dt_max);
  a.softplus = p.dt_softplus;
  a.pairs = in_pairs(p.out) && in_pairs(p.z);
  return a;
}

void launch_plain(Context& c, SsdArgs a) {
  const Plain* k = kPlain;
  while (k->states < std::min(a.N, kMostStates)) k++;
  const int64_t tasks = a.batch * a.heads * ceil_div(a.P, k->channels);
  // What is done again is done seldom: there, a few blocks look through the flags.
  const int64_t most = a.flags_of_heads ? c.multiprocessors : INT32_MAX;
  const unsigned grid = static_cast<unsigned>(std::min(tasks, most));
  if (a.N > kMostStates) a.sums = c.scratch<float>(a.batch * a.L * a.heads * a.P);
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(grid);
  config.blockDim = dim3(kSsdThreads);
  config.dynamicSmemBytes = static_cast<size_t>(k->shared);
  config.stream = c.stream;
  config.attrs = &attribute;
  config.numAttrs = c.overlap ? 1 : 0;
  for (a.state = 0; a.state == 0 || a.state < a.N; a.state += kMostStates)
    (void)cudaLaunchKernelEx(&config, k->kernel, a);  // the caller asks cudaGetLastError
}

// Into how many segments each sequence is cut: chunks that a multiprocessor walks one after the other, those of the
// first pass at 0.4 of the price, and what the pass and each of its segments costs besides, fitted to an H200.
int64_t segments_of(const Context& c, int64_t blocks, int64_t chunks) {
  int64_t best = 1;
  double least = static_cast<double>(ceil_div(blocks, c.multiprocessors) * chunks);
  for (int64_t s = 2; s <= std::min(chunks, kMostSegments); s++) {
    const double per = static_cast<double>(ceil_div(chunks, s));
    const double cost = static_cast<double>(ceil_div(blocks * s, c.multiprocessors)) * per +
                        0.4 * static_cast<double>(ceil_div(blocks * (s - 1), c.multiprocessors)) * per + 2 +
                        0.3 * static_cast<double>(s);
    if (cost >= least) continue;
    least = cost;
    best = s;
  }
  return best;
}

bool is_hopper(const Context& c) {
  int major = 0;
  return cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, c.device) == cudaSuccess && major == 9;
}

// False where this shape, these strides or this GPU's shared memory are not for it: nothing was set off.
bool launch_chunks(Context& c, SsdArgs a) {
  // What a step takes away another must not give back: sums of steps end where no float has anything left.
  const bool steady = a.dt_low >= 0;
  if (a.dtype == DType::float32 || std::min({a.L, a.P, a.N}) < kLeastSize || a.N > kMostStates || !steady) return false;
  if (a.x.inner != 1 || a.B.inner != 1 || a.C.inner != 1 || (a.z.data && a.z.inner != 1)) return false;
  if (is_hopper(c) && launch_hopper_chunks(c, a)) {
    launch_plain(c, a);
    return true;
  }
  const Chunks* k = kChunks;
  while (k->states < a.N) k++;
  int room = 0;  // bytes of shared memory that a block can have
  if (cudaDeviceGetAttribute(&room, cudaDevAttrMaxSharedMemoryPerBlockOptin, c.device) != cudaSuccess) return false;
  const int stages = k->shared[1] <= room ? 2 : 1;
  const int shared = static_cast<int>(k->shared[stages - 1]);
  if (shared > room) return false;

  const int64_t tiles = ceil_div(a.P, kSsdChannels), sets = ceil_div(a.per_group, k->heads);
  const int64_t blocks = a.batch * (a.heads / a.per_group) * sets * tiles, chunks = ceil_div(a.L, kSsdChunk);
  a.segment_tokens = ceil_div(chunks, segments_of(c, blocks, chunks)) * kSsdChunk;
  a.segments = static_cast<int>(ceil_div(a.L, a.segment_tokens));
  if (blocks > INT32_MAX / a.segments || a.P > INT32_MAX / 2) return false;
  const int of = a.dtype == DType::float16 ? 0 : 1;
  for (const SsdChunksKernel kernel : {k->kernel[of], k->segment_states[of]})
    if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared) != cudaSuccess) return false;

  c.kernel = "cuda.sm80.ssd_chunk_scan.chunked";
  a.flags = c.scratch<int>(blocks * a.segments);
  a.flags_of_heads = tiles * a.segments;
  a.heads_of_set = k->heads;
  const auto set_off_chunks = [&](SsdChunksKernel kernel, const SsdArgs& args) {
    const unsigned grid = static_cast<unsigned>(blocks * args.segments);
    kernel<<<grid, static_cast<unsigned>(k->threads), static_cast<size_t>(shared), c.stream>>>(args, stages);
  };
  if (a.segments > 1) {
    const int64_t pairs = (a.segments - 1) * a.batch * a.heads;
    a.segment_states = c.scratch<float>(pairs * k->states * tiles * kSsdChannels);
    a.segment_decays = c.scratch<float>(pairs);
    SsdArgs first = a;
    first.segments--;
    first.L = first.segments * a.segment_tokens;
    set_off_chunks(k->segment_states[of], first);
  }
  set_off_chunks(k->kernel[of], a);
  launch_plain(c, a);
  return true;
}

}  // namespace

void launch_ssd_chunk_scan(Context& c, const Problem& problem) {
  const auto& p = static_cast<const SsdChunkScan&>(problem);
  c.kernel = "cuda.any.ssd_chunk_scan.plain";
  const SsdArgs a = args_of(p);
  if (a.batch == 0 || a.heads == 0 || a.P == 0) return;
  if (p.mode == SsdMode::recurrent || !launch_chunks(c, a)) launch_plain(c, a);
}

}  // namespace seqmix::cuda
