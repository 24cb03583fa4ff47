#include "cuda/allocator.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

#include "cuda/error.h"

namespace seqmix::cuda {

namespace {

constexpr int64_t kGrain = 256;
constexpr int64_t kLarge = 32 << 20;      // from here on a block may serve any request up to an eighth smaller
constexpr int64_t kLargeGrain = 2 << 20;  // what the driver maps at a time

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
int log2_floor(int64_t n) { return 63 - __builtin_clzll(static_cast<unsigned long long>(n)); }

int64_t rounded(int64_t bytes) {
  if (bytes <= 8 * kGrain) return round_up(bytes, kGrain);
  return round_up(bytes, (int64_t{1} << log2_floor(bytes)) / 8);
}

// 256, 512 … 2048 are classes 1 … 8, and each octave above has eight.
int class_of(int64_t size) {
  if (size <= 8 * kGrain) return static_cast<int>(size / kGrain);
  const int octave = log2_floor(size);
  return (octave - 11) * 8 + 8 + static_cast<int>(size >> (octave - 3) & 7);
}

// The allocators of the process. Never destroyed.
struct Registry {
  std::mutex mutex;
  std::vector<Allocator*> all;
};
Registry& registry() {
  static Registry* const r = new Registry;
  return *r;
}

}  // namespace

Allocator::Allocator(int device, cudaStream_t stream, Executor* launcher)
    : device_(device), stream_(stream), launcher_(launcher) {
  const char* const mode = std::getenv("SEQMIX_CUDA_ALLOCATOR");
  if (mode && *mode && std::strcmp(mode, "guarded") != 0 && std::strcmp(mode, "caching") != 0)
    throw Error(Code::option_range, std::string("SEQMIX_CUDA_ALLOCATOR: expected caching or guarded, got ") + mode);
  guarded_ = mode && std::strcmp(mode, "guarded") == 0;
  const std::lock_guard lock(registry().mutex);
  registry().all.push_back(this);
}

Allocator::~Allocator() {
  {
    const std::lock_guard lock(registry().mutex);
    std::erase(registry().all, this);
  }
  std::vector<void*> blocks;
  take_cached(&blocks);
  for (void* const block : blocks) (void)cudaFree(block);
}

void* Allocator::allocate(int64_t bytes, Pool* pool) {
  if (bytes > INT64_MAX / 2) refuse(bytes);
  if (pool)
    if (void* const block = from_cache(bytes, pool->free)) return block;
  if (void* const block = from_cache(bytes, cache_)) return block;
  return from_device(bytes, !pool || !pool->capturing);
}

void Allocator::release(void* memory, int64_t bytes, Pool* pool) {
  if (guarded_ && pool) {
    pool->kept.push_back(memory);
    return;
  }
  if (guarded_) {
    wait_for_launches();
    choose(device_);
    (void)cudaStreamSynchronize(stream_);
    (void)cudaFree(memory);
    return;
  }
  Blocks& cache = pool ? pool->free : cache_;
  const std::lock_guard lock(mutex_);
  if (rounded(bytes) < kLarge)
    cache.small[class_of(rounded(bytes))].push_back(memory);
  else
    cache.large.emplace(sizes_.at(memory), memory);
}

void Allocator::take_back(Pool& pool) {
  if (!pool.kept.empty()) {
    wait_for_launches();
    (void)cudaSetDevice(device_);
    (void)cudaStreamSynchronize(stream_);
    for (void* const block : pool.kept) (void)cudaFree(block);
    pool.kept.clear();
  }
  const std::lock_guard lock(mutex_);
  for (int i = 0; i < Blocks::kClasses; i++) {
    std::vector<void*>& from = pool.free.small[i];
    cache_.small[i].insert(cache_.small[i].end(), from.begin(), from.end());
    from.clear();
  }
  cache_.large.merge(pool.free.large);
}

void* Allocator::from_cache(int64_t bytes, Blocks& cache) {
  if (guarded_) return nullptr;
  const int64_t size = rounded(bytes);
  const std::lock_guard lock(mutex_);
  if (size < kLarge) {
    std::vector<void*>& blocks = cache.small[class_of(size)];
    if (blocks.empty()) return nullptr;
    void* const block = blocks.back();
    blocks.pop_back();
    return block;
  }
  const auto found = cache.large.lower_bound(bytes);
  if (found == cache.large.end() || found->first > size + kLargeGrain) return nullptr;
  void* const block = found->second;
  cache.large.erase(found);
  return block;
}

void* Allocator::from_device(int64_t bytes, bool may_trim) {
  const bool large = rounded(bytes) >= kLarge;
  const int64_t size = guarded_ ? bytes : large ? round_up(bytes, kLargeGrain) : rounded(bytes);
  void* block = nullptr;
  choose(device_);
  cudaError_t error = cudaMalloc(&block, static_cast<size_t>(size));
  if (error == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    if (!may_trim) refuse(bytes);
    trim();
    error = cudaMalloc(&block, static_cast<size_t>(size));
    if (error == cudaErrorMemoryAllocation) {
      (void)cudaGetLastError();
      refuse(bytes);
    }
  }
  check(device_, error, "an allocation");
  if (guarded_) {
    wait_for_launches();  // one of them may be capturing the stream
    check(device_, cudaMemsetAsync(block, 0xff, static_cast<size_t>(size), stream_), "an allocation");
  }
  if (large && !guarded_) {
    const std::lock_guard lock(mutex_);
    sizes_[block] = size;
  }
  return block;
}

// The caller frees the blocks once what uses them has ended.
void Allocator::take_cached(std::vector<void*>* blocks) {
  const std::lock_guard lock(mutex_);
  for (std::vector<void*>& list : cache_.small) {
    blocks->insert(blocks->end(), list.begin(), list.end());
    list.clear();
  }
  for (const auto& [size, block] : cache_.large) {
    blocks->push_back(block);
    sizes_.erase(block);
  }
  cache_.large.clear();
}

// Never destroyed.
std::mutex& Allocator::capturing() {
  static std::mutex* const m = new std::mutex;
  return *m;
}

void Allocator::wait_for_launches() {
  if (!launcher_->is_this_thread()) launcher_->wait();
}

// What was released may still be read by work that has yet to be launched, so the JavaScript thread waits for the
// launchers. A launcher takes its own cache alone: nothing it has not launched uses that, and two launchers that waited
// for each other would wait for ever.
void Allocator::trim() {
  std::vector<void*> blocks;
  if (launcher_->is_this_thread()) {
    take_cached(&blocks);
  } else {
    const std::lock_guard lock(registry().mutex);
    for (Allocator* const other : registry().all) {
      if (other->device_ != device_) continue;
      other->take_cached(&blocks);
      other->launcher_->wait();
    }
  }
  {
    const std::lock_guard lock(capturing());
    check(device_, cudaDeviceSynchronize(), "an allocation");
  }
  for (void* const block : blocks) (void)cudaFree(block);
}

void Allocator::refuse(int64_t bytes) {
  size_t free = 0, total = 0;
  (void)cudaMemGetInfo(&free, &total);
  throw Error(Code::out_of_memory, "cuda:" + std::to_string(device_) + ": expected memory for " +
                                       std::to_string(bytes) + " bytes, got cudaErrorMemoryAllocation with " +
                                       std::to_string(free) + " of " + std::to_string(total) + " bytes free");
}

}  // namespace seqmix::cuda
