// Products of many rows with many rows, out[r][f] = Σ_k left[r][k] right[f][k], in register tiles of kTileRows rows by
// two vectors of features (14 x 32 with AVX-512, 6 x 16 with AVX2): for each k a broadcast of each row, and a fused
// multiply-add with both vectors.
//
// Both operands are packed into float32 so that a tile reads forward, whatever their dtype was: the left once, by all
// threads, into panels of up to kTileRows rows; the right by the thread that uses it, in blocks of kGemmStrips strips
// and kGemmDepth of the summed dimension, which stay in L2 while the panels, 9 to 21 KB each, pass through L1. Sums of
// one depth block run in registers, and the blocks add up where the sums go.
// Floor: 2 rows features in operations. Packing the right costs a share of about 7 / rows of that, so a weight that is
// used again is packed again, and nothing has to be kept of it.

constexpr int kTileRows = W == 16 ? 14 : 6;
constexpr int kStrip = 2 * W;
constexpr int64_t kGemmDepth = 384;
constexpr int64_t kGemmStrips = 8;

// R rows by C vectors: a + r * kAcross + k * kAlong is row r's element k, a strip is (depth, C * W). Added to or put
// into `sums`, of whose features n count.
template <int R, int C, int64_t kAcross, int64_t kAlong>
SEQMIX_VERB void tile_product(const float* a, const float* strip, int64_t depth, float* sums, int64_t stride, int64_t n,
                              bool first) {
  vf acc[R][C];
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) acc[r][c] = set1(0);
  for (int64_t k = 0; k < depth; k++) {
    vf b[C];
    for (int c = 0; c < C; c++) b[c] = load(strip + c * W);
    for (int r = 0; r < R; r++) {
      const vf x = set1(a[r * kAcross]);
      for (int c = 0; c < C; c++) acc[r][c] = fma(x, b[c], acc[r][c]);
    }
    a += kAlong;
    strip += C * W;
  }
  // Block by block, not on top of what there is: the error of a sum grows with its length.
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) {
      float* const to = sums + r * stride + c * W;
      const int64_t count = most(0, least(W, n - c * W));
      if (n == C * W)
        store(to, first ? acc[r][c] : load(to) + acc[r][c]);
      else
        store_head(to, first ? acc[r][c] : load_head(to, count) + acc[r][c], count);
    }
}

// With a panel of R rows, element by element of the depth.
template <int R>
static void panel_tile(const float* panel, const float* strip, int64_t depth, float* sums, int64_t stride, int64_t n,
                       bool first) {
  tile_product<R, 2, 1, R>(panel, strip, depth, sums, stride, n, first);
}

using PanelTile = void (*)(const float*, const float*, int64_t, float*, int64_t, int64_t, bool);
#define SEQMIX_TILES_6 panel_tile<1>, panel_tile<2>, panel_tile<3>, panel_tile<4>, panel_tile<5>, panel_tile<6>
static constexpr PanelTile panel_tiles[kTileRows] = {
    SEQMIX_TILES_6,
#if defined(__AVX512F__)
    panel_tile<7>,  panel_tile<8>,  panel_tile<9>,  panel_tile<10>,
    panel_tile<11>, panel_tile<12>, panel_tile<13>, panel_tile<14>,
#endif
};

// `count` rows of `depth` elements, `stride` apart, side by side: to[k * width + row]; rows up to `width` that are not
// there are 0.
template <class T>
static void pack_rows(const void* data, int64_t stride, int64_t count, int64_t depth, int64_t width, float* to) {
  constexpr int64_t kLine = 64 / sizeof(T);
  const T* const from = static_cast<const T*>(data);
  for (int64_t r0 = 0; r0 < width; r0 += W)
    for (int64_t k = 0; k < depth; k += W) {
      const int64_t rows = least(W, count - r0), n = least(W, depth - k);
      const T* const at = from + r0 * stride + k;
      vf block[W];
      if (rows == W && n == W) {
        if (k % kLine == 0)  // the rows that will be wanted next
          for (int r = 0; r < W; r++) __builtin_prefetch(at + (width + r) * stride);
        for (int r = 0; r < W; r++) block[r] = load(at + r * stride);
      } else {
        for (int r = 0; r < W; r++) block[r] = r < rows ? load_head(at + r * stride, n) : set1(0);
      }
      transpose(block);
      for (int i = 0; i < n; i++) {
        float* const side = to + (k + i) * width + r0;
        // What a narrow panel's store writes too far, the next one writes again.
        if (r0 + W <= width || (width < W && (k + i) * width + W <= depth * width))
          store(side, block[i]);
        else
          store_head(side, block[i], width - r0);
      }
    }
}

// Rows of any floating-point dtype, as an operand of a product.
struct Operand {
  const char* data;
  int64_t stride, size;  // between rows, in elements; of an element, in bytes
  void (*pack)(const void*, int64_t, int64_t, int64_t, int64_t, float*);

  const void* at(int64_t row, int64_t k) const { return data + (row * stride + k) * size; }
};

SEQMIX_VERB Operand operand(const View& rows) {
  Operand o{pointer<const char>(rows), rows.stride[0], size_of(rows.dtype), nullptr};
  with_float(rows.dtype, [&](auto kind) {
    using T = decltype(kind);
    o.pack = pack_rows<T>;
  });
  return o;
}

struct Gemm {
  Operand left, right;
  int64_t rows, features, in;
  float* out;  // where the sums go; null: through scratch memory
  int64_t so;  // between its rows
};

// Rows at a time: their panels stay within the caches that threads share, and scratch memory does not grow with them.
SEQMIX_VERB int64_t gemm_rows(int64_t in) { return most(16 * kTileRows, least(1024, (1 << 22) / most(1, in))); }

// finish(row, rows, feature, features, sums, stride) is called for each part that is done, while it lies in a cache.
template <class Finish>
inline void gemm(Context& context, const Gemm& g, const Finish& finish) {
  constexpr int64_t kGemmBlock = kGemmStrips * kStrip * kGemmDepth;
  const int64_t in = g.in, strips = ceil_div(g.features, kStrip), at_once = least(g.rows, gemm_rows(in));
  // What is cut, and how finely, depends on the threads; no result's bits do.
  const int64_t items = 4 * context.threads;
  const int64_t wide = most(1, least(kGemmStrips, strips / items)), across = ceil_div(strips, wide);
  float* const packed = scratch<float>(context, at_once * in);
  float* const blocks = scratch<float>(context, context.threads * kGemmBlock);
  const int64_t private_sums = g.out ? 0 : at_once * wide * kStrip;
  float* const sums = scratch<float>(context, context.threads * private_sums);
  for (int64_t r0 = 0; r0 < g.rows; r0 += at_once) {
    const int64_t rows = least(at_once, g.rows - r0), panels = ceil_div(rows, kTileRows);
    const auto row_of = [&](int64_t panel) { return panel * rows / panels; };  // all about equally high
    parallel_ranges(context, panels, grain_of(kTileRows * in), [&](int64_t begin, int64_t end, int) {
      for (int64_t k = 0; k < in; k += kGemmDepth)
        for (int64_t i = begin; i < end; i++) {
          const int64_t row = row_of(i), height = row_of(i + 1) - row, depth = least(kGemmDepth, in - k);
          g.left.pack(g.left.at(r0 + row, k), g.left.stride, height, depth, height, packed + k * rows + row * depth);
        }
    });
    const int64_t down = most(1, least(ceil_div(items, across), panels / 12));
    parallel_for(context, across * down, [&](int64_t item, int thread) {
      const int64_t p0 = item % down * panels / down, p1 = (item % down + 1) * panels / down;
      const int64_t s0 = item / down * wide, s1 = least(strips, s0 + wide);
      const int64_t f0 = s0 * kStrip, f1 = least(g.features, s1 * kStrip);
      float* const block = blocks + thread * kGemmBlock;
      float* const to = g.out ? g.out + r0 * g.so + f0 : sums + thread * private_sums;
      const int64_t stride = g.out ? g.so : wide * kStrip;
      for (int64_t k = 0; k < in; k += kGemmDepth) {
        const int64_t depth = least(kGemmDepth, in - k);
        for (int64_t s = s0; s < s1; s++)
          g.right.pack(g.right.at(s * kStrip, k), g.right.stride, least(kStrip, g.features - s * kStrip), depth, kStrip,
                       block + (s - s0) * kStrip * depth);
        for (int64_t i = p0; i < p1; i++) {
          const int64_t row = row_of(i), height = row_of(i + 1) - row;
          for (int64_t s = s0; s < s1; s++)
            panel_tiles[height - 1](packed + k * rows + row * depth, block + (s - s0) * kStrip * depth, depth,
                                    to + row * stride + (s - s0) * kStrip, stride,
                                    least(kStrip, g.features - s * kStrip), k == 0);
          if (k + kGemmDepth >= in) finish(r0 + row, height, f0, f1 - f0, to + row * stride, stride);
        }
      }
    });
  }
}
