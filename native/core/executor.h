// A thread that does what one other thread asks for, in order: what lets an op return at once. The asker posts small
// items into a ring; the executor takes them out. It spins for a moment before it sleeps, since ops come in bursts and
// waking costs more than most of them.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>

namespace seqmix {

// In a loop that waits for another thread.
inline void spin_pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Executor {
 public:
  // What is done with an item: `owner` is whom the executor works for.
  using Act = void (*)(void* owner, void* payload);
  static constexpr size_t kLargestPayload = 3584;

  explicit Executor(void* owner);
  ~Executor() { close(); }
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  // From the asking thread. Blocks while the ring is full. Does nothing once closed.
  void post(Act act, const void* payload, size_t bytes);
  template <class T>
  void post(Act act, const T& payload) {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= kLargestPayload);
    post(act, &payload, sizeof payload);
  }

  // Whether all that was posted has been done; its effects are then seen by the asking thread.
  bool idle() const { return head_.load() == tail_.load(); }
  bool is_this_thread() const { return std::this_thread::get_id() == thread_.get_id(); }
  // Waits until all that was posted before the call has been done; from any thread but the executor's.
  void wait();

  // Lets the item that is being done end, and does no other. `drop` is given those that are left.
  void close(void (*drop)(void* owner, Act act, void* payload) = nullptr);
  // True from the moment that close() was called: a long item may look, and end early.
  const std::atomic<bool>& closed() const { return closed_; }

 private:
  static constexpr uint64_t kSlots = 512;
  static constexpr int kSpins = 4000;
  static constexpr uint64_t kNobody = UINT64_MAX;

  struct Item {
    Act act;
    alignas(16) unsigned char payload[kLargestPayload];
  };

  void work();
  void wait_for(uint64_t done, int spins);

  void* const owner_;
  std::unique_ptr<Item[]> items_{new Item[kSlots]};
  // Sequentially consistent throughout: who waits says so first and looks second, and the other side the reverse.
  std::atomic<uint64_t> head_{0};  // items done
  std::atomic<uint64_t> tail_{0};  // items posted
  std::mutex mutex_;
  std::condition_variable news_;  // for the executor: an item; for those who wait: one less
  std::atomic<bool> sleeping_{false}, closed_{false};
  std::atomic<uint64_t> wanted_{kNobody};  // the fewest items done that somebody who sleeps waits for
  std::thread thread_;
};

}  // namespace seqmix
