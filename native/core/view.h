// A view: where an array's elements are. Plain data, so that a problem made of views can be copied into a queue, passed
// to another library, or given to a CUDA kernel as an argument. Shapes and strides are 64 bits and count elements.
#pragma once
#include <cstdint>

#if defined(__CUDACC__)
#define SEQMIX_HD __host__ __device__
#else
#define SEQMIX_HD
#endif
// Functions that the CPU's targets share: a copy of one compiled for AVX-512 must never be the one the linker keeps.
#define SEQMIX_INLINE inline __attribute__((always_inline))

namespace seqmix {

enum class DType : uint8_t { float32, float16, bfloat16, int32, int64, boolean, int8 };

SEQMIX_HD SEQMIX_INLINE constexpr int64_t size_of(DType t) {
  if (t == DType::boolean || t == DType::int8) return 1;
  return t == DType::int64 ? 8 : t == DType::float16 || t == DType::bfloat16 ? 2 : 4;
}

SEQMIX_HD SEQMIX_INLINE constexpr bool is_float(DType t) {
  return t == DType::float32 || t == DType::float16 || t == DType::bfloat16;
}

const char* name_of(DType t);  // onnxruntime's names

constexpr int kMaxRank = 8;

struct View {
  void* data = nullptr;  // the first element; may be null when there are none
  int64_t shape[kMaxRank] = {};
  int64_t stride[kMaxRank] = {};
  DType dtype = DType::float32;
  uint8_t rank = 0;
  bool present = false;  // an optional operand that was not given is an absent view

  SEQMIX_HD SEQMIX_INLINE int64_t size() const {
    uint64_t n = 1;  // unsigned, since a dimension of 0 may follow huge ones
    for (int i = 0; i < rank; i++) n *= static_cast<uint64_t>(shape[i]);
    return static_cast<int64_t>(n);
  }
  template <class T>
  SEQMIX_HD SEQMIX_INLINE T* as() const {
    return static_cast<T*>(data);
  }
};

}  // namespace seqmix
