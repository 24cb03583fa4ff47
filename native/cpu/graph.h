// A graph on the CPU: problems that were recorded once, and the memory they use, which is nobody else's while it lives.
// A run is one item of the queue, which goes through them in order: no JavaScript runs between one op and the next,
// which on a machine of few processors would take one from those that compute.
#pragma once
#include <cstddef>
#include <memory>
#include <unordered_map>
#include <vector>

#include "backend.h"

namespace seqmix {

struct Graph {
  Graph() = default;
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  // From the JavaScript thread.
  void record(const Problem&);
  void* allocate(int64_t bytes);  // null when the system has none
  void release(void* memory, int64_t bytes);

  // From the executor's.
  uint64_t index_error = 0;  // of its problems, which carry the sequence numbers they were recorded with
  // Calls body(problem) for each in order, for as long as that returns true.
  template <class Body>
  void for_each(const Body& body) const {
    for (const auto& problem : problems_)
      if (!body(*reinterpret_cast<const Problem*>(problem.get()))) return;
  }

 private:
  std::vector<std::unique_ptr<std::byte[]>> problems_;
  // Blocks by size that were given back: an op recorded later takes them over, since it also comes later in every run.
  std::unordered_map<int64_t, std::vector<void*>> free_;
};

}  // namespace seqmix
