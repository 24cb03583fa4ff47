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
#include "cuda/graph.h"
#include "cuda/transfer.h"

namespace seqmix {

namespace cuda {

// What CUDA made for the queue; given back last.
struct Handles {
  cudaStream_t stream = nullptr;
  uint64_t* error_word = nullptr;  // pinned; kernels write it through error_word_device
  uint64_t* error_word_device = nullptr;
  int* handed = nullptr;  // launch/launch.h: Context
  int multiprocessors = 0;
  bool overlap = false;  // launch/launch.h: Context

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
  void release(void* memory, int64_t bytes) { memory_.release(memory, bytes); }
  void copy_across(const void* source, Queue& to, void* target, int64_t bytes);
  void close();
  uint64_t take_index_error();
  const char* last_kernel() const { return last_kernel_; }

  // Graphs (cuda/graph.h).
  Graph* make_graph();
  void record(Graph* graph) { recording_ = graph; }
  void release_to(Graph& graph, void* memory, int64_t bytes) { memory_.release(memory, bytes, &graph.memory); }
  void run_graph(Graph&, uint64_t sequence);
  void end_graph(Graph*);

  const int device;
  cuda::Handles handles;

 private:
  struct ReadItem;
  struct WriteItem;
  struct GraphItem;
  static void run_item(void* queue, void* problem);
  static void read_item(void* queue, void* read);
  static void write_item(void* queue, void* write);
  static void graph_item(void* queue, void* run);
  static void end_graph_item(void* queue, void* graph);
  static void drop_item(void* queue, Executor::Act, void* payload);

  void launch(const Problem&, uint64_t* index_error, cuda::Pool*);
  void launch(Graph&, uint64_t sequence);
  void capture(Graph&);
  void destroy(Graph*);
  void fail(const Error&);
  void throw_failure();
  void expect_not_recording() const;

  cuda::Allocator memory_;
  Graph* recording_ = nullptr;
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
