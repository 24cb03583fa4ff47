// The kernels compiled for AVX-512 (F, BW, DQ, VL). Everything here is local to this unit but the table: what two units
// shared, the linker would take from either.
// GCC's intrinsics make undefined values by reading an uninitialised variable, and warn of it.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include "cpu/context.h"
#define SEQMIX_TARGET "avx512"
#include "cpu/targets/unit.h"

namespace seqmix::cpu {
namespace avx512 {
namespace {
#include "cpu/simd/float16.h"
// after the types that its verbs load and store
#include "cpu/simd/avx512.h"
// after the verbs
#include "cpu/targets/kernels.h"
}  // namespace
}  // namespace avx512

const Target& avx512_target() { return avx512::target; }
}  // namespace seqmix::cpu
