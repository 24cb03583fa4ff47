// The kernels compiled for AVX2 with FMA and F16C. Everything here is local to this unit but the table: what two units
// shared, the linker would take from either.
#include <immintrin.h>

#include "cpu/context.h"
#define SEQMIX_TARGET "avx2"
#include "cpu/targets/unit.h"

namespace seqmix::cpu {
namespace avx2 {
namespace {
#include "cpu/simd/float16.h"
// after the types that its verbs load and store
#include "cpu/simd/avx2.h"
// after the verbs
#include "cpu/targets/kernels.h"
}  // namespace
}  // namespace avx2

const Target& avx2_target() { return avx2::target; }
}  // namespace seqmix::cpu
