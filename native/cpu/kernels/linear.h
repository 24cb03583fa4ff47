// linear: out = act(x Wᵀ + bias) + residual, with x, residual and out of one dtype and W of any, in three ways.
//
// A few rows of x are bound by reading W: each of its rows is read as it lies, front to back, which is what memory is
// fastest at, widened in registers and multiplied with all rows of x at once. Floor: the bytes of W.
// Up to kFewRows of them operations count, but pay neither for packing W nor for sums along vectors: x is packed into
// strips instead, lanes being its rows, and W's rows, widened into a buffer, are what a tile broadcasts. The sums lie
// transposed. More rows go through the packed product of gemm.h. Floor of both: 2 rows in out operations.

constexpr int64_t kDotRows = 8;
constexpr int64_t kDotElements = 6144;  // of more rows of x than four, so that they stay in L1
constexpr int64_t kDotDepth = 2048;     // elements that sum up before they join the rest
constexpr int64_t kDotPiece = 1 << 15;  // bytes of W that are worth handing out
constexpr int64_t kAhead = 2048;        // bytes to prefetch ahead: memory's latency at the rate of one thread

constexpr int64_t kFewRows = 48;
constexpr int kFewPanel = 2 * kTileRows;      // rows of W that are widened at a time,
constexpr int64_t kFewWidth = 1024;           // up to so many elements of each,
constexpr int64_t kWideRow = kFewWidth + 16;  // so far apart, that they do not share the sets of a cache
constexpr int64_t kFewDepth = 256;            // elements that sum up in registers
constexpr int64_t kFewFeatures = 96;          // at most, of a thread's item

// What comes after the product, for up to W results of one row.
struct Finish {
  const Linear& p;
  View bias;  // in float32

  bool nothing() const {
    return !bias.present && p.activation == Activation::none && !p.residual.present && p.out.dtype == DType::float32;
  }
  SEQMIX_VERB void put(int64_t row, int64_t feature, vf v, int64_t n) const {
    if (bias.present) v = v + channels(bias, feature, n, 0);
    if (p.activation == Activation::silu) v = silu(v);
    with_float(p.out.dtype, [&](auto kind) {
      using T = decltype(kind);
      if (p.residual.present) v = v + load_head(pointer<T>(p.residual) + row * p.residual.stride[0] + feature, n);
      T* const to = pointer<T>(p.out) + row * p.out.stride[0] + feature;
      if (n == W)
        store(to, v);
      else
        store_head(to, v, n);
    });
  }
};

// Σ x[r] w over `in` elements for R rows of x. Several sums run at once, so that they do not wait for each other's
// additions.
template <int R, class T>
SEQMIX_VERB void dot_row(const float* x, int64_t sx, const T* w, int64_t in, float (&total)[R]) {
  constexpr int U = R == 1 ? 8 : R == 2 ? 4 : R <= 4 ? 2 : 1;
  constexpr int64_t kLine = 64 / sizeof(T);
  vf sums[R];
  for (int r = 0; r < R; r++) sums[r] = set1(0);
  for (int64_t begin = 0; begin < in; begin += kDotDepth) {
    const int64_t end = least(in, begin + kDotDepth);
    vf acc[R][U];
    for (int r = 0; r < R; r++)
      for (int u = 0; u < U; u++) acc[r][u] = set1(0);
    int64_t k = begin;
    for (; k + U * W <= end; k += U * W) {
      for (int64_t line = 0; line < U * W; line += kLine)
        __builtin_prefetch(reinterpret_cast<const char*>(w + k + line) + kAhead);
      for (int u = 0; u < U; u++) {
        const vf b = load(w + k + u * W);
        for (int r = 0; r < R; r++) acc[r][u] = fma(load(x + r * sx + k + u * W), b, acc[r][u]);
      }
    }
    for (; k + W <= end; k += W)
      for (int r = 0; r < R; r++) acc[r][0] = fma(load(x + r * sx + k), load(w + k), acc[r][0]);
    if (k < end) {
      const vf b = load_head(w + k, end - k);
      for (int r = 0; r < R; r++) acc[r][0] = fma(load_head(x + r * sx + k, end - k), b, acc[r][0]);
    }
    for (int r = 0; r < R; r++) {
      for (int half = U / 2; half > 0; half /= 2)
        for (int u = 0; u < half; u++) acc[r][u] = acc[r][u] + acc[r][u + half];
      sums[r] = sums[r] + acc[r][0];
    }
  }
  for (int r = 0; r < R; r++) total[r] = sum(sums[r]);
}

// Features [f0, f1) of R rows.
template <int R, class T>
static void dot_rows(const Finish& finish, const float* x, int64_t sx, int64_t f0, int64_t f1) {
  const View& w = finish.p.weight;
  for (int64_t f = f0; f < f1; f += W) {
    const int64_t n = least(W, f1 - f);
    float total[R][W];
    for (int64_t i = 0; i < n; i++) {
      float one[R];
      dot_row<R, T>(x, sx, pointer<const T>(w) + (f + i) * w.stride[0], w.shape[1], one);
      for (int r = 0; r < R; r++) total[r][i] = one[r];
    }
    for (int r = 0; r < R; r++) finish.put(r, f, load_head(total[r], n), n);
  }
}

using DotRows = void (*)(const Finish&, const float*, int64_t, int64_t, int64_t);
template <class T>
static constexpr DotRows dot_tables[kDotRows] = {
    dot_rows<1, T>, dot_rows<2, T>, dot_rows<3, T>, dot_rows<4, T>,
    dot_rows<5, T>, dot_rows<6, T>, dot_rows<7, T>, dot_rows<8, T>,
};

static void linear_dot(Context& context, const Linear& p, const Finish& finish) {
  const int64_t rows = p.x.shape[0], in = p.x.shape[1], features = p.weight.shape[0];
  const View x = widened(context, p.x);
  DotRows dot = nullptr;
  with_float(p.weight.dtype, [&](auto kind) {
    using T = decltype(kind);
    dot = dot_tables<T>[rows - 1];
  });
  const int64_t row_bytes = most(1, in * size_of(p.weight.dtype));
  parallel_tapering(context, ceil_div(features, W), ceil_div(kDotPiece, W * row_bytes), [&](int64_t b, int64_t e, int) {
    dot(finish, floats(x), x.stride[0], b * W, least(features, e * W));
  });
}

// `count` rows of n elements, `stride` apart, into rows of kWideRow.
template <class T>
static void widen_rows(const void* data, int64_t stride, int64_t count, int64_t n, float* to) {
  const T* from = static_cast<const T*>(data);
  for (int64_t r = 0; r < count; r++, from += stride, to += kWideRow) {
    int64_t k = 0;
    for (; k + 4 * W <= n; k += 4 * W) {
      for (int64_t line = 0; line < 4 * W; line += 64 / sizeof(T))
        __builtin_prefetch(reinterpret_cast<const char*>(from + k + line) + kAhead);
      for (int64_t i = 0; i < 4 * W; i += W) store(to + k + i, load(from + k + i));
    }
    for (; k < n; k += W) store_head(to + k, load_head(from + k, least(W, n - k)), least(W, n - k));
  }
}

// A panel of W's rows by a strip: two tiles of a full strip, or one of a strip of one vector.
static void few_tiles(const float* panel, const float* strip, int64_t depth, float* sums, int64_t stride, bool half,
                      bool first) {
  if (half) return tile_product<kFewPanel, 1, kWideRow, 1>(panel, strip, depth, sums, stride, W, first);
  for (int i = 0; i < 2; i++)
    tile_product<kTileRows, 2, kWideRow, 1>(panel + i * kTileRows * kWideRow, strip, depth,
                                            sums + i * kTileRows * stride, stride, kStrip, first);
}

static void linear_few(Context& context, const Linear& p, const Finish& finish) {
  const int64_t rows = p.x.shape[0], in = p.x.shape[1], features = p.weight.shape[0];
  const Operand x = operand(p.x), w = operand(p.weight);
  void (*widen)(const void*, int64_t, int64_t, int64_t, float*) = nullptr;
  with_float(p.weight.dtype, [&](auto kind) {
    using T = decltype(kind);
    widen = widen_rows<T>;
  });
  const int64_t lanes = ceil_div(rows, W) * W;
  float* const packed = scratch<float>(context, lanes * in);
  parallel_ranges(context, ceil_div(in, kFewDepth), grain_of(rows * kFewDepth), [&](int64_t begin, int64_t end, int) {
    for (int64_t k = begin * kFewDepth; k < least(in, end * kFewDepth); k += kFewDepth)
      for (int64_t r = 0; r < rows; r += kStrip) {
        const int64_t depth = least(kFewDepth, in - k);
        x.pack(x.at(r, k), x.stride, least(kStrip, rows - r), depth, least(kStrip, lanes - r),
               packed + k * lanes + r * depth);
      }
  });
  const int64_t panels = ceil_div(features, kFewPanel);
  const int64_t grain = most(1, least(kFewFeatures / kFewPanel, panels / (4 * context.threads)));
  const int64_t room = ceil_div(grain * kFewPanel, W) * W * lanes, each = room + kFewPanel * kWideRow;
  float* const buffers = scratch<float>(context, context.threads * each);
  parallel_ranges(context, panels, grain, [&](int64_t begin, int64_t end, int thread) {
    float* const sums = buffers + thread * each;
    float* const panel = sums + room;
    const int64_t f0 = begin * kFewPanel, f1 = least(features, end * kFewPanel);
    for (int64_t k0 = 0; k0 < in; k0 += kFewWidth)
      for (int64_t f = f0; f < f1; f += kFewPanel) {
        const int64_t width = least(kFewWidth, in - k0);
        widen(w.at(f, k0), w.stride, least(kFewPanel, f1 - f), width, panel);
        for (int64_t k = k0; k < k0 + width; k += kFewDepth)
          for (int64_t r = 0; r < lanes; r += kStrip) {
            const int64_t depth = least(kFewDepth, k0 + width - k);
            few_tiles(panel + k - k0, packed + k * lanes + r * depth, depth, sums + (f - f0) * lanes + r, lanes,
                      lanes - r == W, k == 0);
          }
      }
    for (int64_t f = f0; f < f1; f += W)
      for (int64_t r = 0; r < rows; r += W) {
        vf block[W];
        for (int i = 0; i < W; i++) block[i] = load(sums + (f - f0 + i) * lanes + r);
        transpose(block);
        for (int i = 0; i < least(W, rows - r); i++) finish.put(r + i, f, block[i], least(W, f1 - f));
      }
  });
}

static void linear_gemm(Context& context, const Linear& p, const Finish& finish) {
  const bool direct = p.out.dtype == DType::float32;
  const Gemm g{operand(p.x),      operand(p.weight), p.x.shape[0],
               p.weight.shape[0], p.x.shape[1],      direct ? floats(p.out) : nullptr,
               p.out.stride[0]};
  gemm(context, g, [&](int64_t row, int64_t height, int64_t feature, int64_t n, const float* sums, int64_t stride) {
    for (int64_t r = 0; r < height && !finish.nothing(); r++)
      for (int64_t f = 0; f < n; f += W)
        finish.put(row + r, feature + f, load_head(sums + r * stride + f, least(W, n - f)), least(W, n - f));
  });
}

static void linear_kernel(Context& context, const Problem& problem) {
  const auto& p = static_cast<const Linear&>(problem);
  const int64_t rows = p.x.shape[0], in = p.x.shape[1], features = p.weight.shape[0];
  const bool dot = rows <= 4 || (rows <= kDotRows && rows * in <= kDotElements), few = rows <= kFewRows;
  context.kernel = dot ? SEQMIX_KERNEL("linear.dot") : few ? SEQMIX_KERNEL("linear.few") : SEQMIX_KERNEL("linear.gemm");
  if (rows == 0 || features == 0) return;
  const Finish finish{p, widened(context, p.bias)};
  if (in == 0) {
    for (int64_t r = 0; r < rows; r++)
      for (int64_t f = 0; f < features; f += W) finish.put(r, f, set1(0), least(W, features - f));
    return;
  }
  if (dot) return linear_dot(context, p, finish);
  if (few) return linear_few(context, p, finish);
  linear_gemm(context, p, finish);
}
