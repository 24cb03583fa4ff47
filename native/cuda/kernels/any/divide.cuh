// Division by a number that the host knows and the kernel does not: a multiplication and a shift, for numerators below
// 2^31. (With s = ceil(log2 d) and m = ceil(2^(31+s) / d), which fits 32 bits, n m / 2^(31+s) exceeds n / d by less
// than 1 / d.)
#pragma once
#include <cstdint>

namespace seqmix::cuda {

struct Divisor {
  uint32_t value = 1, multiplier = 0, shift = 0;

  Divisor() = default;
  explicit Divisor(uint32_t d) : value(d) {  // 1 ≤ d ≤ 2^31
    uint32_t log = 0;
    while ((uint64_t{1} << log) < d) log++;
    if (log == 0) return;
    multiplier = static_cast<uint32_t>(((uint64_t{1} << (31 + log)) + d - 1) / d);
    shift = log - 1;
  }

  __device__ __forceinline__ uint32_t quotient(uint32_t n) const {
    return value == 1 ? n : __umulhi(n, multiplier) >> shift;
  }
};

}  // namespace seqmix::cuda
