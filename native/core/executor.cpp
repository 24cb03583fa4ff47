#include "core/executor.h"

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
    if (waiting_.load() > 0) {
      const std::lock_guard lock(mutex_);
      news_.notify_all();
    }
  }
}

void Executor::wait_for(uint64_t done) {
  for (int i = 0; i < kSpins; i++) {
    if (head_.load() >= done) return;
    spin_pause();
  }
  std::unique_lock lock(mutex_);
  waiting_++;
  news_.wait(lock, [&] { return head_.load() >= done || closed_; });
  waiting_--;
}

void Executor::post(Act act, const void* payload, size_t bytes) {
  if (closed_) return;
  const uint64_t at = tail_.load(std::memory_order_relaxed);
  if (at - head_.load(std::memory_order_acquire) >= kSlots) wait_for(at + 1 - kSlots);
  Item& item = items_[at % kSlots];
  item.act = act;
  std::memcpy(item.payload, payload, bytes);
  tail_.store(at + 1);
  if (!sleeping_.load()) return;
  const std::lock_guard lock(mutex_);
  news_.notify_all();
}

void Executor::wait() { wait_for(tail_.load()); }

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
