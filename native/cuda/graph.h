// A graph: problems that were recorded once, and the memory they use, which is nobody else's while it lives.
//
// Recording is the JavaScript thread's and touches no stream: problems are kept as they are. The first run sets them
// off one by one, as if they had been asked for just now, which loads their kernels and finds their scratch memory;
// while the device works on that, the same launches are captured, and every later run is one launch of what came out.
// So nothing is allocated or loaded while a stream is captured, and a run that is the only one is done all the same.
//
// Problems carry the sequence numbers they were recorded with, so their kernels report a bad index to a word of the
// graph's, and after each run a kernel hands it on to the queue's word under that run's number.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "backend.h"
#include "cuda/allocator.h"

namespace seqmix {

struct Graph {
  // From the JavaScript thread.
  cuda::Pool memory;
  uint64_t* index_error = nullptr;  // on the device, of `memory`
  void record(const Problem&);

  // From the launcher's.
  cuda::Pool scratch;
  cudaGraphExec_t executable = nullptr;
  int failures = 0;    // to capture it
  bool clean = false;  // index_error has been set to 0

  // Calls body(problem) for each in order.
  template <class Body>
  void for_each(const Body& body) const {
    for (const auto& problem : problems_) body(*reinterpret_cast<const Problem*>(problem.get()));
  }
  void forget_problems() { decltype(problems_)().swap(problems_); }
  bool empty() const { return !executable && problems_.empty(); }

 private:
  std::vector<std::unique_ptr<std::byte[]>> problems_;
};

namespace cuda {

// Captures what `launch` puts on the stream and makes it executable. The stream is as before whatever happens.
cudaGraphExec_t captured(int device, cudaStream_t stream, const std::function<void()>& launch);

// On the stream: what *from holds, if anything, becomes what *to holds, unless that holds something, under another
// sequence number; *from is cleared.
void hand_on_index_error(cudaStream_t, uint64_t* from, uint64_t* to, uint64_t sequence);

}  // namespace cuda

}  // namespace seqmix
