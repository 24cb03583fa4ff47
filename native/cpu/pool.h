// The process's threads for CPU work: few, plain, and never destroyed, since a queue may still be at work when the
// process exits. One job at a time: indices are handed out by a counter, and the caller takes part.
#pragma once
#include <atomic>
#include <cstdint>

namespace seqmix::cpu {

using Body = void (*)(void* argument, int64_t i, int thread);

// Calls body for each i in [0, count), with thread < threads, and returns when all are done. `threads` is the caller's,
// who has made room for so many, and not the number set now: another thread may set it at any time. `cancelled`, when
// it becomes true, stops the handing out.
void pool_run(int64_t count, int threads, Body body, void* argument, const std::atomic<bool>* cancelled);

int pool_threads();            // how many take part, the caller included
void pool_set_threads(int n);  // from the next job on
int hardware_threads();        // that this process may run on

}  // namespace seqmix::cpu
