// linear: out = act(x Wᵀ + bias) + residual. Many rows go through the packed product of gemm.h. Up to 32 rows are dot
// products as they lie in memory, where both run along the summed dimension: a tile of 4 x 4 results is 16 running
// sums, each a vector, over at most 1024 elements at a time; W passes through once, a tile of it against all rows.
// Floor: 2 rows in out operations; with few rows, the bytes of W.

constexpr int64_t kDotRows = 32;  // more rows than these are worth packing
constexpr int64_t kTile = 4;
constexpr int64_t kDepth = 1024;

// total[r][f] += Σ of x[r] w[f] over `depth` elements, for R rows and F features.
template <int R, int F>
SEQMIX_VERB void dot_tile(const float* x, int64_t sx, const float* w, int64_t sw, int64_t depth,
                          float (&total)[kTile][kTile]) {
  vf acc[R][F];
  for (int r = 0; r < R; r++)
    for (int f = 0; f < F; f++) acc[r][f] = set1(0);
  int64_t k = 0;
  for (; k + W <= depth; k += W) {
    vf b[F];
    for (int f = 0; f < F; f++) b[f] = load(w + f * sw + k);
    for (int r = 0; r < R; r++) {
      const vf a = load(x + r * sx + k);
      for (int f = 0; f < F; f++) acc[r][f] = fma(a, b[f], acc[r][f]);
    }
  }
  if (k < depth)
    for (int f = 0; f < F; f++) {
      const vf b = load_head(w + f * sw + k, depth - k);
      for (int r = 0; r < R; r++) acc[r][f] = fma(load_head(x + r * sx + k, depth - k), b, acc[r][f]);
    }
  for (int r = 0; r < R; r++)
    for (int f = 0; f < F; f++) total[r][f] += sum(acc[r][f]);
}

using DotTile = void (*)(const float*, int64_t, const float*, int64_t, int64_t, float (&)[kTile][kTile]);

template <int R, int F>
static void dot_tile_at(const float* x, int64_t sx, const float* w, int64_t sw, int64_t depth,
                        float (&total)[kTile][kTile]) {
  dot_tile<R, F>(x, sx, w, sw, depth, total);
}

static const DotTile dot_tiles[kTile][kTile] = {
    {dot_tile_at<1, 1>, dot_tile_at<1, 2>, dot_tile_at<1, 3>, dot_tile_at<1, 4>},
    {dot_tile_at<2, 1>, dot_tile_at<2, 2>, dot_tile_at<2, 3>, dot_tile_at<2, 4>},
    {dot_tile_at<3, 1>, dot_tile_at<3, 2>, dot_tile_at<3, 3>, dot_tile_at<3, 4>},
    {dot_tile_at<4, 1>, dot_tile_at<4, 2>, dot_tile_at<4, 3>, dot_tile_at<4, 4>},
};

// bias, activation and residual for up to W results of one row.
SEQMIX_VERB void finish_linear(const Linear& p, int64_t row, int64_t feature, vf v, int64_t n) {
  if (p.bias.present) v = v + channels(p.bias, feature, n, 0);
  if (p.activation == Activation::silu) v = silu(v);
  if (p.residual.present) v = v + load_head(floats(p.residual) + row * p.residual.stride[0] + feature, n);
  store_head(floats(p.out) + row * p.out.stride[0] + feature, v, n);
}

static void linear_rows(Context& context, const Linear& p) {
  const int64_t rows = p.x.shape[0], in = p.x.shape[1], features = p.weight.shape[0];
  const int64_t sx = p.x.stride[0], sw = p.weight.stride[0];
  const int64_t grain = ceil_div(grain_of(most(1, rows * in) / 4), kTile) * kTile;
  parallel_ranges(context, features, grain, [&](int64_t f0, int64_t f1, int) {
    for (int64_t f = f0; f < f1; f += kTile)
      for (int64_t r = 0; r < rows; r += kTile) {
        const int64_t nr = least(kTile, rows - r), nf = least(kTile, f1 - f);
        float total[kTile][kTile] = {};
        for (int64_t k = 0; k < in; k += kDepth)
          dot_tiles[nr - 1][nf - 1](floats(p.x) + r * sx + k, sx, floats(p.weight) + f * sw + k, sw,
                                    least(kDepth, in - k), total);
        for (int64_t i = 0; i < nr; i++) finish_linear(p, r + i, f, load_head(total[i], nf), nf);
      }
  });
}

static void linear_kernel(Context& context, const Problem& problem) {
  const auto& p = static_cast<const Linear&>(problem);
  const int64_t rows = p.x.shape[0], in = p.x.shape[1], features = p.weight.shape[0];
  const bool few = rows <= kDotRows || in == 0;
  context.kernel = few ? SEQMIX_KERNEL("linear.rows") : SEQMIX_KERNEL("linear.gemm");
  if (rows == 0 || features == 0) return;
  if (few) return linear_rows(context, p);
  const Gemm g{floats(p.x), floats(p.weight), floats(p.out), p.x.stride[0], p.weight.stride[0], p.out.stride[0], rows,
               in,          features};
  const bool plain = !p.bias.present && p.activation == Activation::none && !p.residual.present;
  gemm(context, g, [&](int64_t r0, int64_t r1, int64_t f0, int64_t f1) {
    for (int64_t r = r0; r < r1 && !plain; r++)
      for (int64_t f = f0; f < f1; f += W) {
        const int64_t n = least(W, f1 - f);
        finish_linear(p, r, f, load_head(g.out + r * g.so + f, n), n);
      }
  });
}
