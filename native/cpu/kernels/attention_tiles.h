// flashAttention where many queries share a KV head (prefill): two products and an exponential for each tile of
// scores, which is never more than a tile (Dao, FlashAttention-2, 2023).
//
// A KV head's queries, query by query and within one head by head of its group, are cut into items of some hundred
// rows, and those into panels of up to kAttnTall. An item takes the keys in blocks of at most kAttnBlock, counted from
// key 0, which are packed in float32: keys as strips (d, kStrip keys), values as strips (keys, kStrip of dv). A block
// is packed once for all queries of its KV head, before the items begin, or by the one item that there is (or by each
// item, where a sequence is so long that all packed blocks would take more than kAttnShared). Then, panel by panel:
// scores = panel · keys by gemm.h's tile, into rows of kAttnPitch; the mask; weights in place; sums of the panel +=
// weights · values. A block and the panels' sums stay in L2 (128 to 256 KB and some 200 KB), scores and a strip in L1.
// Strips that no query of a panel sees are left out, so that a causal mask costs half.
//
// A row's bits depend on its own query, keys and blocks only: not on the rows beside it, nor on how items are cut. Few
// rows with many keys are cut along the keys too (attention_keys.h).
// Floor: 2 (d + dv) operations for each pair of query and key that is seen. The exponential is ten operations a lane
// more, a tenth of the time at d = 64 where it stands alone; with AVX-512 it is woven into the product with the values.

constexpr int64_t kAttnBlock = 256;                // most keys of a block
constexpr int64_t kAttnPitch = kAttnBlock + 16;    // so far apart are rows of scores: not in the same sets of L1
constexpr int64_t kAttnRows = 448;                 // rows of an item
constexpr int kAttnTall = W == 16 ? 12 : 6;        // rows of a panel
constexpr bool kAttnWoven = W == 16;               // there are registers for it
constexpr int64_t kAttnShared = int64_t{1} << 28;  // bytes of packed blocks that items share, at most

// Keys of a block: less for large heads, so that it stays in L2.
SEQMIX_VERB int64_t attn_block(const FlashAttention& p) {
  const int64_t both = p.q.shape[3] + p.v.shape[3];
  return both <= 256 ? kAttnBlock : both <= 512 ? kAttnBlock / 2 : kAttnBlock / 4;
}

// Softmax over rows of scores, on their way to weights.
struct AttnRows {
  float* scores;                         // rows of kAttnPitch
  alignas(64) float sums[kAttnTall][W];  // of weights, lane by lane
  float from[kAttnTall];                 // what a weight is relative to: the highest score, or 0 where there is none
  float shrink[kAttnTall];               // of what was summed up before
};

// Two vectors of a row from scores to weights, relative to `high`, which also join `sum`.
SEQMIX_VERB void attn_weigh(float* row, float high, float* sum) {
  const vf from = set1(high);
  vf w[2] = {load(row) - from, load(row + W) - from};
  attn_weights<2>(w);
  store(row, w[0]);
  store(row + W, w[1]);
  store(sum, load(sum) + (w[0] + w[1]));
}

// acc += the weights of R rows of key k by V vectors of its values.
template <int R, int V>
SEQMIX_VERB void attn_multiply(vf (&acc)[R][V], const float* weights, const float* values) {
  vf b[V];
#pragma GCC unroll 2
  for (int v = 0; v < V; v++) b[v] = load(values + v * W);
#pragma GCC unroll 16
  for (int r = 0; r < R; r++) {
    const vf w = set1(weights[r * kAttnPitch]);
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) acc[r][v] = fma(w, b[v], acc[r][v]);
  }
}

template <int R, int V>
SEQMIX_VERB void attn_clear(vf (&acc)[R][V]) {
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) acc[r][v] = set1(0);
}

template <int R, int V>
SEQMIX_VERB void attn_add(const vf (&acc)[R][V], const float* shrink, bool first, float* sums, int64_t stride) {
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) {
      float* const to = sums + r * stride + v * W;
      store(to, first ? acc[r][v] : fma(load(to), set1(shrink[r]), acc[r][v]));
    }
}

// sums = sums · shrink + weights · values, for R rows, V vectors of values and the keys [a, b).
template <int R, int V>
static void attn_values_tile(const float* weights, const float* values, int64_t a, int64_t b, const float* shrink,
                             bool first, float* sums, int64_t stride) {
  vf acc[R][V];
  attn_clear(acc);
  for (int64_t k = a; k < b; k++) attn_multiply(acc, weights + k, values + k * V * W);
  attn_add(acc, shrink, first, sums, stride);
}

// The same for a strip of two vectors while scores still become weights: those of the next kStrip keys between the
// products with these. Their chains of dependent operations pass where products leave the processor room.
template <int R>
static void attn_woven_tile(AttnRows& rows, const float* values, int64_t a, int64_t b, bool first, float* sums,
                            int64_t stride) {
  constexpr int kTurn = 8;  // keys at a time
  float* const scores = rows.scores;
  const auto weigh = [scores, from = rows.from, lanes = rows.sums](int r, int64_t k)
                         __attribute__((always_inline)) { attn_weigh(scores + r * kAttnPitch + k, from[r], lanes[r]); };
  vf acc[R][2];
  attn_clear(acc);
  for (int r = 0; r < R; r++) weigh(r, a / kStrip * kStrip);
  for (int64_t at = a / kStrip * kStrip; at < b; at += kStrip) {
    const bool more = at + kStrip < b;
    if (at < a || !more) {
      for (int64_t k = most(a, at); k < least(b, at + kStrip); k++) attn_multiply(acc, scores + k, values + k * kStrip);
      for (int r = 0; r < R && more; r++) weigh(r, at + kStrip);
      continue;
    }
    for (int turn = 0; turn < kStrip / kTurn; turn++) {
      const int64_t k = at + turn * kTurn;
#pragma GCC unroll 8
      for (int i = 0; i < kTurn; i++) {
        attn_multiply(acc, scores + k + i, values + (k + i) * kStrip);
        const int r = turn * 3 + i / 3;
        if (i % 3 == 1 && r < R) weigh(r, at + kStrip);
      }
    }
  }
  attn_add(acc, rows.shrink, first, sums, stride);
}

using AttnScoresTile = void (*)(const float*, const float*, int64_t, float*, int64_t, int64_t, bool);
using AttnValuesTile = void (*)(const float*, const float*, int64_t, int64_t, const float*, bool, float*, int64_t);
using AttnWovenTile = void (*)(AttnRows&, const float*, int64_t, int64_t, bool, float*, int64_t);
// By the rows of a panel.
struct AttnKernels {
  AttnScoresTile scores;
  AttnValuesTile values[2];  // by vectors
  AttnWovenTile woven;
};
template <int R>
static constexpr AttnKernels attn_kernels_of = {
    panel_tile<R>, {attn_values_tile<R, 1>, attn_values_tile<R, 2>}, attn_woven_tile<R>};
static constexpr AttnKernels attn_kernels[kAttnTall] = {
    attn_kernels_of<1>,  attn_kernels_of<2>,  attn_kernels_of<3>,
    attn_kernels_of<4>,  attn_kernels_of<5>,  attn_kernels_of<6>,
#if defined(__AVX512F__)
    attn_kernels_of<7>,  attn_kernels_of<8>,  attn_kernels_of<9>,
    attn_kernels_of<10>, attn_kernels_of<11>, attn_kernels_of<12>,
#endif
};

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

// One thread's memory.
struct AttnRoom {
  float *keys, *values, *panels, *sums, *query;
  AttnRows* scores;
  AttnSum* rows;
  bool* fresh;  // panels that have seen nothing yet

  static int64_t floats(int64_t block, int64_t d, int64_t wide, int64_t rows) {
    constexpr int64_t kScores = kAttnTall * kAttnPitch + static_cast<int64_t>(sizeof(AttnRows) / sizeof(float));
    return block * (d + wide) + ceil_div(rows * (d + wide + 3), W) * W + kScores + kAttnTall * d + 8 * W;
  }
  AttnRoom(float* at, int64_t block, int64_t d, int64_t wide, int64_t count) {
    scores = reinterpret_cast<AttnRows*>(at);
    scores->scores = at + ceil_div(static_cast<int64_t>(sizeof(AttnRows) / sizeof(float)), W) * W;
    keys = scores->scores + kAttnTall * kAttnPitch;
    values = keys + block * d;
    sums = values + block * wide;
    panels = sums + count * wide;
    query = panels + count * d;
    rows = reinterpret_cast<AttnSum*>(query + kAttnTall * d + W);
    fresh = reinterpret_cast<bool*>(rows + count);
  }
};

// Of the block from j on, the keys [begin, n) of one head as strips, the last one filled up with 0. What lies before
// them stays as it is: whole vectors of keys, so that none in another page is touched.
template <class T>
static void attn_pack_keys(const FlashAttention& p, const AttnSequence& s, int64_t head, int64_t j, int64_t begin,
                           int64_t n, float* to) {
  const int64_t d = p.k.shape[3], step = p.k.stride[1];
  for (int64_t i = begin / W * W; i < ceil_div(n, kStrip) * kStrip; i += W) {
    const int64_t count = most(0, least(W, n - i));
    float* const strip = to + i / kStrip * kStrip * d + i % kStrip;
    const T* const from = count ? pointer<T>(p.k) + attn_key(s, p.k, j + i) + head * p.k.stride[2] : nullptr;
    float scales[W];
    if constexpr (sizeof(T) == 1)
      if (count) {
        const int64_t at = attn_key(s, p.k_scale, j + i) + head * p.k_scale.stride[2];
        for (int64_t r = 0; r < count; r++) scales[r] = floats(p.k_scale)[at + r * p.k_scale.stride[1]];
      }
    for (int64_t k = 0; k < d; k += W) {
      const int64_t width = least(W, d - k);
      vf block[W];
#pragma GCC unroll 16
      for (int r = 0; r < W; r++) {
        block[r] = r < count ? load_some(from + r * step + k, width) : set1(0);
        if constexpr (sizeof(T) == 1)
          if (r < count) block[r] = block[r] * set1(scales[r]);
      }
      transpose(block);
#pragma GCC unroll 16
      for (int r = 0; r < W; r++)
        if (r < width) store(strip + (k + r) * kStrip, block[r]);
    }
  }
}

// The same of values, as strips of `block` rows; true when all of them are finite.
template <class T>
static bool attn_pack_values(const FlashAttention& p, const AttnSequence& s, int64_t head, int64_t j, int64_t begin,
                             int64_t n, int64_t block, float* to) {
  const int64_t dv = p.v.shape[3];
  vf odd = set1(0);  // NaN when one is not finite
  for (int64_t i = begin; i < n; i++) {
    const T* const from = pointer<T>(p.v) + attn_key(s, p.v, j + i) + head * p.v.stride[2];
    vf scale = set1(1);
    if constexpr (sizeof(T) == 1)
      scale = set1(floats(p.v_scale)[attn_key(s, p.v_scale, j + i) + head * p.v_scale.stride[2]]);
    for (int64_t c = 0; c < dv; c += W) {
      vf x = load_some(from + c, least(W, dv - c));
      if constexpr (sizeof(T) == 1) x = x * scale;
      odd = fma(x, set1(0), odd);
      // a last strip of one vector is that wide
      const int64_t strip = c / kStrip * kStrip, width = dv - strip <= W ? W : kStrip;
      store(to + strip * block + i * width + c - strip, x);
    }
  }
  return !any(is_nan(odd));
}

struct AttnTiles {
  const FlashAttention& p;
  const AttnScores& scores;
  int64_t group, d, dv, wide, block;  // query heads of a KV head; dv in whole vectors
  bool (*pack)(const AttnTiles&, const AttnSequence&, int64_t, int64_t, int64_t, int64_t, float*, float*);

  AttnTiles(const FlashAttention& problem, const AttnScores& s)
      : p(problem),
        scores(s),
        group(p.q.shape[2] / p.k.shape[2]),
        d(p.q.shape[3]),
        dv(p.v.shape[3]),
        wide(ceil_div(dv, W) * W),
        block(attn_block(p)),
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
};

// Rows [begin, begin + size) of an item: query i0 + row / group, head row % group of the group.
struct AttnPanel {
  int64_t begin, size;
};

// The scores of a panel with the keys [j, j + n) of a packed block of which it sees [a, b), as far as strips reach.
// What a row does not see becomes -infinity.
inline void attn_panel_scores(const AttnTiles& t, const AttnSequence& s, const AttnItem& item, AttnPanel panel,
                              int64_t j, AttnRange seen, bool all, const AttnBlock& block, const AttnRoom& room) {
  const int64_t first = seen.begin / kStrip, last = ceil_div(seen.end, kStrip);
  float* const scores = room.scores->scores;
  const auto tile = attn_kernels[panel.size - 1].scores;
  for (int64_t strip = first; strip < last; strip++)
    tile(room.panels + panel.begin * t.d, block.keys + strip * kStrip * t.d, t.d, scores + strip * kStrip, kAttnPitch,
         kStrip, true);
  const bool shaped = t.scores.cap > 0 || t.scores.slopes.present;
  if (all && !shaped && seen.begin % kStrip == 0 && seen.end % kStrip == 0) return;
  int64_t i = item.i0 + panel.begin / t.group, g = panel.begin % t.group;
  for (int64_t r = 0; r < panel.size; r++) {
    float* const row = scores + r * kAttnPitch;
    if (shaped) {
      const float slope = t.scores.slopes.present ? t.scores.slope(item.sequence, item.head * t.group + g) : 0;
      attn_shape_scores(t.scores, slope, s.position(i), j + first * kStrip, (last - first) * kStrip,
                        row + first * kStrip);
    }
    const AttnRange range = attn_range(t.p, s, i);
    const int64_t begin = most(first * kStrip, least(range.begin - j, last * kStrip));
    const int64_t end = most(begin, least(range.end - j, last * kStrip));
    for (int64_t k = first * kStrip; k < begin; k++) row[k] = kAttnNever;
    for (int64_t k = end; k < last * kStrip; k++) row[k] = kAttnNever;
    if (++g == t.group) {
      g = 0;
      i++;
    }
  }
}

// What weights of each row will be relative to, and what was summed up before is to be multiplied with.
inline void attn_panel_highs(AttnPanel panel, AttnRange seen, bool first, const AttnRoom& room) {
  const int64_t begin = seen.begin / kStrip * kStrip, end = ceil_div(seen.end, kStrip) * kStrip;
  AttnRows& rows = *room.scores;
  for (int64_t r = 0; r < panel.size; r++) {
    const float* const row = rows.scores + r * kAttnPitch;
    AttnSum& total = room.rows[panel.begin + r];
    if (first) total = {kAttnNever, 0};
    vf a = set1(total.high), b = a;
    for (int64_t k = begin; k < end; k += kStrip) {
      a = max(load(row + k), a);
      b = max(load(row + k + W), b);
    }
    const float high = highest(max(a, b));
    rows.from[r] = high == kAttnNever ? 0 : high;
    rows.shrink[r] = high == total.high ? 1 : attn_weight(total.high - high);
    store(rows.sums[r], set1(0));
    total.high = high;
  }
}

// Weights, and sums += weights · values, of the keys [a, b) of the block.
inline void attn_panel_values(const AttnTiles& t, AttnPanel panel, AttnRange seen, const AttnBlock& block, bool first,
                              const AttnRoom& room) {
  const AttnKernels& kernels = attn_kernels[panel.size - 1];
  AttnRows& rows = *room.scores;
  float* const sums = room.sums + panel.begin * t.wide;
  int64_t c = 0;
  if (kAttnWoven && t.wide >= kStrip) {
    kernels.woven(rows, block.values, seen.begin, seen.end, first, sums, t.wide);
    c = kStrip;
  } else {
    for (int r = 0; r < panel.size; r++)
      for (int64_t k = seen.begin / kStrip * kStrip; k < seen.end; k += kStrip)
        attn_weigh(rows.scores + r * kAttnPitch + k, rows.from[r], rows.sums[r]);
  }
  for (; c < t.wide; c += kStrip)
    kernels.values[least(kStrip, t.wide - c) / W - 1](rows.scores, block.values + c * t.block, seen.begin, seen.end,
                                                      rows.shrink, first, sums + c, t.wide);
}

// The same where a weight of 0 would let through what is not finite: each row by itself, with no key that it does not
// see.
inline void attn_panel_values_apart(const AttnTiles& t, const AttnSequence& s, const AttnItem& item, AttnPanel panel,
                                    int64_t j, AttnRange seen, const AttnBlock& block, bool first,
                                    const AttnRoom& room) {
  AttnRows& rows = *room.scores;
  for (int r = 0; r < panel.size; r++) {
    for (int64_t k = seen.begin / kStrip * kStrip; k < seen.end; k += kStrip)
      attn_weigh(rows.scores + r * kAttnPitch + k, rows.from[r], rows.sums[r]);
    const AttnRange own = attn_range(t.p, s, item.i0 + (panel.begin + r) / t.group);
    const int64_t a = most(seen.begin, own.begin - j), b = least(seen.end, own.end - j);
    for (int64_t c = 0; c < t.wide; c += kStrip)
      attn_kernels[0].values[least(kStrip, t.wide - c) / W - 1](
          rows.scores + r * kAttnPitch, block.values + c * t.block, a, b, rows.shrink + r, first,
          room.sums + (panel.begin + r) * t.wide + c, t.wide);
  }
}

// A panel and a packed block of the keys [j, j + n).
inline void attn_panel(const AttnTiles& t, const AttnSequence& s, const AttnItem& item, AttnPanel panel, int64_t j,
                       int64_t n, const AttnBlock& block, bool& fresh, const AttnRoom& room) {
  const AttnRange low = attn_range(t.p, s, item.i0 + panel.begin / t.group);
  const AttnRange high = attn_range(t.p, s, item.i0 + (panel.begin + panel.size - 1) / t.group);
  const AttnRange seen{most(0, most(low.begin, item.keys.begin) - j), least(n, high.end - j)};
  if (seen.empty()) return;
  // Later queries begin and end to see at later keys.
  const bool all = high.begin - j <= seen.begin && low.end - j >= seen.end;
  attn_panel_scores(t, s, item, panel, j, seen, all, block, room);
  attn_panel_highs(panel, seen, fresh, room);
  if (all || block.finite)
    attn_panel_values(t, panel, seen, block, fresh, room);
  else
    attn_panel_values_apart(t, s, item, panel, j, seen, block, fresh, room);
  for (int64_t r = 0; r < panel.size; r++) {
    AttnSum& total = room.rows[panel.begin + r];
    total.sum = total.sum * room.scores->shrink[r] + sum(load(room.scores->sums[r]));
  }
  fresh = false;
}

inline void attn_item(const AttnTiles& t, const AttnSequence& s, const AttnItem& item, const AttnRoom& room) {
  const int64_t rows = (item.i1 - item.i0) * t.group, panels = ceil_div(rows, kAttnTall);
  const auto panel = [&](int64_t i) {
    return AttnPanel{i * rows / panels, (i + 1) * rows / panels - i * rows / panels};
  };
  const auto query = [&](int64_t row) { return item.i0 + row / t.group; };
  const auto head = [&](int64_t row) { return item.head * t.group + row % t.group; };
  for (int64_t i = 0; i < panels; i++) {
    const AttnPanel at = panel(i);
    for (int64_t r = 0; r < at.size; r++) {
      if (const int64_t next = at.begin + r + 2 * kAttnTall; next < rows)
        attn_prefetch_query(t.p, s, query(next), head(next));
      attn_load_query(t.p, t.scores, s, query(at.begin + r), head(at.begin + r), room.query + r * t.d);
    }
    pack_rows<float>(room.query, t.d, at.size, t.d, at.size, room.panels + at.begin * t.d);
    room.fresh[i] = true;
  }
  for (int64_t j = item.keys.begin / t.block * t.block; j < item.keys.end; j += t.block) {
    const int64_t n = least(t.block, item.keys.end - j);
    AttnBlock block;
    if (item.shared) {
      block = item.shared[j / t.block - item.first_block];
    } else {
      block = {room.keys, room.values,
               t.pack(t, s, item.head, j, most(0, item.keys.begin - j), n, room.keys, room.values)};
    }
    for (int64_t i = 0; i < panels; i++) attn_panel(t, s, item, panel(i), j, n, block, room.fresh[i], room);
  }
  for (int64_t i = 0; i < panels; i++)
    for (int64_t r = panel(i).begin; r < panel(i).begin + panel(i).size; r++) {
      float* const values = room.sums + r * t.wide;
      if (room.fresh[i]) {  // it has seen nothing
        room.rows[r] = {kAttnNever, 0};
        for (int64_t c = 0; c < t.wide; c += W) store(values + c, set1(0));
      }
      attn_deliver(t.p, t.scores, s, item.part, query(r), head(r), room.rows[r], values);
    }
}
