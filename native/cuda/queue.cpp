#include "cuda/queue.h"

#include <cstddef>
#include <cstring>
#include <memory>
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
    int major = 0;
    check(device, cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "opening");
    overlap = major == 9;
    check(device, cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "opening");
    check(device,
          cudaHostAlloc(reinterpret_cast<void**>(&error_word), sizeof *error_word,
                        cudaHostAllocMapped | cudaHostAllocPortable),
          "opening");
    *error_word = 0;
    check(device, cudaHostGetDevicePointer(reinterpret_cast<void**>(&error_word_device), error_word, 0), "opening");
    check(device, cudaMalloc(reinterpret_cast<void**>(&handed), kHanded * sizeof *handed), "opening");
    check(device, cudaMemsetAsync(handed, 0, kHanded * sizeof *handed, stream), "opening");
  } catch (...) {
    if (handed) (void)cudaFree(handed);
    if (error_word) (void)cudaFreeHost(error_word);
    if (stream) (void)cudaStreamDestroy(stream);
    throw;
  }
}

Handles::~Handles() {
  (void)cudaFree(handed);
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

struct Queue::GraphItem {
  Graph* graph;
  uint64_t sequence;
};

struct Queue::WriteItem {
  void* to;
  int64_t bytes;
  char data[kSmallWrite];
};

Queue::Queue(int d)
    : device(cuda::made_current(d)),
      handles(d),
      memory_(d, handles.stream, &launcher_),
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

void Queue::expect_not_recording() const {
  if (recording_)
    throw Error(Code::unsupported, "capture: expected ops alone between its begin and end, got a read or a write");
}

void* Queue::allocate(int64_t bytes) {
  cuda::expect_alive(device);
  return memory_.allocate(bytes, recording_ ? &recording_->memory : nullptr);
}

void Queue::run(const Problem& p) {
  cuda::expect_alive(device);
  if (recording_) return recording_->record(p);
  launcher_.post(run_item, &p, p.bytes);
}

void Queue::write(void* to, const void* from, int64_t bytes) {
  cuda::expect_alive(device);
  expect_not_recording();
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
  expect_not_recording();
  if (done) return launcher_.post(read_item, ReadItem{to, from, bytes, done, context});
  launcher_.wait();
  throw_failure();
  cuda::choose(device);
  if (bytes)
    cuda::check(device, cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, handles.stream),
                last_op_);
  cuda::check(device, cudaStreamSynchronize(handles.stream), last_op_);
}

// The source stays as it is while this thread waits, and so does the target.
void Queue::copy_across(const void* source, Queue& to, void* target, int64_t bytes) {
  read(nullptr, nullptr, 0, nullptr, nullptr);
  cuda::expect_alive(to.device);
  to.expect_not_recording();
  to.launcher_.wait();
  cuda::choose(to.device);
  cuda::check(to.device,
              cudaMemcpyPeerAsync(target, to.device, source, device, static_cast<size_t>(bytes), to.handles.stream),
              "a copy between devices");
  cuda::check(to.device, cudaStreamSynchronize(to.handles.stream), "a copy between devices");
}

Graph* Queue::make_graph() {
  cuda::expect_alive(device);
  auto graph = std::make_unique<Graph>();
  graph->index_error = static_cast<uint64_t*>(memory_.allocate(sizeof *graph->index_error, &graph->memory));
  return graph.release();
}

void Queue::run_graph(Graph& graph, uint64_t sequence) {
  cuda::expect_alive(device);
  expect_not_recording();
  launcher_.post(graph_item, GraphItem{&graph, sequence});
}

// Its memory may be used again at once, by work that comes after its last run.
void Queue::end_graph(Graph* graph) {
  if (recording_ == graph) recording_ = nullptr;
  memory_.release(graph->index_error, sizeof *graph->index_error, &graph->memory);
  memory_.take_back(graph->memory);
  if (launcher_.closed()) return destroy(graph);
  launcher_.post(end_graph_item, graph);
}

// Of what was not done, only the end of graphs still is.
void Queue::drop_item(void* queue, Executor::Act act, void* payload) {
  if (act == end_graph_item) end_graph_item(queue, payload);
}

void Queue::close() {
  launcher_.close(drop_item);
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
    q.launch(*static_cast<const Problem*>(problem), q.handles.error_word_device, nullptr);
  } catch (const Error& e) {
    q.fail(e);
  } catch (const std::bad_alloc&) {
    q.fail(Error(Code::out_of_memory, std::string(q.last_op_) + ": expected host memory, got none from the system"));
  }
}

void Queue::launch(const Problem& p, uint64_t* index_error, cuda::Pool* pool) {
  cuda::choose(device);
  cuda::Context c{device, handles.stream, handles.multiprocessors, index_error,   &scratch_, "",
                  {},     pool,           handles.overlap,         handles.handed};
  last_op_ = name_of(p.op);
  // The work that uses it comes before whatever uses the memory next.
  const auto give_back = [&] {
    for (const auto& [block, bytes] : c.scratch_blocks) scratch_.release(block, bytes, pool);
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

void Queue::graph_item(void* queue, void* run) {
  Queue& q = *static_cast<Queue*>(queue);
  const GraphItem& item = *static_cast<const GraphItem*>(run);
  try {
    q.launch(*item.graph, item.sequence);
  } catch (const Error& e) {
    q.fail(e);
  } catch (const std::bad_alloc&) {
    q.fail(Error(Code::out_of_memory, "a captured graph: expected host memory, got none from the system"));
  }
}

void Queue::launch(Graph& graph, uint64_t sequence) {
  if (graph.empty()) return;
  cuda::choose(device);
  last_op_ = "a captured graph";
  if (!graph.clean)
    cuda::check(device, cudaMemsetAsync(graph.index_error, 0, sizeof *graph.index_error, handles.stream), last_op_);
  graph.clean = true;
  const bool ready = graph.executable;
  if (ready)
    cuda::check(device, cudaGraphLaunch(graph.executable, handles.stream), last_op_);
  else
    graph.for_each([&](const Problem& p) { launch(p, graph.index_error, &graph.scratch); });
  cuda::hand_on_index_error(handles.stream, graph.index_error, handles.error_word_device, sequence);
  cuda::check(device, cudaGetLastError(), last_op_);
  if (ready)
    last_kernel_ = "cuda.graph";
  else
    capture(graph);
}

// What else in the process waits for the device at the wrong moment spoils a capture. This run has been set off, so
// nothing is lost, and the next one tries again; when it fails again and again it is an error.
void Queue::capture(Graph& graph) {
  constexpr int kAttempts = 4;
  struct Capturing {
    cuda::Pool& pool;
    explicit Capturing(cuda::Pool& p) : pool(p) { pool.capturing = true; }
    ~Capturing() { pool.capturing = false; }
  } const capturing(graph.scratch);
  try {
    graph.executable = cuda::captured(device, handles.stream, [&] {
      graph.for_each([&](const Problem& p) { launch(p, graph.index_error, &graph.scratch); });
    });
    graph.forget_problems();
  } catch (const Error&) {
    if (++graph.failures >= kAttempts) throw;
  }
}

void Queue::end_graph_item(void* queue, void* graph) {
  static_cast<Queue*>(queue)->destroy(*static_cast<Graph**>(graph));
}

// A run that is under way ends all the same: CUDA sees to that.
void Queue::destroy(Graph* graph) {
  (void)cudaSetDevice(device);
  if (graph->executable) (void)cudaGraphExecDestroy(graph->executable);
  (void)cudaGetLastError();
  scratch_.take_back(graph->scratch);
  delete graph;
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
