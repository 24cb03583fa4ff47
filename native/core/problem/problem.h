// Dtypes: the activations of an op have one, float32, float16 or bfloat16, and its result has it too. Weights (what a
// checkpoint holds: A, D, biases, filters, matrices, tables) may each have any of the three. Sums and states are
// float32, and a result is rounded once; a state that an op changes in place is kept in whatever dtype it has.
//
// A problem is one call of one op: its operands as views, its options as numbers. It is plain data. Each op's own
// header beside this one says what its views mean; its validate() checks them, throws an Error in the grammar of
// core/check.h, and describes the outputs (shape, dtype, layout), whose memory the caller then allocates.
#pragma once
#include <cstdint>

#include "core/view.h"

namespace seqmix {

enum class Op : uint32_t {
  copy,
  fill,
  silu,
  add,
  mul,
  softmax,
  argmax,
  topk,
  sample,
  embedding,
  linear,
  rms_norm,
  causal_conv1d,
  causal_conv1d_update,
  selective_scan,
  selective_state_update,
  ssd_chunk_scan,
  increment,
  flash_attention,
  flash_attention_varlen,
  flash_attention_with_kv_cache,
  gelu,
  rotary,
  softcap,
  count
};
constexpr int kOps = static_cast<int>(Op::count);

const char* name_of(Op op);  // the name callers know: selectiveScan

struct Problem {
  Op op;
  uint32_t bytes;     // of the whole struct that begins with this one
  uint64_t sequence;  // the op's number in its queue, for messages about a bad index
  double work;        // scalar operations, roughly: a CPU queue runs the smallest problems in place

  Problem(Op o, uint32_t size) : op(o), bytes(size), sequence(0), work(0) {}
};

// A bad index found by a kernel: the first one since the last read stays. 0 when there is none.
SEQMIX_HD SEQMIX_INLINE constexpr uint64_t index_error(const Problem& p) {
  return p.sequence << 8 | static_cast<uint64_t>(p.op) | 0x80;
}
// The same bad index, met by a later run of what was recorded.
SEQMIX_HD SEQMIX_INLINE constexpr uint64_t index_error_at(uint64_t word, uint64_t sequence) {
  return sequence << 8 | (word & 0xff);
}
constexpr Op index_error_op(uint64_t word) { return static_cast<Op>(word & 0x7f); }
constexpr uint64_t index_error_sequence(uint64_t word) { return word >> 8; }

enum class Activation : uint32_t { none, silu, gelu, gelu_tanh };

}  // namespace seqmix
