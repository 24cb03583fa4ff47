#include "cpu/graph.h"

#include <cstring>

#include "cpu/memory.h"

namespace seqmix {

Graph::~Graph() {
  for (const auto& [bytes, blocks] : free_)
    for (void* const block : blocks) cpu::release_memory(block, bytes);
}

void Graph::record(const Problem& p) {
  problems_.push_back(std::make_unique<std::byte[]>(p.bytes));
  std::memcpy(problems_.back().get(), &p, p.bytes);
}

void* Graph::allocate(int64_t bytes) {
  const auto found = free_.find(bytes);
  if (found == free_.end() || found->second.empty()) return cpu::allocate_memory(bytes);
  void* const block = found->second.back();
  found->second.pop_back();
  return block;
}

void Graph::release(void* memory, int64_t bytes) { free_[bytes].push_back(memory); }

}  // namespace seqmix
