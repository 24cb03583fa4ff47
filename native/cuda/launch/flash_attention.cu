// Flash attention in its three forms: 16-bit data go through tensor cores, with many queries or with few; float32 and
// what these do not take go through the plain kernel. Before it, new keys are put into their cache; after it, where the
// keys were cut into parts, these are combined.
#include "core/problem/flash_attention.h"

#include "core/layout.h"
#include "core/problem/elementwise.h"
#include "core/status.h"
#include "cuda/kernels/any/flash_attention.cuh"
#include "cuda/kernels/any/flash_attention_append.cuh"
#include "cuda/kernels/sm90/flash_attention_decode.h"
#include "cuda/launch/flash_attention.h"

namespace seqmix::cuda {

namespace {

using Kernel = void (*)(AttentionArgs);

// By the dtype of q, and whether keys are int8.
template <class T, int R>
constexpr Kernel plain(bool scaled) {
  return scaled ? flash_attention_plain<T, int8_t, R> : flash_attention_plain<T, T, R>;
}
template <int R>
constexpr AttentionKernel plain_shape() {
  return {kPlainColumns, PlainAttention<R>::kRows, kPlainKeys, kPlainThreads, PlainAttention<R>::kShared, 0, 2, {}};
}
struct Plain {
  AttentionKernel shape;
  Kernel kernel[2][kFloatDtypes];
};
template <int R>
constexpr Plain plain_kernels() {
  return {plain_shape<R>(),
          {{plain<float, R>(false), plain<Half, R>(false), plain<Brain, R>(false)},
           {plain<float, R>(true), plain<Half, R>(true), plain<Brain, R>(true)}}};
}
constexpr Plain kFewRows = plain_kernels<1>(), kManyRows = plain_kernels<4>();
constexpr Kernel kCombine[] = {flash_attention_combine<float>, flash_attention_combine<Half>,
                               flash_attention_combine<Brain>};
constexpr void (*kAppend[2][kFloatDtypes])(AppendArgs) = {
    {flash_attention_append<float, float>, flash_attention_append<Half, Half>, flash_attention_append<Brain, Brain>},
    {flash_attention_append<float, int8_t>, flash_attention_append<Half, int8_t>,
     flash_attention_append<Brain, int8_t>}};

constexpr int64_t kFewRowsMost = 32;               // of a sequence and KV head: then each takes its keys for itself
constexpr int64_t kManyKeys = 512;                 // of a tile, in the mean: then two warps may share rows
constexpr int64_t kCacheBytes = int64_t{8} << 20;  // of keys and values that stay in L2 while their tiles are done
constexpr int64_t kLeastTogether = 16;
constexpr int64_t kLongTiles = 256;                    // of few rows: what it costs to combine parts is nothing to them
constexpr int64_t kStreamedBytes = int64_t{64} << 20;  // of keys and values, more than Hopper's L2 keeps

AttentionTensor tensor_of(const View& v) {
  return {v.data, v.stride[0], v.stride[1], v.stride[2], v.shape[3] == 1 ? 1 : v.stride[3]};
}
AttentionIndices indices_of(const View& v) { return {v.present ? v.as<const int32_t>() : nullptr, v.stride[0]}; }

// Rows in pieces of 16 bytes.
bool in_pieces(const View& v) {
  if (v.stride[3] != 1 || !aligned16(v.data)) return false;
  for (int i = 0; i < 3; i++)
    if (v.shape[i] > 1 && v.stride[i] * size_of(v.dtype) % 16 != 0) return false;
  return true;
}

AttentionArgs args_of(const Context& c, const FlashAttention& p) {
  AttentionArgs a{};
  a.q = tensor_of(p.q);
  a.k = tensor_of(p.k);
  a.v = tensor_of(p.v);
  a.out = p.out.data;
  a.lse = p.lse.present ? p.lse.as<float>() : nullptr;
  a.dtype = p.q.dtype;
  if (p.k_scale.present) {
    a.k_scale = p.k_scale.as<const float>();
    a.v_scale = p.v_scale.as<const float>();
    a.k_scale_b = p.k_scale.stride[0];
    a.k_scale_t = p.k_scale.stride[1];
    a.k_scale_h = p.k_scale.stride[2];
    a.v_scale_b = p.v_scale.stride[0];
    a.v_scale_t = p.v_scale.stride[1];
    a.v_scale_h = p.v_scale.stride[2];
  }
  a.cu_q = indices_of(p.cu_seqlens_q);
  a.cu_k = indices_of(p.cu_seqlens_k);
  a.used_k = indices_of(p.used_k);
  a.batch_idx = indices_of(p.batch_idx);
  a.left_pad = indices_of(p.left_pad);
  int64_t room = p.k.shape[1];
  if (p.block_table.present) {
    a.table = p.block_table.as<const int32_t>();
    a.table_b = p.block_table.stride[0];
    a.table_page = p.block_table.stride[1];
    a.pages = p.block_table.shape[1];
    a.by_page = Divisor(static_cast<uint32_t>(p.k.shape[1]));
    room *= p.block_table.shape[1];
  }
  a.batch = p.q.shape[0];
  a.sq = p.q.shape[1];
  a.slots = p.k.shape[0];
  a.sequences = static_cast<int>(p.sequences);
  a.capacity = static_cast<int>(std::min<int64_t>(room, kMostAttentionKeys));
  if (p.new_k.present) a.new_keys = p.packed ? -1 : static_cast<int>(p.new_k.shape[1]);
  a.hq = static_cast<int>(p.q.shape[2]);
  a.hk = static_cast<int>(p.k.shape[2]);
  a.group = a.hq / a.hk;
  a.d = static_cast<int>(p.q.shape[3]);
  a.dv = static_cast<int>(p.v.shape[3]);
  a.by_group = Divisor(static_cast<uint32_t>(a.group));
  a.by_heads = Divisor(static_cast<uint32_t>(a.hk));
  a.scale = static_cast<float>(p.scale);
  a.scale_log2 = static_cast<float>(p.scale * 1.4426950408889634);
  a.softcap = static_cast<float>(p.softcap);
  a.softcap_by = static_cast<float>(1 / p.softcap);
  a.bent = a.softcap > 0 || p.alibi_slopes.present || !(a.scale_log2 > 0);
  a.slopes = weights_of(p.alibi_slopes, 1);
  a.slopes_b = p.alibi_slopes.stride[0];
  a.sinks = weights_of(p.sinks);
  a.left = static_cast<int>(std::min<int64_t>(p.window_left, kMostAttentionKeys));
  a.right = static_cast<int>(std::min<int64_t>(p.window_right, kMostAttentionKeys));
  a.positions = p.rotary_cos.present ? p.rotary_cos.shape[0] : int64_t{kMostAttentionKeys} * 2;
  a.turns_by_place = p.window_left < kUnbounded || p.window_right < kUnbounded;
  a.index_error = c.index_error;
  a.error = index_error(p);
  return a;
}

// Puts new keys into their cache, and rotates queries into scratch memory.
void append(Context& c, const FlashAttention& p, AttentionArgs& a) {
  AppendArgs n{};
  n.of = a;
  n.new_k = tensor_of(p.new_k);
  n.new_v = tensor_of(p.new_v);
  n.tokens = p.packed ? a.sq : std::max(a.sq, p.new_k.shape[1]);
  if (p.rotary_cos.present) {
    n.cos = p.rotary_cos.data;
    n.sin = p.rotary_sin.data;
    n.table_dtype = p.rotary_cos.dtype;
    n.cos_t = p.rotary_cos.stride[0];
    n.cos_i = p.rotary_cos.stride[1];
    n.sin_t = p.rotary_sin.stride[0];
    n.sin_i = p.rotary_sin.stride[1];
    n.half = static_cast<int>(p.rotary_cos.shape[1]);
    n.interleaved = p.rotary_interleaved;
    n.turned = c.scratch<uint8_t>(p.q.size() * size_of(p.q.dtype));
    if (a.dtype != DType::float32) n.low = c.scratch<uint8_t>(p.q.size() * size_of(p.q.dtype));
    a.q_low = n.low;
    a.q = {n.turned, a.sq * a.hq * a.d, int64_t{a.hq} * a.d, a.d, 1};
  }
  const int64_t rows = (p.packed ? 1 : p.sequences) * n.tokens * (2 * a.hk + (n.turned ? a.hq : 0));
  if (rows == 0) return;
  set_off(c, kAppend[p.k_scale.present][dtype_index(a.dtype)], grid_for(c, ceil_div(rows, kAppendWarps), 16),
          kAppendWarps * 32, n);
}

// The same elements in dense memory.
View gathered(Context& c, const View& v) {
  Copy copy;
  copy.src = v;
  copy.dst = dense(v.dtype, v.shape, v.rank);
  copy.dst.data = c.scratch<uint8_t>(v.size() * size_of(v.dtype));
  copy.dst.present = true;
  copy.validate();
  launch_copy(c, copy);
  return copy.dst;
}

// Most keys that a query of a sequence, or one of a tile of `queries`, can see.
int64_t keys_seen(const FlashAttention& p, const AttentionArgs& a, int64_t queries) {
  int64_t keys = a.capacity;
  if (p.max_seqlen_k > 0) keys = std::min(keys, p.max_seqlen_k);
  return std::min(keys, p.window_left + p.window_right + queries);
}

// Into how many parts the keys are cut: rounds of blocks, each with its tiles and what it begins and ends with, in
// units of a tile's time, and what it costs to combine parts.
int64_t splits_of(const Context& c, const FlashAttention& p, const AttentionArgs& a, const AttentionKernel& k,
                  int64_t blocks) {
  const int64_t seen = keys_seen(p, a, ceil_div(k.rows, a.group) + 1);
  const int64_t tiles = ceil_div(seen, k.keys) + (seen < a.capacity ? 1 : 0);  // a window may begin anywhere
  const int64_t most = std::min<int64_t>({kMostAttentionSplits, tiles, INT32_MAX / std::max<int64_t>(blocks, 1)});
  if (p.num_splits > 0) return std::max<int64_t>(1, std::min(p.num_splits, most));
  const int64_t slots = c.multiprocessors * k.blocks, rows = a.batch * a.sq * a.hq;
  int64_t best = 1;
  double least = static_cast<double>(ceil_div(blocks, slots)) * static_cast<double>(tiles + 2);
  for (int64_t s = 2; s <= most && blocks * (s - 1) < slots; s++) {
    const double combine = 1.5 + 0.05 * static_cast<double>(s) + static_cast<double>(s * rows * a.dv) * 2e-6;
    const double cost =
        static_cast<double>(ceil_div(blocks * s, slots)) * static_cast<double>(ceil_div(tiles, s) + 2) + combine;
    if (cost >= least) continue;
    least = cost;
    best = s;
  }
  // Blocks that only read do not end together: who ends early takes another part.
  if (best == 1 && blocks <= slots && k.rows <= 16 && tiles >= kLongTiles) best = 4;
  return best;
}

// Whether all blocks take about as long, so that they can be handed out beforehand.
bool all_alike(const FlashAttention& p, const AttentionArgs& a) {
  return !p.packed && !p.cu_seqlens_k.present && !p.used_k.present && !p.batch_idx.present &&
         std::min(p.window_left, p.window_right) >= std::max<int64_t>(a.capacity, a.sq);
}

// set_off_blocks(a, blocks, bytes of shared memory): false where it cannot.
template <class SetOff>
bool launch(Context& c, const FlashAttention& p, AttentionArgs a, const AttentionKernel& k, SetOff set_off_blocks) {
  const int64_t rows = a.sq * a.group, pairs = int64_t{a.sequences} * a.hk;
  const int64_t tiles = p.packed ? rows / k.rows + a.sequences + 1 : ceil_div(rows, k.rows);
  const int64_t blocks = p.packed ? tiles * a.hk : tiles * pairs;
  if (blocks > INT32_MAX) return false;
  const int64_t splits = splits_of(c, p, a, k, blocks);
  a.by_splits = Divisor(static_cast<uint32_t>(splits));
  a.by_tiles = Divisor(static_cast<uint32_t>(tiles));
  const int64_t bytes = int64_t{a.capacity} * (a.d + a.dv) * size_of(p.k.dtype);
  a.streamed = tiles == 1 && bytes * pairs >= kStreamedBytes;
  const int64_t fit = std::max(kLeastTogether, kCacheBytes / std::max<int64_t>(bytes, 1));
  const int64_t together = std::max<int64_t>(1, std::min(pairs, fit)),
                sets = std::max<int64_t>(1, ceil_div(pairs, together));
  a.sets = static_cast<uint32_t>(sets);
  a.by_set = Divisor(static_cast<uint32_t>(together));
  a.by_last_set = Divisor(static_cast<uint32_t>(std::max<int64_t>(1, pairs - (sets - 1) * together)));
  if (splits > 1) {
    const int64_t out_rows = a.batch * a.sq * a.hq;
    a.partial = c.scratch<float>(splits * out_rows * a.dv);
    a.part_lse = c.scratch<float>(splits * out_rows);
  }
  a.tasks = static_cast<uint32_t>(blocks * splits);
  const bool in_turn = k.loops && all_alike(p, a);
  // As many tasks for each block, as far as they go: so none ends long before the others.
  const int64_t each = in_turn ? ceil_div(a.tasks, int64_t{c.multiprocessors} * k.blocks) : 1;
  const int64_t at_a_time = ceil_div(a.tasks, each);
  if (!set_off_blocks(a, static_cast<unsigned>(at_a_time), k.shared + (a.q_low ? k.more_shared : 0))) return false;
  if (splits > 1) {
    // As much shared memory as the kernels beside it want: a multiprocessor has to be empty to change its share.
    const auto combine = kCombine[dtype_index(a.dtype)];
    (void)cudaFuncSetAttribute(combine, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
    set_off(c, combine, grid_for(c, ceil_div(a.batch * a.sq * a.hq, kCombineWarps), 16), kCombineWarps * 32, a);
  }
  return true;
}

bool launch(Context& c, const FlashAttention& p, const AttentionArgs& args, const AttentionKernel& k, Kernel kernel,
            unsigned columns) {
  return launch(c, p, args, k, [&](const AttentionArgs& a, unsigned blocks, int shared) {
    if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared) != cudaSuccess) return false;
    set_off_with(c, kernel, dim3(blocks, columns), static_cast<unsigned>(k.threads), static_cast<size_t>(shared), a);
    return true;
  });
}

// With tensor copies, where these can read the keys and values; false where they cannot, or the device has none.
bool launch_on_hopper(Context& c, const FlashAttention& p, const AttentionArgs& args, int64_t rows) {
  if (!c.overlap || args.d != args.dv || p.k_scale.present) return false;
  const AttentionKernel* const k = hopper_decode_kernel(args.d, rows);
  return k && launch(c, p, args, *k, [&](const AttentionArgs& a, unsigned blocks, int shared) {
           return launch_hopper_decode(c, p, *k, a, blocks, shared);
         });
}

// Whether `rows` of a sequence fill tiles of 128, and a tile meets so many keys that what it begins and ends with, and
// no other block of the multiprocessor makes up for, matters little.
bool many_keys(const FlashAttention& p, const AttentionArgs& a, int64_t rows) {
  const int64_t most = keys_seen(p, a, 1), queries = rows / a.group;
  const int64_t mean = p.window_right < most ? std::max(most / 2, most - queries / 2) : most;
  return mean >= kManyKeys && (rows >= 1024 || ceil_div(rows, 64) % 2 == 0);
}

// The tensor cores' kernel for this problem, of whose sequences the longest has so many rows; null where there is none.
const AttentionKernel* tensor_kernel(const Context& c, const FlashAttention& p, const AttentionArgs& a, int64_t rows,
                                     bool few) {
  const int64_t columns = std::max(a.d, a.dv);
  if (a.dtype == DType::float32 || columns > kMostTensorColumns) return nullptr;
  if (p.k_scale.present) return &attention_scaled_kernel(columns, rows);
  if (few) return &attention_decode_kernel(columns, rows);
  const AttentionKernel* const k = many_keys(p, a, rows) ? attention_together_kernel(columns, c.device) : nullptr;
  return k ? k : &attention_tile_kernel(columns);
}

}  // namespace

void launch_flash_attention(Context& c, const Problem& problem) {
  auto p = static_cast<const FlashAttention&>(problem);
  const int64_t keys = p.k.shape[1] * (p.block_table.present ? p.block_table.shape[1] : 1);
  const int64_t rows = p.q.shape[1] * (p.q.shape[2] / p.k.shape[2]);
  if (keys > kMostAttentionKeys || rows > kMostAttentionKeys || p.sequences > kMostAttentionKeys)
    throw Error(Code::unsupported, std::string(name_of(p.op)) +
                                       ": expected at most 2^30 keys, and queries times heads of a group, got " +
                                       std::to_string(keys) + " and " + std::to_string(rows));
  c.kernel = "cuda.any.flash_attention.plain";
  AttentionArgs a = args_of(c, p);
  if (p.new_k.present) append(c, p, a);
  if (p.out.size() == 0) return;

  // Packed sequences are taken to be as long as their mean where no hint says more.
  const int64_t longest = !p.packed            ? p.q.shape[1]
                          : p.max_seqlen_q > 0 ? p.max_seqlen_q
                                               : ceil_div(p.q.shape[1], std::max<int64_t>(p.sequences, 1));
  const bool few = longest * a.group <= kFewRowsMost;
  const AttentionKernel* const k = tensor_kernel(c, p, a, longest * a.group, few);
  if (k) {
    if (!p.is_cached() && !p.block_table.present)
      for (View* const v : {&p.k, &p.v})
        if (!in_pieces(*v)) *v = gathered(c, *v);
    const bool turned = a.q.data != p.q.data;
    if (!turned && !in_pieces(p.q)) p.q = gathered(c, p.q);
    if (!turned) a.q = tensor_of(p.q);
    a.k = tensor_of(p.k);
    a.v = tensor_of(p.v);
    const bool is_tile = k->rows > 16, pieces = in_pieces(p.k) && in_pieces(p.v);
    c.kernel = "cuda.sm90.flash_attention.decode";
    if (!is_tile && pieces && launch_on_hopper(c, p, a, longest * a.group)) return;
    c.kernel = is_tile ? "cuda.sm80.flash_attention.tile" : "cuda.sm80.flash_attention.decode";
    const Kernel kernel = k->kernel[a.dtype == DType::float16 ? 0 : 1];
    if (pieces && launch(c, p, a, *k, kernel, 1)) return;
    c.kernel = "cuda.any.flash_attention.plain";
  }
  const Plain& plain = few ? kFewRows : kManyRows;
  if (!launch(c, p, a, plain.shape, plain.kernel[p.k_scale.present][dtype_index(a.dtype)],
              static_cast<unsigned>(ceil_div(a.dv, kPlainColumns))))
    throw Error(Code::unsupported,
                std::string(name_of(p.op)) + ": expected fewer tiles than a grid has room for, got more");
}

}  // namespace seqmix::cuda
