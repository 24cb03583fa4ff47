// A queue: one stream, its memory, and the ways in and out. It belongs to one JavaScript thread, which only posts what
// is to be done: a launch takes the driver some 3 µs, and a thread of the queue's own makes it. What is posted reaches
// the stream in the order in which it was asked for, so memory that was released can be handed out again at once.
#pragma once
#include <cuda_runtime.h>

#include <atomic>
#include <mutex>

#include "backend.h"
#include "core/executor.h"
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

  // From the JavaScript thread.
  void* allocate(int64_t bytes);
  void write(void* to, const void* from, int64_t bytes);
  void read(void* to, const void* from, int64_t bytes, Done done, void* context);
  void run(const Problem&);
  void close();
  uint64_t take_index_error();
  const char* last_kernel() const { return last_kernel_; }

  const int device;
  cuda::Handles handles;
  cuda::Allocator memory;

 private:
  struct ReadItem;
  struct WriteItem;
  static void run_item(void* queue, void* problem);
  static void read_item(void* queue, void* read);
  static void write_item(void* queue, void* write);

  void launch(const Problem&);
  void fail(const Error&);
  void throw_failure();

  cuda::Allocator scratch_;  // of the launches: in their order, which is not the JavaScript thread's
  cuda::Uploader uploader_;
  cuda::Reader reader_;
  std::atomic<const char*> last_kernel_{""};
  const char* last_op_ = "opening";  // for errors: the op last set off
  std::mutex failure_mutex_;
  Status failure_;           // of an item that could not be done; the next read takes it
  Executor launcher_{this};  // last, since it uses the rest
};

}  // namespace seqmix
