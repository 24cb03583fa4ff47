// linear: out = act(x Wᵀ + bias) + residual. Rows of x and of W both run along the summed dimension, so a tile of 4 x 4
// results is 16 running dot products, each in one vector register; sums over more than 1024 elements go block by block.
// Floor: 2 rows in out operations; with few rows, the bytes of W.

constexpr int64_t kTile = 4;
constexpr int64_t kDepth = 1024;

// total[r][f] += Σ over [begin, end) of x[r] w[f], for R rows and F features.
template <int R, int F>
SEQMIX_VERB void dot_tile(const float* x, int64_t sx, const float* w, int64_t sw, int64_t begin, int64_t end,
                          float (&total)[kTile][kTile]) {
  vf acc[R][F];
  for (int r = 0; r < R; r++)
    for (int f = 0; f < F; f++) acc[r][f] = set1(0);
  int64_t k = begin;
  for (; k + W <= end; k += W) {
    vf b[F];
    for (int f = 0; f < F; f++) b[f] = load(w + f * sw + k);
    for (int r = 0; r < R; r++) {
      const vf a = load(x + r * sx + k);
      for (int f = 0; f < F; f++) acc[r][f] = fma(a, b[f], acc[r][f]);
    }
  }
  if (k < end)
    for (int f = 0; f < F; f++) {
      const vf b = load_head(w + f * sw + k, end - k);
      for (int r = 0; r < R; r++) acc[r][f] = fma(load_head(x + r * sx + k, end - k), b, acc[r][f]);
    }
  for (int r = 0; r < R; r++)
    for (int f = 0; f < F; f++) total[r][f] += sum(acc[r][f]);
}

using DotTile = void (*)(const float*, int64_t, const float*, int64_t, int64_t, int64_t, float (&)[kTile][kTile]);

template <int R, int F>
static void dot_tile_at(const float* x, int64_t sx, const float* w, int64_t sw, int64_t begin, int64_t end,
                        float (&total)[kTile][kTile]) {
  dot_tile<R, F>(x, sx, w, sw, begin, end, total);
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

static void linear_kernel(Context& context, const Problem& problem) {
  const auto& p = static_cast<const Linear&>(problem);
  context.kernel = SEQMIX_KERNEL("linear");
  const int64_t rows = p.x.shape[0], in = p.x.shape[1], features = p.weight.shape[0];
  const int64_t sx = p.x.stride[0], sw = p.weight.stride[0];
  const int64_t row_block = 32, feature_block = rows <= kTile ? 16 : 64;
  const int64_t across = ceil_div(features, feature_block);
  parallel_for(context, ceil_div(rows, row_block) * across, [&](int64_t item, int) {
    const int64_t r0 = item / across * row_block, r1 = least(rows, r0 + row_block);
    const int64_t f0 = item % across * feature_block, f1 = least(features, f0 + feature_block);
    for (int64_t r = r0; r < r1; r += kTile)
      for (int64_t f = f0; f < f1; f += kTile) {
        const int64_t nr = least(kTile, r1 - r), nf = least(kTile, f1 - f);
        float total[kTile][kTile] = {};
        for (int64_t k = 0; k < in; k += kDepth)
          dot_tiles[nr - 1][nf - 1](floats(p.x) + r * sx, sx, floats(p.weight) + f * sw, sw, k, least(in, k + kDepth),
                                    total);
        for (int64_t i = 0; i < nr; i++) finish_linear(p, r + i, f, load_head(total[i], nf), nf);
      }
  });
}
