// The warpgroup's matrix product of Hopper (sm_90a): 128 threads multiply 64 rows by N features of 16 elements, both in
// shared memory, asynchronously. One instruction, one function.
#pragma once
#include <cstdint>

#include "cuda/kernels/any/dtype.cuh"

namespace seqmix::cuda::ptx {

// A tile whose rows are 128 bytes along the depth, swizzled as the tensor copy does it (128B), first row on 1024 bytes:
// eight rows are 1024 bytes from the next eight. Sixteen elements further along the depth is 2 more.
__device__ __forceinline__ uint64_t descriptor_128b(uint32_t shared) {
  return static_cast<uint64_t>(shared >> 4 & 0x3fff) | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 |
         uint64_t{1} << 62;
}

// Registers written before are seen by the products that follow.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// All but the last N groups have ended.
template <int N>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
// The compiler moves no use of `d` across this.
template <int N>
__device__ __forceinline__ void hold(float (&d)[N][4]) {
#pragma unroll
  for (int i = 0; i < N; i++) asm volatile("" : "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])::"memory");
}

// d (64, N) += a (64, 16) b (16, N): row lane/4 + 16 warp (and eight below), feature 8 j + 2 (lane % 4) and the next.
#define SEQMIX_QUAD(j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
__device__ __forceinline__ void wgmma(float (&d)[8][4], uint64_t a, uint64_t b, Half) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
      "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
      "}, %32, %33, 1, 1, 1, 0, 0;"
      : SEQMIX_QUAD(0), SEQMIX_QUAD(1), SEQMIX_QUAD(2), SEQMIX_QUAD(3), SEQMIX_QUAD(4), SEQMIX_QUAD(5), SEQMIX_QUAD(6),
        SEQMIX_QUAD(7)
      : "l"(a), "l"(b));
}
__device__ __forceinline__ void wgmma(float (&d)[8][4], uint64_t a, uint64_t b, Brain) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
      "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
      "}, %32, %33, 1, 1, 1, 0, 0;"
      : SEQMIX_QUAD(0), SEQMIX_QUAD(1), SEQMIX_QUAD(2), SEQMIX_QUAD(3), SEQMIX_QUAD(4), SEQMIX_QUAD(5), SEQMIX_QUAD(6),
        SEQMIX_QUAD(7)
      : "l"(a), "l"(b));
}
__device__ __forceinline__ void wgmma(float (&d)[12][4], uint64_t a, uint64_t b, Half) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n96k16.f32.f16.f16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
      "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, "
      "%42, %43, %44, %45, %46, %47"
      "}, %48, %49, 1, 1, 1, 0, 0;"
      : SEQMIX_QUAD(0), SEQMIX_QUAD(1), SEQMIX_QUAD(2), SEQMIX_QUAD(3), SEQMIX_QUAD(4), SEQMIX_QUAD(5), SEQMIX_QUAD(6),
        SEQMIX_QUAD(7), SEQMIX_QUAD(8), SEQMIX_QUAD(9), SEQMIX_QUAD(10), SEQMIX_QUAD(11)
      : "l"(a), "l"(b));
}
__device__ __forceinline__ void wgmma(float (&d)[12][4], uint64_t a, uint64_t b, Brain) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
      "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, "
      "%42, %43, %44, %45, %46, %47"
      "}, %48, %49, 1, 1, 1, 0, 0;"
      : SEQMIX_QUAD(0), SEQMIX_QUAD(1), SEQMIX_QUAD(2), SEQMIX_QUAD(3), SEQMIX_QUAD(4), SEQMIX_QUAD(5), SEQMIX_QUAD(6),
        SEQMIX_QUAD(7), SEQMIX_QUAD(8), SEQMIX_QUAD(9), SEQMIX_QUAD(10), SEQMIX_QUAD(11)
      : "l"(a), "l"(b));
}
__device__ __forceinline__ void wgmma(float (&d)[16][4], uint64_t a, uint64_t b, Half) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
      "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, "
      "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
      "%62, %63"
      "}, %64, %65, 1, 1, 1, 0, 0;"
      : SEQMIX_QUAD(0), SEQMIX_QUAD(1), SEQMIX_QUAD(2), SEQMIX_QUAD(3), SEQMIX_QUAD(4), SEQMIX_QUAD(5), SEQMIX_QUAD(6),
        SEQMIX_QUAD(7), SEQMIX_QUAD(8), SEQMIX_QUAD(9), SEQMIX_QUAD(10), SEQMIX_QUAD(11), SEQMIX_QUAD(12),
        SEQMIX_QUAD(13), SEQMIX_QUAD(14), SEQMIX_QUAD(15)
      : "l"(a), "l"(b));
}
__device__ __forceinline__ void wgmma(float (&d)[16][4], uint64_t a, uint64_t b, Brain) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
      "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, "
      "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
      "%62, %63"
      "}, %64, %65, 1, 1, 1, 0, 0;"
      : SEQMIX_QUAD(0), SEQMIX_QUAD(1), SEQMIX_QUAD(2), SEQMIX_QUAD(3), SEQMIX_QUAD(4), SEQMIX_QUAD(5), SEQMIX_QUAD(6),
        SEQMIX_QUAD(7), SEQMIX_QUAD(8), SEQMIX_QUAD(9), SEQMIX_QUAD(10), SEQMIX_QUAD(11), SEQMIX_QUAD(12),
        SEQMIX_QUAD(13), SEQMIX_QUAD(14), SEQMIX_QUAD(15)
      : "l"(a), "l"(b));
}
__device__ __forceinline__ void wgmma(float (&d)[20][4], uint64_t a, uint64_t b, Half) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n160k16.f32.f16.f16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
      "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, "
      "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
      "%62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
      "}, %80, %81, 1, 1, 1, 0, 0;"
      : SEQMIX_QUAD(0), SEQMIX_QUAD(1), SEQMIX_QUAD(2), SEQMIX_QUAD(3), SEQMIX_QUAD(4), SEQMIX_QUAD(5), SEQMIX_QUAD(6),
        SEQMIX_QUAD(7), SEQMIX_QUAD(8), SEQMIX_QUAD(9), SEQMIX_QUAD(10), SEQMIX_QUAD(11), SEQMIX_QUAD(12),
        SEQMIX_QUAD(13), SEQMIX_QUAD(14), SEQMIX_QUAD(15), SEQMIX_QUAD(16), SEQMIX_QUAD(17), SEQMIX_QUAD(18),
        SEQMIX_QUAD(19)
      : "l"(a), "l"(b));
}
__device__ __forceinline__ void wgmma(float (&d)[20][4], uint64_t a, uint64_t b, Brain) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n160k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
      "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, "
      "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
      "%62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
      "}, %80, %81, 1, 1, 1, 0, 0;"
      : SEQMIX_QUAD(0), SEQMIX_QUAD(1), SEQMIX_QUAD(2), SEQMIX_QUAD(3), SEQMIX_QUAD(4), SEQMIX_QUAD(5), SEQMIX_QUAD(6),
        SEQMIX_QUAD(7), SEQMIX_QUAD(8), SEQMIX_QUAD(9), SEQMIX_QUAD(10), SEQMIX_QUAD(11), SEQMIX_QUAD(12),
        SEQMIX_QUAD(13), SEQMIX_QUAD(14), SEQMIX_QUAD(15), SEQMIX_QUAD(16), SEQMIX_QUAD(17), SEQMIX_QUAD(18),
        SEQMIX_QUAD(19)
      : "l"(a), "l"(b));
}
__device__ __forceinline__ void wgmma(float (&d)[24][4], uint64_t a, uint64_t b, Half) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n192k16.f32.f16.f16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
      "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, "
      "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
      "%62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, "
      "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
      "}, %96, %97, 1, 1, 1, 0, 0;"
      : SEQMIX_QUAD(0), SEQMIX_QUAD(1), SEQMIX_QUAD(2), SEQMIX_QUAD(3), SEQMIX_QUAD(4), SEQMIX_QUAD(5), SEQMIX_QUAD(6),
        SEQMIX_QUAD(7), SEQMIX_QUAD(8), SEQMIX_QUAD(9), SEQMIX_QUAD(10), SEQMIX_QUAD(11), SEQMIX_QUAD(12),
        SEQMIX_QUAD(13), SEQMIX_QUAD(14), SEQMIX_QUAD(15), SEQMIX_QUAD(16), SEQMIX_QUAD(17), SEQMIX_QUAD(18),
        SEQMIX_QUAD(19), SEQMIX_QUAD(20), SEQMIX_QUAD(21), SEQMIX_QUAD(22), SEQMIX_QUAD(23)
      : "l"(a), "l"(b));
}
__device__ __forceinline__ void wgmma(float (&d)[24][4], uint64_t a, uint64_t b, Brain) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
      "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, "
      "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
      "%62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, "
      "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
      "}, %96, %97, 1, 1, 1, 0, 0;"
      : SEQMIX_QUAD(0), SEQMIX_QUAD(1), SEQMIX_QUAD(2), SEQMIX_QUAD(3), SEQMIX_QUAD(4), SEQMIX_QUAD(5), SEQMIX_QUAD(6),
        SEQMIX_QUAD(7), SEQMIX_QUAD(8), SEQMIX_QUAD(9), SEQMIX_QUAD(10), SEQMIX_QUAD(11), SEQMIX_QUAD(12),
        SEQMIX_QUAD(13), SEQMIX_QUAD(14), SEQMIX_QUAD(15), SEQMIX_QUAD(16), SEQMIX_QUAD(17), SEQMIX_QUAD(18),
        SEQMIX_QUAD(19), SEQMIX_QUAD(20), SEQMIX_QUAD(21), SEQMIX_QUAD(22), SEQMIX_QUAD(23)
      : "l"(a), "l"(b));
}
__device__ __forceinline__ void wgmma(float (&d)[32][4], uint64_t a, uint64_t b, Half) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
      "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, "
      "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
      "%62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, "
      "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, "
      "%101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, "
      "%117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
      "}, %128, %129, 1, 1, 1, 0, 0;"
      : SEQMIX_QUAD(0), SEQMIX_QUAD(1), SEQMIX_QUAD(2), SEQMIX_QUAD(3), SEQMIX_QUAD(4), SEQMIX_QUAD(5), SEQMIX_QUAD(6),
        SEQMIX_QUAD(7), SEQMIX_QUAD(8), SEQMIX_QUAD(9), SEQMIX_QUAD(10), SEQMIX_QUAD(11), SEQMIX_QUAD(12),
        SEQMIX_QUAD(13), SEQMIX_QUAD(14), SEQMIX_QUAD(15), SEQMIX_QUAD(16), SEQMIX_QUAD(17), SEQMIX_QUAD(18),
        SEQMIX_QUAD(19), SEQMIX_QUAD(20), SEQMIX_QUAD(21), SEQMIX_QUAD(22), SEQMIX_QUAD(23), SEQMIX_QUAD(24),
        SEQMIX_QUAD(25), SEQMIX_QUAD(26), SEQMIX_QUAD(27), SEQMIX_QUAD(28), SEQMIX_QUAD(29), SEQMIX_QUAD(30),
        SEQMIX_QUAD(31)
      : "l"(a), "l"(b));
}
__device__ __forceinline__ void wgmma(float (&d)[32][4], uint64_t a, uint64_t b, Brain) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
      "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, "
      "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
      "%62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, "
      "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, "
      "%101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, "
      "%117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
      "}, %128, %129, 1, 1, 1, 0, 0;"
      : SEQMIX_QUAD(0), SEQMIX_QUAD(1), SEQMIX_QUAD(2), SEQMIX_QUAD(3), SEQMIX_QUAD(4), SEQMIX_QUAD(5), SEQMIX_QUAD(6),
        SEQMIX_QUAD(7), SEQMIX_QUAD(8), SEQMIX_QUAD(9), SEQMIX_QUAD(10), SEQMIX_QUAD(11), SEQMIX_QUAD(12),
        SEQMIX_QUAD(13), SEQMIX_QUAD(14), SEQMIX_QUAD(15), SEQMIX_QUAD(16), SEQMIX_QUAD(17), SEQMIX_QUAD(18),
        SEQMIX_QUAD(19), SEQMIX_QUAD(20), SEQMIX_QUAD(21), SEQMIX_QUAD(22), SEQMIX_QUAD(23), SEQMIX_QUAD(24),
        SEQMIX_QUAD(25), SEQMIX_QUAD(26), SEQMIX_QUAD(27), SEQMIX_QUAD(28), SEQMIX_QUAD(29), SEQMIX_QUAD(30),
        SEQMIX_QUAD(31)
      : "l"(a), "l"(b));
}
#undef SEQMIX_QUAD

}  // namespace seqmix::cuda::ptx
