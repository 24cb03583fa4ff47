#include "cpu/pool.h"

#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "core/executor.h"

namespace seqmix::cpu {

namespace {

// A worker that has just worked looks for more this long before it sleeps: ops come in bursts, and waking costs more.
constexpr int kSpins = 4000;

struct Job {
  std::atomic<int64_t> next{0};
  int64_t count = 0;
  Body body = nullptr;
  void* argument = nullptr;
  const std::atomic<bool>* cancelled = nullptr;

  void work(int thread) {
    for (;;) {
      if (cancelled->load(std::memory_order_relaxed)) return;
      const int64_t i = next.fetch_add(1, std::memory_order_relaxed);
      if (i >= count) return;
      body(argument, i, thread);
    }
  }
};

struct Pool {
  std::mutex one_job;  // held by the thread whose job it is
  std::mutex mutex;    // guards what follows
  std::condition_variable wake;
  Job job;
  std::atomic<uint64_t> generation{0};  // counts jobs; odd while one is open
  std::atomic<int> busy{0};             // workers inside the open job
  std::atomic<int> wanted{0};           // threads to use, the caller included
  std::atomic<int> threads{0};          // of the open job
  int started = 0;                      // workers that exist

  Pool() { wanted = hardware_threads(); }

  void worker(int thread) {
    uint64_t seen = 0;
    for (;;) {
      const auto open = [&] {
        const uint64_t g = generation.load(std::memory_order_acquire);
        return g > seen && (g & 1) && thread < threads.load(std::memory_order_relaxed);
      };
      for (int i = 0; i < kSpins && !open(); i++) spin_pause();
      {
        std::unique_lock lock(mutex);
        wake.wait(lock, open);
        seen = generation.load();
        busy.fetch_add(1, std::memory_order_relaxed);
      }
      job.work(thread);
      busy.fetch_sub(1, std::memory_order_release);
    }
  }

  void run(int64_t count, int most, Body body, void* argument, const std::atomic<bool>* cancelled) {
    std::lock_guard mine(one_job);
    {
      std::lock_guard lock(mutex);
      try {
        while (started < most - 1) {
          std::thread([this, thread = started + 1] { worker(thread); }).detach();
          started++;
        }
      } catch (const std::exception&) {  // the system gives no more threads: go on with those there are
      }
      job.next.store(0, std::memory_order_relaxed);
      job.count = count;
      threads.store(most, std::memory_order_relaxed);
      job.body = body;
      job.argument = argument;
      job.cancelled = cancelled;
      generation.fetch_add(1, std::memory_order_release);
    }
    wake.notify_all();
    job.work(0);
    {
      std::lock_guard lock(mutex);
      generation.fetch_add(1, std::memory_order_release);  // closed: nobody joins any more
    }
    // Most end at about the same time; but with more threads than processors one may have to be let run first.
    for (int i = 0; busy.load(std::memory_order_acquire) > 0; i++) {
      if (i < kSpins) {
        spin_pause();
      } else {
        std::this_thread::yield();
      }
    }
  }
};

Pool& pool() {
  static Pool* const p = new Pool;
  return *p;
}

}  // namespace

int hardware_threads() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
  const unsigned n = std::thread::hardware_concurrency();
  return n ? static_cast<int>(n) : 1;
}

int pool_threads() { return pool().wanted; }

void pool_set_threads(int n) { pool().wanted = n; }

void pool_run(int64_t count, int threads, Body body, void* argument, const std::atomic<bool>* cancelled) {
  if (count <= 0) return;
  if (count == 1 || threads == 1) {
    for (int64_t i = 0; i < count && !cancelled->load(); i++) body(argument, i, 0);
    return;
  }
  pool().run(count, threads, body, argument, cancelled);
}

}  // namespace seqmix::cpu
