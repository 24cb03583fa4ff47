// flashAttention where many queries share a KV head (prefill): two products and an exponential for each tile of
// scores, which is never more than a tile (Dao, FlashAttention-2, 2023).
//
// A KV head's queries, query by query and within one head by head of its group, are cut into items of some hundred
// rows, and those into panels of up to kTileRows. An item takes the keys in blocks of at most kAttnBlock, counted from
// key 0. It packs a block's keys and values once, for all its panels: keys as strips (d, kStrip keys), values as
// strips (keys, kStrip of dv), in float32. Then, panel by panel: scores = panel · keys, into rows of kAttnPitch; the
// mask; weights in place; sums of the panel += weights · values. Packed blocks and the panels' sums stay in L2 (64 to
// 256 KB and some 200 KB), scores and one strip in L1. Strips that no query of a panel sees are left out, so that a
// causal mask costs half. Both products go through gemm.h's tile_product.
//
// A row's bits depend on its own query, keys and blocks only: not on the rows beside it, nor on how items are cut. Few
// rows with many keys are cut along the keys too (attention_keys.h).
// Floor: 2 (d + dv) operations for each pair of query and key that is seen, and its exponential, about 10 more a lane.

constexpr int64_t kAttnBlock = 256;              // most keys of a block
constexpr int64_t kAttnPitch = kAttnBlock + 16;  // so far apart are rows of scores: not in the same sets of L1
constexpr int64_t kAttnRows = 448;               // rows of an item

// Keys of a block: less for large heads, so that it stays in L2.
SEQMIX_VERB int64_t attn_block(const FlashAttention& p) {
  const int64_t both = p.q.shape[3] + p.v.shape[3];
  return both <= 256 ? kAttnBlock : both <= 512 ? kAttnBlock / 2 : kAttnBlock / 4;
}

// Weights of R rows, kAttnPitch apart, by V vectors of values.
template <int R, int V>
static void attn_values_tile(const float* weights, const float* values, int64_t keys, float* sums, int64_t stride,
                             bool first) {
  tile_product<R, V, kAttnPitch, 1>(weights, values, keys, sums, stride, V * W, first);
}
using AttnValuesTile = void (*)(const float*, const float*, int64_t, float*, int64_t, bool);
#define SEQMIX_VALUES_6(V)                                                                        \
  attn_values_tile<1, V>, attn_values_tile<2, V>, attn_values_tile<3, V>, attn_values_tile<4, V>, \
      attn_values_tile<5, V>, attn_values_tile<6, V>
#if defined(__AVX512F__)
#define SEQMIX_VALUES(V)                                                                                               \
  SEQMIX_VALUES_6(V), attn_values_tile<7, V>, attn_values_tile<8, V>, attn_values_tile<9, V>, attn_values_tile<10, V>, \
      attn_values_tile<11, V>, attn_values_tile<12, V>, attn_values_tile<13, V>, attn_values_tile<14, V>
#else
#define SEQMIX_VALUES(V) SEQMIX_VALUES_6(V)
#endif
static constexpr AttnValuesTile attn_values_tiles[2][kTileRows] = {{SEQMIX_VALUES(1)}, {SEQMIX_VALUES(2)}};

// One item's work.
struct AttnItem {
  int64_t sequence, head;  // of KV
  int64_t i0, i1;          // queries
  AttnRange keys;          // all that one of them sees, in this part
  AttnPart part;           // where its sums go, to be merged; they are the result where there is none
};

// One thread's memory.
struct AttnRoom {
  float *keys, *values, *panels, *sums, *scores, *query;
  AttnSum* rows;
  bool* fresh;  // panels that have seen nothing yet

  static int64_t floats(int64_t block, int64_t d, int64_t wide, int64_t rows) {
    return block * (d + wide) + rows * (d + wide + 3) + kTileRows * (kAttnPitch + d) + 8 * W;
  }
  AttnRoom(float* at, int64_t block, int64_t d, int64_t wide, int64_t count) {
    keys = at;
    values = keys + block * d;
    panels = values + block * wide;
    sums = panels + count * d;
    scores = sums + count * wide;
    query = scores + kTileRows * kAttnPitch;
    rows = reinterpret_cast<AttnSum*>(query + kTileRows * d + W);
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
  bool (*pack)(const AttnTiles&, const AttnSequence&, int64_t, int64_t, int64_t, int64_t, const AttnRoom&);

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
                const AttnRoom& room) {
        attn_pack_keys<T>(t.p, q, head, j, begin, n, room.keys);
        return attn_pack_values<T>(t.p, q, head, j, begin, n, t.block, room.values);
      };
    });
  }
};

// Rows [begin, begin + size) of an item: query i0 + row / group, head row % group of the group.
struct AttnPanel {
  int64_t begin, size;
};

// The scores of a panel with the keys [j, j + n) of a packed block of which it sees [a, b): into room.scores, as far
// as strips reach. What a row does not see becomes -infinity. True if each row sees all of [a, b).
inline bool attn_panel_scores(const AttnTiles& t, const AttnSequence& s, const AttnItem& item, AttnPanel panel,
                              int64_t j, AttnRange seen, const AttnRoom& room) {
  const int64_t first = seen.begin / kStrip, last = ceil_div(seen.end, kStrip);
  for (int64_t strip = first; strip < last; strip++)
    panel_tiles[panel.size - 1](room.panels + panel.begin * t.d, room.keys + strip * kStrip * t.d, t.d,
                                room.scores + strip * kStrip, kAttnPitch, kStrip, true);
  bool all = true;
  for (int64_t r = 0; r < panel.size; r++) {
    float* const row = room.scores + r * kAttnPitch;
    const int64_t at = panel.begin + r, i = item.i0 + at / t.group;
    if (t.scores.cap > 0 || t.scores.slopes.present) {
      const float slope =
          t.scores.slopes.present ? t.scores.slope(item.sequence, item.head * t.group + at % t.group) : 0;
      attn_shape_scores(t.scores, slope, s.position(i), j + first * kStrip, (last - first) * kStrip,
                        row + first * kStrip);
    }
    const AttnRange range = attn_range(t.p, s, i);
    const int64_t begin = most(first * kStrip, least(range.begin - j, last * kStrip));
    const int64_t end = most(begin, least(range.end - j, last * kStrip));
    all = all && begin <= seen.begin && end >= seen.end;
    for (int64_t k = first * kStrip; k < begin; k++) row[k] = kAttnNever;
    for (int64_t k = end; k < last * kStrip; k++) row[k] = kAttnNever;
  }
  return all;
}

// Scores become weights, relative to the highest that each row has had; what was summed up before is brought to that.
inline void attn_panel_weights(const AttnTiles& t, AttnPanel panel, AttnRange seen, bool first, const AttnRoom& room) {
  const int64_t begin = seen.begin / kStrip * kStrip, end = ceil_div(seen.end, kStrip) * kStrip;
  for (int64_t r = 0; r < panel.size; r++) {
    float* const row = room.scores + r * kAttnPitch;
    AttnSum& total = room.rows[panel.begin + r];
    vf a = set1(first ? kAttnNever : total.high), b = a;
    for (int64_t k = begin; k < end; k += kStrip) {
      a = max(load(row + k), a);
      b = max(load(row + k + W), b);
    }
    const float high = highest(max(a, b)), from = high == kAttnNever ? 0 : high;
    vf sums[2] = {set1(0), set1(0)};
    for (int64_t k = begin; k < end; k += kStrip) {
      vf w[2] = {load(row + k) - set1(from), load(row + k + W) - set1(from)};
      attn_weights<2>(w);
      store(row + k, w[0]);
      store(row + k + W, w[1]);
      sums[0] = sums[0] + w[0];
      sums[1] = sums[1] + w[1];
    }
    const float now = sum(sums[0] + sums[1]);
    if (first || high == total.high) {
      total = {high, first ? now : total.sum + now};
      continue;
    }
    const float shrink = attn_weight(total.high - high);
    total = {high, total.sum * shrink + now};
    float* const values = room.sums + (panel.begin + r) * t.wide;
    for (int64_t c = 0; c < t.wide; c += W) store(values + c, load(values + c) * set1(shrink));
  }
}

// sums += weights · values, for R rows from `row` on and the keys [a, b) of the block.
inline void attn_panel_values(const AttnTiles& t, const AttnRoom& room, int64_t panel_row, int64_t row, int64_t rows,
                              int64_t a, int64_t b, bool first) {
  for (int64_t c = 0; c < t.wide; c += kStrip) {
    const int64_t vectors = least(kStrip, t.wide - c) / W;
    attn_values_tiles[vectors - 1][rows - 1](room.scores + panel_row * kAttnPitch + a,
                                             room.values + c * t.block + a * vectors * W, b - a,
                                             room.sums + row * t.wide + c, t.wide, first);
  }
}

// A panel and a packed block of the keys [j, j + n).
inline void attn_panel(const AttnTiles& t, const AttnSequence& s, const AttnItem& item, AttnPanel panel, int64_t j,
                       int64_t n, bool finite, bool& fresh, const AttnRoom& room) {
  const AttnRange low = attn_range(t.p, s, item.i0 + panel.begin / t.group);
  const AttnRange high = attn_range(t.p, s, item.i0 + (panel.begin + panel.size - 1) / t.group);
  const AttnRange seen{most(0, most(low.begin, item.keys.begin) - j), least(n, high.end - j)};
  if (seen.empty()) return;
  const bool all = attn_panel_scores(t, s, item, panel, j, seen, room);
  attn_panel_weights(t, panel, seen, fresh, room);
  if (all || finite) {
    attn_panel_values(t, room, 0, panel.begin, panel.size, seen.begin, seen.end, fresh);
  } else {
    // Weights of 0 would let what is not finite through: each row by itself, with no key that it does not see.
    for (int64_t r = 0; r < panel.size; r++) {
      const AttnRange own = attn_range(t.p, s, item.i0 + (panel.begin + r) / t.group);
      const int64_t a = most(seen.begin, own.begin - j), b = least(seen.end, own.end - j);
      attn_panel_values(t, room, r, panel.begin + r, 1, a, most(a, b), fresh);
    }
  }
  fresh = false;
}

inline void attn_item(const AttnTiles& t, const AttnSequence& s, const AttnItem& item, const AttnRoom& room) {
  const int64_t rows = (item.i1 - item.i0) * t.group, panels = ceil_div(rows, kTileRows);
  const auto panel = [&](int64_t i) {
    return AttnPanel{i * rows / panels, (i + 1) * rows / panels - i * rows / panels};
  };
  const auto query = [&](int64_t row) { return item.i0 + row / t.group; };
  const auto head = [&](int64_t row) { return item.head * t.group + row % t.group; };
  for (int64_t i = 0; i < panels; i++) {
    const AttnPanel at = panel(i);
    for (int64_t r = 0; r < at.size; r++)
      attn_load_query(t.p, t.scores, s, query(at.begin + r), head(at.begin + r), room.query + r * t.d);
    pack_rows<float>(room.query, t.d, at.size, t.d, at.size, room.panels + at.begin * t.d);
    room.fresh[i] = true;
  }
  for (int64_t j = item.keys.begin / t.block * t.block; j < item.keys.end; j += t.block) {
    const int64_t n = least(t.block, item.keys.end - j);
    const bool finite = t.pack(t, s, item.head, j, most(0, item.keys.begin - j), n, room);
    for (int64_t i = 0; i < panels; i++) attn_panel(t, s, item, panel(i), j, n, finite, room.fresh[i], room);
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
