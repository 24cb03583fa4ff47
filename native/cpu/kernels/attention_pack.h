// How operands of attention's tiles (attention_tiles.h) are brought into the shape that they are read in, and sums into
// that of results. W rows are turned around at a time, so that both sides are read and written by whole vectors: keys
// and queries, of which a tile takes one element of many; values keep their rows, cut into strips of columns. All
// become float32 on the way, int8 ones times their scales. What will be read soon is asked for as what is there is
// turned, evenly: rows lie apart, and a burst is more than a core can have under way.

constexpr int kAttnTall = W == 16 ? 12 : 6;  // keys, or columns of values, of a tile
constexpr int kAttnFirst = 4;                // columns of the first strip, into which the exponential is woven
constexpr int64_t kAttnAhead = 16;           // keys from one that is packed to those that are asked for

// Strips of values: the first of kAttnFirst columns, the others of about equally many, at most kAttnTall.
struct AttnStrips {
  int64_t count, least_wide, wider;  // but the first; columns of each; how many have one more

  explicit AttnStrips(int64_t dv)
      : count(ceil_div(dv - kAttnFirst, kAttnTall)),
        least_wide((dv - kAttnFirst) / count),
        wider((dv - kAttnFirst) % count) {}
  int64_t begin(int64_t i) const { return kAttnFirst + i * least_wide + least(i, wider); }
};

// Of the block from j on, the keys [begin, n) of one head in groups; those of a group that are not among them are 0.
template <class T>
static void attn_pack_keys(const FlashAttention& p, const AttnSequence& s, int64_t head, int64_t j, int64_t begin,
                           int64_t n, float* to) {
  const int64_t d = p.k.shape[3];
  for (int64_t i = begin / kAttnTall * kAttnTall; i < n; i += kAttnTall)
    for (int64_t r0 = 0; r0 < kAttnTall; r0 += W) {
      const T* from[W];
      float scales[W];
      const int64_t across = least(W, kAttnTall - r0);
      for (int64_t r = 0; r < W; r++) {
        const int64_t key = i + r0 + r;
        const bool there = r < across && key >= begin && key < n;
        from[r] = there ? pointer<T>(p.k) + attn_key(s, p.k, j + key) + head * p.k.stride[2] : nullptr;
        if constexpr (sizeof(T) == 1)
          scales[r] = there ? floats(p.k_scale)[attn_key(s, p.k_scale, j + key) + head * p.k_scale.stride[2]] : 0;
        if (r < across && key + kAttnAhead < n)
          attn_prefetch(pointer<T>(p.k) + attn_key(s, p.k, j + key + kAttnAhead) + head * p.k.stride[2],
                        d * static_cast<int64_t>(sizeof(T)));
      }
      for (int64_t k = 0; k < d; k += W) {
        const int64_t width = least(W, d - k);
        vf block[W];
#pragma GCC unroll 16
        for (int r = 0; r < W; r++) {
          block[r] = from[r] ? load_some(from[r] + k, width) : set1(0);
          if constexpr (sizeof(T) == 1) block[r] = block[r] * set1(scales[r]);
        }
        transpose(block);
#pragma GCC unroll 16
        for (int r = 0; r < W; r++) {
          float* const at = to + i * d + (k + r) * kAttnTall + r0;
          if (r >= width) continue;
          // What one store writes too far, the next writes again: the next group's, or the values'.
          if (r0 == 0)
            store(at, block[r]);
          else
            store_head(at, block[r], across);
        }
      }
    }
}

// The same of values, as strips of `block` keys; true when all of them are finite.
template <class T>
static bool attn_pack_values(const FlashAttention& p, const AttnSequence& s, int64_t head, int64_t j, int64_t begin,
                             int64_t n, int64_t block, float* to) {
  const int64_t dv = p.v.shape[3];
  const AttnStrips strips(dv);
  vf odd = set1(0);  // NaN when one is not finite
  const auto row = [&](int64_t i) { return pointer<T>(p.v) + attn_key(s, p.v, j + i) + head * p.v.stride[2]; };
  for (int64_t i = begin; i < n; i++) {
    const T* const from = row(i);
    if (i + kAttnAhead < n) attn_prefetch(row(i + kAttnAhead), dv * static_cast<int64_t>(sizeof(T)));
    vf scale = set1(1);
    if constexpr (sizeof(T) == 1)
      scale = set1(floats(p.v_scale)[attn_key(s, p.v_scale, j + i) + head * p.v_scale.stride[2]]);
    const auto put = [&](int64_t c, int64_t width) {
      float* const at = to + c * block + i * width;
      for (int64_t k = 0; k < width; k += W) {
        vf x = load_some(from + c + k, least(W, dv - c - k));
        if constexpr (sizeof(T) == 1) x = x * scale;
        odd = fma(x, set1(0), odd);
        // What is written too far, the next keys write again; the next strip is none of theirs.
        if (k == 0 && (n - i) * width >= W)
          store(at, x);
        else
          store_head(at + k, x, least(W, width - k));
      }
    };
    put(0, kAttnFirst);
    for (int64_t strip = 0; strip < strips.count; strip++)
      put(strips.begin(strip), strips.begin(strip + 1) - strips.begin(strip));
  }
  return !any(is_nan(odd));
}

// W queries times the factor, to (d, lanes). Those that are next are asked for meanwhile.
template <class T>
static void attn_pack_queries(const T* const (&rows)[W], const T* const (&next)[W], int64_t d, vf factor, int64_t lanes,
                              float* to) {
  constexpr int64_t kPerLine = 64 / static_cast<int64_t>(sizeof(T));
  for (int64_t c = 0; c < d; c += W) {
    const int64_t width = least(W, d - c);
    if (c % kPerLine == 0)
      for (int r = 0; r < W; r++) __builtin_prefetch(next[r] + c);
    vf block[W];
#pragma GCC unroll 16
    for (int r = 0; r < W; r++) block[r] = load_some(rows[r] + c, width) * factor;
    transpose(block);
#pragma GCC unroll 16
    for (int r = 0; r < W; r++)
      if (r < width) store(to + (c + r) * lanes, block[r]);
  }
}

// W rows of sums (dv, lanes) times their factors, to `rows`, of which the first `count` are somebody's.
template <class T>
SEQMIX_VERB void attn_unpack_sums(const float* sums, int64_t lanes, int64_t dv, vf factors, int64_t count,
                                  T* const (&rows)[W]) {
  for (int64_t c = 0; c < dv; c += W) {
    const int64_t width = least(W, dv - c);
    vf block[W];
#pragma GCC unroll 16
    for (int r = 0; r < W; r++) block[r] = r < width ? load(sums + (c + r) * lanes) * factors : set1(0);
    transpose(block);
#pragma GCC unroll 16
    for (int r = 0; r < W; r++)
      if (r < count) store_some(rows[r] + c, block[r], width);
  }
}
