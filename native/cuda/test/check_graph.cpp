// Graphs through the table: what is recorded is done at each run and not before, alone in its memory, with each run's
// own number for a bad index; ended while a run is under way, or after its queue has closed.
#include <cstdlib>
#include <cstring>
#include <set>

#include "core/problem/elementwise.h"
#include "core/problem/increment.h"
#include "core/problem/rows.h"
#include "cuda/test/harness.h"

namespace seqmix::test {

namespace {

constexpr int64_t kSize = 5000;

Graph* begin() {
  Status status;
  Graph* const graph = device.backend->make_graph(device.queue, &status);
  throw_if(status);
  device.backend->record(device.queue, graph);
  return graph;
}

void stop() { device.backend->record(device.queue, nullptr); }

void run(Graph* graph, uint64_t sequence) {
  Status status;
  device.backend->run_graph(device.queue, graph, sequence, &status);
  throw_if(status);
}

void silu_to(const View& x, void* to) {
  Silu p;
  p.x = x;
  p.validate();
  p.out.data = to;
  device.run(p);
}

void add_to(const View& a, const View& b, void* to) {
  Binary p(Op::add);
  p.a = a;
  p.b = b;
  p.validate();
  p.out.data = to;
  device.run(p);
}

std::vector<float> fetched(const void* from) {
  std::vector<float> values(kSize);
  device.read(values.data(), from, kSize * 4);
  return values;
}

// x → silu → + x, ten times; every temporary is released as soon as the next one is there.
struct Chain {
  Graph* graph = nullptr;
  void* out = nullptr;
  std::set<void*> blocks;

  explicit Chain(const View& x) {
    graph = begin();
    View now = x;
    for (int i = 0; i < 10; i++) {
      View next = x;
      next.data = allocate();
      silu_to(now, next.data);
      View sum = x;
      sum.data = allocate();
      add_to(next, x, sum.data);
      release(next.data);
      if (i > 0) release(now.data);
      now = sum;
    }
    out = now.data;
    stop();
  }
  void end() {
    device.backend->end_graph(device.queue, graph);
    device.backend->release(device.queue, out, kSize * 4);
  }

 private:
  void* allocate() {
    void* const block = device.allocate(kSize * 4);
    blocks.insert(block);
    return block;
  }
  void release(void* block) const { device.backend->release_to(device.queue, graph, block, kSize * 4); }
};

std::vector<float> chain_by_hand(const View& x) {
  Array a(x), b(x);
  View now = x;
  for (int i = 0; i < 10; i++) {
    silu_to(now, a.view().data);
    add_to(a.view(), x, b.view().data);
    now = b.view();
  }
  return fetched(b.view().data);
}

void check_runs() {
  Array x = uniform({kSize}, -2, 2);
  Chain chain(x.view());
  const char* const mode = std::getenv("SEQMIX_CUDA_ALLOCATOR");
  const bool guarded = mode && std::strcmp(mode, "guarded") == 0;  // where every block is new
  expect("graph: temporaries use the same memory again", guarded || chain.blocks.size() < 6);
  for (int i = 0; i < 5; i++) {
    std::vector<Array> others;
    for (int j = 0; j < 12; j++) {
      others.push_back(uniform({kSize}, 5, 6));
      expect("graph: its memory is nobody else's", chain.blocks.count(others.back().view().data) == 0);
    }
    x.values()[static_cast<size_t>(i)] = i;
    x.upload();
    run(chain.graph, 1);
    expect("graph: run " + std::to_string(i), fetched(chain.out) == chain_by_hand(x.view()));
    run(chain.graph, 1);
    device.read(nullptr, nullptr, 0);
    expect("graph: one launch", std::string(device.backend->last_kernel(device.queue)) == "cuda.graph");
  }
  chain.end();
}

// Nothing happens before the first run, and one step at each.
void check_steps() {
  Array counter = integers(DType::int64, {3}, 5, 5);
  Increment p;
  p.out = counter.view();
  p.by = 2;
  p.validate();
  Graph* const graph = begin();
  device.run(p);
  stop();
  for (int i = 0; i < 5; i++) {
    expect_equal("graph: steps", counter, std::vector<double>(3, 5.0 + 2 * i));
    run(graph, 1);
  }
  device.backend->end_graph(device.queue, graph);
}

void check_refusals() {
  Graph* const graph = begin();
  char byte = 0;
  void* const memory = device.allocate(64);
  Status read, write;
  device.backend->read(device.queue, &byte, memory, 1, nullptr, nullptr, &read);
  device.backend->write(device.queue, memory, &byte, 1, &write);
  expect("graph: reads and writes", read.code == Code::unsupported && write.code == Code::unsupported);
  stop();
  device.backend->end_graph(device.queue, graph);
  device.backend->release(device.queue, memory, 64);
}

void check_bad_index() {
  Array ids(DType::int32, {2});
  ids.values() = {1, 7};
  Array table = uniform({3, 5}, -1, 1);
  Embedding p;
  p.ids = ids.upload();
  p.table = table.view();
  p.validate();
  Array out(p.out);
  p.out = out.view();
  Graph* const graph = begin();
  device.run(p);
  stop();
  for (uint64_t sequence = 1000; sequence < 1005; sequence++) {
    run(graph, sequence);
    run(graph, sequence + 500);
    device.read(nullptr, nullptr, 0);
    const uint64_t word = device.backend->take_index_error(device.queue);
    expect("graph: bad index", index_error_op(word) == Op::embedding && index_error_sequence(word) == sequence);
  }
  ids.values() = {1, 0};
  ids.upload();
  run(graph, 1);
  device.read(nullptr, nullptr, 0);
  expect("graph: good index", device.backend->take_index_error(device.queue) == 0);
  device.backend->end_graph(device.queue, graph);
}

// Its memory goes to others at once, while runs of it are under way.
void check_end() {
  Array x = uniform({kSize}, -2, 2);
  const std::vector<float> want = chain_by_hand(x.view());
  for (int runs = 0; runs < 6; runs++) {
    Chain chain(x.view());
    for (int i = 0; i < runs; i++) run(chain.graph, 1);
    chain.end();
    std::vector<Array> others;
    for (int j = 0; j < 12; j++) others.push_back(uniform({kSize}, 5, 6));
    for (Array& other : others) {
      const std::vector<double> sent = other.values();
      expect_equal("graph: memory after its end", other, sent);
    }
  }
  expect("graph: by hand again", chain_by_hand(x.view()) == want);
}

void check_close() {
  const Device was = device;
  Status status;
  for (const int runs : {0, 1, 3}) {
    device.queue = device.backend->open(0, &status);
    throw_if(status);
    {
      Array x = uniform({kSize}, -2, 2);
      Chain chain(x.view());
      for (int i = 0; i < runs; i++) run(chain.graph, 1);
      device.backend->close(device.queue);
      chain.end();
    }
    device.backend->destroy(device.queue);
  }
  device = was;
}

}  // namespace

void check_graph() {
  check_runs();
  check_steps();
  check_refusals();
  check_bad_index();
  check_end();
  check_close();
}

}  // namespace seqmix::test
