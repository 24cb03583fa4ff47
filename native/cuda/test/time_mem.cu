// Times the convolution, the one-token update and the norms by events and holds them against a copy measured in the
// same run: all of them are bound by bytes. Each time is the median of several, each of a CUDA graph that sets the op
// off several times. usage: seqmix_cuda_time_mem
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

#include "core/layout.h"
#include "core/problem/causal_conv1d.h"
#include "core/problem/rows.h"
#include "core/problem/selective_state_update.h"
#include "cuda/kernels/any/vector.cuh"
#include "cuda/launch/launch.h"

using namespace seqmix;
using namespace seqmix::cuda;

namespace {

constexpr int kTimings = 11;

void ok(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(error));
  std::exit(1);
}

__global__ void __launch_bounds__(256) uniform_kernel(void* to, DType dtype, int64_t count, float from, float range) {
  for (int64_t i = blockIdx.x * int64_t{256} + threadIdx.x; i < count; i += gridDim.x * int64_t{256}) {
    uint32_t h = static_cast<uint32_t>(i) * 2654435761u;
    h = (h ^ h >> 15) * 2246822519u;
    h ^= h >> 13;
    store_as(to, dtype, i, from + range * static_cast<float>(h >> 8) * 0x1p-24f);
  }
}

struct Timer {
  Context context{};
  cudaEvent_t begin = nullptr, end = nullptr;
  double copy = 0;  // GB/s
  std::vector<void*> blocks;

  Timer() {
    ok(cudaStreamCreateWithFlags(&context.stream, cudaStreamNonBlocking));
    ok(cudaDeviceGetAttribute(&context.multiprocessors, cudaDevAttrMultiProcessorCount, 0));
    int major = 0;
    ok(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
    context.overlap = major == 9;
    ok(cudaEventCreate(&begin));
    ok(cudaEventCreate(&end));
    ok(cudaMalloc(&context.index_error, sizeof(uint64_t)));
    ok(cudaMemsetAsync(context.index_error, 0, sizeof(uint64_t), context.stream));
  }

  View described(View v) {
    ok(cudaMalloc(&v.data, static_cast<size_t>(std::max<int64_t>(v.size(), 1) * size_of(v.dtype))));
    blocks.push_back(v.data);
    v.present = true;
    return v;
  }
  View uniform(View v, float from, float to) {
    v = described(v);
    uniform_kernel<<<4096, 256, 0, context.stream>>>(v.data, v.dtype, v.size(), from, to - from);
    ok(cudaGetLastError());
    return v;
  }
  void release() {
    ok(cudaStreamSynchronize(context.stream));
    for (void* const block : blocks) ok(cudaFree(block));
    blocks.clear();
  }

  // Seconds one of the calls takes.
  template <class F>
  double seconds(int calls, F set_off) {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    set_off();  // the code is loaded outside the capture
    ok(cudaGetLastError());
    ok(cudaStreamSynchronize(context.stream));
    ok(cudaStreamBeginCapture(context.stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < calls; i++) set_off();
    ok(cudaStreamEndCapture(context.stream, &graph));
    ok(cudaGraphInstantiate(&exec, graph, 0));
    std::vector<float> times;
    for (int i = 0; i < kTimings + 2; i++) {
      ok(cudaEventRecord(begin, context.stream));
      ok(cudaGraphLaunch(exec, context.stream));
      ok(cudaEventRecord(end, context.stream));
      ok(cudaEventSynchronize(end));
      float ms = 0;
      ok(cudaEventElapsedTime(&ms, begin, end));
      if (i >= 2) times.push_back(ms);
    }
    ok(cudaGraphExecDestroy(exec));
    ok(cudaGraphDestroy(graph));
    std::nth_element(times.begin(), times.begin() + kTimings / 2, times.end());
    return static_cast<double>(times[kTimings / 2]) * 1e-3 / calls;
  }

  void report(const char* what, double bytes, double time) const {
    std::printf("%-66s %10.2f us %8.0f GB/s %5.1f%% of the copy\n", what, time * 1e6, bytes / time * 1e-9,
                bytes / time * 1e-7 / copy);
  }
};

View shaped(std::initializer_list<int64_t> shape, DType dtype = DType::float32) {
  return dense(dtype, shape.begin(), static_cast<int>(shape.size()));
}

int calls_for(double bytes) { return bytes > 3e8 ? 3 : bytes > 3e7 ? 20 : 100; }

void convolution(Timer& t, int64_t b, int64_t d, int64_t L, bool channels, bool unaligned, DType dtype) {
  CausalConv1d p;
  const int64_t shift = unaligned ? 1 : 0;
  p.x = t.uniform(shaped({b, d * L + shift}, dtype), -1, 1);
  p.x.data = p.x.as<char>() + shift * size_of(dtype);
  p.x.rank = 3;
  const int64_t shape[] = {b, d, L}, stride[] = {d * L + shift, channels ? 1 : L, channels ? d : 1};
  std::copy_n(shape, 3, p.x.shape);
  std::copy_n(stride, 3, p.x.stride);
  p.weight = t.uniform(shaped({d, 4}), -1, 1);
  p.bias = t.uniform(shaped({d}), -1, 1);
  p.activation = Activation::silu;
  p.validate();
  p.out = t.described(p.out);
  const double bytes = 2.0 * static_cast<double>(b * d * L * size_of(dtype));
  const double time = t.seconds(calls_for(bytes), [&] { launch_causal_conv1d(t.context, p); });
  char what[96];
  std::snprintf(what, sizeof what, "causalConv1d %s %s%s %ldx%ldx%ld", name_of(dtype), channels ? "bld" : "bdl",
                unaligned ? " unaligned" : "", static_cast<long>(b), static_cast<long>(d), static_cast<long>(L));
  t.report(what, bytes, time);
  t.release();
}

// p = 0: Mamba's form. The weights are float32.
void update(Timer& t, int64_t b, int64_t h, int64_t p, int64_t n, bool per_head, DType x, DType state) {
  const auto rows = [&](DType dtype, std::initializer_list<int64_t> first, std::initializer_list<int64_t> last) {
    std::vector<int64_t> shape = first;
    shape.push_back(h);
    if (p) shape.push_back(p);
    shape.insert(shape.end(), last);
    return dense(dtype, shape.data(), static_cast<int>(shape.size()));
  };
  const auto weights = [&](std::initializer_list<int64_t> last) {
    return per_head ? shaped({h}) : rows(DType::float32, {}, last);
  };
  SelectiveStateUpdate q;
  q.state = t.uniform(rows(state, {b}, {n}), -0.1f, 0.1f);
  q.x = t.uniform(rows(x, {b}, {}), -1, 1);
  q.dt = t.uniform(per_head ? shaped({b, h}, x) : rows(x, {b}, {}), -6, -2);
  q.z = t.uniform(rows(x, {b}, {}), -1, 1);
  q.A = t.uniform(weights({n}), -16, -1);
  q.B = t.uniform(shaped({b, n}, x), -1, 1);
  q.C = t.uniform(shaped({b, n}, x), -1, 1);
  q.D = t.uniform(weights({}), -1, 1);
  q.dt_bias = t.uniform(weights({}), -0.5f, 0.5f);
  q.dt_softplus = true;
  const int64_t of_x = 3 * q.x.size() + q.dt.size() + q.B.size() + q.C.size();
  const double bytes = static_cast<double>(2 * q.state.size() * size_of(state) + 4 * q.A.size() + of_x * size_of(x));
  q.validate();
  q.out = t.described(q.out);
  const double time = t.seconds(calls_for(bytes), [&] { launch_selective_state_update(t.context, q); });
  char what[112];
  std::snprintf(what, sizeof what, "update b %ld h %ld p %ld n %ld%s, %s, state %s%s", static_cast<long>(b),
                static_cast<long>(h), static_cast<long>(p), static_cast<long>(n), per_head ? " per head" : "",
                name_of(x), name_of(state), t.context.kernel + sizeof("cuda.any.selective_state_update") - 1);
  t.report(what, bytes, time);
  t.release();
}

// Of rows that lie within wider ones, as a projection's parts do: z with 1.25 times the stride.
void norm(Timer& t, int64_t rows, int64_t n, bool gated, int64_t groups, DType dtype) {
  RmsNorm p;
  p.x = t.uniform(shaped({rows, n}, dtype), -1, 1);
  if (gated) {
    p.z = t.uniform(shaped({rows, n + n / 4}, dtype), -4, 4);
    p.z.shape[1] = n;
  }
  p.weight = t.uniform(shaped({n}), 0.5f, 1.5f);
  p.group = n / groups;
  p.validate();
  p.out = t.described(p.out);
  const double bytes = (gated ? 3.0 : 2.0) * static_cast<double>(rows * n * size_of(dtype));
  const double time = t.seconds(calls_for(bytes), [&] { launch_rms_norm(t.context, p); });
  char what[96];
  std::snprintf(what, sizeof what, "rmsNorm %s%s %ldx%ld in %ld", name_of(dtype), gated ? " gated" : "",
                static_cast<long>(rows), static_cast<long>(n), static_cast<long>(groups));
  t.report(what, bytes, time);
  t.release();
}

}  // namespace

int main() {
  Timer t;
  {
    const View from = t.uniform(shaped({int64_t{1} << 28}), -1, 1), to = t.described(shaped({int64_t{1} << 28}));
    const double time = t.seconds(3, [&] {
      ok(cudaMemcpyAsync(to.data, from.data, size_t{1} << 30, cudaMemcpyDeviceToDevice, t.context.stream));
    });
    t.copy = 2.0 * (1 << 30) / time * 1e-9;
    t.report("copy", 2.0 * (1 << 30), time);
    t.release();
  }
  for (const DType dtype : {DType::float32, DType::bfloat16})
    for (const bool unaligned : {false, true})
      for (const bool channels : {false, true}) {
        convolution(t, 8, 5120, 2048, channels, unaligned, dtype);
        convolution(t, 1, 5120, 65536, channels, unaligned, dtype);
        convolution(t, 1, 1536, 2048, channels, unaligned, dtype);
      }
  constexpr DType f32 = DType::float32, bf16 = DType::bfloat16;
  for (const auto& [x, state] : {std::pair{f32, f32}, std::pair{bf16, f32}, std::pair{bf16, bf16}}) {
    for (const int64_t d : {1536, 5120})
      for (const int64_t b : {1, 16, 128, 1024}) update(t, b, d, 0, 16, false, x, state);
    for (const bool per_head : {false, true})
      for (const int64_t b : {1, 16, 128}) update(t, b, 80, 64, 128, per_head, x, state);
    for (const int64_t b : {1, 16, 128}) update(t, b, 24, 64, 128, true, x, state);
    update(t, 64, 80, 64, 256, true, x, state);
  }
  for (const DType dtype : {f32, bf16})
    for (const bool gated : {false, true}) {
      norm(t, 1, 1536, gated, 1, dtype);
      norm(t, 16384, 1536, gated, 1, dtype);
      norm(t, 16384, 5120, gated, 1, dtype);
      norm(t, 16384, 5120, gated, 8, dtype);
      norm(t, 4096, 16384, gated, 1, dtype);
    }
  return 0;
}
