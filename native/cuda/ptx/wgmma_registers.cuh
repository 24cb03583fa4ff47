// More of Hopper's warpgroup matrix product (sm_90a): from 0; and with a left operand that is in registers and a right
// one whose depth runs down the rows. One instruction, one function.
#pragma once
#include "cuda/ptx/wgmma.cuh"

namespace seqmix::cuda::ptx {

// A tile whose rows are one step of the depth each and 128 bytes wide, swizzled as the tensor copy does it (128B),
// first row on 1024 bytes; the next 64 features are `next` bytes further. Sixteen rows further down is 128 more.
__device__ __forceinline__ uint64_t descriptor_down_128b(uint32_t shared, uint32_t next) {
  return static_cast<uint64_t>(shared >> 4 & 0x3fff) | static_cast<uint64_t>(next >> 4) << 16 |
         uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}

// The compiler keeps `a`, which products under way still read, until here.
template <int N>
__device__ __forceinline__ void hold(uint32_t (&a)[N][4]) {
#pragma unroll
  for (int i = 0; i < N; i++) asm volatile("" : "+r"(a[i][0]), "+r"(a[i][1]), "+r"(a[i][2]), "+r"(a[i][3])::"memory");
}

// d (64, N) = a (64, 16) b (16, N), both as wgmma takes them.
#define SEQMIX_NEW_QUAD(j) "=f"(d[j][0]), "=f"(d[j][1]), "=f"(d[j][2]), "=f"(d[j][3])
__device__ __forceinline__ void wgmma_from_zero(float (&d)[8][4], uint64_t a, uint64_t b, Half) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "
      "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
      "}, %32, %33, 0, 1, 1, 0, 0;"
      : SEQMIX_NEW_QUAD(0), SEQMIX_NEW_QUAD(1), SEQMIX_NEW_QUAD(2), SEQMIX_NEW_QUAD(3), SEQMIX_NEW_QUAD(4),
        SEQMIX_NEW_QUAD(5), SEQMIX_NEW_QUAD(6), SEQMIX_NEW_QUAD(7)
      : "l"(a), "l"(b));
}
__device__ __forceinline__ void wgmma_from_zero(float (&d)[8][4], uint64_t a, uint64_t b, Brain) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "
      "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
      "}, %32, %33, 0, 1, 1, 0, 0;"
      : SEQMIX_NEW_QUAD(0), SEQMIX_NEW_QUAD(1), SEQMIX_NEW_QUAD(2), SEQMIX_NEW_QUAD(3), SEQMIX_NEW_QUAD(4),
        SEQMIX_NEW_QUAD(5), SEQMIX_NEW_QUAD(6), SEQMIX_NEW_QUAD(7)
      : "l"(a), "l"(b));
}
#undef SEQMIX_NEW_QUAD

// d (64, N) += a (64, 16) b (16, N). A lane's part of a: row lane/4 + 16 warp, elements 2 (lane % 4) and the next;
// eight rows below; and both eight elements further. b as descriptor_down_128b tells.
#define SEQMIX_QUAD(j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
__device__ __forceinline__ void wgmma_down(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b, Half) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "
      "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
      "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
      : SEQMIX_QUAD(0), SEQMIX_QUAD(1), SEQMIX_QUAD(2), SEQMIX_QUAD(3), SEQMIX_QUAD(4), SEQMIX_QUAD(5), SEQMIX_QUAD(6),
        SEQMIX_QUAD(7)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ __forceinline__ void wgmma_down(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b, Brain) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "
      "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
      "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
      : SEQMIX_QUAD(0), SEQMIX_QUAD(1), SEQMIX_QUAD(2), SEQMIX_QUAD(3), SEQMIX_QUAD(4), SEQMIX_QUAD(5), SEQMIX_QUAD(6),
        SEQMIX_QUAD(7)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ __forceinline__ void wgmma_down(float (&d)[16][4], const uint32_t (&a)[4], uint64_t b, Half) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "
      "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, "
      "%40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, "
      "%59, %60, %61, %62, %63"
      "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
      : SEQMIX_QUAD(0), SEQMIX_QUAD(1), SEQMIX_QUAD(2), SEQMIX_QUAD(3), SEQMIX_QUAD(4), SEQMIX_QUAD(5), SEQMIX_QUAD(6),
        SEQMIX_QUAD(7), SEQMIX_QUAD(8), SEQMIX_QUAD(9), SEQMIX_QUAD(10), SEQMIX_QUAD(11), SEQMIX_QUAD(12),
        SEQMIX_QUAD(13), SEQMIX_QUAD(14), SEQMIX_QUAD(15)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ __forceinline__ void wgmma_down(float (&d)[16][4], const uint32_t (&a)[4], uint64_t b, Brain) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "
      "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, "
      "%40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, "
      "%59, %60, %61, %62, %63"
      "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
      : SEQMIX_QUAD(0), SEQMIX_QUAD(1), SEQMIX_QUAD(2), SEQMIX_QUAD(3), SEQMIX_QUAD(4), SEQMIX_QUAD(5), SEQMIX_QUAD(6),
        SEQMIX_QUAD(7), SEQMIX_QUAD(8), SEQMIX_QUAD(9), SEQMIX_QUAD(10), SEQMIX_QUAD(11), SEQMIX_QUAD(12),
        SEQMIX_QUAD(13), SEQMIX_QUAD(14), SEQMIX_QUAD(15)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
#undef SEQMIX_QUAD

}  // namespace seqmix::cuda::ptx
