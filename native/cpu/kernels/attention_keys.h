// What the kernels of flashAttention share: where each sequence's queries and keys are, which of them are good, and how
// one query is read and its result written.
//
// Scores are in powers of two: a query is multiplied by scale log2(e) as it is read (with a softcap by scale /
// softcap), so that a weight is 2^(score - highest).

// Where a sequence is, when its indices have been checked.
struct AttnSequence {
  int64_t q_row, q0, queries;    // its first query is (q_row, q0) of q
  int64_t k_row, k0, keys;       // key 0 is (k_row, k0) of k and v, or in its first page
  int64_t pad;                   // the first keys that do not count
  int64_t used, fresh_0, fresh;  // the keys from `used` on are new: `fresh` of them, from (q_row, fresh_0) of new_k on
  const int32_t* table;          // its pages, null where there are none
  int64_t table_stride;
  bool live;

  int64_t position(int64_t query) const { return query + keys - queries; }
};

// The keys that a query sees: [begin, end).
struct AttnRange {
  int64_t begin, end;
  bool empty() const { return begin >= end; }
};

SEQMIX_VERB AttnRange attn_range(const FlashAttention& p, const AttnSequence& s, int64_t query) {
  const int64_t at = s.position(query);
  return {most(s.pad, at - p.window_left), least(s.keys, at + p.window_right + 1)};
}

// Where key j of a sequence is, in elements of k, v or a scale. 16 keys, from a multiple of 16 on, are evenly apart.
SEQMIX_VERB int64_t attn_key(const AttnSequence& s, const View& v, int64_t j) {
  if (!s.table) return s.k_row * v.stride[0] + (s.k0 + j) * v.stride[1];
  const int64_t page = v.shape[1];
  return s.table[j / page * s.table_stride] * v.stride[0] + j % page * v.stride[1];
}

SEQMIX_VERB int32_t attn_int(const View& v, int64_t i) { return ints(v)[i * v.stride[0]]; }

// 0 <= v[0] <= v[1] <= …, and none above `most`.
inline bool attn_ascends(const View& v, int64_t most_) {
  int64_t before = 0;
  for (int64_t i = 0; i < v.shape[0]; i++) {
    const int64_t at = attn_int(v, i);
    if (at < before || at > most_ || (i == 0 && at != 0)) return false;
    before = at;
  }
  return true;
}

// Whether the pages of all keys that are written or seen exist.
inline bool attn_pages_exist(const FlashAttention& p, const AttnSequence& s) {
  const int64_t page = p.k.shape[1];
  const int64_t seen = s.queries > 0 ? most(0, attn_range(p, s, 0).begin) : s.keys;
  const int64_t first = least(seen, s.fresh > 0 ? s.used : s.keys);
  for (int64_t b = first / page; b * page < s.keys; b++) {
    const int64_t at = s.table[b * s.table_stride];
    if (at < 0 || at >= p.k.shape[0]) return false;
  }
  return true;
}

// Whether each query is rotated by its own place: where the mask knows places.
SEQMIX_VERB bool attn_rotates_by_place(const FlashAttention& p) {
  return p.window_left < kUnbounded || p.window_right < kUnbounded;
}

// Sequence r; not live where one of its indices is bad, which is reported, or where it is idle.
inline AttnSequence attn_sequence(Context& context, const FlashAttention& p, int64_t r) {
  AttnSequence s{};
  if (p.cu_seqlens_q.present) {
    s.q0 = attn_int(p.cu_seqlens_q, r);
    s.queries = attn_int(p.cu_seqlens_q, r + 1) - s.q0;
  } else {
    s.q_row = r;
    s.queries = p.q.shape[1];
  }
  int64_t room = p.k.shape[1];  // for keys
  s.k_row = r;
  if (p.block_table.present) {
    s.table = ints(p.block_table) + r * p.block_table.stride[0];
    s.table_stride = p.block_table.stride[1];
    room *= p.block_table.shape[1];
  }
  if (p.cu_seqlens_k.present) {
    const int64_t begin = attn_int(p.cu_seqlens_k, r), length = attn_int(p.cu_seqlens_k, r + 1) - begin;
    s.k_row = 0;
    s.k0 = begin;
    if (!s.table || length < room)
      room = length;
    else if (length > room && !p.used_k.present)
      room = -1;
  }
  if (p.batch_idx.present) {
    s.k_row = attn_int(p.batch_idx, r);
    if (s.k_row < 0) return s;  // idle
    if (s.k_row >= p.k.shape[0]) room = -1;
  }
  if (p.new_k.present) {
    s.fresh_0 = s.q0;
    s.fresh = p.cu_seqlens_q.present ? s.queries : p.new_k.shape[1];
  }
  s.used = p.used_k.present ? attn_int(p.used_k, r) : room;
  s.keys = s.used + s.fresh;
  s.pad = p.left_pad.present ? attn_int(p.left_pad, r) : 0;
  s.live = s.used >= 0 && s.keys <= room && s.pad >= 0 && s.pad <= s.used;
  if (s.live && p.rotary_cos.present && s.queries + s.fresh > 0)
    s.live = s.used + most(attn_rotates_by_place(p) ? s.queries : 1, s.fresh) <= p.rotary_cos.shape[0];
  if (s.live && s.table) s.live = attn_pages_exist(p, s);
  if (!s.live) report_index_error(context, p);
  return s;
}

// What scores are made of, in the form that the kernels need it.
struct AttnScores {
  float factor;        // of queries
  float cap;           // log2(e) softcap, 0 for none
  View slopes, sinks;  // float32
  View cos, sin;
  int64_t turned;        // elements of a query that are rotated
  bool rotate_by_place;  // each query by its own

  // -slope log2(e) for a head
  SEQMIX_VERB float slope(int64_t sequence, int64_t head) const {
    constexpr float kLog2e = 1.44269504f;
    return -kLog2e * floats(slopes)[sequence * slopes.stride[0] + head * slopes.stride[1]];
  }
};

constexpr double kAttnLog2e = 1.4426950408889634;

inline AttnScores attn_scores(Context& context, const FlashAttention& p) {
  AttnScores s{};
  s.factor = static_cast<float>(p.softcap > 0 ? p.scale / p.softcap : p.scale * kAttnLog2e);
  s.cap = static_cast<float>(p.softcap * kAttnLog2e);
  s.slopes = widened(context, p.alibi_slopes);
  s.sinks = widened(context, p.sinks);
  s.cos = p.rotary_cos;
  s.sin = p.rotary_sin;
  s.turned = p.rotary_cos.present ? 2 * p.rotary_cos.shape[1] : 0;
  s.rotate_by_place = attn_rotates_by_place(p);
  return s;
}

// Rotates the first elements of a row by a position (see core/problem/flash_attention.h).
inline void attn_rotate(const FlashAttention& p, int64_t position, float* x) {
  const View& c = p.rotary_cos;
  const int64_t half = c.shape[1];
  float cos[kMostHeadDim / 2 + W], sin[kMostHeadDim / 2 + W];
  copy_row(c, position * c.stride[0], c.stride[1], half, cos);
  copy_row(p.rotary_sin, position * p.rotary_sin.stride[0], p.rotary_sin.stride[1], half, sin);
  const int64_t step = p.rotary_interleaved ? 2 : 1, apart = p.rotary_interleaved ? 1 : half;
  for (int64_t i = 0; i < half; i++) {
    const float a = x[i * step], b = x[i * step + apart];
    x[i * step] = a * cos[i] - b * sin[i];
    x[i * step + apart] = a * sin[i] + b * cos[i];
  }
}

// Where query i's head h is in q, or its result in out; in elements.
SEQMIX_VERB int64_t attn_query(const AttnSequence& s, const View& v, int64_t i, int64_t h) {
  return s.q_row * v.stride[0] + (s.q0 + i) * v.stride[1] + h * v.stride[2];
}

// Query i of head h as it goes into products: rotated, times the factor, 0 from d to the next whole vector.
inline void attn_load_query(const FlashAttention& p, const AttnScores& scores, const AttnSequence& s, int64_t i,
                            int64_t h, float* to) {
  const int64_t d = p.q.shape[3], at = attn_query(s, p.q, i, h);
  with_float(p.q.dtype, [&](auto kind) {
    using T = decltype(kind);
    for (int64_t c = 0; c < d; c += W) store(to + c, load_some(pointer<T>(p.q) + at + c, least(W, d - c)));
  });
  if (scores.turned) attn_rotate(p, s.used + (scores.rotate_by_place ? i : 0), to);
  for (int64_t c = 0; c < d; c += W) store(to + c, load(to + c) * set1(scores.factor));
}

// Asks for what will be read soon: rows lie apart, by pages even, which no processor foresees.
SEQMIX_VERB void attn_prefetch(const void* row, int64_t bytes) {
  for (int64_t line = 0; line < bytes; line += 64) __builtin_prefetch(static_cast<const char*>(row) + line);
}

// Weights, 2^t: N vectors side by side, as with exp_normal.
template <int N>
SEQMIX_VERB void attn_weights(vf* t) {
  vf step[N], rest[N];
#pragma GCC unroll 8
  for (int i = 0; i < N; i++) exp2_begin(t[i], step[i], rest[i]);
#pragma GCC unroll 8
  for (int i = 0; i < N; i++) t[i] = exp2_end(step[i], rest[i]);
}
SEQMIX_VERB vf attn_weight(vf t) {
  attn_weights<1>(&t);
  return t;
}
SEQMIX_VERB float attn_weight(float t) { return highest(attn_weight(set1(t))); }

constexpr float kAttnNever = -__builtin_inff();

// Softmax over keys that come in parts: the highest score, and the sum of weights relative to it.
struct AttnSum {
  float high, sum;
};

// What a query's weighted values are to be multiplied with, when they are summed up: with sinks, relative to what
// `total` says. Its lse is written.
inline float attn_finish_sum(const FlashAttention& p, const AttnScores& scores, const AttnSequence& s, int64_t i,
                             int64_t h, AttnSum total) {
  float shrink = 1;
  if (scores.sinks.present) {
    const float sink = floats(scores.sinks)[h * scores.sinks.stride[0]] * static_cast<float>(kAttnLog2e);
    const float high = sink > total.high ? sink : total.high;
    const float from = high == kAttnNever ? 0 : high;
    shrink = attn_weight(total.high - from);
    total = {high, total.sum * shrink + attn_weight(sink - from)};
  }
  const bool none = total.sum == 0;
  if (p.lse.present) {
    const double lse = (total.high + __builtin_log2(static_cast<double>(total.sum))) / kAttnLog2e;
    floats(p.lse)[s.q_row * p.lse.stride[0] + h * p.lse.stride[1] + s.q0 + i] =
        none ? kAttnNever : static_cast<float>(lse);
  }
  return none ? 0 : shrink / total.sum;
}

// Writes a query's result: the weighted values that were summed up, in their dtype.
inline void attn_finish(const FlashAttention& p, const AttnScores& scores, const AttnSequence& s, int64_t i, int64_t h,
                        AttnSum total, const float* values) {
  const vf factor = set1(attn_finish_sum(p, scores, s, i, h, total));
  const bool none = total.sum == 0;
  const int64_t dv = p.out.shape[3];
  with_float(p.out.dtype, [&](auto kind) {
    using T = decltype(kind);
    T* const to = pointer<T>(p.out) + attn_query(s, p.out, i, h);
    for (int64_t c = 0; c < dv; c += W)
      store_some(to + c, none ? set1(0.0f) : load(values + c) * factor, least(W, dv - c));
  });
}

// One part of a sequence's keys, where they are cut: what its queries' heads sum up goes into rows of `stride` floats,
// and is merged, part by part in order, when all are there.
struct AttnPart {
  float* rows = nullptr;
  int64_t stride = 0;

  static int64_t row_floats(const FlashAttention& p) { return ceil_div(p.v.shape[3], W) * W + W; }
  float* row(int64_t query_head) const { return rows + query_head * stride; }
  // Writes what its weights come to. Behind that its values are to go.
  float* put(int64_t query_head, AttnSum total) const {
    float* const to = row(query_head);
    to[0] = total.high;
    to[1] = total.sum;
    return to + W;
  }
};

// Results of a part, or of all keys.
inline void attn_deliver(const FlashAttention& p, const AttnScores& scores, const AttnSequence& s, const AttnPart& part,
                         int64_t i, int64_t h, AttnSum total, const float* values) {
  if (!part.rows) return attn_finish(p, scores, s, i, h, total, values);
  float* const to = part.put(i * p.q.shape[2] + h, total);
  for (int64_t c = 0; c < part.stride - W; c += W) store(to + c, load(values + c));
}

// Query i's head h from `count` parts, `apart` floats from each other.
inline void attn_merge(const FlashAttention& p, const AttnScores& scores, const AttnSequence& s, const AttnPart& first,
                       int64_t count, int64_t apart, int64_t i, int64_t h) {
  const float* const from = first.row(i * p.q.shape[2] + h);
  float high = kAttnNever;
  for (int64_t n = 0; n < count; n++)
    if (from[n * apart] > high) high = from[n * apart];
  const float relative = high == kAttnNever ? 0 : high;
  float values[kMostHeadDim + W] = {}, total = 0;
  for (int64_t n = 0; n < count; n++) {
    const float* const part = from + n * apart;
    const float share = attn_weight(part[0] - relative);
    total += part[1] * share;
    for (int64_t c = W; c < first.stride; c += W)
      store(values + c - W, fma(load(part + c), set1(share), load(values + c - W)));
  }
  attn_finish(p, scores, s, i, h, {high, total}, values);
}

// The result of queries [begin, end) of a row of q that see nothing.
inline void attn_finish_none(const FlashAttention& p, int64_t row, int64_t begin, int64_t end) {
  const int64_t heads = p.out.shape[2], size = heads * p.out.shape[3] * size_of(p.out.dtype);
  if (begin >= end) return;
  __builtin_memset(pointer<char>(p.out) + (row * p.out.shape[1] + begin) * size, 0,
                   static_cast<std::size_t>((end - begin) * size));
  for (int64_t h = 0; h < heads && p.lse.present; h++)
    for (int64_t i = begin; i < end; i++) floats(p.lse)[row * p.lse.stride[0] + h * p.lse.stride[1] + i] = kAttnNever;
}

// body(T{}) with T the type of keys and values.
template <class F>
SEQMIX_VERB void with_cache(DType dtype, const F& body) {
  if (dtype == DType::int8) return body(int8_t{});
  with_float(dtype, body);
}
