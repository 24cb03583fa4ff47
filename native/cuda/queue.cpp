#include "cuda/queue.h"

#include <cstddef>
#include <cstring>
#include <new>
#include <string>
#include <utility>

#include "cuda/error.h"
#include "cuda/launch/launch.h"

namespace seqmix {

namespace cuda {

Handles::Handles(int device) {
  try {
    check(device, cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device), "opening");
    check(device, cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "opening");
    check(device,
          cudaHostAlloc(reinterpret_cast<void**>(&error_word), sizeof *error_word,
                        cudaHostAllocMapped | cudaHostAllocPortable),
          "opening");
    *error_word = 0;
    check(device, cudaHostGetDevicePointer(reinterpret_cast<void**>(&error_word_device), error_word, 0), "opening");
  } catch (...) {
    if (error_word) (void)cudaFreeHost(error_word);
    if (stream) (void)cudaStreamDestroy(stream);
    throw;
  }
}

Handles::~Handles() {
  (void)cudaFreeHost(error_word);
  (void)cudaStreamDestroy(stream);
}

namespace {
// Makes the device current before anything is made on it.
int made_current(int device) {
  expect_alive(device);
  check(device, cudaSetDevice(device), "opening");
  int major = 0, minor = 0;
  check(device, cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "opening");
  check(device, cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "opening");
  if (major < 8)
    throw Error(Code::unsupported, "cuda:" + std::to_string(device) +
                                       ": expected a GPU of compute capability 8.0 (Ampere) or later, got " +
                                       std::to_string(major) + "." + std::to_string(minor));
  return device;
}
}  // namespace

}  // namespace cuda

// A write of so few bytes goes along with its item; a larger one waits for what is posted and is made in place.
constexpr int64_t kSmallWrite = 2048;

struct Queue::ReadItem {
  void* to;
  const void* from;
  int64_t bytes;
  Done done;
  void* context;
};

struct Queue::WriteItem {
  void* to;
  int64_t bytes;
  char data[kSmallWrite];
};

Queue::Queue(int d)
    : device(cuda::made_current(d)),
      handles(d),
      memory(d, handles.stream, &launcher_),
      scratch_(d, handles.stream, &launcher_),
      uploader_(d, handles.stream),
      reader_(d) {}

void Queue::fail(const Error& error) {
  const std::lock_guard lock(failure_mutex_);
  if (failure_.ok()) failure_.set(error.code(), error.what());
}

void Queue::throw_failure() {
  Status failure;
  {
    const std::lock_guard lock(failure_mutex_);
    std::swap(failure, failure_);
  }
  throw_if(failure);
}

void* Queue::allocate(int64_t bytes) {
  cuda::expect_alive(device);
  return memory.allocate(bytes);
}

void Queue::run(const Problem& p) {
  cuda::expect_alive(device);
  launcher_.post(run_item, &p, p.bytes);
}

void Queue::write(void* to, const void* from, int64_t bytes) {
  cuda::expect_alive(device);
  if (bytes <= kSmallWrite) {
    WriteItem item;
    item.to = to;
    item.bytes = bytes;
    std::memcpy(item.data, from, static_cast<size_t>(bytes));
    return launcher_.post(write_item, &item, offsetof(WriteItem, data) + static_cast<size_t>(bytes));
  }
  launcher_.wait();
  cuda::choose(device);
  uploader_.write(to, from, bytes);
}

void Queue::read(void* to, const void* from, int64_t bytes, Done done, void* context) {
  cuda::expect_alive(device);
  if (done) return launcher_.post(read_item, ReadItem{to, from, bytes, done, context});
  launcher_.wait();
  throw_failure();
  cuda::choose(device);
  if (bytes)
    cuda::check(device, cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, handles.stream),
                last_op_);
  cuda::check(device, cudaStreamSynchronize(handles.stream), last_op_);
}

void Queue::close() {
  launcher_.close();
  reader_.close();
  // While the process ends, CUDA may be unloading already: then nothing runs any more.
  if (cudaSetDevice(device) == cudaSuccess) (void)cudaStreamSynchronize(handles.stream);
  (void)cudaGetLastError();
}

uint64_t Queue::take_index_error() { return __atomic_exchange_n(handles.error_word, 0, __ATOMIC_ACQ_REL); }

// ---- on the launcher's thread ----

void Queue::run_item(void* queue, void* problem) {
  Queue& q = *static_cast<Queue*>(queue);
  try {
    q.launch(*static_cast<const Problem*>(problem));
  } catch (const Error& e) {
    q.fail(e);
  } catch (const std::bad_alloc&) {
    q.fail(Error(Code::out_of_memory, std::string(q.last_op_) + ": expected host memory, got none from the system"));
  }
}

void Queue::launch(const Problem& p) {
  cuda::choose(device);
  cuda::Context c{device, handles.stream, handles.multiprocessors, handles.error_word_device, &scratch_, "", {}};
  last_op_ = name_of(p.op);
  // The work that uses it comes before whatever uses the memory next.
  const auto give_back = [&] {
    for (const auto& [block, bytes] : c.scratch_blocks) scratch_.release(block, bytes);
  };
  try {
    cuda::launcher_of(p.op)(c, p);
    cuda::check(device, cudaGetLastError(), last_op_);
  } catch (...) {
    give_back();
    throw;
  }
  give_back();
  last_kernel_ = c.kernel;
}

void Queue::write_item(void* queue, void* write) {
  Queue& q = *static_cast<Queue*>(queue);
  const WriteItem& item = *static_cast<const WriteItem*>(write);
  try {
    cuda::choose(q.device);
    q.uploader_.write(item.to, item.data, item.bytes);
  } catch (const Error& e) {
    q.fail(e);
  }
}

void Queue::read_item(void* queue, void* read) {
  Queue& q = *static_cast<Queue*>(queue);
  const ReadItem& item = *static_cast<const ReadItem*>(read);
  Status status;
  try {
    q.throw_failure();
    cuda::choose(q.device);
    return q.reader_.read(q.handles.stream, item.to, item.from, item.bytes, item.done, item.context, q.last_op_);
  } catch (const Error& e) {
    status.set(e.code(), e.what());
  } catch (const std::exception& e) {
    status.set(Code::out_of_memory, e.what());
  }
  item.done(item.context, &status);
}

}  // namespace seqmix
