#include "core/problem/flash_attention.h"

#include "binding/args.h"
#include "binding/ops/ops.h"

namespace seqmix::binding {

namespace {

// What all three forms end with: (…, alibiSlopes, sinks, causal, windowLeft, windowRight, softcap, scale, returnLse)
constexpr size_t kScoreArguments = 8;

void read_scores(Call& call, size_t at, FlashAttention& p) {
  p.alibi_slopes = call.optional(at, "alibiSlopes");
  p.sinks = call.optional(at + 1, "sinks");
  p.causal = call.flag(at + 2);
  p.window_left = call.whole(at + 3);
  p.window_right = call.whole(at + 4);
  p.softcap = call.number(at + 5);
  p.scale = call.number(at + 6);
  p.return_lse = call.flag(at + 7);
}

// Packed queries are one row to the kernels, and none to the caller.
void allocate_outputs(Call& call, FlashAttention& p) {
  const int skip = p.packed ? 1 : 0;
  call.allocate(p.out);
  call.present_as(p.out.shape + skip, 4 - skip);
  if (!p.lse.present) return;
  call.allocate(p.lse);
  call.present_as(p.lse.shape + skip, 3 - skip);
}

}  // namespace

// (q, k, v, …scores)
Napi::Value flash_attention(const Napi::CallbackInfo& info) {
  Call call(info);
  FlashAttention p(Op::flash_attention);
  p.q = call.tensor(0, "q");
  p.k = call.tensor(1, "k");
  p.v = call.tensor(2, "v");
  read_scores(call, 3, p);
  p.validate();
  for (View* operand : {&p.q, &p.k, &p.v}) call.unit_last_stride(*operand);
  allocate_outputs(call, p);
  return call.run(p);
}

// (q, k, v, cuSeqlensQ, cuSeqlensK, seqUsedK, blockTable, …scores, maxSeqlenQ, maxSeqlenK)
Napi::Value flash_attention_varlen(const Napi::CallbackInfo& info) {
  Call call(info);
  FlashAttention p(Op::flash_attention_varlen);
  p.q = call.tensor(0, "q");
  p.k = call.tensor(1, "k");
  p.v = call.tensor(2, "v");
  p.cu_seqlens_q = call.tensor(3, "cuSeqlensQ");
  p.cu_seqlens_k = call.optional(4, "cuSeqlensK");
  p.used_k = call.optional(5, "seqUsedK");
  p.block_table = call.optional(6, "blockTable");
  read_scores(call, 7, p);
  p.max_seqlen_q = call.whole(7 + kScoreArguments);
  p.max_seqlen_k = call.whole(8 + kScoreArguments);
  p.validate();
  for (View* operand : {&p.q, &p.k, &p.v}) call.unit_last_stride(*operand);
  allocate_outputs(call, p);
  return call.run(p);
}

// (q, kCache, vCache, k, v, cacheSeqlens, rotaryCos, rotarySin, cacheBatchIdx, blockTable, cuSeqlensQ, leftPad, kScale,
// vScale, …scores, rotaryInterleaved, numSplits, maxSeqlenQ)
Napi::Value flash_attention_with_kv_cache(const Napi::CallbackInfo& info) {
  Call call(info);
  FlashAttention p(Op::flash_attention_with_kv_cache);
  p.q = call.tensor(0, "q");
  p.k = call.tensor(1, "kCache");
  p.v = call.tensor(2, "vCache");
  p.new_k = call.optional(3, "k");
  p.new_v = call.optional(4, "v");
  p.used_k = call.optional(5, "cacheSeqlens");
  p.rotary_cos = call.optional(6, "rotaryCos");
  p.rotary_sin = call.optional(7, "rotarySin");
  p.batch_idx = call.optional(8, "cacheBatchIdx");
  p.block_table = call.optional(9, "blockTable");
  p.cu_seqlens_q = call.optional(10, "cuSeqlensQ");
  p.left_pad = call.optional(11, "leftPad");
  p.k_scale = call.optional(12, "kScale");
  p.v_scale = call.optional(13, "vScale");
  read_scores(call, 14, p);
  p.rotary_interleaved = call.flag(14 + kScoreArguments);
  p.num_splits = call.whole(15 + kScoreArguments);
  p.max_seqlen_q = call.whole(16 + kScoreArguments);
  p.validate();
  if (p.new_k.present)  // only now, when nothing can be refused any more
    call.in_place({{1, "kCache", &p.k}, {2, "vCache", &p.v}, {12, "kScale", &p.k_scale}, {13, "vScale", &p.v_scale}});
  for (View* operand : {&p.q, &p.new_k, &p.new_v}) call.unit_last_stride(*operand);
  allocate_outputs(call, p);
  return call.run(p);
}

}  // namespace seqmix::binding
