// The products inside ssdChunkScan's chunked and quadratic forms, in register tiles of kSsdRows rows by a strip (14 x
// 32 with AVX-512, 6 x 16 with AVX2), a fused multiply-add for each vector and broadcast. Left operands lie as panels
// (summed dimension, rows of the tile) or, the weights, as rows; right ones as strips (summed dimension, strip). Rows
// are cut evenly, so that no tile is much smaller than the others. Loops over a tile's registers are unrolled by
// request: left alone, GCC unrolls them so late that it keeps the tile in memory between one phase and the next.

constexpr int kSsdRows = W == 16 ? 14 : W == 8 ? 6 : 4;
static_assert(kSsdRows <= W, "a vector holds a row of a panel");
constexpr int64_t kSsdPitch = kSsdTokens + 16;  // of rows of weights

// `rows` cut into as few tiles as can be.
struct SsdPanels {
  int64_t rows, count;
  SEQMIX_VERB explicit SsdPanels(int64_t n) : rows(n), count(ceil_div(n, kSsdRows)) {}
  SEQMIX_VERB int64_t begin(int64_t i) const { return i * rows / count; }
  SEQMIX_VERB int64_t size(int64_t i) const { return begin(i + 1) - begin(i); }
};

// acc += a panel (depth, R) by V vectors of a strip (depth, strip).
template <int R, int V>
SEQMIX_VERB void ssd_multiply(vf (&acc)[R][V], const float* panel, const float* strip, int64_t depth) {
  for (int64_t k = 0; k < depth; k++) {
    vf w[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; v++) w[v] = load(strip + v * W);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      const vf a = set1(panel[r]);
#pragma GCC unroll 16
      for (int v = 0; v < V; v++) acc[r][v] = fma(a, w[v], acc[r][v]);
    }
    panel += R;
    strip += kSsdStrip;
  }
}

template <int R, int V>
static void ssd_product_tile(const float* panel, const float* strip, int64_t depth, float* to, int64_t stride) {
  vf acc[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 16
    for (int v = 0; v < V; v++) acc[r][v] = set1(0);
  ssd_multiply<R, V>(acc, panel, strip, depth);
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 16
    for (int v = 0; v < V; v++) store(to + r * stride + v * W, acc[r][v]);
}

// What a state before some tokens becomes by their end: see the steps of ssd_recurrent.h.
struct SsdCarry {
  float e = 0;
  SsdStep step = kSsdPlain;
  bool fresh = false;  // there was none

  SsdCarry() = default;
  SEQMIX_VERB SsdCarry(float a, bool is_fresh) : fresh(is_fresh) {
    const bool slow = a > -0.34f && a < 0.34f, steep = a > 80;
    const vf v = set1(a), half = min(set1(3e38f), exp(v * set1(0.5f)));
    float lanes[W];
    store(lanes, slow ? expm1_near(v) : steep ? half : exp(v));
    e = lanes[0];
    step = slow ? kSsdSlow : steep ? kSsdSteep : kSsdPlain;
  }
  SEQMIX_VERB vf carried(vf state, vf more) const {
    if (fresh) return more;
    const vf factor = set1(e);
    if (step == kSsdSlow) return carried<kSsdSlow>(factor, state, more);
    return step == kSsdSteep ? carried<kSsdSteep>(factor, state, more) : carried<kSsdPlain>(factor, state, more);
  }
  template <SsdStep S>
  SEQMIX_VERB static vf carried(vf factor, vf state, vf more) {
    if (S == kSsdSlow) return fma(factor, state, state + more);
    return fma(factor, S == kSsdSteep ? factor * state : state, more);
  }
};

template <int R, int V, SsdStep S>
SEQMIX_VERB void ssd_carry_tile(const vf (&more)[R][V], float factor, float* state) {
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 16
    for (int v = 0; v < V; v++) {
      float* const at = state + r * kSsdStrip + v * W;
      store(at, SsdCarry::carried<S>(set1(factor), load(at), more[r][v]));
    }
}

// R states of V vectors of channels: carried on, plus a panel of B by a strip of weighted x.
template <int R, int V>
static void ssd_update_tile(const float* panel, const float* strip, int64_t depth, float* state,
                            const SsdCarry& carry) {
  vf acc[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 16
    for (int v = 0; v < V; v++) acc[r][v] = set1(0);
  ssd_multiply<R, V>(acc, panel, strip, depth);
  if (carry.fresh) {
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
      for (int v = 0; v < V; v++) store(state + r * kSsdStrip + v * W, acc[r][v]);
  } else if (carry.step == kSsdPlain) {
    ssd_carry_tile<R, V, kSsdPlain>(acc, carry.e, state);
  } else if (carry.step == kSsdSlow) {
    ssd_carry_tile<R, V, kSsdSlow>(acc, carry.e, state);
  } else {
    ssd_carry_tile<R, V, kSsdSteep>(acc, carry.e, state);
  }
}

// R tokens' y of V vectors of channels.
struct SsdOutputs {
  const float* c;        // a panel (n, R)
  const float* state;    // a strip (n, strip), or null where no state comes in
  int64_t n;             //
  const float* decay;    // e^{a_i} for the R tokens
  const float* weights;  // of x, R rows, kSsdPitch apart
  const float* x;        // (tokens, strip)
  int64_t before;        // tokens of x that all R see
  bool own;              // after them come the R tokens themselves, each of which sees those up to itself
  bool add;              // to what y holds
  float* y;              // (R, strip)
};

// The J-th of the tile's tokens, as it is seen by itself and later ones.
template <int R, int V, int J>
SEQMIX_VERB void ssd_column(vf (&acc)[R][V], const float* weights, const float* x) {
  vf w[V];
#pragma GCC unroll 16
  for (int v = 0; v < V; v++) w[v] = load(x + J * kSsdStrip + v * W);
#pragma GCC unroll 16
  for (int r = J; r < R; r++) {
    const vf a = set1(weights[r * kSsdPitch + J]);
#pragma GCC unroll 16
    for (int v = 0; v < V; v++) acc[r][v] = fma(a, w[v], acc[r][v]);
  }
}
template <int R, int V, int... J>
SEQMIX_VERB void ssd_triangle(vf (&acc)[R][V], const float* weights, const float* x, std::integer_sequence<int, J...>) {
  (ssd_column<R, V, J>(acc, weights, x), ...);
}

template <int R, int V>
static void ssd_output_tile(const SsdOutputs& t) {
  vf acc[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 16
    for (int v = 0; v < V; v++) acc[r][v] = set1(0);
  if (t.state) {
    ssd_multiply<R, V>(acc, t.c, t.state, t.n);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
      for (int v = 0; v < V; v++) acc[r][v] = acc[r][v] * set1(t.decay[r]);
  }
  const float *g = t.weights, *x = t.x;
  for (int64_t k = 0; k < t.before; k++, g++, x += kSsdStrip) {
    vf w[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; v++) w[v] = load(x + v * W);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      const vf a = set1(g[r * kSsdPitch]);
#pragma GCC unroll 16
      for (int v = 0; v < V; v++) acc[r][v] = fma(a, w[v], acc[r][v]);
    }
  }
  if (t.own) ssd_triangle<R, V>(acc, g, x, std::make_integer_sequence<int, R>());
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 16
    for (int v = 0; v < V; v++) {
      float* const at = t.y + r * kSsdStrip + v * W;
      store(at, t.add ? load(at) + acc[r][v] : acc[r][v]);
    }
}

// The tiles of each size: [rows - 1][vectors - 1].
template <class>
struct SsdTiles;
template <int... R>
struct SsdTiles<std::integer_sequence<int, R...>> {
  using Product = void (*)(const float*, const float*, int64_t, float*, int64_t);
  using Update = void (*)(const float*, const float*, int64_t, float*, const SsdCarry&);
  using Output = void (*)(const SsdOutputs&);
  static constexpr Product product[][2] = {{ssd_product_tile<R + 1, 1>, ssd_product_tile<R + 1, 2>}...};
  static constexpr Update update[][2] = {{ssd_update_tile<R + 1, 1>, ssd_update_tile<R + 1, 2>}...};
  static constexpr Output output[][2] = {{ssd_output_tile<R + 1, 1>, ssd_output_tile<R + 1, 2>}...};
};
using SsdTile = SsdTiles<std::make_integer_sequence<int, kSsdRows>>;
