// The product of many rows: out = x Wᵀ in register tiles of kTileRows rows by two vectors of features (14 x 32 with
// AVX-512, 6 x 16 with AVX2), a fused multiply-add for each vector and broadcast of x.
//
// Both operands are packed so that a tile reads forward: x once, by all threads, into panels of kTileRows rows, W by
// the thread that uses it, in blocks of kGemmFeatures features and kGemmDepth of the summed dimension, which stay in L2
// while the panels of x, 21 KB each, pass through L1. Sums of one depth block run in registers and add up
// in `out`. A small W is packed once for all, and the rows are what is cut then.
// Floor: 2 rows in out operations; packing W costs it some 6 / rows.

constexpr int kTileRows = W == 16 ? 14 : 6;
constexpr int kStrip = 2 * W;
constexpr int64_t kGemmDepth = 384;
constexpr int64_t kGemmFeatures = 8 * kStrip;

// R rows of a panel (depth, kTileRows) by a strip (depth, kStrip), added to or put into out; n features of it count.
template <int R>
static void gemm_tile(const float* x, const float* w, int64_t depth, float* out, int64_t so, int64_t n, bool first) {
  vf acc[R][2];
  for (int r = 0; r < R; r++) acc[r][0] = acc[r][1] = set1(0);
  for (int64_t k = 0; k < depth; k++) {
    const vf w0 = load(w), w1 = load(w + W);
    for (int r = 0; r < R; r++) {
      const vf a = set1(x[r]);
      acc[r][0] = fma(a, w0, acc[r][0]);
      acc[r][1] = fma(a, w1, acc[r][1]);
    }
    x += kTileRows;
    w += kStrip;
  }
  // Block by block, not on top of what there is: the error of a sum grows with its length.
  const int64_t n0 = least(n, W), n1 = most(0, n - W);
  for (int r = 0; r < R; r++) {
    float* const to = out + r * so;
    if (n == kStrip) {
      store(to, first ? acc[r][0] : load(to) + acc[r][0]);
      store(to + W, first ? acc[r][1] : load(to + W) + acc[r][1]);
    } else {
      store_head(to, first ? acc[r][0] : load_head(to, n0) + acc[r][0], n0);
      store_head(to + W, first ? acc[r][1] : load_head(to + W, n1) + acc[r][1], n1);
    }
  }
}

using GemmTile = void (*)(const float*, const float*, int64_t, float*, int64_t, int64_t, bool);
#define SEQMIX_TILES_6 gemm_tile<1>, gemm_tile<2>, gemm_tile<3>, gemm_tile<4>, gemm_tile<5>, gemm_tile<6>
static constexpr GemmTile gemm_tiles[kTileRows] = {
    SEQMIX_TILES_6,
#if defined(__AVX512F__)
    gemm_tile<7>,   gemm_tile<8>,  gemm_tile<9>,  gemm_tile<10>,
    gemm_tile<11>,  gemm_tile<12>, gemm_tile<13>, gemm_tile<14>,
#endif
};

// `count` rows of depth elements from `from`, `stride` apart, side by side: to[k * width + row]; rows up to `width`
// that are not there are 0.
SEQMIX_VERB void pack_rows(const float* from, int64_t stride, int64_t count, int64_t depth, int64_t width, float* to) {
  for (int64_t r0 = 0; r0 < width; r0 += W)
    for (int64_t k = 0; k < depth; k += W) {
      const int64_t rows = least(W, count - r0), n = least(W, depth - k);
      vf block[W];
      if (rows == W && n == W)
        for (int r = 0; r < W; r++) block[r] = load(from + (r0 + r) * stride + k);
      else
        for (int r = 0; r < W; r++) block[r] = r < rows ? load_head(from + (r0 + r) * stride + k, n) : set1(0);
      transpose(block);
      if (r0 + W <= width && n == W)
        for (int i = 0; i < W; i++) store(to + (k + i) * width + r0, block[i]);
      else
        for (int64_t i = 0; i < n; i++) store_head(to + (k + i) * width + r0, block[i], least(W, width - r0));
    }
}

struct Gemm {
  const float *x, *w;
  float* out;
  int64_t sx, sw, so;  // between rows
  int64_t rows, in, features;

  int64_t panels() const { return ceil_div(rows, kTileRows); }
  int64_t strips() const { return ceil_div(features, kStrip); }
  // Panel i and strip i hold all of the summed dimension, depth block after depth block.
  void pack_panel(float* packed, int64_t i) const {
    float* const to = packed + i * kTileRows * in;
    for (int64_t k = 0; k < in; k += kGemmDepth)
      pack_rows(x + i * kTileRows * sx + k, sx, least(kTileRows, rows - i * kTileRows), least(kGemmDepth, in - k),
                kTileRows, to + k * kTileRows);
  }
  void pack_strip(float* to, int64_t i, int64_t k) const {
    pack_rows(w + i * kStrip * sw + k, sw, least(kStrip, features - i * kStrip), least(kGemmDepth, in - k), kStrip, to);
  }

  // Panels [p0, p1) by strips [s0, s1) of depth block k; strip s0 of it is at `strips`, the next `stride` further.
  void multiply(const float* panels_, int64_t p0, int64_t p1, const float* strips_, int64_t stride, int64_t s0,
                int64_t s1, int64_t k) const {
    const int64_t depth = least(kGemmDepth, in - k);
    for (int64_t i = p0; i < p1; i++) {
      const GemmTile tile = gemm_tiles[least(kTileRows, rows - i * kTileRows) - 1];
      for (int64_t s = s0; s < s1; s++)
        tile(panels_ + i * kTileRows * in + k * kTileRows, strips_ + (s - s0) * stride, depth,
             out + i * kTileRows * so + s * kStrip, so, least(kStrip, features - s * kStrip), k == 0);
    }
  }
};

// Rows at a time: their panels stay within the caches that threads share, and scratch memory does not grow with x.
SEQMIX_VERB int64_t gemm_rows(int64_t in) { return most(12, (1 << 21) / (kTileRows * most(1, in))) * kTileRows; }

// finish(r0, r1, f0, f1) is called for each part of out that is done.
template <class Finish>
inline void gemm(Context& context, const Gemm& all, const Finish& finish) {
  const int64_t in = all.in, strips = all.strips(), at_once = least(all.rows, gemm_rows(in));
  float* const x = scratch<float>(context, ceil_div(at_once, kTileRows) * kTileRows * in);
  const bool small = all.features * in <= 1 << 18;
  float* const w = scratch<float>(context, small ? strips * kStrip * in : context.threads * kGemmFeatures * kGemmDepth);
  for (int64_t r0 = 0; r0 < all.rows; r0 += at_once) {
    Gemm g = all;
    g.x += r0 * g.sx;
    g.out += r0 * g.so;
    g.rows = least(at_once, all.rows - r0);
    const int64_t panels = g.panels();
    parallel_for(context, panels + (small && r0 == 0 ? strips : 0), [&](int64_t i, int) {
      if (i < panels) return g.pack_panel(x, i);
      for (int64_t k = 0; k < in; k += kGemmDepth)
        g.pack_strip(w + (i - panels) * kStrip * in + k * kStrip, i - panels, k);
    });
    // Rows are cut where features are too few to keep threads busy. No result's bits depend on how.
    const int64_t across = small ? 1 : ceil_div(g.features, kGemmFeatures);
    const int64_t together = most(small ? 1 : 12, ceil_div(panels, ceil_div(4 * context.threads, across)));
    const int64_t down = ceil_div(panels, together);
    parallel_for(context, across * down, [&](int64_t item, int thread) {
      const int64_t p0 = item % down * together, p1 = least(panels, p0 + together);
      const int64_t s0 = small ? 0 : item / down * (kGemmFeatures / kStrip);
      const int64_t s1 = small ? strips : least(strips, s0 + kGemmFeatures / kStrip);
      float* const mine = w + thread * kGemmFeatures * kGemmDepth;
      for (int64_t k = 0; k < in; k += kGemmDepth) {
        if (small) {
          g.multiply(x, p0, p1, w + k * kStrip, kStrip * in, s0, s1, k);
          continue;
        }
        for (int64_t s = s0; s < s1; s++) g.pack_strip(mine + (s - s0) * kStrip * kGemmDepth, s, k);
        g.multiply(x, p0, p1, mine, kStrip * kGemmDepth, s0, s1, k);
      }
      finish(r0 + p0 * kTileRows, r0 + least(g.rows, p1 * kTileRows), s0 * kStrip, least(g.features, s1 * kStrip));
    });
  }
}
