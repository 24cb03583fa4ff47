// Bytes between host and device in the order of a queue's stream.
#pragma once
#include <cuda_runtime.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "backend.h"

namespace seqmix::cuda {

// Host to device. The bytes are first copied into pinned memory of ours, so that the caller's may change on return and
// nothing waits for the stream, except when more is written than the two buffers hold.
class Uploader {
 public:
  Uploader(int device, cudaStream_t stream) : device_(device), stream_(stream) {}
  ~Uploader();
  Uploader(const Uploader&) = delete;
  Uploader& operator=(const Uploader&) = delete;

  void write(void* to, const void* from, int64_t bytes);

 private:
  static constexpr int64_t kBuffer = 4 << 20;
  struct Buffer {
    char* memory = nullptr;
    int64_t used = 0;
    cudaEvent_t copied = nullptr;  // everything in it has left
  };

  void open();
  void next_buffer();

  int device_;
  cudaStream_t stream_;
  Buffer buffers_[2];
  int current_ = 0;
};

// Device to host without blocking the caller: a thread, started by the first such read, waits for the work queued
// before, copies on a stream of its own, and tells.
class Reader {
 public:
  explicit Reader(int device) : device_(device) {}
  ~Reader();
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  // After what is on `stream` now; `after` names it in errors.
  void read(cudaStream_t stream, void* to, const void* from, int64_t bytes, Done done, void* context,
            const char* after);
  void close();  // no Done from here on

 private:
  // Reads that have been asked for and not made: beyond it, read() waits. Each holds its result's memory on the host.
  static constexpr size_t kMostWaiting = 128;

  struct Item {
    cudaEvent_t ready;
    void* to;
    const void* from;
    int64_t bytes;
    Done done;
    void* context;
    const char* after;
  };

  void work();
  void finish(const Item&);
  cudaEvent_t new_event();

  int device_;
  cudaStream_t stream_ = nullptr;  // of the copies
  std::mutex mutex_;
  std::condition_variable news_, room_;
  std::deque<Item> items_;
  std::vector<cudaEvent_t> events_;  // free ones
  bool closed_ = false;
  std::thread thread_;
};

}  // namespace seqmix::cuda
