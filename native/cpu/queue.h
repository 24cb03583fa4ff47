// The CPU's queue: an executor thread takes work in order and spreads it over the pool. One JavaScript thread puts work
// in. A tiny problem that finds the queue idle is run where it is: waking a thread would cost more.
#pragma once
#include "backend.h"

namespace seqmix::cpu {

Queue* queue_open();
void queue_close(Queue*);
void queue_destroy(Queue*);
void* queue_allocate(Queue*, int64_t bytes);
void queue_release(Queue*, void* memory, int64_t bytes);
void queue_read(Queue*, void* to, const void* from, int64_t bytes, Done done, void* context, Status*);
void queue_run(Queue*, const Problem*);
void queue_record(Queue*, Graph*);
void queue_run_graph(Queue*, Graph*, uint64_t sequence);
void queue_end_graph(Queue*, Graph*);
bool queue_idle(Queue*);
uint64_t queue_take_index_error(Queue*);
const char* queue_last_kernel(Queue*);

}  // namespace seqmix::cpu
