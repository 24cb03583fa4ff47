// The CPU behind the table of backend.h.
#include "backend.h"

#include <cstdlib>
#include <fstream>
#include <new>
#include <string>
#include <system_error>

#include "cpu/ceilings.h"
#include "cpu/dispatch.h"
#include "cpu/graph.h"
#include "cpu/memory.h"
#include "cpu/pool.h"
#include "cpu/queue.h"

namespace seqmix {

namespace {

int device_count(Status* status) {
  if (!cpu::target_refusal().empty()) {
    status->set(Code::option_range, cpu::target_refusal().c_str());
    return 0;
  }
  return 1;
}

void device_info(int, DeviceInfo* info, Status*) {
  std::string name = "CPU", line;
  std::ifstream cpuinfo("/proc/cpuinfo");
  while (std::getline(cpuinfo, line))
    if (line.rfind("model name", 0) == 0 && line.find(": ") != std::string::npos) {
      name = line.substr(line.find(": ") + 2);
      break;
    }
  std::snprintf(info->name, sizeof info->name, "%s", name.c_str());
  std::snprintf(info->target, sizeof info->target, "%s", cpu::target().name);
  info->memory_bytes = cpu::machine_memory();
  info->threads = cpu::pool_threads();
}

Queue* open(int device, Status* status) {
  if (device_count(status) == 0) return nullptr;
  (void)device;
  try {
    return cpu::queue_open();
  } catch (const std::bad_alloc&) {
    status->set(Code::out_of_memory, "cpu: expected memory for a queue, got none from the system");
  } catch (const std::system_error& e) {
    status->set(Code::out_of_memory, (std::string("cpu: expected to start a thread, got ") + e.what()).c_str());
  }
  return nullptr;
}

void* allocate(Queue* queue, int64_t bytes, Status* status) {
  void* const memory = cpu::queue_allocate(queue, bytes);
  if (!memory) {
    char text[128];
    std::snprintf(text, sizeof text, "cpu: expected memory for %lld bytes, got none from the system",
                  static_cast<long long>(bytes));
    status->set(Code::out_of_memory, text);
  }
  return memory;
}

void release(Queue* queue, void* memory, int64_t bytes) { cpu::queue_release(queue, memory, bytes); }

// Memory that is written to is new (or, for copies, idle): nothing queued can be using it.
void write(Queue*, void* to, const void* from, int64_t bytes, Status*) {
  std::memcpy(to, from, static_cast<size_t>(bytes));
}

// While a graph is recorded nothing may be thrown across the table: what cannot be kept is told.
void run(Queue* queue, const Problem* problem, Status* status) {
  try {
    cpu::queue_run(queue, problem);
  } catch (const std::bad_alloc&) {
    status->set(Code::out_of_memory, "a captured graph: expected memory from the system, got none");
  }
}

Graph* make_graph(Queue*, Status* status) {
  Graph* const graph = new (std::nothrow) Graph;
  if (!graph) status->set(Code::out_of_memory, "a captured graph: expected memory from the system, got none");
  return graph;
}

void release_to(Queue*, Graph* graph, void* memory, int64_t bytes) { graph->release(memory, bytes); }

void run_graph(Queue* queue, Graph* graph, uint64_t sequence, Status*) { cpu::queue_run_graph(queue, graph, sequence); }

const Backend table = {
    kBackendAbi,
    device_count,
    device_info,
    open,
    cpu::queue_close,
    cpu::queue_destroy,
    allocate,
    release,
    write,
    cpu::queue_read,
    run,
    cpu::queue_idle,
    cpu::queue_take_index_error,
    cpu::queue_last_kernel,
    cpu::pool_set_threads,
    cpu::ceiling,
    make_graph,
    cpu::queue_record,
    release_to,
    run_graph,
    cpu::queue_end_graph,
};

}  // namespace

const Backend& cpu_backend() { return table; }

}  // namespace seqmix
