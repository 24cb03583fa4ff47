// linear beside OpenBLAS's sgemm in one process on the same inputs: pairs of timings, one of each, and the median of
// their ratios. One JSON line a shape on standard output. OpenBLAS is opened at run time; openblas.mjs builds and runs
// this.
//   seqmix_openblas LIBRARY THREADS PAIRS
#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "core/layout.h"
#include "core/problem/rows.h"
#include "cpu/context.h"
#include "cpu/dispatch.h"
#include "cpu/memory.h"
#include "cpu/pool.h"

namespace {

using namespace seqmix;

// cblas_sgemm(layout, transposed a, transposed b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)
using Sgemm = void (*)(int, int, int, int, int, int, float, const float*, int, const float*, int, float, float*, int);
constexpr int kRowMajor = 101, kPlain = 111, kTransposed = 112;

struct Size {
  int64_t rows, in, features;
};
const Size sizes[] = {{512, 768, 3072}, {512, 1536, 768},   {512, 1536, 80},    {512, 48, 1536},
                      {64, 768, 3072},  {1024, 1024, 1024}, {2048, 2048, 2048}, {1, 768, 3072}};

struct Run : cpu::Context {
  std::vector<std::pair<void*, int64_t>> blocks;
  std::atomic<bool> cancelled{false};
};

const char* run(const Problem& problem, int threads) {
  Run c;
  c.parallel = [](cpu::Context* context, int64_t count, cpu::Body body, void* argument) {
    cpu::pool_run(count, context->threads, body, argument, &static_cast<Run*>(context)->cancelled);
  };
  c.scratch = [](cpu::Context* context, int64_t bytes) {
    void* const memory = cpu::allocate_memory(bytes);
    static_cast<Run*>(context)->blocks.push_back({memory, bytes});
    return memory;
  };
  uint64_t index_error = 0;
  c.threads = threads;
  c.index_error = &index_error;
  c.kernel = "";
  cpu::target().kernels[static_cast<int>(problem.op)](c, problem);
  for (const auto& [memory, bytes] : c.blocks) cpu::release_memory(memory, bytes);
  return c.kernel;
}

std::vector<float> uniform(int64_t count) {
  static std::mt19937 generator(1);
  std::uniform_real_distribution<float> distribution(-1, 1);
  std::vector<float> v(static_cast<size_t>(count));
  for (float& x : v) x = distribution(generator);
  return v;
}

View view(std::vector<float>& data, int64_t rows, int64_t columns) {
  const int64_t shape[] = {rows, columns};
  View v = dense(DType::float32, shape, 2);
  v.data = data.data();
  v.present = true;
  return v;
}

// Milliseconds a call, over at least 40 of them after one that is not timed.
double timed(const std::function<void()>& call) {
  using Clock = std::chrono::steady_clock;
  std::this_thread::sleep_for(std::chrono::milliseconds(150));  // OpenBLAS's threads spin for a tenth of a second
  call();
  const auto from = Clock::now();
  double ms = 0;
  int calls = 0;
  for (; ms < 40; calls++) {
    call();
    ms = std::chrono::duration<double, std::milli>(Clock::now() - from).count();
  }
  return ms / calls;
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  void* const library = argc == 4 ? dlopen(argv[1], RTLD_NOW) : nullptr;
  if (!library) {
    std::fprintf(stderr, "%s\n", argc == 4 ? dlerror() : "expected LIBRARY THREADS PAIRS");
    return 1;
  }
  const int threads = std::atoi(argv[2]), pairs = std::atoi(argv[3]);
  const auto sgemm = reinterpret_cast<Sgemm>(dlsym(library, "cblas_sgemm"));
  const auto set_threads = reinterpret_cast<void (*)(int)>(dlsym(library, "openblas_set_num_threads"));
  const auto core = reinterpret_cast<char* (*)()>(dlsym(library, "openblas_get_corename"));
  if (!sgemm || !set_threads || !core) {
    std::fprintf(stderr, "%s is not OpenBLAS\n", argv[1]);
    return 1;
  }
  set_threads(threads);
  for (const auto& [M, K, N] : sizes) {
    std::vector<float> x = uniform(M * K), w = uniform(N * K), out(M * N), theirs(M * N);
    Linear p;
    p.x = view(x, M, K);
    p.weight = view(w, N, K);
    p.validate();
    p.out = view(out, M, N);
    const char* kernel = "";
    const std::function<void()> we = [&] { kernel = run(p, threads); };
    const std::function<void()> they = [&, m = static_cast<int>(M), k = static_cast<int>(K), n = static_cast<int>(N)] {
      sgemm(kRowMajor, kPlain, kTransposed, m, n, k, 1, x.data(), k, w.data(), k, 0, theirs.data(), n);
    };
    we();
    they();
    double error = 0, size = 0;
    for (size_t i = 0; i < out.size(); i++) {
      error += std::pow(static_cast<double>(out[i]) - theirs[i], 2);
      size += std::pow(static_cast<double>(theirs[i]), 2);
    }
    if (!(error <= 1e-10 * size)) {
      std::fprintf(stderr, "linear %lld x %lld x %lld: the results differ\n", static_cast<long long>(M),
                   static_cast<long long>(K), static_cast<long long>(N));
      return 1;
    }
    std::vector<double> ours, others, ratios;
    for (int i = 0; i < pairs; i++) {
      ours.push_back(timed(we));
      others.push_back(timed(they));
      ratios.push_back(others.back() / ours.back());
    }
    std::printf(
        "{\"case\":\"linear M=%lld K=%lld N=%lld\",\"threads\":%d,\"ours_ms\":%.4g,\"peer\":\"OpenBLAS (%s)\","
        "\"peer_ms\":%.4g,\"ratio\":%.3g,\"pairs\":%d,\"kernel\":\"%s\"}\n",
        static_cast<long long>(M), static_cast<long long>(K), static_cast<long long>(N), threads, median(ours), core(),
        median(others), median(ratios), pairs, kernel);
    std::fflush(stdout);
  }
  return 0;
}
