// What a device offers, as a table of functions: the only thing that core, cpu, cuda and binding share. The CUDA
// library is a shared object of its own behind this table, so no exception and no C++ object with a life of its own
// crosses it: failure is a Status (core/status.h), a problem is plain data (core/problem), and a queue is an opaque
// pointer.
//
// A queue belongs to one JavaScript thread and works in order. Everything below happens in that order, release too:
// memory may be given back while work that uses it is still queued.
#pragma once
#include <cstdint>

#include "core/problem/problem.h"
#include "core/status.h"

namespace seqmix {

struct Queue;
struct Graph;  // a sequence of problems that was recorded once and can be run again

struct DeviceInfo {
  char name[256];        // of the processor, or of the GPU
  char target[64];       // the instruction set that the kernels use: avx512, sm_90a
  int64_t memory_bytes;  // in all
  int32_t threads;       // CPU: threads that an op may use; CUDA: multiprocessors
};

// Called once, from another thread, when everything queued before it has ended. It must not call into the queue.
using Done = void (*)(void* context, const Status* status);

struct Backend {
  uint32_t abi;  // kBackendAbi of the side that made the table

  int (*device_count)(Status*);
  void (*device_info)(int device, DeviceInfo*, Status*);

  Queue* (*open)(int device, Status*);
  // Drops what has not begun, waits for what runs, and calls no Done any more. Memory can still be released after it.
  void (*close)(Queue*);
  void (*destroy)(Queue*);  // after close, and after the last release

  void* (*allocate)(Queue*, int64_t bytes, Status*);  // 256-byte aligned (64 on the CPU); bytes > 0
  void (*release)(Queue*, void*, int64_t bytes);      // in queue order

  // Host to device. `from` may change as soon as it returns.
  void (*write)(Queue*, void* to, const void* from, int64_t bytes, Status*);
  // Device to host, or, with 0 bytes, just the news. Blocks when `done` is null.
  void (*read)(Queue*, void* to, const void* from, int64_t bytes, Done done, void* context, Status*);

  void (*run)(Queue*, const Problem*, Status*);
  bool (*idle)(Queue*);  // nothing is queued or running: what was written can be read at once (always false on CUDA)

  uint64_t (*take_index_error)(Queue*);  // the error word (core/problem/problem.h), which it clears
  const char* (*last_kernel)(Queue*);    // the kernel that the last run chose: cpu.avx512.selective_scan
  void (*set_threads)(int) = nullptr;    // null on CUDA

  // What the device reaches with nothing in the way, in units a second: "read" and "copy" (bytes; a copy counts both
  // ways), "fma" (float32 operations, two for each multiply-add), on CUDA also "bf16" (tensor cores, the same) and
  // "ex2". For benchmarks: it blocks for a moment, and takes memory and every thread.
  double (*ceiling)(int device, const char* name, Status*) = nullptr;

  // Graphs. From record(graph) to record(null), run() adds to the graph and nothing is done yet, allocate() takes
  // memory that is the graph's alone until it ends, and write() and read() must not be called (on CUDA they fail).
  // Memory of a live graph is released with release_to; of one that has ended with release, as any other.
  Graph* (*make_graph)(Queue*, Status*) = nullptr;
  void (*record)(Queue*, Graph*) = nullptr;
  void (*release_to)(Queue*, Graph*, void*, int64_t bytes) = nullptr;
  // Does everything recorded, in queue order. A bad index met on the way counts as met by the op of this sequence.
  void (*run_graph)(Queue*, Graph*, uint64_t sequence, Status*) = nullptr;
  void (*end_graph)(Queue*, Graph*) = nullptr;  // in queue order too, and after close

  // From one device to another of the same kind, between queues of one JavaScript thread. Blocks until it is done,
  // after what both queues hold. Null on the CPU.
  void (*copy_across)(Queue* from, const void* source, Queue* to, void* target, int64_t bytes, Status*) = nullptr;
};

constexpr uint32_t kBackendAbi = 3;

const Backend& cpu_backend();

// The one symbol of the CUDA library.
using CudaBackend = const Backend* (*)();
constexpr char kCudaBackendSymbol[] = "seqmix_cuda_backend";

}  // namespace seqmix
