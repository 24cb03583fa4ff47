// flashAttention with few queries a KV head (decode), where the time goes into reading keys and values once.
//
// An item takes the keys of one part of a sequence in order, all heads of each (or one head, where the heads of a key
// do not lie together): memory is read forward, in one stream, which is what it is fastest at, a few keys at a time.
// A loop that computes has fewer loads under way than one that only reads: where a processor does not make up for that
// itself, each line is prefetched some keys ahead (FewReads). It goes in spans of kFewSpan keys: first the scores
// of all rows (a row is a query's head; the rows of a KV head take each of its keys together, in groups of at most
// kFewTogether), then their weights, then the values.
//
// The scores of rows that go together lie side by side, key by key, several keys to a vector: the highest score and the
// sum of weights are a lane's own up to the end of a span. Products are kept lane by lane, then W of them added up two
// by two while they are turned around, which gives W scores. Keys and values are widened in registers, int8 ones
// multiplied by their scale as products and weights. Parts are cut by the bytes of a key alone, and merged in order
// (attention_keys.h). Floor: the bytes of keys and values.

constexpr int64_t kFewSpan = 128;
constexpr int kFewMost = 8;                    // rows of a KV head
constexpr int kFewTogether = W == 16 ? 8 : 4;  // rows, at most
constexpr int64_t kFewBytes = 1 << 21;         // of a part, about
constexpr int64_t kFewParts = 64;              // at most
constexpr int64_t kFewLine = 64;               // bytes
constexpr int64_t kFewAhead = 3 << 13;         // bytes to what is prefetched first, about
constexpr int64_t kFewNear = 1 << 11;          // bytes to what is prefetched again

// How R rows read a cache: keys at a time (from a multiple of which on they lie in one page, attn_key), and how often
// each line is prefetched. Where a processor follows several streams by itself, many keys, which save loads and stores
// of what is summed up, and no prefetch but of what is short. Elsewhere few, since one stream is what is read best; but
// what is short takes longer to widen and multiply than to read, and gains from several. A core that has all the lines
// under way that it can have forgets what else is prefetched, as it comes to where there is little to compute: then
// once more, when it is near.
template <int R_, class T, bool kFollows>
struct FewReads {
  static constexpr int R = R_, kSize = sizeof(T);
  static constexpr int keys_of() {
    if (kFollows) return 16 / R;
    if (R > 1) return W == 16 && kSize < 4 ? 16 / R : 8 / R;
    if (W == 16) return 4 / kSize;
    return kSize > 2 ? 1 : 8 / kSize;
  }
  static constexpr int keys = keys_of();
  static constexpr int prefetches = kFollows ? (kSize > 2 ? 0 : 1) : R == 1 ? 2 : 1;
};

// What R rows of a KV head that go together (the last may be nobody's) take with them. A lane is a row, key by key.
struct FewRows {
  float *queries, *sums;  // R rows of `deep` and of `wide` floats
  float* scores;          // kFewSpan keys of R
  float *highs, *totals;  // W lanes
  float* parts;           // W products, lane by lane
};

// Where they lie, of all heads of an item: `groups` to a head, one after the other, `pitch` floats apart.
struct FewAll {
  float* memory;
  int64_t heads, groups, pitch, R, deep, wide;

  SEQMIX_VERB FewRows rows(float* own) const {
    float* const highs = own + R * (deep + wide + kFewSpan);
    return {own, own + R * deep, own + R * (deep + wide), highs, highs + W, highs + 2 * W};
  }
  FewRows rows(int64_t head, int64_t group) const { return rows(memory + (head * groups + group) * pitch); }
};

// Where a key lies, and how many are behind it before another page begins, itself included.
struct FewPlace {
  uintptr_t at;
  int64_t left;
};

// The keys (or values) of an item, in order: those that are next, with their scales where they are int8, and those that
// are prefetched as they are read.
struct FewWalk {
  const AttnSequence& s;
  const View &v, &scale;
  int64_t head, end;  // the first head; the last key's end
  int64_t j, ahead;   // the next key; keys from it to those that are prefetched
  FewPlace next, scales, later;

  FewWalk(const AttnSequence& sequence, const View& view, const View& scales_, int64_t h0, int64_t heads,
          AttnRange keys)
      : s(sequence), v(view), scale(scales_), head(h0), end(keys.end), j(keys.begin) {
    const int64_t bytes = heads * v.shape[3] * size_of(v.dtype);
    ahead = most(1, least(kFewSpan, kFewAhead / most(1, bytes)));
    next = place(v, j);
    scales = scale.present ? place(scale, j) : next;
    later = j + ahead < end ? place(v, j + ahead) : next;
  }
  FewPlace place(const View& view, int64_t key) const {
    const int64_t at = attn_key(s, view, key) + head * view.stride[2];
    return {reinterpret_cast<uintptr_t>(pointer<const char>(view) + at * size_of(view.dtype)),
            s.table ? view.shape[1] - key % view.shape[1] : INT64_MAX};
  }
  SEQMIX_VERB void move(const View& view, FewPlace& p, int64_t n, int64_t to) const {
    p.left -= n;
    if (p.left > 0)
      p.at += static_cast<uintptr_t>(n * view.stride[1] * size_of(view.dtype));
    else if (to < end)
      p = place(view, to);
  }
  SEQMIX_VERB void go(int64_t n) {
    j += n;
    move(v, next, n, j);
    if (scale.present) move(scale, scales, n, j);
    move(v, later, n, j + ahead);
  }
};

// A key of one head, with others `stride` elements on, and their scales, if int8; and what is to be prefetched
// meanwhile: for each line of a key one of each, `lines` bytes apart, `faster` times as far on as the key's own; and,
// again, what is `nearer` by so many bytes.
template <class T>
struct FewKey {
  const T* at;
  int64_t stride, width;
  const float* scale;
  int64_t scale_stride;
  uintptr_t ahead, faster, lines, nearer;
};

// The next N keys of an item's first head. Where keys follow each other in memory, what is prefetched is the next line,
// and the next, as memory likes it best.
template <class T>
SEQMIX_VERB FewKey<T> few_key(const FewWalk& walk, int64_t heads, int N) {
  const int64_t stride = walk.v.stride[1], width = walk.v.shape[3];
  const bool close = stride == heads * width && (heads == 1 || walk.v.stride[2] == width);
  return {
      reinterpret_cast<const T*>(walk.next.at),
      stride,
      width,
      reinterpret_cast<const float*>(walk.scales.at),
      walk.scale.stride[1],
      walk.later.at,
      static_cast<uintptr_t>(close ? N : 1),
      static_cast<uintptr_t>(close ? kFewLine : stride * static_cast<int64_t>(sizeof(T))),
      static_cast<uintptr_t>(close ? most(0, walk.ahead * stride * static_cast<int64_t>(sizeof(T)) - kFewNear) : 0)};
}

// The same keys of a later head, `apart` elements on, and their scales.
template <class T>
SEQMIX_VERB void few_move(FewKey<T>& key, int64_t apart, int64_t scales_apart) {
  key.at += apart;
  key.ahead += static_cast<uintptr_t>(apart) * sizeof(T) * key.faster;
  if constexpr (sizeof(T) == 1) key.scale += scales_apart;
}

// What a step does: N keys (or values) for R rows, of which it prefetches the lines of some.
template <class Reads, int N, int Begin, int End>
struct FewPart {
  static constexpr int R = Reads::R, keys = N, prefetches = Reads::prefetches, begin = Begin, end = End;
};

// step(part, key, rows, j) for all rows and the keys j up to `end`, some at a time. Two groups of a head prefetch half
// of the keys each, so that it goes evenly.
template <class Reads, class T, class F>
SEQMIX_VERB void few_steps(FewWalk& walk, const FewAll& all, int64_t end, const F& step) {
  constexpr int N = Reads::keys;
  // Copies: what a step stores could be these, for all that the compiler knows.
  const int64_t heads = all.heads, groups = all.groups, pitch = all.pitch;
  const int64_t apart = walk.v.stride[2], scales_apart = walk.scale.stride[2];
  for (int64_t j = walk.j; j < end; j = walk.j) {
    const bool whole = j % N == 0 && j + N <= end;
    FewKey<T> key = few_key<T>(walk, heads, whole ? N : 1);
    float* own = all.memory;
    for (int64_t h = 0; h < heads; h++, few_move(key, apart, scales_apart))
      for (int64_t g = 0; g < groups; g++, own += pitch) {
        if (!whole)
          step(FewPart<Reads, 1, 0, 1>{}, key, own, j);
        else if (N == 1 || groups == 1)
          step(FewPart<Reads, N, 0, N>{}, key, own, j);
        else if (g == 0)
          step(FewPart<Reads, N, 0, N / 2>{}, key, own, j);
        else
          step(FewPart<Reads, N, N / 2, N>{}, key, own, j);
      }
    walk.go(whole ? N : 1);
  }
}

// body(c, columns, W) for the columns (of vectors) of a whole line, as which later keys are prefetched; body(c, one, n)
// for each of the others.
template <class Part, class T, class F>
SEQMIX_VERB void few_lines(const FewKey<T>& key, const F& body) {
  constexpr int64_t kWidth = most(W, kFewLine / static_cast<int64_t>(sizeof(T)));
  int64_t c = 0;
  for (; c + kWidth <= key.width; c += kWidth) {
    const uintptr_t ahead = key.ahead + static_cast<uintptr_t>(c) * sizeof(T) * key.faster;
#pragma GCC unroll 16
    for (int n = Part::begin; n < Part::end; n++) {
      const uintptr_t at = ahead + n * key.lines;
      if constexpr (Part::prefetches > 0)  // into L2: what is ahead may be more than L1 holds
        __builtin_prefetch(reinterpret_cast<const void*>(at), 0, 2);
      if constexpr (Part::prefetches > 1) __builtin_prefetch(reinterpret_cast<const void*>(at - key.nearer));
    }
    body(c, std::integral_constant<int, kWidth / W>{}, W);
  }
  for (; c < key.width; c += W) body(c, std::integral_constant<int, 1>{}, least(W, key.width - c));
}

// W elements (or the last `count`) of N keys.
template <int N, class T>
SEQMIX_VERB void few_load(const FewKey<T>& key, int64_t c, int64_t count, vf (&to)[N]) {
#pragma GCC unroll 16
  for (int n = 0; n < N; n++) to[n] = load_some(key.at + n * key.stride + c, count);
}

// Products of R rows with N keys, lane by lane, [key][row].
template <class Part, class T>
SEQMIX_VERB void few_products_step(const FewKey<T>& key, const float* queries, int64_t deep,
                                   vf (&acc)[Part::keys * Part::R]) {
  constexpr int R = Part::R, N = Part::keys;
#pragma GCC unroll 16
  for (int i = 0; i < N * R; i++) acc[i] = set1(0);
  few_lines<Part>(key, [&](int64_t c, auto columns, int64_t count) __attribute__((always_inline)) {
    constexpr int kColumns = columns();
#pragma GCC unroll 16
    for (int i = 0; i < kColumns; i++) {
      vf k[N];
      few_load(key, c + i * W, count, k);
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) {
        const vf q = load(queries + r * deep + c + i * W);
#pragma GCC unroll 16
        for (int n = 0; n < N; n++) acc[n * R + r] = fma(q, k[n], acc[n * R + r]);
      }
    }
  });
}

// The scores of R rows with N keys, of which the first is number `i` of a span that ends after `count`.
template <class Part, class T>
SEQMIX_VERB void few_scores_step(const FewKey<T>& key, const FewRows& rows, int64_t deep, int64_t i, int64_t count) {
  constexpr int R = Part::R, N = Part::keys;
  vf acc[N * R];
  few_products_step<Part>(key, rows.queries, deep, acc);
  if constexpr (sizeof(T) == 1) {
#pragma GCC unroll 16
    for (int n = 0; n < N * R; n++) acc[n] = acc[n] * set1(key.scale[n / R * key.scale_stride]);
  }
  float* const to = rows.scores + i * R / W * W;
  if constexpr (N * R % W == 0) {
#pragma GCC unroll 16
    for (int n = 0; n < N * R; n += W) store(to + n, sums(acc + n));
  } else {
#pragma GCC unroll 16
    for (int n = 0; n < N * R; n++) store(rows.parts + (i * R % W + n) * W, acc[n]);
    if ((i + N) * R % W != 0 && i + N != count) return;
    vf lanes[W];
#pragma GCC unroll 16
    for (int n = 0; n < W; n++) lanes[n] = load(rows.parts + n * W);
    store(to, sums(lanes));
  }
}

// The scores of all rows with the keys up to `end` of the span that begins at `span`.
template <class Reads, class T>
static void few_scores(FewWalk& walk, FewAll all, int64_t span, int64_t end) {
  all.R = Reads::R;  // as it is, which the compiler learns by this
  few_steps<Reads, T>(walk, all, end,
                      [&](auto part, const FewKey<T>& key, float* own, int64_t j) __attribute__((always_inline)) {
                        few_scores_step<decltype(part)>(key, all.rows(own), all.deep, j - span, end - span);
                      });
}

// Sums of R rows += weights · values, for N of them; weights[n * apart + r].
template <class Part, class T>
SEQMIX_VERB void few_values_step(const FewKey<T>& value, const float* weights, int64_t apart, int64_t wide,
                                 float* sums) {
  constexpr int R = Part::R, N = Part::keys;
  vf w[N * R];
#pragma GCC unroll 16
  for (int n = 0; n < N; n++)
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      w[n * R + r] = set1(weights[n * apart + r]);
      if constexpr (sizeof(T) == 1) w[n * R + r] = w[n * R + r] * set1(value.scale[n * value.scale_stride]);
    }
  few_lines<Part>(value, [&](int64_t c, auto columns, int64_t count) __attribute__((always_inline)) {
    constexpr int kColumns = columns();
    if constexpr (R == 1) {  // value by value, as they come from memory: with a line's sums in registers, there is room
      vf sum[kColumns];
#pragma GCC unroll 16
      for (int i = 0; i < kColumns; i++) sum[i] = load(sums + c + i * W);
#pragma GCC unroll 16
      for (int n = 0; n < N; n++)
#pragma GCC unroll 16
        for (int i = 0; i < kColumns; i++)
          sum[i] = fma(w[n], load_some(value.at + n * value.stride + c + i * W, count), sum[i]);
#pragma GCC unroll 16
      for (int i = 0; i < kColumns; i++) store(sums + c + i * W, sum[i]);
    } else {
#pragma GCC unroll 16
      for (int i = 0; i < kColumns; i++) {
        vf v[N];
        few_load(value, c + i * W, count, v);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
          float* const to = sums + r * wide + c + i * W;
          vf sum = load(to);
#pragma GCC unroll 16
          for (int n = 0; n < N; n++) sum = fma(w[n * R + r], v[n], sum);
          store(to, sum);
        }
      }
    }
  });
}

// The same of all rows and the values up to `end`, which all of them see.
template <class Reads, class T>
static void few_values(FewWalk& walk, FewAll all, int64_t span, int64_t end) {
  constexpr int R = Reads::R;
  all.R = R;  // as it is, which the compiler learns by this
  few_steps<Reads, T>(walk, all, end,
                      [&](auto part, const FewKey<T>& value, float* own, int64_t j) __attribute__((always_inline)) {
                        const FewRows rows = all.rows(own);
                        few_values_step<decltype(part)>(value, rows.scores + (j - span) * R, R, all.wide, rows.sums);
                      });
}

// One row's sum += weight · the next value of the h-th head.
template <class T>
static void few_value(const FewWalk& walk, int64_t h, const float* weight, float* sum) {
  FewKey<T> value = few_key<T>(walk, 1, 1);
  few_move(value, h * walk.v.stride[2], h * walk.scale.stride[2]);
  few_values_step<FewPart<FewReads<1, T, false>, 1, 0, 1>>(value, weight, 0, 0, sum);
}

// Keys [begin, end) of the span from key `base` on, a multiple of kFewSpan; and R rows of a head with them, from `row`
// on.
struct FewSpan {
  int64_t base, begin, end;
  int64_t head, row, R;
};

using FewPass = void (*)(FewWalk&, FewAll, int64_t, int64_t);

struct Few {
  const FlashAttention& p;
  const AttnScores& scores;
  int64_t group, d, dv, deep, wide;  // d and dv in whole vectors
  FewPass score[4], sum[4];          // of 1, 2, 4 and 8 rows together
  void (*value)(const FewWalk&, int64_t, const float*, float*);

  Few(const FlashAttention& problem, const AttnScores& s)
      : p(problem),
        scores(s),
        group(p.q.shape[2] / p.k.shape[2]),
        d(p.q.shape[3]),
        dv(p.v.shape[3]),
        deep(ceil_div(d, W) * W),
        wide(ceil_div(dv, W) * W) {
    with_cache(p.k.dtype, [&](auto kind) {
      using T = decltype(kind);
      if (follows_streams())
        choose<T, W == 16>();  // which only 512 bits do
      else
        choose<T, false>();
    });
  }

  template <class T, bool kFollows>
  void choose() {
    score[0] = few_scores<FewReads<1, T, kFollows>, T>;
    score[1] = few_scores<FewReads<2, T, kFollows>, T>;
    score[2] = few_scores<FewReads<4, T, kFollows>, T>;
    sum[0] = few_values<FewReads<1, T, kFollows>, T>;
    sum[1] = few_values<FewReads<2, T, kFollows>, T>;
    sum[2] = few_values<FewReads<4, T, kFollows>, T>;
    if constexpr (kFewTogether == 8) {
      score[3] = few_scores<FewReads<8, T, kFollows>, T>;
      sum[3] = few_values<FewReads<8, T, kFollows>, T>;
    }
    value = few_value<T>;
  }

  // Of so many rows of a KV head, those that go together.
  static int64_t together(int64_t rows) { return rows <= 2 ? rows : rows <= 4 ? 4 : kFewTogether; }
  static int kind(int64_t R) { return R == 1 ? 0 : R == 2 ? 1 : R == 4 ? 2 : 3; }
  // Their memory, FewRows, in whole vectors.
  int64_t pitch(int64_t R) const { return R * (deep + wide + kFewSpan) + 2 * W + W * W; }
  int64_t floats(int64_t heads, int64_t rows) const {
    const int64_t R = together(rows);
    return heads * ceil_div(rows, R) * pitch(R);
  }
};

// Some heads of a sequence and one part of its keys.
struct FewItem {
  int64_t sequence, h0, h1;  // of KV
  AttnRange keys;
  AttnPart part;
};

// Softcap and ALiBi for the scores of lanes [a, b).
inline void few_shape(const Few& f, const AttnSequence& s, const FewItem& item, const FewSpan& span, int64_t a,
                      int64_t b, float* x) {
  alignas(64) float slopes[W] = {}, places[W] = {};  // places: less the lane's own key
  for (int64_t l = 0; l < W && f.scores.slopes.present; l++) {
    const int64_t r = least(span.row + l % span.R, f.group * s.queries - 1);
    slopes[l] = f.scores.slope(item.sequence, span.head * f.group + r % f.group);
    places[l] = static_cast<float>(s.position(r / f.group) - span.base - l / span.R);
  }
  for (int64_t i = a; i < b; i += W) {
    vf score = load(x + i);
    if (f.scores.cap > 0) score = tanh(score) * set1(f.scores.cap);
    if (f.scores.slopes.present)
      score = fma(load(slopes), abs(load(places) - set1(static_cast<float>(i / span.R))), score);
    store(x + i, score);
  }
}

// What a row does not see, or is no key, becomes -infinity: in lanes [a, b).
inline void few_mask(const Few& f, const AttnSequence& s, const FewSpan& span, int64_t a, int64_t b, float* x) {
  for (int64_t i = a; i < (span.begin - span.base) * span.R; i++) x[i] = kAttnNever;
  for (int64_t i = (span.end - span.base) * span.R; i < b; i++) x[i] = kAttnNever;
  for (int64_t r = 0; r < least(span.R, f.group * s.queries - span.row); r++) {
    const AttnRange range = attn_range(f.p, s, (span.row + r) / f.group);
    for (int64_t j = span.begin; j < least(span.end, range.begin); j++) x[(j - span.base) * span.R + r] = kAttnNever;
    for (int64_t j = most(span.begin, range.end); j < span.end; j++) x[(j - span.base) * span.R + r] = kAttnNever;
  }
}

// The highest of a row's lanes, in all of them.
SEQMIX_VERB vf few_highest(vf high, int64_t R) {
  if (R == 1) return set1(highest(high));
  alignas(64) float lanes[W];
  store(lanes, high);
  for (int64_t l = R; l < W; l++) lanes[l % R] = lanes[l] > lanes[l % R] ? lanes[l] : lanes[l % R];
  for (int64_t l = R; l < W; l++) lanes[l] = lanes[l % R];
  return load(lanes);
}

// Scores of lanes [a, b) become weights, relative to `from`. Returns their sums.
SEQMIX_VERB vf few_weigh(float* x, int64_t a, int64_t b, vf from) {
  constexpr int kTogether = 4;
  vf total = set1(0);
  int64_t i = a;
  for (; i + kTogether * W <= b; i += kTogether * W) {
    vf w[kTogether];
#pragma GCC unroll 4
    for (int n = 0; n < kTogether; n++) w[n] = load(x + i + n * W) - from;
    attn_weights<kTogether>(w);
#pragma GCC unroll 4
    for (int n = 0; n < kTogether; n++) {
      store(x + i + n * W, w[n]);
      total = total + w[n];
    }
  }
  for (; i < b; i += W) {
    const vf w = attn_weight(load(x + i) - from);
    store(x + i, w);
    total = total + w;
  }
  return total;
}

// Scores of some rows become weights; what was summed up before shrinks where a higher one has come.
inline void few_weights(const Few& f, const AttnSequence& s, const FewItem& item, const FewSpan& span,
                        const FewRows& own) {
  float* const x = own.scores;
  const int64_t a = (span.begin - span.base) * span.R / W * W;
  const int64_t b = ceil_div((span.end - span.base) * span.R, W) * W;
  if (f.scores.cap > 0 || f.scores.slopes.present) few_shape(f, s, item, span, a, b, x);
  few_mask(f, s, span, a, b, x);
  const vf before = load(own.highs);
  vf high = before;
  for (int64_t i = a; i < b; i += W) high = max(load(x + i), high);
  high = few_highest(high, span.R);
  store(own.highs, high);
  if (any(less(before, high))) {
    alignas(64) float shrink[W];
    store(shrink, select(equal(high, before), set1(1), attn_weight(before - high)));
    store(own.totals, load(own.totals) * load(shrink));
    for (int64_t r = 0; r < span.R; r++)
      for (int64_t c = 0; c < f.wide && shrink[r] != 1; c += W)
        store(own.sums + r * f.wide + c, load(own.sums + r * f.wide + c) * set1(shrink[r]));
  }
  const vf from = select(equal(high, set1(kAttnNever)), set1(0), high);
  store(own.totals, load(own.totals) + few_weigh(x, a, b, from));
}

// The values of a span that not all rows see: none touches one that it does not.
inline void few_values_apart(const Few& f, const AttnSequence& s, FewWalk& walk, const FewAll& all,
                             const FewSpan& span) {
  for (; walk.j < span.end; walk.go(1))
    for (int64_t row = 0; row < f.group * s.queries; row++) {
      const AttnRange range = attn_range(f.p, s, row / f.group);
      if (walk.j < range.begin || walk.j >= range.end) continue;
      for (int64_t h = 0; h < all.heads; h++) {
        const FewRows own = all.rows(h, row / span.R);
        const int64_t r = row % span.R;
        f.value(walk, h, own.scores + (walk.j - span.base) * span.R + r, own.sums + r * f.wide);
      }
    }
}

inline void few_item(const Few& f, const AttnSequence& s, const FewItem& item, float* memory) {
  const int64_t count = f.group * s.queries, R = Few::together(count);
  const FewAll all{memory, item.h1 - item.h0, ceil_div(count, R), f.pitch(R), R, f.deep, f.wide};
  const auto each_row = [&](const auto& body) {
    for (int64_t h = item.h0; h < item.h1; h++)
      for (int64_t row = 0; row < count; row++)
        body(all.rows(h - item.h0, row / R), row % R, row / f.group, h * f.group + row % f.group);
  };
  for (int64_t i = 0; i < all.heads * all.groups; i++) {
    const FewRows own = all.rows(memory + i * all.pitch);
    for (float* at = own.queries; at < own.scores; at += W) store(at, set1(0));
    store(own.highs, set1(kAttnNever));
    store(own.totals, set1(0));
  }
  each_row([&](const FewRows& own, int64_t r, int64_t query, int64_t head) {
    attn_load_query(f.p, f.scores, s, query, head, own.queries + r * f.deep);
  });
  FewWalk keys(s, f.p.k, f.p.k_scale, item.h0, all.heads, item.keys);
  FewWalk values(s, f.p.v, f.p.v_scale, item.h0, all.heads, item.keys);
  while (keys.j < item.keys.end) {
    FewSpan span{keys.j / kFewSpan * kFewSpan, keys.j, 0, 0, 0, R};
    span.end = least(item.keys.end, span.base + kFewSpan);
    f.score[Few::kind(R)](keys, all, span.base, span.end);
    for (int64_t h = 0; h < all.heads; h++)
      for (int64_t g = 0; g < all.groups; g++) {
        span.head = item.h0 + h;
        span.row = g * R;
        few_weights(f, s, item, span, all.rows(h, g));
      }
    if (attn_range(f.p, s, 0).end >= span.end && attn_range(f.p, s, s.queries - 1).begin <= span.begin)
      f.sum[Few::kind(R)](values, all, span.base, span.end);
    else
      few_values_apart(f, s, values, all, span);
  }
  each_row([&](const FewRows& own, int64_t r, int64_t query, int64_t head) {
    float total = 0;
    for (int64_t l = r; l < W; l += R) total += own.totals[l];
    attn_deliver(f.p, f.scores, s, item.part, query, head, {own.highs[r], total}, own.sums + r * f.wide);
  });
}
