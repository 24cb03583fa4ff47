#include "cpu/queue.h"

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include "core/problem/causal_conv1d.h"
#include "core/problem/rows.h"
#include "core/problem/selective_scan.h"
#include "core/problem/selective_state_update.h"
#include "cpu/context.h"
#include "cpu/dispatch.h"
#include "cpu/memory.h"
#include "cpu/pool.h"

namespace seqmix {

namespace {

// Below this much work (scalar operations, before any vectorising) a problem on an idle queue runs in place: some 10
// µs.
constexpr double kInlineWork = 32768;
// Items that may wait; one more blocks the caller until there is room.
constexpr uint64_t kSlots = 512;
constexpr size_t kLargestProblem = 2560;
static_assert(sizeof(SelectiveScan) <= kLargestProblem && sizeof(SelectiveStateUpdate) <= kLargestProblem);
static_assert(sizeof(CausalConv1d) <= kLargestProblem && sizeof(CausalConv1dUpdate) <= kLargestProblem);
static_assert(sizeof(Linear) <= kLargestProblem && sizeof(Sample) <= kLargestProblem);
constexpr int kSpins = 4000;

struct Item {
  enum Kind { run, release, notify } kind;
  void* memory;
  int64_t bytes;
  Done done;
  void* context;
  alignas(16) unsigned char problem[kLargestProblem];
};

struct Scratch {
  void* memory;
  int64_t bytes;
};

}  // namespace

struct Queue {
  std::unique_ptr<Item[]> items{new Item[kSlots]};
  std::atomic<uint64_t> head{0};  // items ended
  std::atomic<uint64_t> tail{0};  // items put in
  std::mutex mutex;
  std::condition_variable news;  // for the executor: work; for the caller: room, or the end of work
  std::atomic<bool> sleeping{false}, waiting{false};
  std::atomic<bool> closed{false};
  std::thread executor;

  Status failure;            // of an op that could not run; the next read takes it
  uint64_t index_error = 0;  // atomic in all that touches it: kernels set it while the caller may be taking it
  uint64_t sequence = 0;
  std::atomic<const char*> last_kernel{""};
  std::vector<Scratch> scratch;  // of the problem that runs
};

namespace cpu {

namespace {

struct RunContext : Context {
  Queue* queue;
};

void run_parallel(Context* c, int64_t count, Body body, void* argument) {
  pool_run(count, c->threads, body, argument, &static_cast<RunContext*>(c)->queue->closed);
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
  for (const Scratch& s : q.scratch) release_memory(s.memory, s.bytes);
  q.scratch.clear();
}

void run_now(Queue& q, const Problem& p, bool inline_) {
  RunContext c;
  c.parallel = inline_ ? run_serially : run_parallel;
  c.scratch = scratch;
  c.threads = inline_ ? 1 : pool_threads();
  c.index_error = &q.index_error;
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

void work(Queue& q) {
  for (;;) {
    const uint64_t at = q.head.load(std::memory_order_relaxed);
    for (int i = 0; i < kSpins && q.tail.load(std::memory_order_acquire) == at && !q.closed; i++) spin_pause();
    if (q.tail.load(std::memory_order_acquire) == at || q.closed) {
      std::unique_lock lock(q.mutex);
      q.sleeping = true;
      q.news.wait(lock, [&] { return q.tail.load() != at || q.closed; });
      q.sleeping = false;
      if (q.closed) return;
    }
    Item& item = q.items[at % kSlots];
    if (item.kind == Item::run) run_now(q, *reinterpret_cast<const Problem*>(item.problem), false);
    if (item.kind == Item::release) release_memory(item.memory, item.bytes);
    if (item.kind == Item::notify) {
      const Status status = take_failure(q);
      item.done(item.context, &status);
    }
    q.head.store(at + 1);
    if (q.waiting.load()) {
      std::lock_guard lock(q.mutex);
      q.news.notify_all();
    }
  }
}

template <class Ready>
void wait_until(Queue& q, Ready ready) {
  for (int i = 0; i < kSpins; i++) {
    if (ready()) return;
    spin_pause();
  }
  std::unique_lock lock(q.mutex);
  q.waiting = true;
  q.news.wait(lock, ready);
  q.waiting = false;
}

// The slot for the next item; publish() hands it to the executor.
Item& slot(Queue& q) {
  const uint64_t at = q.tail.load(std::memory_order_relaxed);
  if (at - q.head.load(std::memory_order_acquire) >= kSlots) wait_until(q, [&] { return at - q.head.load() < kSlots; });
  return q.items[at % kSlots];
}

void publish(Queue& q) {
  q.tail.fetch_add(1);
  if (!q.sleeping.load()) return;
  std::lock_guard lock(q.mutex);
  q.news.notify_all();
}

}  // namespace

Queue* queue_open() {
  Queue* const q = new Queue;
  q->executor = std::thread([q] { work(*q); });
  return q;
}

void queue_close(Queue* q) {
  {
    std::lock_guard lock(q->mutex);
    q->closed = true;
    q->news.notify_all();
  }
  q->executor.join();
  // What was to be released still is; what was to be run or told is not.
  for (uint64_t i = q->head; i != q->tail; i++)
    if (q->items[i % kSlots].kind == Item::release)
      release_memory(q->items[i % kSlots].memory, q->items[i % kSlots].bytes);
  q->head.store(q->tail.load());
}

void queue_destroy(Queue* q) { delete q; }

// Sequentially consistent, since a caller that waits says so first and looks second, and the executor the other way
// round.
bool queue_idle(Queue* q) { return q->head.load() == q->tail.load(std::memory_order_relaxed); }

void queue_release(Queue* q, void* memory, int64_t bytes) {
  if (q->closed || queue_idle(q)) return release_memory(memory, bytes);
  Item& item = slot(*q);
  item.kind = Item::release;
  item.memory = memory;
  item.bytes = bytes;
  publish(*q);
}

void queue_read(Queue* q, void* to, const void* from, int64_t bytes, Done done, void* context, Status* status) {
  if (done && bytes == 0) {
    Item& item = slot(*q);
    item.kind = Item::notify;
    item.done = done;
    item.context = context;
    return publish(*q);
  }
  wait_until(*q, [&] { return queue_idle(q); });
  if (bytes) std::memcpy(to, from, static_cast<size_t>(bytes));
  *status = take_failure(*q);
  if (done) done(context, status);
}

void queue_run(Queue* q, const Problem* p) {
  if (p->work < kInlineWork && queue_idle(q)) return run_now(*q, *p, true);
  Item& item = slot(*q);
  item.kind = Item::run;
  std::memcpy(item.problem, p, p->bytes);
  publish(*q);
}

uint64_t queue_take_index_error(Queue* q) {
  return __atomic_exchange_n(&q->index_error, uint64_t{0}, __ATOMIC_ACQ_REL);
}

const char* queue_last_kernel(Queue* q) { return q->last_kernel.load(std::memory_order_relaxed); }

}  // namespace cpu
}  // namespace seqmix
