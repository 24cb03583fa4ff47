// A queue's memory. The queue works in order on one stream, so memory released while work that uses it is queued (or
// still to be launched) can be handed to later work of the same queue at once: releasing and allocating again is moving
// a pointer between lists. Blocks come from cudaMalloc in size classes (eight to an octave, at most an eighth too
// large) and stay here until memory runs out, when the caches of all queues on the device are given back.
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

class Allocator {
 public:
  // `launcher` is the thread that puts the queue's work on the stream. Of a queue's two allocators one is used by the
  // JavaScript thread, the other by the launcher.
  Allocator(int device, cudaStream_t stream, Executor* launcher);
  ~Allocator();
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

  void* allocate(int64_t bytes);
  void release(void* memory, int64_t bytes);

 private:
  static constexpr int kClasses = 128;

  void* from_cache(int64_t bytes);
  void* from_device(int64_t bytes);
  void take_cached(std::vector<void*>* blocks);
  void trim();
  void wait_for_launches();
  [[noreturn]] void refuse(int64_t bytes);

  int device_;
  cudaStream_t stream_;
  Executor* launcher_;
  bool guarded_;
  std::mutex mutex_;                          // of the lists: another queue may ask for the cache
  std::vector<void*> small_[kClasses];        // free blocks by class
  std::multimap<int64_t, void*> large_;       // free blocks by size
  std::unordered_map<void*, int64_t> sizes_;  // of the large blocks, free or not
};

}  // namespace seqmix::cuda
