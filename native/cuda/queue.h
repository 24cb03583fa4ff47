// A queue: one stream, its memory, and the ways in and out. It belongs to one JavaScript thread.
#pragma once
#include <cuda_runtime.h>

#include "backend.h"
#include "cuda/allocator.h"
#include "cuda/transfer.h"

namespace seqmix {

namespace cuda {

// What CUDA made for the queue; given back last.
struct Handles {
  cudaStream_t stream = nullptr;
  uint64_t* error_word = nullptr;  // pinned; kernels write it through error_word_device
  uint64_t* error_word_device = nullptr;
  int multiprocessors = 0;

  explicit Handles(int device);
  ~Handles();
  Handles(const Handles&) = delete;
  Handles& operator=(const Handles&) = delete;
};

}  // namespace cuda

struct Queue {
  explicit Queue(int device);

  int device;
  cuda::Handles handles;
  cuda::Allocator memory;
  cuda::Uploader uploader;
  cuda::Reader reader;
  const char* last_kernel = "";
  const char* last_op = "opening";  // for errors: the op last set off

  void enter();  // makes the device this thread's, or throws its fault
  void run(const Problem&);
  void read(void* to, const void* from, int64_t bytes, Done done, void* context);
  uint64_t take_index_error();
};

}  // namespace seqmix
