// flashAttention where many queries share a KV head (prefill): two products and an exponential for each tile of
// scores, which is never more than a tile (Dao, FlashAttention-2, 2023).
//
// A KV head's queries, query by query and within one head by head of its group, are rows; an item takes some hundred of
// them, in panels of up to two vectors, one row a lane. Everything lies with the rows side by side: queries as (d,
// rows), scores as (keys, rows), sums as (dv, rows), so that what a row's softmax needs (its highest score, the sum of
// its weights) is a lane's own, and a mask is a comparison. Both products are one tile: vectors of rows times numbers
// of keys or values, kAttnTall of them to a vector of rows loaded. Keys and values are packed for that in float32, in
// blocks of at most kAttnBlock keys, counted from key 0: keys in groups of kAttnTall as (d, kAttnTall), values in
// strips of columns as (keys, columns). A block is packed once for all queries of its KV head, before the items begin,
// or by the one item that there is (or by each item, where a sequence is so long that all packed blocks would take more
// than kAttnShared). Then, panel by panel: scores, and on their way out the highest of them; the mask; weights, woven
// into the products with the first columns of values, whose operations leave the processor room for the exponential's;
// the other columns. A panel's scores stay in L1, through which keys and values pass from L2, as do queries and sums.
// Groups of keys that no row of a panel sees are left out, so that a causal mask costs half.
//
// A row's bits depend on its own query, keys and blocks only: not on the rows beside it, nor on how items are cut. Few
// rows with many keys are cut along the keys too (attention_keys.h).
// Floor: 2 (d + dv) operations for each pair of query and key that is seen. The exponential is some ten to fourteen
// operations a lane more, which take a twentieth to a twelfth of the time at d = 64, woven in as they are.

constexpr int64_t kAttnLanes = 2 * W;                // rows of a panel
constexpr int64_t kAttnBlock = W == 16 ? 144 : 240;  // most keys of a block: their scores fit L1
constexpr int64_t kAttnRows = 448;                   // rows of an item
constexpr int64_t kAttnNext = 3 << 10;               // bytes from numbers to those that are asked for
constexpr int64_t kAttnShared = int64_t{1} << 28;    // bytes of packed blocks that items share, at most

// Keys of a block, in whole groups and pages: less for large heads, so that it stays in L2.
SEQMIX_VERB int64_t attn_block(const FlashAttention& p) {
  const int64_t both = p.q.shape[3] + p.v.shape[3];
  return both <= 256 ? kAttnBlock : both <= 512 ? 96 : 48;
}

// acc += numbers[r] · rows, for R numbers and V vectors of rows.
template <int R, int V>
SEQMIX_VERB void attn_multiply(vf (&acc)[R][V], const float* numbers, const vf (&rows)[V]) {
#pragma GCC unroll 16
  for (int r = 0; r < R; r++) {
    const vf x = set1(numbers[r]);
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) acc[r][v] = fma(x, rows[v], acc[r][v]);
  }
}

template <int V>
SEQMIX_VERB void attn_load(vf (&rows)[V], const float* from) {
#pragma GCC unroll 2
  for (int v = 0; v < V; v++) rows[v] = load(from + v * W);
}

template <int R, int V>
SEQMIX_VERB void attn_clear(vf (&acc)[R][V]) {
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) acc[r][v] = set1(0);
}

// Numbers pass from L2, one tile's behind another's: with 512 bits faster than a processor brings them by itself.
SEQMIX_VERB const void* attn_ahead(const float* numbers) {
  return reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(numbers) + kAttnNext);
}

// acc = rows (n, V vectors) · numbers (n, R).
template <int R, int V>
SEQMIX_VERB void attn_product(vf (&acc)[R][V], const float* rows, const float* numbers, int64_t n) {
  vf b[V];
  attn_load(b, rows);
#pragma GCC unroll 16
  for (int r = 0; r < R; r++) {
    const vf x = set1(numbers[r]);
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) acc[r][v] = x * b[v];
  }
#pragma GCC unroll 4
  for (int64_t k = 1; k < n; k++) {
    attn_load(b, rows + k * V * W);
    if constexpr (W == 16) __builtin_prefetch(attn_ahead(numbers + k * R));
    attn_multiply(acc, numbers + k * R, b);
  }
}

// Of rows of `Across` vectors.
template <int Across, int R, int V>
SEQMIX_VERB void attn_add(const vf (&acc)[R][V], const float* shrink, bool first, float* sums) {
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) {
      float* const to = sums + (r * Across + v) * W;
      store(to, first ? acc[r][v] : fma(load(to), load(shrink + v * W), acc[r][v]));
    }
}

// The scores of V vectors of rows with some groups of keys; `highs` rise to the highest.
template <int V>
static void attn_scores_tiles(const float* queries, const float* keys, int64_t d, int64_t groups, float* scores,
                              float* highs) {
  for (int64_t g = 0; g < groups; g++) {
    vf acc[kAttnTall][V];
    attn_product(acc, queries, keys + g * d * kAttnTall, d);
    vf high[V];
    attn_load(high, highs);
#pragma GCC unroll 16
    for (int r = 0; r < kAttnTall; r++)
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) {
        store(scores + (r * V + v) * W, acc[r][v]);
        high[v] = max(acc[r][v], high[v]);
      }
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) store(highs + v * W, high[v]);
    scores += kAttnTall * V * W;
  }
}

// sums = sums · shrink + weights · values, for R columns of values and n keys.
template <int R, int V>
static void attn_values_tile(const float* weights, const float* values, int64_t n, const float* shrink, bool first,
                             float* sums) {
  vf acc[R][V];
  attn_product(acc, weights, values, n);
  attn_add<V>(acc, shrink, first, sums);
}

// Scores of a key become weights, relative to `from`, which `totals` add up.
template <int V>
SEQMIX_VERB void attn_weigh(float* scores, const vf (&from)[V], vf (&weights)[V], vf (&totals)[V]) {
#pragma GCC unroll 2
  for (int v = 0; v < V; v++) weights[v] = load(scores + v * W) - from[v];
  attn_weights<V>(weights);
#pragma GCC unroll 2
  for (int v = 0; v < V; v++) {
    store(scores + v * W, weights[v]);
    totals[v] = totals[v] + weights[v];
  }
}

// The same as attn_values_tile for the first columns, while scores become weights: a key's first half of that, the one
// before's second half, and the products with the one before that make a turn, so that none waits for another. With 16
// registers one vector after the other: constants that came from memory would be half of all loads.
template <int V>
static void attn_first_tile(float* scores, const float* from, const float* values, int64_t n, const float* shrink,
                            bool first, float* sums, float* totals) {
  constexpr int kTogether = W == 16 ? V : 1;
  for (int at = 0; at < V; at += kTogether) {
    vf acc[kAttnFirst][kTogether], relative[kTogether], total[kTogether];
    vf step[kTogether], rest[kTogether], w[kTogether];
    attn_clear(acc);
    attn_load(relative, from + at * W);
    const auto begin = [&](int64_t k) __attribute__((always_inline)) {
#pragma GCC unroll 2
      for (int v = 0; v < kTogether; v++)
        exp2_begin(load(scores + (k * V + at + v) * W) - relative[v], step[v], rest[v]);
    };
    const auto end = [&](int64_t k) __attribute__((always_inline)) {
#pragma GCC unroll 2
      for (int v = 0; v < kTogether; v++) {
        w[v] = exp2_end(step[v], rest[v]);
        store(scores + (k * V + at + v) * W, w[v]);
        total[v] = total[v] + w[v];
      }
    };
#pragma GCC unroll 2
    for (int v = 0; v < kTogether; v++) total[v] = set1(0);
    begin(0);
    end(0);
    if (n > 1) begin(1);
    for (int64_t k = 0; k < n - 2; k++) {
      attn_multiply(acc, values + k * kAttnFirst, w);
      end(k + 1);
      begin(k + 2);
    }
    if (n > 1) {
      attn_multiply(acc, values + (n - 2) * kAttnFirst, w);
      end(n - 1);
    }
    attn_multiply(acc, values + (n - 1) * kAttnFirst, w);
    attn_add<V>(acc, shrink + at * W, first, sums + at * W);
#pragma GCC unroll 2
    for (int v = 0; v < kTogether; v++) {
      float* const to = totals + (at + v) * W;
      store(to, fma(load(to), load(shrink + (at + v) * W), total[v]));
    }
  }
}

// By vectors of a panel.
struct AttnKernels {
  void (*scores)(const float*, const float*, int64_t, int64_t, float*, float*);
  void (*first)(float*, const float*, const float*, int64_t, const float*, bool, float*, float*);
  void (*values[kAttnTall])(const float*, const float*, int64_t, const float*, bool, float*);  // by columns
};
template <int V>
static constexpr AttnKernels attn_kernels_of = {attn_scores_tiles<V>,
                                                attn_first_tile<V>,
                                                {
                                                    attn_values_tile<1, V>,
                                                    attn_values_tile<2, V>,
                                                    attn_values_tile<3, V>,
                                                    attn_values_tile<4, V>,
                                                    attn_values_tile<5, V>,
                                                    attn_values_tile<6, V>,
#if defined(__AVX512F__)
                                                    attn_values_tile<7, V>,
                                                    attn_values_tile<8, V>,
                                                    attn_values_tile<9, V>,
                                                    attn_values_tile<10, V>,
                                                    attn_values_tile<11, V>,
                                                    attn_values_tile<12, V>,
#endif
                                                }};
static constexpr AttnKernels attn_kernels[2] = {attn_kernels_of<1>, attn_kernels_of<2>};

// A block of one head's keys and values, packed.
struct AttnBlock {
  const float *keys, *values;
  bool finite;  // all values
};

// One item's work.
struct AttnItem {
  int64_t sequence, head;   // of KV
  int64_t i0, i1;           // queries
  AttnRange keys;           // all that one of them sees, in this part
  AttnPart part;            // where its sums go, to be merged; they are the result where there is none
  const AttnBlock* shared;  // blocks that were packed before, or null
  int64_t first_block;      // the first of them
};

// Rows [begin, begin + size) of an item: query i0 + row / group, head row % group of the group. One row a lane.
struct AttnPanel {
  int64_t begin, size;
  int vectors;
  bool fresh;                              // it has seen nothing yet
  float *queries, *sums, *highs, *totals;  // (d, lanes), (dv, lanes), highest scores, sums of weights
};

// One thread's memory.
struct AttnRoom {
  float *scores, *keys, *values, *memory, *rows;  // memory of panels
  AttnPanel* panels;
  // Of a panel and a block, lane by lane: the highest score, also where it does not count; what a weight is relative to
  // (that, or 0 where there is none); what was summed up before shrinks by; the first key that is seen, and the last's
  // end.
  float *highs, *none, *from, *shrink, *begin, *end;

  static int64_t wide(int64_t d, int64_t dv) { return ceil_div(most(d, dv), W) * W; }
  static int64_t panel(int64_t d, int64_t dv) { return kAttnLanes * (d + dv + 2); }
  static int64_t floats(int64_t block, int64_t d, int64_t dv, int64_t rows) {
    const int64_t a_panel = panel(d, dv) + static_cast<int64_t>(sizeof(AttnPanel) / sizeof(float));
    return kAttnLanes * (block + wide(d, dv) + 6) + ceil_div(rows, kAttnLanes) * a_panel + block * (d + dv);
  }
  AttnRoom(float* at, int64_t block, int64_t d, int64_t dv, int64_t count) {
    for (float** lanes : {&highs, &none, &from, &shrink, &begin, &end}) {
      *lanes = at;
      at += kAttnLanes;
    }
    scores = at;
    memory = scores + kAttnLanes * block;
    rows = memory + ceil_div(count, kAttnLanes) * panel(d, dv);
    keys = rows + kAttnLanes * wide(d, dv);
    values = keys + block * d;
    panels = reinterpret_cast<AttnPanel*>(values + block * dv);
  }
};

struct AttnTiles {
  const FlashAttention& p;
  const AttnScores& scores;
  int64_t group, d, dv, wide, block;  // query heads of a KV head; d or dv, the larger, in whole vectors
  AttnStrips strips;
  bool (*pack)(const AttnTiles&, const AttnSequence&, int64_t, int64_t, int64_t, int64_t, float*, float*);

  AttnTiles(const FlashAttention& problem, const AttnScores& s)
      : p(problem),
        scores(s),
        group(p.q.shape[2] / p.k.shape[2]),
        d(p.q.shape[3]),
        dv(p.v.shape[3]),
        wide(AttnRoom::wide(d, dv)),
        block(attn_block(p)),
        strips(dv),
        pack(nullptr) {
    with_cache(p.k.dtype, [&](auto kind) {
      using T = decltype(kind);
      pack = [](const AttnTiles& t, const AttnSequence& q, int64_t head, int64_t j, int64_t begin, int64_t n,
                float* keys, float* values) {
        attn_pack_keys<T>(t.p, q, head, j, begin, n, keys);
        return attn_pack_values<T>(t.p, q, head, j, begin, n, t.block, values);
      };
    });
  }

  int64_t query(const AttnItem& item, int64_t row) const { return item.i0 + row / group; }
  int64_t head(const AttnItem& item, int64_t row) const { return item.head * group + row % group; }
};

// Softcap and ALiBi for the scores of a panel with keys [a, b) of the block from j on.
inline void attn_panel_shape(const AttnTiles& t, const AttnSequence& s, const AttnItem& item, const AttnPanel& panel,
                             int64_t j, int64_t a, int64_t b, float* scores) {
  alignas(64) float slopes[kAttnLanes] = {}, places[kAttnLanes] = {};
  for (int64_t r = 0; r < panel.size && t.scores.slopes.present; r++) {
    slopes[r] = t.scores.slope(item.sequence, t.head(item, panel.begin + r));
    places[r] = static_cast<float>(s.position(t.query(item, panel.begin + r)) - j);
  }
  for (int64_t k = a; k < b; k++)
    for (int v = 0; v < panel.vectors; v++) {
      float* const at = scores + (k * panel.vectors + v) * W;
      vf x = load(at);
      if (t.scores.cap > 0) x = tanh(x) * set1(t.scores.cap);
      if (t.scores.slopes.present)
        x = fma(load(slopes + v * W), abs(load(places + v * W) - set1(static_cast<float>(k))), x);
      store(at, x);
    }
}

// Keys of the block from j on that each row sees, as numbers of the block; nobody's lanes see what the last row sees.
inline void attn_panel_ranges(const AttnTiles& t, const AttnSequence& s, const AttnItem& item, const AttnPanel& panel,
                              int64_t j, const AttnRoom& room) {
  for (int64_t r = 0; r < panel.vectors * W; r++) {
    const AttnRange range = attn_range(t.p, s, t.query(item, panel.begin + least(r, panel.size - 1)));
    room.begin[r] = static_cast<float>(most(0, least(range.begin - j, t.block)));
    room.end[r] = static_cast<float>(most(0, least(range.end - j, t.block)));
  }
}

// The scores with keys [a, b) that a row does not see become -infinity; the highs rise to the others.
inline void attn_panel_mask(const AttnPanel& panel, int64_t a, int64_t b, const AttnRoom& room) {
  for (int v = 0; v < panel.vectors; v++) {
    const vf begin = load(room.begin + v * W), end = load(room.end + v * W), never = set1(kAttnNever);
    vf high = load(room.highs + v * W);
    for (int64_t k = a; k < b; k++) {
      float* const at = room.scores + (k * panel.vectors + v) * W;
      const vf key = set1(static_cast<float>(k));
      const vf x = select(less(key, begin), never, select(less(key, end), load(at), never));
      store(at, x);
      high = max(x, high);
    }
    store(room.highs + v * W, high);
  }
}

// The scores of a panel with the groups of a packed block of which one holds a key that it sees, and the highest.
// `whole` are the keys that all of its rows see.
inline void attn_panel_scores(const AttnTiles& t, const AttnSequence& s, const AttnItem& item, const AttnPanel& panel,
                              int64_t j, AttnRange seen, AttnRange whole, const AttnBlock& block,
                              const AttnRoom& room) {
  const bool shaped = t.scores.cap > 0 || t.scores.slopes.present;
  const int64_t first = seen.begin / kAttnTall, last = ceil_div(seen.end, kAttnTall);
  // the groups that need no mask
  const int64_t a = shaped ? last : most(first, least(last, ceil_div(whole.begin, kAttnTall)));
  const int64_t b = shaped ? last : most(a, least(last, whole.end / kAttnTall));
  const auto score = [&](int64_t from, int64_t to, float* highs) {
    attn_kernels[panel.vectors - 1].scores(panel.queries, block.keys + from * kAttnTall * t.d, t.d, to - from,
                                           room.scores + from * kAttnTall * panel.vectors * W, highs);
  };
  score(first, a, room.none);
  score(a, b, room.highs);
  score(b, last, room.none);
  if (first == a && b == last) return;
  if (shaped) attn_panel_shape(t, s, item, panel, j, first * kAttnTall, last * kAttnTall, room.scores);
  attn_panel_ranges(t, s, item, panel, j, room);
  attn_panel_mask(panel, first * kAttnTall, a * kAttnTall, room);
  attn_panel_mask(panel, b * kAttnTall, last * kAttnTall, room);
}

// What weights of each row will be relative to, and what was summed up before is to be multiplied with.
inline void attn_panel_highs(AttnPanel& panel, const AttnRoom& room) {
  for (int v = 0; v < panel.vectors; v++) {
    const vf high = load(room.highs + v * W), before = load(panel.highs + v * W);
    store(room.from + v * W, select(equal(high, set1(kAttnNever)), set1(0), high));
    store(room.shrink + v * W, select(equal(high, before), set1(1), attn_weight(before - high)));
    store(panel.highs + v * W, high);
  }
}

// Weights, and sums += weights · values, of the keys that one of the rows sees.
inline void attn_panel_values(const AttnTiles& t, const AttnPanel& panel, AttnRange seen, const AttnBlock& block,
                              const AttnRoom& room) {
  const AttnKernels& kernels = attn_kernels[panel.vectors - 1];
  const int64_t n = seen.end - seen.begin, lanes = panel.vectors * W;
  float* const weights = room.scores + seen.begin * lanes;
  kernels.first(weights, room.from, block.values + seen.begin * kAttnFirst, n, room.shrink, panel.fresh, panel.sums,
                panel.totals);
  for (int64_t strip = 0; strip < t.strips.count; strip++) {
    const int64_t c = t.strips.begin(strip), width = t.strips.begin(strip + 1) - c;
    kernels.values[width - 1](weights, block.values + c * t.block + seen.begin * width, n, room.shrink, panel.fresh,
                              panel.sums + c * lanes);
  }
}

// The same where a weight of 0 would let through what is not finite: no row meets a key that it does not see.
inline void attn_panel_values_apart(const AttnTiles& t, const AttnSequence& s, const AttnItem& item,
                                    const AttnPanel& panel, int64_t j, AttnRange seen, const AttnBlock& block,
                                    const AttnRoom& room) {
  const int64_t lanes = panel.vectors * W;
  attn_panel_ranges(t, s, item, panel, j, room);
  for (int v = 0; v < panel.vectors; v++) {
    const vf begin = load(room.begin + v * W), end = load(room.end + v * W), shrink = load(room.shrink + v * W);
    vf total[1] = {set1(0)}, from[1] = {load(room.from + v * W)}, w[1];
    for (int64_t k = seen.begin; k < seen.end; k++) attn_weigh(room.scores + k * lanes + v * W, from, w, total);
    store(panel.totals + v * W, fma(load(panel.totals + v * W), shrink, total[0]));
    for (int64_t strip = -1; strip < t.strips.count; strip++) {
      const int64_t c0 = strip < 0 ? 0 : t.strips.begin(strip), width = t.strips.begin(strip + 1) - c0;
      for (int64_t c = 0; c < width; c++) {
        const float* const values = block.values + c0 * t.block + c;
        vf acc = set1(0);
        for (int64_t k = seen.begin; k < seen.end; k++) {
          const vf key = set1(static_cast<float>(k));
          const vf next = fma(set1(values[k * width]), load(room.scores + k * lanes + v * W), acc);
          acc = select(less(key, begin), acc, select(less(key, end), next, acc));
        }
        float* const to = panel.sums + (c0 + c) * lanes + v * W;
        store(to, panel.fresh ? acc : fma(load(to), shrink, acc));
      }
    }
  }
}

// A panel and a packed block of the keys [j, j + n).
inline void attn_panel(const AttnTiles& t, const AttnSequence& s, const AttnItem& item, int64_t j, int64_t n,
                       const AttnBlock& block, AttnPanel& panel, const AttnRoom& room) {
  // Later queries begin and end to see at later keys.
  const AttnRange low = attn_range(t.p, s, t.query(item, panel.begin));
  const AttnRange high = attn_range(t.p, s, t.query(item, panel.begin + panel.size - 1));
  const AttnRange seen{most(0, most(low.begin, item.keys.begin) - j), least(n, high.end - j)};
  if (seen.empty()) return;
  const AttnRange whole{most(seen.begin, high.begin - j), least(seen.end, low.end - j)};
  for (int v = 0; v < panel.vectors; v++) store(room.highs + v * W, load(panel.highs + v * W));
  attn_panel_scores(t, s, item, panel, j, seen, whole, block, room);
  attn_panel_highs(panel, room);
  if (block.finite || (whole.begin == seen.begin && whole.end == seen.end))
    attn_panel_values(t, panel, seen, block, room);
  else
    attn_panel_values_apart(t, s, item, panel, j, seen, block, room);
  panel.fresh = false;
}

// rows[r] = at(query, head) of W rows of an item from `row` on; behind the last one it is taken again, for nobody's
// lanes.
template <class T, class F>
SEQMIX_VERB void attn_panel_rows(const AttnTiles& t, const AttnItem& item, int64_t row, const F& at, T** rows) {
  const int64_t last = (item.i1 - item.i0) * t.group - 1;
  for (int64_t r = 0; r < W; r++) rows[r] = at(t.query(item, least(row + r, last)), t.head(item, least(row + r, last)));
}

// Of an item's rows, those from panel i on that go together.
inline AttnPanel attn_panel_begin(const AttnTiles& t, const AttnSequence& s, const AttnItem& item, int64_t i,
                                  const AttnRoom& room) {
  const int64_t rows = (item.i1 - item.i0) * t.group, begin = i * kAttnLanes, size = least(kAttnLanes, rows - begin);
  AttnPanel panel{begin,   size,    size > W ? 2 : 1, true, room.memory + i * AttnRoom::panel(t.d, t.dv),
                  nullptr, nullptr, nullptr};
  const int64_t lanes = panel.vectors * W;
  panel.highs = panel.queries + lanes * t.d;
  panel.totals = panel.highs + lanes;
  panel.sums = panel.totals + lanes;
  if (t.scores.turned) {
    for (int64_t r = 0; r < size; r++)
      attn_load_query(t.p, t.scores, s, t.query(item, begin + r), t.head(item, begin + r), room.rows + r * t.wide);
    pack_rows<float>(room.rows, t.wide, size, t.d, lanes, panel.queries);
  } else {
    with_float(t.p.q.dtype, [&](auto kind) {
      using T = decltype(kind);
      const auto at = [&](int64_t query, int64_t head) {
        return pointer<T>(t.p.q) + attn_query(s, t.p.q, query, head);
      };
      for (int64_t r = 0; r < lanes; r += W) {
        const T *here[W], *next[W];
        attn_panel_rows(t, item, begin + r, at, here);
        attn_panel_rows(t, item, begin + r + W, at, next);
        attn_pack_queries(here, next, t.d, set1(t.scores.factor), lanes, panel.queries + r);
      }
    });
  }
  for (int64_t r = 0; r < lanes; r += W) {
    store(panel.highs + r, set1(kAttnNever));
    store(panel.totals + r, set1(0));
  }
  return panel;
}

inline void attn_panel_end(const AttnTiles& t, const AttnSequence& s, const AttnItem& item, const AttnPanel& panel,
                           const AttnRoom& room) {
  const int64_t lanes = panel.vectors * W;
  float* const factors = room.shrink;
  for (int64_t r = 0; r < panel.size; r++) {
    const int64_t i = t.query(item, panel.begin + r), h = t.head(item, panel.begin + r);
    const AttnSum total{panel.highs[r], panel.totals[r]};
    factors[r] = 1;
    if (item.part.rows)
      item.part.put(i * t.p.q.shape[2] + h, total);
    else
      factors[r] = attn_finish_sum(t.p, t.scores, s, i, h, total);
    if (total.sum == 0)  // perhaps there is nothing in its sums yet
      for (int64_t c = 0; c < t.dv; c++) panel.sums[c * lanes + r] = 0;
  }
  const auto deliver = [&](const auto& at) {
    for (int64_t r = 0; r < lanes; r += W) {
      decltype(at(0, 0)) rows[W];
      attn_panel_rows(t, item, panel.begin + r, at, rows);
      attn_unpack_sums(panel.sums + r, lanes, t.dv, load(factors + r), panel.size - r, rows);
    }
  };
  if (item.part.rows)
    return deliver([&](int64_t query, int64_t head) { return item.part.row(query * t.p.q.shape[2] + head) + W; });
  with_float(t.p.out.dtype, [&](auto kind) {
    using T = decltype(kind);
    deliver([&](int64_t query, int64_t head) { return pointer<T>(t.p.out) + attn_query(s, t.p.out, query, head); });
  });
}

inline void attn_item(const AttnTiles& t, const AttnSequence& s, const AttnItem& item, const AttnRoom& room) {
  AttnPanel* const panels = room.panels;
  const int64_t count = ceil_div((item.i1 - item.i0) * t.group, kAttnLanes);
  for (int64_t i = 0; i < count; i++) panels[i] = attn_panel_begin(t, s, item, i, room);
  for (int64_t j = item.keys.begin / t.block * t.block; j < item.keys.end; j += t.block) {
    const int64_t n = least(t.block, item.keys.end - j);
    AttnBlock block;
    if (item.shared) {
      block = item.shared[j / t.block - item.first_block];
    } else {
      block = {room.keys, room.values,
               t.pack(t, s, item.head, j, most(0, item.keys.begin - j), n, room.keys, room.values)};
    }
    for (int64_t i = 0; i < count; i++) attn_panel(t, s, item, j, n, block, panels[i], room);
  }
  for (int64_t i = 0; i < count; i++) attn_panel_end(t, s, item, panels[i], room);
}
