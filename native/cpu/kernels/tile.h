// Bringing a (b, d, L) operand into a thread's tile and back: T tokens of W channels, channels next to each other, so
// that a vector is one token of W channels. Memory in (b, L, d) order is read as it lies, (b, d, L) order through W x W
// transposes in registers, anything else element by element. Channels beyond `count` are 0.

// `from` is the tile's first element in memory; sc and st the strides of channels and tokens.
inline void load_tile(const float* from, int64_t sc, int64_t st, int64_t count, int64_t tokens, float* tile) {
  if (sc == 1 || count == 1) {
    if (count == W)
      for (int64_t t = 0; t < tokens; t++) store(tile + t * W, load(from + t * st));
    else
      for (int64_t t = 0; t < tokens; t++) store(tile + t * W, load_head(from + t * st, count));
    return;
  }
  if (st == 1) {
    for (int64_t t = 0; t < tokens; t += W) {
      vf rows[W];
      const int64_t n = least(W, tokens - t);
      if (n == W && count == W)
        for (int c = 0; c < W; c++) rows[c] = load(from + c * sc + t);
      else
        for (int c = 0; c < W; c++) rows[c] = c < count ? load_head(from + c * sc + t, n) : set1(0);
      transpose(rows);
      for (int64_t i = 0; i < n; i++) store(tile + (t + i) * W, rows[i]);
    }
    return;
  }
  for (int64_t t = 0; t < tokens; t++) store(tile + t * W, gather(from + t * st, sc, count));
}

inline void store_tile(float* to, int64_t sc, int64_t st, int64_t count, int64_t tokens, const float* tile) {
  if (sc == 1 || count == 1) {
    if (count == W)
      for (int64_t t = 0; t < tokens; t++) store(to + t * st, load(tile + t * W));
    else
      for (int64_t t = 0; t < tokens; t++) store_head(to + t * st, load(tile + t * W), count);
    return;
  }
  if (st == 1) {
    for (int64_t t = 0; t < tokens; t += W) {
      vf rows[W];
      const int64_t n = least(W, tokens - t);
      for (int64_t i = 0; i < W; i++) rows[i] = i < n ? load(tile + (t + i) * W) : set1(0);
      transpose(rows);
      if (n == W && count == W)
        for (int c = 0; c < W; c++) store(to + c * sc + t, rows[c]);
      else
        for (int c = 0; c < W; c++)
          if (c < count) store_head(to + c * sc + t, rows[c], n);
    }
    return;
  }
  for (int64_t t = 0; t < tokens; t++) scatter(to + t * st, sc, load(tile + t * W), count);
}
