// A queue's memory. The queue works in order on one stream, so memory released while work that uses it is queued (or
// still to be launched) can be handed to later work of the same queue at once: releasing and allocating again is moving
// a pointer between lists. Blocks come from cudaMalloc in size classes (eight to an octave, at most an eighth too
// large) and stay here until memory runs out, when the caches of all queues on the device are given back.
//
// A captured graph knows its blocks by their addresses, so they must not go to anybody else while it lives: they are
// released into a pool of its own, from which the capture is served first, and come back when it ends.
//
// SEQMIX_CUDA_ALLOCATOR=guarded: every block is its own cudaMalloc of the exact size, filled with 0xff, and freed on
// release, so that compute-sanitizer sees each overrun and each use after release.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "core/executor.h"

namespace seqmix::cuda {

// Free blocks.
struct Blocks {
  static constexpr int kClasses = 128;
  std::vector<void*> small[kClasses];   // by class
  std::multimap<int64_t, void*> large;  // by size
};

// What belongs to a graph. One thread uses it.
struct Pool {
  Blocks free;
  std::vector<void*> kept;  // guarded: released, and for nobody until the graph ends
  bool capturing = false;   // a stream is being captured just now: nothing may wait for the device
};

class Allocator {
 public:
  // `launcher` is the thread that puts the queue's work on the stream. Of a queue's two allocators one is used by the
  // JavaScript thread, the other by the launcher.
  Allocator(int device, cudaStream_t stream, Executor* launcher);
  ~Allocator();
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

  // From the pool if it has a fitting block, and to it.
  void* allocate(int64_t bytes, Pool* pool = nullptr);
  void release(void* memory, int64_t bytes, Pool* pool = nullptr);
  void take_back(Pool& pool);  // what is free in it, in queue order

  // Held while a stream is captured, and while something waits for a whole device, which no stream may be captured on
  // then.
  static std::mutex& capturing();

 private:
  void* from_cache(int64_t bytes, Blocks& cache);
  void* from_device(int64_t bytes, bool may_trim);
  void take_cached(std::vector<void*>* blocks);
  void trim();
  void wait_for_launches();
  [[noreturn]] void refuse(int64_t bytes);

  int device_;
  cudaStream_t stream_;
  Executor* launcher_;
  bool guarded_;
  std::mutex mutex_;  // of what follows: another queue may ask for the cache
  Blocks cache_;
  std::unordered_map<void*, int64_t> sizes_;  // of the large blocks, free or not
};

}  // namespace seqmix::cuda
