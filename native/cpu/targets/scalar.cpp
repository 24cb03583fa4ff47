// The kernels compiled for any processor of this architecture. Everything here is local to this unit but the table:
// what two units shared, the linker would take from either.
#include "cpu/context.h"
#define SEQMIX_TARGET "scalar"
#include "cpu/targets/unit.h"

namespace seqmix::cpu {
namespace scalar {
namespace {
#include "cpu/simd/float16.h"
// after the types that its verbs load and store
#include "cpu/simd/scalar.h"
// after the verbs
#include "cpu/targets/kernels.h"
}  // namespace
}  // namespace scalar

const Target& scalar_target() { return scalar::target; }
}  // namespace seqmix::cpu
