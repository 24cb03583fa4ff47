// Each ceiling is the best of several short trials: a trial that something else disturbed says nothing about the
// machine. Memory trials go over blocks far larger than a cache, cut into pieces that the pool's threads take in turn.
#include "cpu/ceilings.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <new>
#include <string>

#include "cpu/dispatch.h"
#include "cpu/pool.h"

namespace seqmix::cpu {

namespace {

constexpr int64_t kBlock = int64_t{256} << 20;
constexpr int64_t kPiece = int64_t{1} << 20;
constexpr int64_t kFmaPieces = 16;  // a thread
constexpr int64_t kFmaRounds = 100000;
constexpr double kSeconds = 0.2;
constexpr int kLeast = 5;

struct Block {
  char* data = static_cast<char*>(::operator new(kBlock, std::align_val_t(64)));
  Block() { std::memset(data, 1, kBlock); }  // so that every page is there, and not all of them the same one of zeros
  ~Block() { ::operator delete(data, std::align_val_t(64)); }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
};

// The best rate of body over `pieces`, which together are `units`.
template <class F>
double best(int64_t pieces, double units, F body) {
  using Clock = std::chrono::steady_clock;
  const auto call = [](void* f, int64_t i, int) { (*static_cast<F*>(f))(i); };
  const std::atomic<bool> cancelled{false};
  double least = 0, total = 0;
  for (int n = 0; n < kLeast || total < kSeconds; n++) {
    const auto from = Clock::now();
    pool_run(pieces, pool_threads(), call, &body, &cancelled);
    const double s = std::chrono::duration<double>(Clock::now() - from).count();
    total += s;
    if (n == 0) continue;  // threads were started, clocks were low
    least = least == 0 ? s : std::min(least, s);
  }
  return units / least;
}

double read_rate() {
  const Block block;
  std::atomic<float> sink{0};
  return best(kBlock / kPiece, kBlock, [&](int64_t i) {
    const float* const from = reinterpret_cast<const float*>(block.data + i * kPiece);
    sink.store(target().read_loop(from, kPiece / 4), std::memory_order_relaxed);
  });
}

double copy_rate() {
  const Block from, to;
  return best(kBlock / kPiece, 2.0 * kBlock,
              [&](int64_t i) { std::memcpy(to.data + i * kPiece, from.data + i * kPiece, kPiece); });
}

double fma_rate() {
  std::atomic<float> sink{0};
  const auto piece = [&](int64_t) {
    float last;
    target().fma_loop(kFmaRounds, &last);
    sink.store(last, std::memory_order_relaxed);
  };
  float last;
  const double operations = target().fma_loop(1, &last) * static_cast<double>(kFmaRounds);
  const int64_t pieces = pool_threads() * kFmaPieces;
  return best(pieces, static_cast<double>(pieces) * operations, piece);
}

}  // namespace

double ceiling(int, const char* name, Status* status) {
  const std::string wanted = name;
  try {
    if (wanted == "read") return read_rate();
    if (wanted == "copy") return copy_rate();
    if (wanted == "fma") return fma_rate();
  } catch (const std::bad_alloc&) {
    status->set(Code::out_of_memory, "ceiling: expected 512 MiB from the system to measure with, got none");
    return 0;
  }
  status->set(Code::option_range, ("ceiling: expected read, copy or fma on the CPU, got " + wanted).c_str());
  return 0;
}

}  // namespace seqmix::cpu
