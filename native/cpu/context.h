// What a CPU kernel may ask for while it runs: the threads of the pool, scratch memory, and a place to report a bad
// index. Kernels are compiled once per instruction set, so this header holds no code that could be shared by the
// linker: only function pointers.
#pragma once
#include <cstdint>

#include "core/problem/problem.h"

namespace seqmix::cpu {

struct Context {
  // Calls body(argument, i, thread) for each i in [0, count), on up to `threads` threads; thread < threads tells them
  // apart, for scratch memory. Which thread does which i must not show in the result.
  void (*parallel)(Context*, int64_t count, void (*body)(void* argument, int64_t i, int thread), void* argument);
  // 64-byte aligned memory that lasts until the problem ends. Not from inside `parallel`.
  void* (*scratch)(Context*, int64_t bytes);
  int threads;
  uint64_t* index_error;  // the queue's error word; set it through report_index_error
  const char* kernel;     // the kernel's name, set by the kernel: cpu.avx512.selective_scan
};

using Kernel = void (*)(Context&, const Problem&);

// One instruction set: its kernels by Op, and the loops behind its ceilings (ceilings.h).
struct Target {
  const char* name;
  Kernel kernels[kOps];
  double (*fma_loop)(int64_t rounds, float* sink) = nullptr;       // returns the operations it made
  float (*read_loop)(const float* from, int64_t count) = nullptr;  // count a multiple of 256
};

const Target& scalar_target();
const Target& avx2_target();
const Target& avx512_target();

}  // namespace seqmix::cpu
