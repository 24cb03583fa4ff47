// CUDA behind the table of backend.h.
#include "backend.h"

#include <cuda_runtime.h>

#include <cstdio>
#include <new>
#include <string>

#include "cuda/ceilings.h"
#include "cuda/error.h"
#include "cuda/queue.h"

namespace seqmix {

namespace {

// Runs `body`, whose exceptions end here.
template <class Body>
void guard(Status* status, Body body) {
  try {
    body();
  } catch (const Error& e) {
    if (status) status->set(e.code(), e.what());
  } catch (const std::bad_alloc&) {
    if (status) status->set(Code::out_of_memory, "cuda: expected host memory, got none from the system");
  } catch (const std::exception& e) {
    if (status) status->set(Code::cuda, (std::string("cuda: expected the call to succeed, got ") + e.what()).c_str());
  }
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// Any driver for CUDA's major version will do.
constexpr int kDriverNeeded = CUDART_VERSION / 1000 * 1000;

std::string why_none(cudaError_t error) {
  int driver = 0;
  (void)cudaDriverGetVersion(&driver);
  const std::string needed = "cuda: expected an NVIDIA driver for CUDA " + version_text(kDriverNeeded) + " or later";
  if (driver == 0) return needed + ", got none: " + cuda::describe(error);
  if (driver < kDriverNeeded)
    return needed + ", got one for CUDA " + version_text(driver) + ": " + cuda::describe(error);
  return "cuda: expected an NVIDIA GPU, got none: " + cuda::describe(error);
}

int device_count(Status* status) {
  int count = 0;
  guard(status, [&] {
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaSuccess && count > 0) return;
    count = 0;
    const std::string why = why_none(error == cudaSuccess ? cudaErrorNoDevice : error);
    (void)cudaGetLastError();
    status->set(Code::device, why.c_str());
  });
  return count;
}

void device_info(int device, DeviceInfo* info, Status* status) {
  guard(status, [&] {
    cudaDeviceProp p;
    cuda::check(device, cudaGetDeviceProperties(&p, device), "asking for its properties");
    std::snprintf(info->name, sizeof info->name, "%s", p.name);
    std::snprintf(info->target, sizeof info->target, "sm_%d%d", p.major, p.minor);
    info->memory_bytes = static_cast<int64_t>(p.totalGlobalMem);
    info->threads = p.multiProcessorCount;
  });
}

Queue* open(int device, Status* status) {
  Queue* queue = nullptr;
  guard(status, [&] { queue = new Queue(device); });
  return queue;
}

void close(Queue* queue) {
  guard(nullptr, [&] { queue->close(); });
}

void destroy(Queue* queue) {
  guard(nullptr, [&] {
    (void)cudaSetDevice(queue->device);
    delete queue;
    (void)cudaGetLastError();
  });
}

void* allocate(Queue* queue, int64_t bytes, Status* status) {
  void* memory = nullptr;
  guard(status, [&] { memory = queue->allocate(bytes); });
  return memory;
}

void release(Queue* queue, void* memory, int64_t bytes) {
  guard(nullptr, [&] { queue->release(memory, bytes); });
}

void write(Queue* queue, void* to, const void* from, int64_t bytes, Status* status) {
  guard(status, [&] { queue->write(to, from, bytes); });
}

void read(Queue* queue, void* to, const void* from, int64_t bytes, Done done, void* context, Status* status) {
  guard(status, [&] { queue->read(to, from, bytes, done, context); });
}

void run(Queue* queue, const Problem* problem, Status* status) {
  guard(status, [&] { queue->run(*problem); });
}

bool idle(Queue*) { return false; }

uint64_t take_index_error(Queue* queue) { return queue->take_index_error(); }

const char* last_kernel(Queue* queue) { return queue->last_kernel(); }

Graph* make_graph(Queue* queue, Status* status) {
  Graph* graph = nullptr;
  guard(status, [&] { graph = queue->make_graph(); });
  return graph;
}

void record(Queue* queue, Graph* graph) { queue->record(graph); }

void release_to(Queue* queue, Graph* graph, void* memory, int64_t bytes) {
  guard(nullptr, [&] { queue->release_to(*graph, memory, bytes); });
}

void run_graph(Queue* queue, Graph* graph, uint64_t sequence, Status* status) {
  guard(status, [&] { queue->run_graph(*graph, sequence); });
}

void end_graph(Queue* queue, Graph* graph) {
  guard(nullptr, [&] { queue->end_graph(graph); });
}

void copy_across(Queue* from, const void* source, Queue* to, void* target, int64_t bytes, Status* status) {
  guard(status, [&] { from->copy_across(source, *to, target, bytes); });
}

const Backend table = {
    kBackendAbi,      device_count, device_info, open,          close,      destroy,
    allocate,         release,      write,       read,          run,        idle,
    take_index_error, last_kernel,  nullptr,     cuda::ceiling, make_graph, record,
    release_to,       run_graph,    end_graph,   copy_across,
};

}  // namespace

}  // namespace seqmix

extern "C" __attribute__((visibility("default"))) const seqmix::Backend* seqmix_cuda_backend() {
  return &seqmix::table;
}
