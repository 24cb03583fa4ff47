// flashAttention with few queries a KV head (decode), where the time goes into reading keys and values once.
//
// An item takes the keys of one part of a sequence in order, all heads of each (or one head, where the heads of a key
// do not lie together): memory is read forward, in one stream, which is what it is fastest at. It goes in spans of
// kFewSpan keys: first the scores of all rows (a row is a query's head; the rows of a KV head go together, and read its
// keys once), then their weights, then the values; and within a span in batches of kFewBatch keys. A batch is taken
// head by head, so that what a head's rows need stays in L1, and in registers over several keys. Its lines are in L2
// by then: as one batch is computed, the next is prefetched line by line, in the order of memory and evenly,
// since what is asked for in a burst is more than a core can have under way, and the rest of it is dropped.
//
// Keys and values are widened in registers, int8 ones multiplied by their scale as scores and weights. Of W keys the
// products are kept lane by lane, then added up two by two while they are turned around, which gives W scores side by
// side. Parts are cut by the bytes of a key alone, and merged in order (attention_keys.h). Floor: the bytes of keys and
// values.

constexpr int64_t kFewSpan = 64;
constexpr int64_t kFewBatch = W < 8 ? 8 : W;  // at most 16, of which all are evenly apart (attn_key)
constexpr int kFewMost = 8;                   // rows of a KV head
constexpr int kFewSums = 8;                   // vectors that are summed up side by side, in registers
constexpr int64_t kFewBytes = 1 << 21;        // of a part, about
constexpr int64_t kFewParts = 256;            // at most
constexpr int64_t kFewLine = 64;              // bytes

// What a KV head's rows, R of them (the last may be nobody's), take with them.
struct FewRows {
  float *queries, *sums;  // R rows of `deep` and of `wide` floats
  float* scores;          // R rows of kFewSpan
  AttnSum* totals;
};

// Products of a KV head's rows with a batch, lane by lane: in floats.
constexpr int64_t kFewProducts = kFewMost * kFewBatch * W;

// Keys (or values) of one head, at most kFewBatch.
struct FewKeys {
  const char* at;
  int64_t stride;  // in elements
  int64_t count, width;
};

// What is to be prefetched: rows of so many bytes, `stride` apart.
struct FewAhead {
  uintptr_t row;
  int64_t at, bytes, stride;

  // The next n bytes' first.
  SEQMIX_VERB uintptr_t take(int64_t n) {
    const uintptr_t from = row + static_cast<uintptr_t>(at);
    at += n;
    while (at >= bytes) {
      at -= bytes;
      row += static_cast<uintptr_t>(stride);
    }
    return from;
  }
};

// Into L2: a batch may be more than L1 holds.
SEQMIX_VERB void few_prefetch(uintptr_t at) { __builtin_prefetch(reinterpret_cast<const void*>(at), 0, 2); }

// Products of R rows with N keys, lane by lane: into parts[(r * kFewBatch + n) * W].
template <int R, int N, class T>
SEQMIX_VERB void few_products_step(const T* key, int64_t stride, int64_t d, const float* queries, uintptr_t ahead,
                                   float* parts) {
  constexpr int64_t kWidth = most(W, kFewLine / static_cast<int64_t>(sizeof(T)));
  const int64_t deep = ceil_div(d, W) * W;
  vf acc[N][R];
#pragma GCC unroll 8
  for (int n = 0; n < N; n++)
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) acc[n][r] = set1(0);
  const auto column = [&](int64_t c, int64_t count) __attribute__((always_inline)) {
    vf k[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) k[n] = load_some(key + n * stride + c, count);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const vf q = load(queries + r * deep + c);
#pragma GCC unroll 8
      for (int n = 0; n < N; n++) acc[n][r] = fma(q, k[n], acc[n][r]);
    }
  };
  int64_t c = 0;
  for (; c + kWidth <= d; c += kWidth) {
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) few_prefetch(ahead + n * kFewLine);
    ahead += N * kFewLine;
#pragma GCC unroll 8
    for (int64_t i = 0; i < kWidth; i += W) column(c + i, W);
  }
  for (; c < d; c += W) column(c, least(W, d - c));
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) store(parts + (r * kFewBatch + n) * W, acc[n][r]);
}

template <int R, class T>
static void few_products(const FewKeys& keys, const float* queries, FewAhead& ahead, float* parts) {
  constexpr int N = kFewSums / R;
  const T* const key = reinterpret_cast<const T*>(keys.at);
  const int64_t bytes = keys.width * static_cast<int64_t>(sizeof(T));
  int64_t j = 0;
  for (; j + N <= keys.count; j += N)
    few_products_step<R, N>(key + j * keys.stride, keys.stride, keys.width, queries, ahead.take(N * bytes),
                            parts + j * W);
  for (; j < keys.count; j++)
    few_products_step<R, 1>(key + j * keys.stride, keys.stride, keys.width, queries, ahead.take(bytes), parts + j * W);
}

// W products, lane by lane, as W scores side by side.
SEQMIX_VERB vf few_scores(const float* parts) {
  vf lanes[W];
#pragma GCC unroll 16
  for (int i = 0; i < W; i++) lanes[i] = load(parts + i * W);
  return sums(lanes);
}

// Sums of R rows += weights · values, in C vectors from element c on; weights[r * kFewSpan + j].
template <int R, int C, class T>
SEQMIX_VERB void few_values_tile(const FewKeys& values, int64_t c, int64_t width, const float* weights, FewAhead& ahead,
                                 float* sums) {
  constexpr int64_t kBytes = C * W * static_cast<int64_t>(sizeof(T)), kLines = most(1, kBytes / kFewLine);
  constexpr int64_t kEvery = most(1, kFewLine / kBytes);
  const int64_t wide = ceil_div(values.width, W) * W;
  const T* value = reinterpret_cast<const T*>(values.at) + c;
  uintptr_t next = ahead.take(values.count * kBytes);
  vf acc[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int i = 0; i < C; i++) acc[r][i] = load(sums + r * wide + c + i * W);
  for (int64_t j = 0; j < values.count; j++) {
    if (j % kEvery == 0) {
#pragma GCC unroll 8
      for (int64_t i = 0; i < kLines; i++) few_prefetch(next + i * kFewLine);
      next += kLines * kFewLine;
    }
    vf v[C];
#pragma GCC unroll 8
    for (int i = 0; i < C; i++) v[i] = load_some(value + i * W, width);
    value += values.stride;
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const vf w = set1(weights[r * kFewSpan + j]);
#pragma GCC unroll 8
      for (int i = 0; i < C; i++) acc[r][i] = fma(w, v[i], acc[r][i]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int i = 0; i < C; i++) store(sums + r * wide + c + i * W, acc[r][i]);
}

// The same in all vectors from element c on, C at a time while there are so many.
template <int R, int C, class T>
SEQMIX_VERB void few_values_columns(const FewKeys& values, int64_t c, const float* weights, FewAhead& ahead,
                                    float* sums) {
  for (; c + C * W <= values.width; c += C * W) few_values_tile<R, C, T>(values, c, W, weights, ahead, sums);
  if (c == values.width) return;
  if constexpr (C > 1)
    few_values_columns<R, C / 2, T>(values, c, weights, ahead, sums);
  else
    few_values_tile<R, 1, T>(values, c, values.width - c, weights, ahead, sums);
}

template <int R, class T>
static void few_values(const FewKeys& values, const float* weights, FewAhead& ahead, float* sums) {
  few_values_columns<R, kFewSums / R, T>(values, 0, weights, ahead, sums);
}

using FewProducts = void (*)(const FewKeys&, const float*, FewAhead&, float*);
using FewValues = void (*)(const FewKeys&, const float*, FewAhead&, float*);

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
    return ceil_div((int64_t{1} << kind(rows)) * (deep + wide + kFewSpan + 2), W) * W;
  }
  // An item's: products, and so many heads.
  int64_t floats(int64_t heads, int64_t rows) const { return kFewProducts + heads * head_floats(rows); }
};

// Some heads of a sequence and one part of its keys.
struct FewItem {
  int64_t sequence, h0, h1;  // of KV
  AttnRange keys;
  AttnPart part;
};

inline FewRows few_rows(const Few& f, float* memory, int64_t head, int64_t R) {
  FewRows rows{};
  rows.queries = memory + kFewProducts + head * f.head_floats(R);
  rows.sums = rows.queries + R * f.deep;
  rows.scores = rows.sums + R * f.wide;
  rows.totals = reinterpret_cast<AttnSum*>(rows.scores + R * kFewSpan);
  return rows;
}

// The scales of `count` keys from j on.
inline void few_scales(const AttnSequence& s, const View& v, int64_t j, int64_t count, int64_t head, float* to) {
  const int64_t at = attn_key(s, v, j) + head * v.stride[2];
  for (int64_t i = 0; i < kFewBatch; i++) to[i] = i < count ? floats(v)[at + i * v.stride[1]] : 0;
}

// Where the batch of keys from j on ends.
SEQMIX_VERB int64_t few_batch_end(int64_t j, int64_t end) { return least(end, j / kFewBatch * kFewBatch + kFewBatch); }

// The keys [j, end) of a head.
inline FewKeys few_keys(const Few& f, const AttnSequence& s, const View& v, int64_t j, int64_t end, int64_t head) {
  return {pointer<const char>(v) + (attn_key(s, v, j) + head * v.stride[2]) * f.size, v.stride[1], end - j, v.shape[3]};
}

// The keys from j on, of an item's heads.
inline FewAhead few_ahead(const Few& f, const AttnSequence& s, const FewItem& item, const View& v, int64_t j) {
  const int64_t row = (item.h1 - item.h0 - 1) * v.stride[2] + v.shape[3];
  return {reinterpret_cast<uintptr_t>(few_keys(f, s, v, j, j, item.h0).at), 0, most(1, row * f.size),
          v.stride[1] * f.size};
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

// The scores of all rows with the keys [j, end), a batch, in a span that begins at `span`.
inline void few_batch_scores(const Few& f, const AttnSequence& s, const FewItem& item, int64_t span, int64_t j,
                             int64_t end, FewAhead ahead, int kind, float* memory) {
  const int64_t R = int64_t{1} << kind;
  float scales[kFewBatch];
  for (int64_t head = item.h0; head < item.h1; head++) {
    const FewRows own = few_rows(f, memory, head - item.h0, R);
    f.products[kind](few_keys(f, s, f.p.k, j, end, head), own.queries, ahead, memory);
    if (f.p.k_scale.present) few_scales(s, f.p.k_scale, j, end - j, head, scales);
    for (int64_t r = 0; r < R; r++)
      for (int64_t k = 0; k < end - j; k += W) {
        const vf x = few_scores(memory + (r * kFewBatch + k) * W);
        store(own.scores + r * kFewSpan + j - span + k, f.p.k_scale.present ? x * load(scales + k) : x);
      }
  }
}

// Their values, weighted.
inline void few_batch_values(const Few& f, const AttnSequence& s, const FewItem& item, int64_t span, int64_t j,
                             int64_t end, FewAhead ahead, int kind, float* memory) {
  const int64_t R = int64_t{1} << kind, rows = f.group * s.queries;
  const bool all = attn_range(f.p, s, 0).end >= end && attn_range(f.p, s, s.queries - 1).begin <= j;
  float scales[kFewBatch];
  for (int64_t head = item.h0; head < item.h1; head++) {
    const FewRows own = few_rows(f, memory, head - item.h0, R);
    if (f.p.v_scale.present) {
      few_scales(s, f.p.v_scale, j, end - j, head, scales);
      for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < end - j; k++) own.scores[r * kFewSpan + j - span + k] *= scales[k];
    }
    if (all) {
      f.sum[kind](few_keys(f, s, f.p.v, j, end, head), own.scores + j - span, ahead, own.sums);
      continue;
    }
    for (int64_t r = 0; r < rows; r++) {  // no row touches a value that it does not see
      const AttnRange range = attn_range(f.p, s, r / f.group);
      const int64_t a = most(j, range.begin), b = least(end, range.end);
      if (a < b)
        f.sum[0](few_keys(f, s, f.p.v, a, b, head), own.scores + r * kFewSpan + a - span, ahead, own.sums + r * f.wide);
    }
  }
}

// One span of keys, [j, end).
inline void few_span(const Few& f, const AttnSequence& s, const FewItem& item, int64_t j, int64_t end, int kind,
                     float* memory) {
  const int64_t R = int64_t{1} << kind, rows = f.group * s.queries;
  for (int64_t k = j, next; k < end; k = next) {
    next = few_batch_end(k, end);
    const FewAhead ahead = next < end ? few_ahead(f, s, item, f.p.k, next) : few_ahead(f, s, item, f.p.v, j);
    few_batch_scores(f, s, item, j, k, next, ahead, kind, memory);
  }
  for (int64_t head = item.h0; head < item.h1; head++) {
    const FewRows own = few_rows(f, memory, head - item.h0, R);
    for (int64_t r = 0; r < rows; r++)
      few_weights(f, s, item.sequence, r / f.group, head * f.group + r % f.group, j, end - j, own.scores + r * kFewSpan,
                  own.totals[r], own.sums + r * f.wide);
  }
  for (int64_t k = j, next; k < end; k = next) {
    next = few_batch_end(k, end);
    // behind the last batch nothing: what is there is prefetched again
    const FewAhead ahead = few_ahead(f, s, item, next < end ? f.p.v : f.p.k, next < item.keys.end ? next : k);
    few_batch_values(f, s, item, j, k, next, ahead, kind, memory);
  }
}

inline void few_item(const Few& f, const AttnSequence& s, const FewItem& item, float* memory) {
  const int64_t rows = f.group * s.queries;
  const int kind = Few::kind(rows);
  const int64_t R = int64_t{1} << kind;
  for (int64_t i = 0; i < kFewProducts; i += W) store(memory + i, set1(0));
  for (int64_t head = item.h0; head < item.h1; head++) {
    const FewRows own = few_rows(f, memory, head - item.h0, R);
    for (int64_t r = 0; r < R; r++) {
      for (int64_t c = 0; c < f.wide; c += W) store(own.sums + r * f.wide + c, set1(0));
      for (int64_t c = 0; c < f.deep; c += W) store(own.queries + r * f.deep + c, set1(0));
      for (int64_t c = 0; c < kFewSpan; c++) own.scores[r * kFewSpan + c] = 0;
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
