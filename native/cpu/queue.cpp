#include "cpu/queue.h"

#include <cstring>
#include <new>
#include <vector>

#include "core/executor.h"
#include "core/problem/flash_attention.h"
#include "core/problem/selective_scan.h"
#include "core/problem/selective_state_update.h"
#include "core/problem/ssd_chunk_scan.h"
#include "cpu/context.h"
#include "cpu/dispatch.h"
#include "cpu/graph.h"
#include "cpu/memory.h"
#include "cpu/pool.h"

namespace seqmix {

namespace {

// Below this much work (scalar operations, before any vectorising) a problem on an idle queue runs in place: some 10
// µs.
constexpr double kInlineWork = 32768;
static_assert(sizeof(SelectiveScan) <= Executor::kLargestPayload, "the largest problems fit an item");
static_assert(sizeof(SelectiveStateUpdate) <= Executor::kLargestPayload);
static_assert(sizeof(SsdChunkScan) <= Executor::kLargestPayload);
static_assert(sizeof(FlashAttention) <= Executor::kLargestPayload);

struct Block {
  void* memory;
  int64_t bytes;
};

struct Notice {
  Done done;
  void* context;
};

struct GraphRun {
  Graph* graph;
  uint64_t sequence;
};

}  // namespace

struct Queue {
  Status failure;            // of an op that could not run; the next read takes it
  uint64_t index_error = 0;  // atomic in all that touches it: kernels set it while the caller may be taking it
  std::atomic<const char*> last_kernel{""};
  std::vector<Block> scratch;  // of the problem that runs
  Graph* recording = nullptr;  // the JavaScript thread's
  Executor executor{this};     // last, since it uses the rest
};

namespace cpu {

namespace {

struct RunContext : Context {
  Queue* queue;
};

void run_parallel(Context* c, int64_t count, Body body, void* argument) {
  pool_run(count, c->threads, body, argument, &static_cast<RunContext*>(c)->queue->executor.closed());
}

void run_serially(Context*, int64_t count, Body body, void* argument) {
  for (int64_t i = 0; i < count; i++) body(argument, i, 0);
}

void* scratch(Context* c, int64_t bytes) {
  Queue& q = *static_cast<RunContext*>(c)->queue;
  void* const memory = allocate_memory(bytes);
  if (!memory) throw std::bad_alloc();
  q.scratch.push_back({memory, bytes});
  return memory;
}

void end_scratch(Queue& q) {
  for (const Block& s : q.scratch) release_memory(s.memory, s.bytes);
  q.scratch.clear();
}

void run_now(Queue& q, const Problem& p, bool inline_, uint64_t* index_error) {
  RunContext c;
  c.parallel = inline_ ? run_serially : run_parallel;
  c.scratch = scratch;
  c.threads = inline_ ? 1 : pool_threads();
  c.index_error = index_error;
  c.kernel = "";
  c.queue = &q;
  try {
    target().kernels[static_cast<int>(p.op)](c, p);
  } catch (const std::bad_alloc&) {
    q.failure.code = Code::out_of_memory;
    std::snprintf(q.failure.message, sizeof q.failure.message,
                  "%s: expected to get its scratch memory, got no more from the system; its result is not valid",
                  name_of(p.op));
  }
  q.last_kernel.store(c.kernel, std::memory_order_relaxed);
  end_scratch(q);
}

Status take_failure(Queue& q) {
  const Status failure = q.failure;
  q.failure = Status();
  return failure;
}

void run_item(void* queue, void* payload) {
  Queue& q = *static_cast<Queue*>(queue);
  run_now(q, *static_cast<const Problem*>(payload), false, &q.index_error);
}

void run_graph_item(void* queue, void* payload) {
  Queue& q = *static_cast<Queue*>(queue);
  const GraphRun& run = *static_cast<const GraphRun*>(payload);
  Graph& graph = *run.graph;
  graph.for_each([&](const Problem& p) {
    run_now(q, p, false, &graph.index_error);
    return !q.executor.closed();
  });
  const uint64_t word = __atomic_exchange_n(&graph.index_error, uint64_t{0}, __ATOMIC_ACQ_REL);
  uint64_t none = 0;
  if (word)
    __atomic_compare_exchange_n(&q.index_error, &none, index_error_at(word, run.sequence), false, __ATOMIC_ACQ_REL,
                                __ATOMIC_RELAXED);
}

void end_graph_item(void*, void* payload) { delete *static_cast<Graph**>(payload); }

void release_item(void*, void* payload) {
  const Block& block = *static_cast<const Block*>(payload);
  release_memory(block.memory, block.bytes);
}

void notify_item(void* queue, void* payload) {
  const Notice& notice = *static_cast<const Notice*>(payload);
  const Status status = take_failure(*static_cast<Queue*>(queue));
  notice.done(notice.context, &status);
}

// What was to be released still is; what was to be run or told is not.
void drop_item(void* queue, Executor::Act act, void* payload) {
  if (act == release_item || act == end_graph_item) act(queue, payload);
}

}  // namespace

Queue* queue_open() { return new Queue; }
void queue_close(Queue* q) { q->executor.close(drop_item); }
void queue_destroy(Queue* q) { delete q; }
bool queue_idle(Queue* q) { return q->executor.idle(); }

void* queue_allocate(Queue* q, int64_t bytes) {
  return q->recording ? q->recording->allocate(bytes) : allocate_memory(bytes);
}

void queue_release(Queue* q, void* memory, int64_t bytes) {
  if (q->executor.closed() || queue_idle(q)) return release_memory(memory, bytes);
  q->executor.post(release_item, Block{memory, bytes});
}

void queue_read(Queue* q, void* to, const void* from, int64_t bytes, Done done, void* context, Status* status) {
  if (done && bytes == 0) return q->executor.post(notify_item, Notice{done, context});
  q->executor.wait();
  if (bytes) std::memcpy(to, from, static_cast<size_t>(bytes));
  *status = take_failure(*q);
  if (done) done(context, status);
}

void queue_run(Queue* q, const Problem* p) {
  if (q->recording) return q->recording->record(*p);
  if (p->work < kInlineWork && queue_idle(q)) return run_now(*q, *p, true, &q->index_error);
  q->executor.post(run_item, p, p->bytes);
}

void queue_record(Queue* q, Graph* graph) { q->recording = graph; }

void queue_run_graph(Queue* q, Graph* graph, uint64_t sequence) {
  q->executor.post(run_graph_item, GraphRun{graph, sequence});
}

void queue_end_graph(Queue* q, Graph* graph) {
  if (q->recording == graph) q->recording = nullptr;
  if (q->executor.closed()) return end_graph_item(nullptr, &graph);
  q->executor.post(end_graph_item, graph);
}

uint64_t queue_take_index_error(Queue* q) {
  return __atomic_exchange_n(&q->index_error, uint64_t{0}, __ATOMIC_ACQ_REL);
}

const char* queue_last_kernel(Queue* q) { return q->last_kernel.load(std::memory_order_relaxed); }

}  // namespace cpu
}  // namespace seqmix
