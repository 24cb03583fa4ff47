#include "core/executor.h"

#include <algorithm>

namespace seqmix {

Executor::Executor(void* owner) : owner_(owner) {
  thread_ = std::thread([this] { work(); });
}

void Executor::work() {
  for (;;) {
    const uint64_t at = head_.load(std::memory_order_relaxed);
    for (int i = 0; i < kSpins && tail_.load(std::memory_order_acquire) == at && !closed_; i++) spin_pause();
    if (tail_.load(std::memory_order_acquire) == at || closed_) {
      std::unique_lock lock(mutex_);
      sleeping_ = true;
      news_.wait(lock, [&] { return tail_.load() != at || closed_; });
      sleeping_ = false;
      if (closed_) return;
    }
    Item& item = items_[at % kSlots];
    item.act(owner_, item.payload);
    head_.store(at + 1);
    if (at + 1 >= wanted_.load()) {
      const std::lock_guard lock(mutex_);
      wanted_ = kNobody;
      news_.notify_all();
    }
  }
}

void Executor::wait_for(uint64_t done, int spins) {
  for (int i = 0; i < spins && head_.load() < done; i++) spin_pause();
  if (head_.load() >= done) return;
  std::unique_lock lock(mutex_);
  news_.wait(lock, [&] {
    wanted_ = std::min(wanted_.load(), done);
    return head_.load() >= done || closed_;
  });
}

void Executor::post(Act act, const void* payload, size_t bytes) {
  if (closed_) return;
  const uint64_t at = tail_.load(std::memory_order_relaxed);
  // Asleep until half of the ring is free: what is done meanwhile may want every processor, and to wake takes time.
  if (at - head_.load(std::memory_order_acquire) >= kSlots) wait_for(at - kSlots / 2, 0);
  Item& item = items_[at % kSlots];
  item.act = act;
  std::memcpy(item.payload, payload, bytes);
  tail_.store(at + 1);
  if (!sleeping_.load()) return;
  const std::lock_guard lock(mutex_);
  news_.notify_all();
}

void Executor::wait() { wait_for(tail_.load(), kSpins); }

void Executor::close(void (*drop)(void*, Act, void*)) {
  if (closed_) return;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    news_.notify_all();
  }
  thread_.join();
  for (uint64_t i = head_; drop && i != tail_; i++) drop(owner_, items_[i % kSlots].act, items_[i % kSlots].payload);
  head_.store(tail_.load());
}

}  // namespace seqmix
