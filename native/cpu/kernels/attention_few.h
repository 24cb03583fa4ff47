// flashAttention with few queries a KV head (decode), where the time goes into reading keys and values once.
//
// An item takes the keys of one part of a sequence in order, all heads of each (or one head, where the heads of a key
// do not lie together): memory is read forward, in one stream, which is what it is fastest at, and prefetched a few
// keys ahead. It goes in spans of kFewSpan keys: first the scores of all rows (a row is a query's head; the rows of a
// KV head go together, and read its keys once), then their weights, then the values. A row's sums stay in L1 or L2 with
// those of the others; keys and values are widened in registers, int8 ones multiplied by their scale as scores and
// weights. Of W keys the products are kept lane by lane, then added up two by two while they are turned around, which
// gives W scores side by side.
//
// Parts are cut by the bytes of a key alone, and merged in order (attention_keys.h). Floor: the bytes of keys and
// values.

constexpr int64_t kFewSpan = 64;
constexpr int kFewMost = 8;             // rows of a KV head
constexpr int64_t kFewBytes = 1 << 21;  // of a part, about
constexpr int64_t kFewAhead = 12288;    // bytes to prefetch ahead, about
constexpr int64_t kFewParts = 256;      // at most

// What a KV head's rows, R of them (the last may be nobody's), take with them.
struct FewRows {
  float *queries, *sums;  // R rows of `deep` and of `wide` floats
  float* scores;          // R rows of kFewSpan, and W more
  float* parts;           // R rows of W vectors
  AttnSum* totals;
};

// Keys (or values) of a batch, at most W, of some heads: element 0 of the first key of the first head.
struct FewKeys {
  const char* at;
  int64_t stride, head_stride;  // in elements
  int64_t count, heads, width;
  int64_t ahead;  // bytes to what is to be prefetched, 0 for nothing
};

template <class T>
SEQMIX_VERB void few_prefetch(const FewKeys& keys, const T* at) {
  const uintptr_t ahead = reinterpret_cast<uintptr_t>(at) + static_cast<uintptr_t>(keys.ahead);
  const uintptr_t bytes = static_cast<uintptr_t>(keys.width) * sizeof(T);
  for (uintptr_t i = 0; i < bytes && keys.ahead; i += 64) __builtin_prefetch(reinterpret_cast<const void*>(ahead + i));
}

// Products of each head's R rows with its keys, lane by lane: into parts[r * W + j]. Rows of a head are at `rows`,
// those of the next `pitch` floats on.
template <int R, class T>
static void few_products(const FewKeys& keys, const FewRows& rows, int64_t pitch) {
  const int64_t d = keys.width, deep = ceil_div(d, W) * W;
  for (int64_t j = 0; j < keys.count; j++)
    for (int64_t h = 0; h < keys.heads; h++) {
      const int64_t offset = j * keys.stride + h * keys.head_stride;
      const T* const key = reinterpret_cast<const T*>(keys.at) + offset;
      const float* const queries = rows.queries + h * pitch;
      few_prefetch(keys, key);
      vf acc[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) acc[r] = set1(0);
      for (int64_t c = 0; c < d; c += W) {
        const vf k = load_some(key + c, least(W, d - c));
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) acc[r] = fma(load(queries + r * deep + c), k, acc[r]);
      }
      float* const parts = rows.parts + h * pitch + j * W;
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) store(parts + r * W * W, acc[r]);
    }
}

// W products, lane by lane, as W scores side by side.
inline void few_scores(const float* parts, const float* scales, float* scores) {
  vf lanes[W];
#pragma GCC unroll 16
  for (int i = 0; i < W; i++) lanes[i] = load(parts + i * W);
  const vf all = sums(lanes);
  store(scores, scales ? all * load(scales) : all);
}

// Each head's sums += weights · values, for R rows; weights[r * kFewSpan + j] from `span` on.
template <int R, class T>
static void few_values(const FewKeys& values, const FewRows& rows, int64_t pitch, int64_t span) {
  const int64_t dv = values.width, wide = ceil_div(dv, W) * W;
  for (int64_t j = 0; j < values.count; j++)
    for (int64_t h = 0; h < values.heads; h++) {
      const int64_t offset = j * values.stride + h * values.head_stride;
      const T* const value = reinterpret_cast<const T*>(values.at) + offset;
      float* const sums = rows.sums + h * pitch;
      few_prefetch(values, value);
      vf w[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) w[r] = set1(rows.scores[h * pitch + r * kFewSpan + span + j]);
      for (int64_t c = 0; c < dv; c += W) {
        const vf v = load_some(value + c, least(W, dv - c));
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) store(sums + r * wide + c, fma(w[r], v, load(sums + r * wide + c)));
      }
    }
}

using FewProducts = void (*)(const FewKeys&, const FewRows&, int64_t);
using FewValues = void (*)(const FewKeys&, const FewRows&, int64_t, int64_t);

struct Few {
  const FlashAttention& p;
  const AttnScores& scores;
  int64_t group, d, dv, deep, wide;  // d and dv in whole vectors
  int64_t size;                      // bytes of an element of the cache
  FewProducts products[4];           // of 1, 2, 4 and 8 rows
  FewValues sum[4];

  Few(const FlashAttention& problem, const AttnScores& s)
      : p(problem),
        scores(s),
        group(p.q.shape[2] / p.k.shape[2]),
        d(p.q.shape[3]),
        dv(p.v.shape[3]),
        deep(ceil_div(d, W) * W),
        wide(ceil_div(dv, W) * W),
        size(size_of(p.k.dtype)) {
    with_cache(p.k.dtype, [&](auto kind) {
      using T = decltype(kind);
      const FewProducts s_[] = {few_products<1, T>, few_products<2, T>, few_products<4, T>, few_products<8, T>};
      const FewValues v_[] = {few_values<1, T>, few_values<2, T>, few_values<4, T>, few_values<8, T>};
      for (int i = 0; i < 4; i++) {
        products[i] = s_[i];
        sum[i] = v_[i];
      }
    });
  }

  static int kind(int64_t rows) { return rows <= 1 ? 0 : rows <= 2 ? 1 : rows <= 4 ? 2 : 3; }
  // One head's memory: FewRows, in whole vectors.
  int64_t head_floats(int64_t rows) const {
    return ceil_div((int64_t{1} << kind(rows)) * (deep + wide + kFewSpan + W * W + 2) + W, W) * W;
  }
};

// Some heads of a sequence and one part of its keys.
struct FewItem {
  int64_t sequence, h0, h1;  // of KV
  AttnRange keys;
  AttnPart part;
};

inline FewRows few_rows(const Few& f, float* memory, int64_t head, int64_t R) {
  FewRows rows{};
  rows.queries = memory + head * f.head_floats(R);
  rows.sums = rows.queries + R * f.deep;
  rows.parts = rows.sums + R * f.wide;
  rows.scores = rows.sums + R * (f.wide + W * W);
  rows.totals = reinterpret_cast<AttnSum*>(rows.scores + R * kFewSpan + W);
  return rows;
}

// The scales of `count` keys from j on, or null.
inline const float* few_scales(const AttnSequence& s, const View& v, int64_t j, int64_t count, int64_t head,
                               float (&to)[2 * W]) {
  if (!v.present) return nullptr;
  const int64_t at = attn_key(s, v, j) + head * v.stride[2];
  for (int64_t i = 0; i < W; i++) to[i] = i < count ? floats(v)[at + i * v.stride[1]] : 0;
  return to;
}

// The batch of keys from j on, of an item's heads; batches end at multiples of W, so that none lies in two pages.
inline FewKeys few_keys(const Few& f, const AttnSequence& s, const FewItem& item, const View& v, int64_t j) {
  const char* const at = pointer<const char>(v) + (attn_key(s, v, j) + item.h0 * v.stride[2]) * f.size;
  const int64_t step = v.stride[1] * f.size, count = least(item.keys.end, j / W * W + W) - j;
  // So many keys on, of the same page or not: a prefetch of what is not there does nothing.
  return {
      at, v.stride[1], v.stride[2], count, item.h1 - item.h0, v.shape[3], most(1, kFewAhead / most(1, step)) * step};
}

// Weights of a row, whose scores of the keys [j, j + n) begin at `row`; what it does not see becomes 0.
inline void few_weights(const Few& f, const AttnSequence& s, int64_t sequence, int64_t i, int64_t h, int64_t j,
                        int64_t n, float* row, AttnSum& total, float* sums) {
  const int64_t whole = ceil_div(n, W) * W;
  if (f.scores.cap > 0 || f.scores.slopes.present)
    attn_shape_scores(f.scores, f.scores.slopes.present ? f.scores.slope(sequence, h) : 0, s.position(i), j, whole,
                      row);
  const AttnRange range = attn_range(f.p, s, i);
  const int64_t begin = most(0, least(range.begin - j, n)), end = most(begin, least(range.end - j, n));
  for (int64_t k = 0; k < begin; k++) row[k] = kAttnNever;
  for (int64_t k = end; k < whole; k++) row[k] = kAttnNever;
  vf a = set1(total.high);
  for (int64_t k = 0; k < whole; k += W) a = max(load(row + k), a);
  const float high = highest(a), from = high == kAttnNever ? 0 : high;
  vf now = set1(0);
  for (int64_t k = 0; k < whole; k += W) {
    const vf w = attn_weight(load(row + k) - set1(from));
    store(row + k, w);
    now = now + w;
  }
  const float shrink = high == total.high ? 1 : attn_weight(total.high - high);
  total = {high, total.sum * shrink + sum(now)};
  if (shrink == 1) return;
  for (int64_t c = 0; c < f.wide; c += W) store(sums + c, load(sums + c) * set1(shrink));
}

// The scores of all rows with the batch of keys from j on, in a span that begins at `span`. Returns the batch's end.
inline int64_t few_batch_scores(const Few& f, const AttnSequence& s, const FewItem& item, int64_t span, int64_t j,
                                int kind, float* memory) {
  const int64_t R = int64_t{1} << kind;
  const FewKeys keys = few_keys(f, s, item, f.p.k, j);
  f.products[kind](keys, few_rows(f, memory, 0, R), f.head_floats(R));
  float scales[2 * W];
  for (int64_t head = item.h0; head < item.h1; head++) {
    const FewRows own = few_rows(f, memory, head - item.h0, R);
    const float* const scale = few_scales(s, f.p.k_scale, j, keys.count, head, scales);
    for (int64_t r = 0; r < R; r++) few_scores(own.parts + r * W * W, scale, own.scores + r * kFewSpan + j - span);
  }
  return j + keys.count;
}

// Their values, weighted. Returns the batch's end.
inline int64_t few_batch_values(const Few& f, const AttnSequence& s, const FewItem& item, int64_t span, int64_t j,
                                int kind, float* memory) {
  const int64_t R = int64_t{1} << kind, rows = f.group * s.queries;
  FewKeys values = few_keys(f, s, item, f.p.v, j);
  const int64_t end = j + values.count;
  float scales[2 * W];
  for (int64_t head = item.h0; head < item.h1 && f.p.v_scale.present; head++) {
    const FewRows own = few_rows(f, memory, head - item.h0, R);
    const float* const scale = few_scales(s, f.p.v_scale, j, values.count, head, scales);
    for (int64_t r = 0; r < rows; r++)
      for (int64_t k = 0; k < values.count; k++) own.scores[r * kFewSpan + j - span + k] *= scale[k];
  }
  if (attn_range(f.p, s, 0).end >= end && attn_range(f.p, s, s.queries - 1).begin <= j) {
    f.sum[kind](values, few_rows(f, memory, 0, R), f.head_floats(R), j - span);
    return end;
  }
  const FewKeys all = values;
  for (int64_t r = 0; r < rows; r++) {  // no row touches a value that it does not see
    const AttnRange range = attn_range(f.p, s, r / f.group);
    const int64_t a = most(j, range.begin), b = least(end, range.end);
    if (a >= b) continue;
    values.at = all.at + (a - j) * all.stride * f.size;
    values.ahead = 0;
    values.count = b - a;
    FewRows own = few_rows(f, memory, 0, R);
    own.sums += r * f.wide;
    own.scores += r * kFewSpan;
    f.sum[0](values, own, f.head_floats(R), a - span);
  }
  return end;
}

// One span of keys, [j, end).
inline void few_span(const Few& f, const AttnSequence& s, const FewItem& item, int64_t j, int64_t end, int kind,
                     float* memory) {
  const int64_t R = int64_t{1} << kind, rows = f.group * s.queries;
  for (int64_t k = j; k < end;) k = few_batch_scores(f, s, item, j, k, kind, memory);
  for (int64_t head = item.h0; head < item.h1; head++) {
    const FewRows own = few_rows(f, memory, head - item.h0, R);
    for (int64_t r = 0; r < rows; r++)
      few_weights(f, s, item.sequence, r / f.group, head * f.group + r % f.group, j, end - j, own.scores + r * kFewSpan,
                  own.totals[r], own.sums + r * f.wide);
  }
  for (int64_t k = j; k < end;) k = few_batch_values(f, s, item, j, k, kind, memory);
}

inline void few_item(const Few& f, const AttnSequence& s, const FewItem& item, float* memory) {
  const int64_t rows = f.group * s.queries;
  const int kind = Few::kind(rows);
  const int64_t R = int64_t{1} << kind;
  for (int64_t head = item.h0; head < item.h1; head++) {
    const FewRows own = few_rows(f, memory, head - item.h0, R);
    for (int64_t r = 0; r < R; r++) {
      for (int64_t c = 0; c < f.wide; c += W) store(own.sums + r * f.wide + c, set1(0));
      for (int64_t c = 0; c < f.deep; c += W) store(own.queries + r * f.deep + c, set1(0));
      for (int64_t c = 0; c < kFewSpan; c++) own.scores[r * kFewSpan + c] = 0;
      for (int i = 0; i < W; i++) store(own.parts + (r * W + i) * W, set1(0));
      own.totals[r] = {kAttnNever, 0};
      if (r < rows)
        attn_load_query(f.p, f.scores, s, r / f.group, head * f.group + r % f.group, own.queries + r * f.deep);
    }
  }
  for (int64_t j = item.keys.begin; j < item.keys.end;) {
    const int64_t end = least(item.keys.end, j / kFewSpan * kFewSpan + kFewSpan);  // spans from key 0 on
    few_span(f, s, item, j, end, kind, memory);
    j = end;
  }
  for (int64_t head = item.h0; head < item.h1; head++) {
    const FewRows own = few_rows(f, memory, head - item.h0, R);
    for (int64_t r = 0; r < rows; r++)
      attn_deliver(f.p, f.scores, s, item.part, r / f.group, head * f.group + r % f.group, own.totals[r],
                   own.sums + r * f.wide);
  }
}
