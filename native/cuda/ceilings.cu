// Each ceiling is the best of several timings by events on a stream of its own.
//
//   read   sums a block of memory ten times the largest L2, 16 bytes a load, four loads in flight a thread
//   copy   the driver's own copy between two such blocks
//   fma    eight independent chains of multiply-adds a thread, in registers
//   bf16   eight independent mma.sync m16n8k16 accumulators a warp, operands in registers: what kernels that use
//   mma.sync can
//          reach. (On Hopper wgmma reaches half as much again; that is not what is measured.)
//   ex2    eight independent chains of ex2.approx a thread
#include "cuda/ceilings.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <string>

#include "cuda/error.h"
#include "cuda/ptx/math.cuh"

namespace seqmix::cuda {

namespace {

constexpr int64_t kBlock = int64_t{1} << 30;
constexpr int kThreads = 256;
constexpr int kPerMultiprocessor = 8;      // blocks: 2048 threads
constexpr int kPerMultiprocessorBf16 = 4;  // which need more registers
constexpr int kChains = 8;
constexpr int kRounds = 4096;
constexpr int kTimings = 12;

// Results are stored where a condition holds that the compiler cannot see never does.
__global__ void __launch_bounds__(kThreads) read_kernel(const float4* from, int64_t count, float* sink) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  float sum = 0;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i + 3 * stride < count; i += 4 * stride) {
    float4 v[4];
#pragma unroll
    for (int j = 0; j < 4; j++) v[j] = __ldg(from + i + j * stride);
#pragma unroll
    for (int j = 0; j < 4; j++) sum += v[j].x + v[j].y + v[j].z + v[j].w;
  }
  if (sum == 12345.678f) *sink = sum;
}

__global__ void __launch_bounds__(kThreads) fma_kernel(float a, float b, float* sink) {
  float chain[kChains];
#pragma unroll
  for (int i = 0; i < kChains; i++) chain[i] = static_cast<float>(i + threadIdx.x);
  for (int r = 0; r < kRounds; r++) {
#pragma unroll
    for (int i = 0; i < kChains; i++) chain[i] = fmaf(chain[i], a, b);
  }
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kChains; i++) sum += chain[i];
  if (sum == 12345.678f) *sink = sum;
}

__global__ void __launch_bounds__(kThreads) ex2_kernel(float a, float* sink) {
  float chain[kChains];
#pragma unroll
  for (int i = 0; i < kChains; i++) chain[i] = a * static_cast<float>(i);
  for (int r = 0; r < kRounds; r++) {
#pragma unroll
    for (int i = 0; i < kChains; i++) chain[i] = ptx::ex2(chain[i]);
  }
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kChains; i++) sum += chain[i];
  if (sum == 12345.678f) *sink = sum;
}

// Operands are numbers near 1 that differ from lane to lane: products of zeros draw less power and run faster.
__global__ void __launch_bounds__(kThreads, kPerMultiprocessorBf16) bf16_kernel(uint32_t seed, float* sink) {
  float d[kChains][4];
#pragma unroll
  for (int i = 0; i < kChains; i++) d[i][0] = d[i][1] = d[i][2] = d[i][3] = static_cast<float>(i);
  uint32_t a[4], b[2];
#pragma unroll
  for (uint32_t i = 0; i < 4; i++) a[i] = 0x3f803f80u ^ ((seed * (threadIdx.x * 4 + i + 1)) & 0x807f807fu);
#pragma unroll
  for (uint32_t i = 0; i < 2; i++) b[i] = 0x3f803f80u ^ ((seed * (threadIdx.x * 2 + i + 7)) & 0x807f807fu);
  for (int r = 0; r < kRounds; r++) {
#pragma unroll
    for (int i = 0; i < kChains; i++) ptx::mma_bf16(d[i], a, b);
  }
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kChains; i++) sum += d[i][0] + d[i][1] + d[i][2] + d[i][3];
  if (sum == 12345.678f) *sink = sum;
}

// What a timing needs; freed however it ends.
struct Bench {
  int device;
  int multiprocessors = 0;
  cudaStream_t stream = nullptr;
  cudaEvent_t from = nullptr, to = nullptr;
  char *a = nullptr, *b = nullptr;

  explicit Bench(int d, int blocks) : device(d) {
    try {
      ok(cudaSetDevice(device));
      ok(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
      ok(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
      ok(cudaEventCreate(&from));
      ok(cudaEventCreate(&to));
      ok(cudaMalloc(&a, blocks > 0 ? kBlock : 256));
      if (blocks > 0) ok(cudaMemsetAsync(a, 0x3c, kBlock, stream));
      if (blocks > 1) ok(cudaMalloc(&b, kBlock));
    } catch (...) {
      free();
      throw;
    }
  }
  ~Bench() { free(); }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  void ok(cudaError_t error) const { check(device, error, "ceiling"); }
  unsigned grid() const { return static_cast<unsigned>(multiprocessors * kPerMultiprocessor); }
  float* sink() const { return reinterpret_cast<float*>(a); }

  void free() {
    if (stream) cudaStreamSynchronize(stream);
    cudaFree(a);
    cudaFree(b);
    if (from) cudaEventDestroy(from);
    if (to) cudaEventDestroy(to);
    if (stream) cudaStreamDestroy(stream);
  }

  // The best rate of what `set_off` puts on the stream, which does `units`.
  template <class F>
  double best(double units, F set_off) {
    float least = 0;
    for (int i = 0; i < kTimings; i++) {
      ok(cudaEventRecord(from, stream));
      set_off();
      ok(cudaGetLastError());
      ok(cudaEventRecord(to, stream));
      ok(cudaEventSynchronize(to));
      float ms = 0;
      ok(cudaEventElapsedTime(&ms, from, to));
      if (i > 1) least = least == 0 ? ms : std::min(least, ms);  // the first ones load code and raise clocks
    }
    return units / (static_cast<double>(least) * 1e-3);
  }
};

double measure(int device, const std::string& name) {
  if (name == "read") {
    Bench m(device, 1);
    const int64_t count = kBlock / 16, step = int64_t{4} * m.grid() * kThreads;
    const int64_t read = count / step * step * 16;  // the ragged end is left alone
    return m.best(static_cast<double>(read), [&] {
      read_kernel<<<m.grid(), kThreads, 0, m.stream>>>(reinterpret_cast<const float4*>(m.a), read / 16, m.sink());
    });
  }
  if (name == "copy") {
    Bench m(device, 2);
    return m.best(2.0 * kBlock, [&] { m.ok(cudaMemcpyAsync(m.b, m.a, kBlock, cudaMemcpyDeviceToDevice, m.stream)); });
  }
  Bench m(device, 0);
  const double threads = static_cast<double>(m.grid()) * kThreads;
  const double steps = static_cast<double>(kRounds) * kChains;
  if (name == "fma")
    return m.best(2 * threads * steps,
                  [&] { fma_kernel<<<m.grid(), kThreads, 0, m.stream>>>(0.999f, 0.001f, m.sink()); });
  if (name == "ex2")
    return m.best(threads * steps, [&] { ex2_kernel<<<m.grid(), kThreads, 0, m.stream>>>(-0.1f, m.sink()); });
  if (name == "bf16") {
    const unsigned grid = static_cast<unsigned>(m.multiprocessors * kPerMultiprocessorBf16);
    return m.best(static_cast<double>(grid) * (kThreads / 32) * steps * 2 * 16 * 8 * 16,
                  [&] { bf16_kernel<<<grid, kThreads, 0, m.stream>>>(2654435761u, m.sink()); });
  }
  throw Error(Code::option_range, "ceiling: expected read, copy, fma, bf16 or ex2 on CUDA, got " + name);
}

}  // namespace

double ceiling(int device, const char* name, Status* status) {
  try {
    return measure(device, name);
  } catch (const Error& e) {
    status->set(e.code(), e.what());
  } catch (const std::exception& e) {
    status->set(Code::out_of_memory, e.what());
  }
  return 0;
}

}  // namespace seqmix::cuda
