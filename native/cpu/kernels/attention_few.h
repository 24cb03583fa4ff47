// flashAttention with few queries a KV head (decode), where the time goes into reading keys and values once.
//
// An item takes the keys of one part of a sequence in order, all heads of each (or one head, where the heads of a key
// do not lie together), so that memory is read forward. It goes in spans of kFewSpan keys: first the scores of all rows
// (a row is a query's head; the rows of a KV head go together, and read its keys once), then their weights, then the
// values. A row's sums stay in L1 or L2 with those of the others; keys and values are widened in registers, int8 ones
// multiplied by their scale as scores and weights. W keys at a time: W partial sums are turned around and added, which
// gives W scores side by side. What comes next is fetched one batch of W keys ahead.
//
// Parts are cut by the bytes of a key alone, and merged in order (attention_keys.h). Floor: the bytes of keys and
// values; operations are a quarter of what the time for those allows with 4 bytes an element and one row a KV head.

constexpr int64_t kFewSpan = 64;
constexpr int kFewMost = 8;             // rows of a KV head
constexpr int64_t kFewBytes = 1 << 19;  // of a part, about
constexpr int64_t kFewParts = 256;      // at most

// What a KV head's rows, R of them (the last may be nobody's), take with them.
struct FewRows {
  float *queries, *sums;  // R rows of `deep` and of `wide` floats
  float* scores;          // R rows of kFewSpan
  AttnSum* totals;
};

// Scores of R rows with `count` <= W keys, `stride` apart, into scores[r * kFewSpan].
template <int R, class T>
static void few_scores(const void* keys, const void* next, int64_t stride, int64_t count, int64_t d,
                       const float* queries, int64_t deep, const float* scales, float* scores) {
  vf parts[R][W];
  for (int64_t j = 0; j < W; j++) {
    vf acc[R];
    for (int r = 0; r < R; r++) acc[r] = set1(0);
    if (j < count) {
      const T* const key = static_cast<const T*>(keys) + j * stride;
      const char* const ahead = reinterpret_cast<const char*>(static_cast<const T*>(next) + j * stride);
      for (int64_t line = 0; line < d * static_cast<int64_t>(sizeof(T)); line += 64) __builtin_prefetch(ahead + line);
      int64_t c = 0;
      for (; c + W <= d; c += W) {
        const vf k = load(key + c);
        for (int r = 0; r < R; r++) acc[r] = fma(load(queries + r * deep + c), k, acc[r]);
      }
      if (c < d) {
        const vf k = load_head(key + c, d - c);
        for (int r = 0; r < R; r++) acc[r] = fma(load(queries + r * deep + c), k, acc[r]);
      }
    }
    for (int r = 0; r < R; r++) parts[r][j] = acc[r];
  }
  const vf scale = scales ? load(scales) : set1(1);
  for (int r = 0; r < R; r++) {
    transpose(parts[r]);
    for (int half = W / 2; half > 0; half /= 2)
      for (int i = 0; i < half; i++) parts[r][i] = parts[r][i] + parts[r][i + half];
    store(scores + r * kFewSpan, scales ? parts[r][0] * scale : parts[r][0]);
  }
}

// sums += weights · values of `count` <= W keys, for R rows; weights[r * kFewSpan].
template <int R, class T>
static void few_values(const void* values, const void* next, int64_t stride, int64_t count, int64_t dv,
                       const float* weights, const float* scales, float* sums, int64_t wide) {
  const T* const from = static_cast<const T*>(values);
  float w[R][W];
  for (int r = 0; r < R; r++)
    for (int64_t j = 0; j < count; j++)
      w[r][j] = scales ? weights[r * kFewSpan + j] * scales[j] : weights[r * kFewSpan + j];
  for (int64_t j = 0; j < count && next; j++) {
    const char* const ahead = reinterpret_cast<const char*>(static_cast<const T*>(next) + j * stride);
    for (int64_t line = 0; line < dv * static_cast<int64_t>(sizeof(T)); line += 64) __builtin_prefetch(ahead + line);
  }
  for (int64_t c = 0; c < dv; c += W) {
    vf acc[R];
    for (int r = 0; r < R; r++) acc[r] = load(sums + r * wide + c);
    for (int64_t j = 0; j < count; j++) {
      const vf v = load_some(from + j * stride + c, least(W, dv - c));
      for (int r = 0; r < R; r++) acc[r] = fma(set1(w[r][j]), v, acc[r]);
    }
    for (int r = 0; r < R; r++) store(sums + r * wide + c, acc[r]);
  }
}

using FewScores = void (*)(const void*, const void*, int64_t, int64_t, int64_t, const float*, int64_t, const float*,
                           float*);
using FewValues = void (*)(const void*, const void*, int64_t, int64_t, int64_t, const float*, const float*, float*,
                           int64_t);

struct Few {
  const FlashAttention& p;
  const AttnScores& scores;
  int64_t group, d, dv, deep, wide;  // d and dv in whole vectors
  int64_t size;                      // bytes of an element of the cache
  FewScores score[4];                // of 1, 2, 4 and 8 rows
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
      const FewScores s_[] = {few_scores<1, T>, few_scores<2, T>, few_scores<4, T>, few_scores<8, T>};
      const FewValues v_[] = {few_values<1, T>, few_values<2, T>, few_values<4, T>, few_values<8, T>};
      for (int i = 0; i < 4; i++) {
        score[i] = s_[i];
        sum[i] = v_[i];
      }
    });
  }

  static int kind(int64_t rows) { return rows <= 1 ? 0 : rows <= 2 ? 1 : rows <= 4 ? 2 : 3; }
  int64_t head_floats(int64_t rows) const { return (int64_t{1} << kind(rows)) * (deep + wide + kFewSpan + 2); }
};

// Some heads of a sequence and one part of its keys.
struct FewItem {
  int64_t sequence, h0, h1;  // of KV
  AttnRange keys;
  AttnPart part;
};

inline FewRows few_rows(const Few& f, float* memory, int64_t head, int64_t R) {
  FewRows rows{};
  rows.queries = memory + head * R * (f.deep + f.wide + kFewSpan + 2);
  rows.sums = rows.queries + R * f.deep;
  rows.scores = rows.sums + R * f.wide;
  rows.totals = reinterpret_cast<AttnSum*>(rows.scores + R * kFewSpan);
  return rows;
}

// The scales of `count` keys from j on, or null.
inline const float* few_scales(const AttnSequence& s, const View& v, int64_t j, int64_t count, int64_t head,
                               float (&to)[W]) {
  if (!v.present) return nullptr;
  const int64_t at = attn_key(s, v, j) + head * v.stride[2];
  for (int64_t i = 0; i < W; i++) to[i] = i < count ? floats(v)[at + i * v.stride[1]] : 0;
  return to;
}

// Where the batch of keys from j on is, and the one after it, or the last key's own place.
struct FewBatch {
  int64_t at, next, count;
};
SEQMIX_VERB FewBatch few_batch(const AttnSequence& s, const View& v, int64_t j, int64_t end) {
  const int64_t at = attn_key(s, v, j);
  // Batches end at multiples of W, so that none lies in two pages.
  const int64_t after = j / W * W + W;
  return {at, after + W <= end ? attn_key(s, v, after) : at, least(end, after) - j};
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

// One span of keys, [j, end).
inline void few_span(const Few& f, const AttnSequence& s, const FewItem& item, int64_t j, int64_t end, int kind,
                     float* memory) {
  const int64_t R = int64_t{1} << kind, rows = f.group * s.queries;
  float scales[W];
  for (int64_t k = j; k < end;) {
    const FewBatch b = few_batch(s, f.p.k, k, end);
    for (int64_t head = item.h0; head < item.h1; head++) {
      const FewRows own = few_rows(f, memory, head - item.h0, R);
      const int64_t to = head * f.p.k.stride[2];
      f.score[kind](pointer<char>(f.p.k) + (b.at + to) * f.size, pointer<char>(f.p.k) + (b.next + to) * f.size,
                    f.p.k.stride[1], b.count, f.d, own.queries, f.deep,
                    few_scales(s, f.p.k_scale, k, b.count, head, scales), own.scores + k - j);
    }
    k += b.count;
  }
  for (int64_t head = item.h0; head < item.h1; head++) {
    const FewRows own = few_rows(f, memory, head - item.h0, R);
    for (int64_t r = 0; r < rows; r++)
      few_weights(f, s, item.sequence, r / f.group, head * f.group + r % f.group, j, end - j, own.scores + r * kFewSpan,
                  own.totals[r], own.sums + r * f.wide);
  }
  for (int64_t k = j; k < end;) {
    const FewBatch b = few_batch(s, f.p.v, k, end);
    const bool all = attn_range(f.p, s, 0).end >= k + b.count && attn_range(f.p, s, s.queries - 1).begin <= k;
    for (int64_t head = item.h0; head < item.h1; head++) {
      const FewRows own = few_rows(f, memory, head - item.h0, R);
      const char* const at = pointer<char>(f.p.v) + (b.at + head * f.p.v.stride[2]) * f.size;
      const char* const next = pointer<char>(f.p.v) + (b.next + head * f.p.v.stride[2]) * f.size;
      const float* const scale = few_scales(s, f.p.v_scale, k, b.count, head, scales);
      if (all) {
        f.sum[kind](at, next, f.p.v.stride[1], b.count, f.dv, own.scores + k - j, scale, own.sums, f.wide);
        continue;
      }
      for (int64_t r = 0; r < rows; r++) {  // no row touches a value that it does not see
        const AttnRange range = attn_range(f.p, s, r / f.group);
        const int64_t a = most(0, range.begin - k), z = least(b.count, range.end - k);
        if (a >= z) continue;
        f.sum[0](at + a * f.p.v.stride[1] * f.size, nullptr, f.p.v.stride[1], z - a, f.dv,
                 own.scores + r * kFewSpan + k - j + a, scale ? scale + a : nullptr, own.sums + r * f.wide, f.wide);
      }
    }
    k += b.count;
  }
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
