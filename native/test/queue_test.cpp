// The CPU's queue and pool under many threads. Also run under ThreadSanitizer: SEQMIX_SANITIZE=thread npm run
// test:native.
#include "cpu/queue.h"

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#include "backend.h"
#include "core/layout.h"
#include "core/problem/elementwise.h"
#include "core/problem/rows.h"
#include "cpu/pool.h"
#include "test/test.h"

namespace seqmix::test {
namespace {

using cpu::pool_run;

// EXPECT counts failures without a lock, so threads count theirs.
struct Failures {
  std::atomic<int> count{0};
  void expect(bool ok) {
    if (!ok) count++;
  }
};

const std::atomic<bool> kNever{false};

TEST(pool_visits_every_index_once_from_many_callers) {
  Failures failures;
  std::atomic<bool> stop{false};
  std::thread meddler([&] {  // other threads may set the number at any time
    for (int n = 1; !stop; n = n % 8 + 1) {
      cpu::pool_set_threads(n);
      std::this_thread::yield();
    }
  });
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; c++)
    callers.emplace_back([&, c] {
      for (int job = 0; job < 150; job++) {
        const int threads = 1 + (job + c) % 5;
        const int64_t count = (job * 37 + c) % 200;
        struct Argument {
          std::vector<std::atomic<int>> visits;
          int threads;
          Failures* failures;
        } argument{std::vector<std::atomic<int>>(static_cast<size_t>(count)), threads, &failures};
        pool_run(
            count, threads,
            [](void* a, int64_t i, int thread) {
              Argument& g = *static_cast<Argument*>(a);
              g.visits[static_cast<size_t>(i)]++;
              g.failures->expect(thread >= 0 && thread < g.threads);
            },
            &argument, &kNever);
        for (const std::atomic<int>& v : argument.visits) failures.expect(v == 1);
      }
    });
  for (std::thread& t : callers) t.join();
  stop = true;
  meddler.join();
  cpu::pool_set_threads(cpu::hardware_threads());
  EXPECT(failures.count == 0, std::to_string(failures.count) + " things went wrong");
}

TEST(pool_stops_handing_out_when_cancelled) {
  std::atomic<bool> cancelled{false};
  struct Argument {
    std::atomic<int64_t> done{0};
    std::atomic<bool>* cancelled;
  } argument;
  argument.cancelled = &cancelled;
  pool_run(
      int64_t{1} << 40, 3,
      [](void* a, int64_t, int) {
        Argument& g = *static_cast<Argument*>(a);
        if (++g.done == 1000) *g.cancelled = true;
      },
      &argument, &cancelled);
  EXPECT(argument.done >= 1000 && argument.done < 1010, std::to_string(argument.done));
}

struct Memory {
  Queue* queue;
  int64_t bytes;
  unsigned char* data;
  Memory(Queue* q, int64_t n) : queue(q), bytes(n) {
    Status status;
    data = static_cast<unsigned char*>(cpu_backend().allocate(q, n, &status));
    throw_if(status);
  }
  ~Memory() { cpu_backend().release(queue, data, bytes); }
};

void fill(Queue* q, const Memory& m, uint8_t byte) {
  Fill f;
  f.out = dense(DType::boolean, {m.bytes});
  f.out.data = m.data;
  f.byte = byte;
  f.work = 1e9;  // never in place
  Status status;
  cpu_backend().run(q, &f, &status);
}

void copy(Queue* q, const Memory& from, const Memory& to) {
  Copy c;
  c.src = c.dst = dense(DType::boolean, {from.bytes});
  c.src.data = from.data;
  c.dst.data = to.data;
  c.validate();
  Status status;
  cpu_backend().run(q, &c, &status);
}

struct Told {
  std::atomic<int> times{0};
  int order = 0;
  std::atomic<int>* clock;
};

void tell(void* told, const Status*) {
  Told& t = *static_cast<Told*>(told);
  t.order = (*t.clock)++;
  t.times++;
}

void read(Queue* q, Told* told) {
  Status status;
  cpu_backend().read(q, nullptr, nullptr, 0, told ? tell : nullptr, told, &status);
}

// Fills and copies in a chain; every one of them must have seen the one before.
bool chain(Queue* q, int steps, std::vector<Told>* told) {
  Memory a(q, 4096), b(q, 4096);
  std::vector<unsigned char> seen(4096);
  bool right = true;
  for (int i = 0; i < steps; i++) {
    fill(q, a, static_cast<uint8_t>(i));
    copy(q, a, b);
    if (told && static_cast<size_t>(i) < told->size()) read(q, &(*told)[static_cast<size_t>(i)]);
    if (i % 64 == 63) {
      Status status;
      cpu_backend().read(q, seen.data(), b.data, b.bytes, nullptr, nullptr, &status);
      right = right && status.ok() && std::memcmp(seen.data(), b.data, seen.size()) == 0;
      for (const unsigned char v : seen) right = right && v == static_cast<unsigned char>(i);
    }
  }
  read(q, nullptr);
  return right;
}

TEST(queue_works_in_order_past_its_bound) {
  std::atomic<int> clock{0};
  std::vector<Told> told(1500);  // more than there are slots
  for (Told& t : told) t.clock = &clock;
  Queue* const q = cpu::queue_open();
  EXPECT(chain(q, 1536, &told), "what was read");
  for (size_t i = 0; i < told.size(); i++)
    EXPECT(told[i].times == 1 && told[i].order == static_cast<int>(i), "told once and in order: " + std::to_string(i));
  EXPECT(cpu::queue_idle(q), "nothing is left");
  cpu::queue_close(q);
  cpu::queue_destroy(q);
}

TEST(queue_many_at_once_with_threads_being_set) {
  Failures failures;
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; t++)
    threads.emplace_back([&, t] {
      for (int round = 0; round < 4; round++) {
        Queue* const q = cpu::queue_open();
        cpu::pool_set_threads(1 + (t + round) % 4);
        failures.expect(chain(q, 128, nullptr));
        cpu::queue_close(q);
        cpu::queue_destroy(q);
      }
    });
  for (std::thread& t : threads) t.join();
  cpu::pool_set_threads(cpu::hardware_threads());
  EXPECT(failures.count == 0, "chains");
}

// Long enough to be caught at work: some 20 ms and more under a sanitizer.
struct Slow {
  static constexpr int64_t kSize = 512;
  Memory x, w, out;
  explicit Slow(Queue* q) : x(q, kSize * kSize * 4), w(q, kSize * kSize * 4), out(q, kSize * kSize * 4) {
    std::memset(x.data, 0, static_cast<size_t>(x.bytes));
    std::memset(w.data, 0, static_cast<size_t>(w.bytes));
  }
  void run(Queue* q) {
    Linear p;
    p.x = dense(DType::float32, {kSize, kSize});
    p.weight = p.x;
    p.validate();
    p.x.data = x.data;
    p.weight.data = w.data;
    p.out.data = out.data;
    Status status;
    cpu_backend().run(q, &p, &status);
  }
};

TEST(queue_closes_with_work_in_flight) {
  for (int round = 0; round < 20; round++) {
    std::atomic<int> clock{0};
    std::vector<Told> told(30);
    for (Told& t : told) t.clock = &clock;
    Queue* const q = cpu::queue_open();
    {
      Slow slow(q);
      for (Told& t : told) {
        slow.run(q);
        Memory short_lived(q, 1024);  // released in queue order, or by close: the leak checker looks
        fill(q, short_lived, 1);
        read(q, &t);
      }
      std::this_thread::sleep_for(std::chrono::microseconds(round * 300));
    }
    cpu::queue_close(q);
    const int at_close = clock;
    EXPECT(clock == at_close, "nothing is told after close");
    for (int i = 0; i < static_cast<int>(told.size()); i++)
      EXPECT(told[static_cast<size_t>(i)].times == (i < at_close ? 1 : 0), "told in order, once");
    cpu::queue_destroy(q);
  }
}

TEST(queue_takes_memory_back_after_it_closed) {
  Queue* const q = cpu::queue_open();
  {
    Slow slow(q);
    slow.run(q);
    cpu::queue_close(q);
  }
  cpu::queue_destroy(q);
}

TEST(queue_reports_a_bad_index_once) {
  Queue* const q = cpu::queue_open();
  {
    Memory ids(q, 3 * 4), table(q, 2 * 4), out(q, 3 * 4);
    const int32_t wanted[] = {1, 2, 0};
    const float rows[] = {5, 6};
    std::memcpy(ids.data, wanted, sizeof wanted);
    std::memcpy(table.data, rows, sizeof rows);
    Embedding p;
    p.ids = dense(DType::int32, {3});
    p.table = dense(DType::float32, {2, 1});
    p.validate();
    p.ids.data = ids.data;
    p.table.data = table.data;
    p.out.data = out.data;
    p.sequence = 77;
    Status status;
    cpu_backend().run(q, &p, &status);
    read(q, nullptr);
    const float* const got = reinterpret_cast<const float*>(out.data);
    EXPECT(got[0] == 6 && got[1] == 0 && got[2] == 5, "a row of 0");
    const uint64_t word = cpu::queue_take_index_error(q);
    EXPECT(index_error_op(word) == Op::embedding && index_error_sequence(word) == 77, "names the op");
    EXPECT(cpu::queue_take_index_error(q) == 0, "is cleared");
  }
  cpu::queue_close(q);
  cpu::queue_destroy(q);
}

// A graph of two fills and a copy, over memory of its own, run and ended while other work is queued, or left to close.
TEST(queue_runs_graphs_in_order) {
  const Backend& cpu = cpu_backend();
  for (int round = 0; round < 20; round++) {
    Queue* const q = cpu::queue_open();
    {
      constexpr int64_t kBytes = 100000;
      Memory target(q, kBytes);
      Status status;
      Graph* const graph = cpu.make_graph(q, &status);
      cpu.record(q, graph);
      void* const first = cpu.allocate(q, kBytes, &status);
      cpu.release_to(q, graph, first, kBytes);
      void* const again = cpu.allocate(q, kBytes, &status);
      EXPECT(again == first, "what was released serves what is recorded later");
      void* const other = cpu.allocate(q, kBytes, &status);
      EXPECT(other != again, "and nobody else");
      {
        const View bytes = dense(DType::boolean, {kBytes});
        Fill f;
        f.out = bytes;
        f.out.data = again;
        f.byte = 7;
        cpu.run(q, &f, &status);
        Copy c;
        c.src = c.dst = bytes;
        c.src.data = again;
        c.dst.data = target.data;
        c.validate();
        cpu.run(q, &c, &status);
      }
      cpu.record(q, nullptr);
      fill(q, target, 1);
      read(q, nullptr);
      EXPECT(target.data[0] == 1 && target.data[kBytes - 1] == 1, "recording does nothing");
      for (int i = 0; i < 4; i++) {
        fill(q, target, 2);
        cpu.run_graph(q, graph, static_cast<uint64_t>(i + 1), &status);
      }
      cpu.release_to(q, graph, again, kBytes);
      if (round % 3 == 0) cpu::queue_close(q);
      cpu.end_graph(q, graph);
      cpu.release(q, other, kBytes);
      if (round % 3) {
        read(q, nullptr);
        EXPECT(target.data[0] == 7 && target.data[kBytes - 1] == 7, "each run comes after what was queued before it");
      }
    }
    cpu::queue_close(q);
    cpu::queue_destroy(q);
  }
}

}  // namespace
}  // namespace seqmix::test
