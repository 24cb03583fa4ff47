// Bringing a (b, d, L) operand into a thread's tile and back: tokens of W channels, channels next to each other, so
// that a vector is one token of W channels. Memory in (b, L, d) order is read as it lies, (b, d, L) order through W x W
// transposes in registers, anything else element by element. Channels beyond `count` are 0. The tile is float32; a
// 16-bit operand is widened on the way in and rounded on the way out.

constexpr int64_t kFewTokens = 4;  // so few are not worth turning W rows around

// `from` is the tile's first element in memory; sc and st the strides of channels and tokens, pitch the tile's own.
template <class T>
inline void load_tile(const T* from, int64_t sc, int64_t st, int64_t count, int64_t tokens, float* tile,
                      int64_t pitch) {
  if (sc == 1 || count == 1) {
    if (count == W)
      for (int64_t t = 0; t < tokens; t++) store(tile + t * pitch, load(from + t * st));
    else
      for (int64_t t = 0; t < tokens; t++) store(tile + t * pitch, load_head(from + t * st, count));
    return;
  }
  if (st == 1 && (tokens > kFewTokens || count < W)) {
    int64_t t = 0;
    for (; t + W <= tokens && count == W; t += W) {
      vf rows[W];
#pragma GCC unroll 16
      for (int c = 0; c < W; c++) rows[c] = load(from + c * sc + t);
      transpose(rows);
#pragma GCC unroll 16
      for (int i = 0; i < W; i++) store(tile + (t + i) * pitch, rows[i]);
    }
    for (; t < tokens; t += W) {
      vf rows[W];
      const int64_t n = least(W, tokens - t);
      for (int c = 0; c < W; c++) rows[c] = c < count ? gather(from + c * sc + t, 1, n) : set1(0);
      transpose(rows);
      for (int64_t i = 0; i < n; i++) store(tile + (t + i) * pitch, rows[i]);
    }
    return;
  }
  for (int64_t t = 0; t < tokens; t++) store(tile + t * pitch, gather(from + t * st, sc, count));
}

template <class T>
inline void store_tile(T* to, int64_t sc, int64_t st, int64_t count, int64_t tokens, const float* tile) {
  if (sc == 1 || count == 1) {
    if (count == W)
      for (int64_t t = 0; t < tokens; t++) store(to + t * st, load(tile + t * W));
    else
      for (int64_t t = 0; t < tokens; t++) store_head(to + t * st, load(tile + t * W), count);
    return;
  }
  if (st == 1) {
    int64_t t = 0;
    for (; t + W <= tokens && count == W; t += W) {
      vf rows[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; i++) rows[i] = load(tile + (t + i) * W);
      transpose(rows);
#pragma GCC unroll 16
      for (int c = 0; c < W; c++) store(to + c * sc + t, rows[c]);
    }
    for (; t < tokens; t += W) {
      vf rows[W];
      const int64_t n = least(W, tokens - t);
      for (int64_t i = 0; i < W; i++) rows[i] = i < n ? load(tile + (t + i) * W) : set1(0);
      transpose(rows);
      for (int64_t c = 0; c < count; c++) scatter(to + c * sc + t, 1, rows[c], n);
    }
    return;
  }
  for (int64_t t = 0; t < tokens; t++) scatter(to + t * st, sc, load(tile + t * W), count);
}
