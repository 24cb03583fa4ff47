// The table itself: memory, transfers, reads that tell when they are done, bad indices.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <numeric>
#include <thread>

#include "core/problem/elementwise.h"
#include "core/problem/rows.h"
#include "cuda/test/harness.h"

namespace seqmix::test {

namespace {

struct Told {
  std::atomic<int> count{0};
  std::atomic<int> code{-1};
};

void tell(void* context, const Status* status) {
  Told& told = *static_cast<Told*>(context);
  told.code = static_cast<int>(status->code);
  told.count++;
}

void check_transfers() {
  for (const int64_t bytes : {int64_t{1}, int64_t{1000}, int64_t{5} << 20, int64_t{33} << 20}) {
    std::vector<unsigned char> sent(static_cast<size_t>(bytes)), got(sent.size());
    for (size_t i = 0; i < sent.size(); i++) sent[i] = static_cast<unsigned char>(i * 7 + i / 251);
    std::vector<unsigned char> changing = sent;
    void* const memory = device.allocate(bytes);
    expect("allocate: aligned to 256 bytes", reinterpret_cast<uintptr_t>(memory) % 256 == 0);
    device.write(memory, changing.data(), bytes);
    std::fill(changing.begin(), changing.end(), 0);  // may change at once
    device.read(got.data(), memory, bytes);
    expect("write and read " + std::to_string(bytes), got == sent);

    std::fill(got.begin(), got.end(), 0);
    Told told;
    Status status;
    device.backend->read(device.queue, got.data(), memory, bytes, tell, &told, &status);
    while (status.ok() && told.count == 0) std::this_thread::sleep_for(std::chrono::microseconds(100));
    expect("read, told " + std::to_string(bytes), told.code == 0 && got == sent);
    device.backend->release(device.queue, memory, bytes);
  }
}

void check_cost_of_allocation() {
  void* const warm = device.allocate(4096);
  device.backend->release(device.queue, warm, 4096);
  constexpr int kTimes = 10000;
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < kTimes; i++) device.backend->release(device.queue, device.allocate(4096), 4096);
  const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - begin;
  std::printf("allocate and release: %.2f us\n", took.count() / kTimes);

  Array x = uniform({64}, -1, 1);
  Silu p;
  p.x = x.view();
  p.validate();
  p.out.data = p.x.data;
  device.run(p);
  device.read(nullptr, nullptr, 0);
  const auto begin_runs = std::chrono::steady_clock::now();
  for (int i = 0; i < 500; i++) device.run(p);
  const std::chrono::duration<double, std::micro> runs = std::chrono::steady_clock::now() - begin_runs;
  std::printf("run: %.2f us\n", runs.count() / 500);
  device.read(nullptr, nullptr, 0);
}

void check_bad_index() {
  for (const DType type : {DType::int32, DType::int64}) {
    Array ids(type, {4});
    ids.values() = {1, 7, -1, 0};
    Array table = uniform({3, 5}, -1, 1);
    Embedding p;
    p.ids = ids.upload();
    p.table = table.view();
    p.validate();
    Array out(p.out);
    p.out = out.view();
    device.run(p);
    std::vector<double> want;
    for (const int64_t id : {1, 7, -1, 0})
      for (int64_t j = 0; j < 5; j++) want.push_back(id == 1 || id == 0 ? table.at({id, j}) : 0);
    expect_equal("embedding, bad ids", out, want);
    const uint64_t word = device.backend->take_index_error(device.queue);
    expect("error word", index_error_op(word) == Op::embedding && index_error_sequence(word) == p.sequence);
    expect("error word cleared", device.backend->take_index_error(device.queue) == 0);
  }
}

// Drops what is pending and tells no more; memory can be released after it.
void check_close() {
  Status status;
  Queue* const queue = device.backend->open(0, &status);
  void* const memory = device.backend->allocate(queue, 1 << 20, &status);
  Told told;
  std::vector<char> to(1 << 20);
  for (int i = 0; i < 50; i++) device.backend->read(queue, to.data(), memory, 1 << 20, tell, &told, &status);
  device.backend->close(queue);
  const int after = told.count;
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  expect("close: nothing told after it", told.count == after && status.ok());
  device.backend->release(queue, memory, 1 << 20);
  device.backend->destroy(queue);
}

}  // namespace

void check_backend() {
  check_transfers();
  check_cost_of_allocation();
  check_bad_index();
  check_close();
}

}  // namespace seqmix::test
