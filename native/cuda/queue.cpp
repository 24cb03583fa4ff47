#include "cuda/queue.h"

#include <string>

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

Queue::Queue(int d)
    : device(cuda::made_current(d)), handles(d), memory(d, handles.stream), uploader(d, handles.stream), reader(d) {}

void Queue::enter() {
  cuda::expect_alive(device);
  // Others on this thread may have chosen another device; where nothing changes this costs nothing.
  cuda::check(device, cudaSetDevice(device), "choosing the device");
}

void Queue::run(const Problem& p) {
  enter();
  cuda::Context c{device, handles.stream, handles.multiprocessors, handles.error_word_device, &memory, "", {}};
  last_op = name_of(p.op);
  // The work that uses it comes before whatever uses the memory next.
  const auto give_back = [&] {
    for (const auto& [block, bytes] : c.scratch_blocks) memory.release(block, bytes);
  };
  try {
    cuda::launcher_of(p.op)(c, p);
    cuda::check(device, cudaGetLastError(), last_op);
  } catch (...) {
    give_back();
    throw;
  }
  give_back();
  last_kernel = c.kernel;
}

void Queue::read(void* to, const void* from, int64_t bytes, Done done, void* context) {
  enter();
  if (done) return reader.read(handles.stream, to, from, bytes, done, context, last_op);
  if (bytes)
    cuda::check(device, cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, handles.stream),
                last_op);
  cuda::check(device, cudaStreamSynchronize(handles.stream), last_op);
}

uint64_t Queue::take_index_error() { return __atomic_exchange_n(handles.error_word, 0, __ATOMIC_ACQ_REL); }

}  // namespace seqmix
