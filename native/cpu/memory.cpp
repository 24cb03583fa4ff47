#include "cpu/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <mutex>
#include <new>

namespace seqmix::cpu {

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kCaching = false;  // so that the sanitizer sees the end of every block, and its use after release
#else
constexpr bool kCaching = true;
#endif
constexpr uint64_t kHugePage = uint64_t{2} << 20;
constexpr uint64_t kMostKept = uint64_t{256} << 20;  // when this is passed, what is kept goes back to the system

// Multiples of 64, and eight sizes between powers of two: of a large block at most an eighth is lost.
uint64_t rounded(int64_t bytes) {
  const uint64_t n = bytes > 0 ? static_cast<uint64_t>(bytes) : 1;
  const uint64_t step = std::max<uint64_t>(64, std::bit_floor(n) / 8);
  return (n + step - 1) / step * step;
}

// From the system. Large blocks lie on huge pages where the system gives them for the asking: fewer faults when they
// are new, and fewer steps for each address while they are read, which under a hypervisor are many.
void* fresh(uint64_t size) {
  if (size < kHugePage) return std::aligned_alloc(64, size);
  void* const memory = std::aligned_alloc(kHugePage, size);
#if defined(MADV_HUGEPAGE)
  if (memory) (void)madvise(memory, size / kHugePage * kHugePage, MADV_HUGEPAGE);  // where it is refused, as it was
#endif
  return memory;
}

// A block that is not in use holds the way to the next of its size.
struct Free {
  Free* next;
};

struct Cache {
  std::mutex mutex;
  Free* blocks[64 * 8] = {};  // by size
  uint64_t kept = 0;

  Free*& list(uint64_t size) {
    const int power = std::bit_width(size) - 1;
    return blocks[power * 8 + static_cast<int>(size / (uint64_t{1} << power >> 3)) - 8];
  }

  void* take(uint64_t size) {
    const std::lock_guard lock(mutex);
    Free*& first = list(size);
    Free* const block = first;
    if (!block) return nullptr;
    first = block->next;
    kept -= size;
    return block;
  }

  bool keep(void* memory, uint64_t size) {
    if (size > kMostKept) return false;
    const std::lock_guard lock(mutex);
    if (kept + size > kMostKept) empty();
    Free*& first = list(size);
    first = new (memory) Free{first};
    kept += size;
    return true;
  }

  void empty() {
    for (Free*& first : blocks)
      while (first) {
        Free* const block = first;
        first = block->next;
        std::free(block);
      }
    kept = 0;
  }
};

// Never destroyed: a queue may still be at work when the process exits.
Cache& cache() {
  static Cache* const c = new Cache;
  return *c;
}

}  // namespace

int64_t machine_memory() {
  static const int64_t bytes = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  return bytes;
}

void* allocate_memory(int64_t bytes) {
  // The system may promise more than the machine has, and end the process when that is used.
  if (bytes > machine_memory()) return nullptr;
  if (!kCaching) return std::aligned_alloc(64, (static_cast<uint64_t>(bytes) + 63) / 64 * 64);
  const uint64_t size = rounded(bytes);
  if (void* const memory = cache().take(size)) return memory;
  if (void* const memory = fresh(size)) return memory;
  {
    const std::lock_guard lock(cache().mutex);
    cache().empty();
  }
  return fresh(size);
}

void release_memory(void* memory, int64_t bytes) {
  if (!kCaching || !cache().keep(memory, rounded(bytes))) std::free(memory);
}

}  // namespace seqmix::cpu
