#include "cuda/transfer.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "cuda/error.h"

namespace seqmix::cuda {

Uploader::~Uploader() {
  for (Buffer& b : buffers_) {
    if (b.copied) (void)cudaEventDestroy(b.copied);
    if (b.memory) (void)cudaFreeHost(b.memory);
  }
}

void Uploader::open() {
  for (Buffer& b : buffers_) {
    if (!b.copied) check(device_, cudaEventCreateWithFlags(&b.copied, cudaEventDisableTiming), "an event");
    if (!b.memory)
      check(device_, cudaHostAlloc(reinterpret_cast<void**>(&b.memory), kBuffer, cudaHostAllocDefault),
            "a pinned buffer");
  }
}

void Uploader::next_buffer() {
  check(device_, cudaEventRecord(buffers_[current_].copied, stream_), "a write");
  current_ ^= 1;
  Buffer& b = buffers_[current_];
  if (b.used) check(device_, cudaEventSynchronize(b.copied), "a write");
  b.used = 0;
}

void Uploader::write(void* to, const void* from, int64_t bytes) {
  if (!buffers_[1].memory) open();
  char* target = static_cast<char*>(to);
  const char* source = static_cast<const char*>(from);
  while (bytes > 0) {
    if (buffers_[current_].used == kBuffer) next_buffer();
    Buffer& b = buffers_[current_];
    const int64_t part = std::min(bytes, kBuffer - b.used);
    std::memcpy(b.memory + b.used, source, static_cast<size_t>(part));
    check(device_,
          cudaMemcpyAsync(target, b.memory + b.used, static_cast<size_t>(part), cudaMemcpyHostToDevice, stream_),
          "a write");
    b.used = std::min(kBuffer, (b.used + part + 63) / 64 * 64);
    target += part;
    source += part;
    bytes -= part;
  }
}

Reader::~Reader() {
  close();
  for (const cudaEvent_t event : events_) (void)cudaEventDestroy(event);
  if (stream_) (void)cudaStreamDestroy(stream_);
}

cudaEvent_t Reader::new_event() {
  {
    const std::lock_guard lock(mutex_);
    if (!events_.empty()) {
      const cudaEvent_t event = events_.back();
      events_.pop_back();
      return event;
    }
  }
  cudaEvent_t event = nullptr;
  check(device_, cudaEventCreateWithFlags(&event, cudaEventBlockingSync | cudaEventDisableTiming), "an event");
  return event;
}

void Reader::read(cudaStream_t stream, void* to, const void* from, int64_t bytes, Done done, void* context,
                  const char* after) {
  const cudaEvent_t event = new_event();
  const cudaError_t recorded = cudaEventRecord(event, stream);
  std::unique_lock lock(mutex_);
  // Whoever asks for more than can be read waits here, and those who fill the queue behind it wait with it.
  room_.wait(lock, [&] { return closed_ || items_.size() < kMostWaiting; });
  if (recorded != cudaSuccess) {
    events_.push_back(event);
    check(device_, recorded, after);
  }
  if (!thread_.joinable()) {
    if (!stream_) check(device_, cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream");
    thread_ = std::thread([this] { work(); });
  }
  items_.push_back({event, to, from, bytes, done, context, after});
  news_.notify_one();
}

void Reader::work() {
  (void)cudaSetDevice(device_);
  std::unique_lock lock(mutex_);
  for (;;) {
    news_.wait(lock, [&] { return closed_ || !items_.empty(); });
    if (closed_) return;
    const Item item = items_.front();
    items_.pop_front();
    room_.notify_one();
    lock.unlock();
    finish(item);
    lock.lock();
    events_.push_back(item.ready);
  }
}

// Waking from a blocking wait costs tens of microseconds, so the end is first looked for.
void Reader::finish(const Item& item) {
  Status status;
  try {
    const auto patience = std::chrono::steady_clock::now() + std::chrono::microseconds(50);
    cudaError_t end = cudaEventQuery(item.ready);
    while (end == cudaErrorNotReady && std::chrono::steady_clock::now() < patience) end = cudaEventQuery(item.ready);
    if (end == cudaErrorNotReady) {
      (void)cudaGetLastError();
      end = cudaEventSynchronize(item.ready);
    }
    check(device_, end, item.after);
    if (item.bytes) {
      check(device_,
            cudaMemcpyAsync(item.to, item.from, static_cast<size_t>(item.bytes), cudaMemcpyDeviceToHost, stream_),
            "a read");
      check(device_, cudaStreamSynchronize(stream_), "a read");
    }
  } catch (const Error& e) {
    status.set(e.code(), e.what());
  } catch (const std::exception& e) {
    status.set(Code::out_of_memory, e.what());
  }
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return;
  }
  item.done(item.context, &status);
}

void Reader::close() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    for (const Item& item : items_) events_.push_back(item.ready);
    items_.clear();
    news_.notify_all();
    room_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

}  // namespace seqmix::cuda
