// selective_scan: h = exp(Δ A) h + Δ B u, y = C·h + D u, out = y silu(z), token after token, for each channel and
// state.
//
// A thread owns W channels of one group, a channel a lane, and takes the sequence in tiles of 64 tokens. Per tile: Δ,
// Δu and u come into a channels-last tile (tile.h), softplus done; then the states, eight at a time, run through the
// tile with their h and A in registers, B and C broadcast from rows that hold a token's states side by side, and y
// gathered in the tile; then y gets D u and the gate and goes out. Nothing is summed across lanes. A is scaled by log2
// e, so that the decay is one exp2: 2^k p(f) with f = t - k in [-1/2, 1/2] and p(0) = 1, degree 5.
//
// Floor: about a dozen vector operations for W states; bytes are far from it (n = 16: 16 bytes for 16 states).

constexpr int64_t kTokens = 64;

// 2^t, exactly 1 at 0, absolute error 9e-8 at the ends of f's interval and vanishing towards its middle; down to 0, and
// up to the largest float: an infinite factor would make NaN of a state that is still 0. NaN stays.
SEQMIX_VERB vf decay(vf t) {
  t = max(set1(-200.0f), min(set1(127.99999f), t));
  const vf k = round(t), f = t - k;
  vf q = set1(1.3407259155e-3f);
  q = fma(q, f, set1(9.6718752073e-3f));
  q = fma(q, f, set1(5.5503083620e-2f));
  q = fma(q, f, set1(2.4022234622e-1f));
  q = fma(q, f, set1(6.9314721491e-1f));
  return scale(fma(q, f, set1(1.0f)), k);
}

// Where B or C of the tile's token t and state j is: one number for all channels, or (constant B or C) a vector.
struct Rows {
  const float* at;
  int64_t stride;
  SEQMIX_VERB vf get(int64_t t, int64_t j) const { return set1(at[t * stride + j]); }
};
struct Columns {
  const float* at;
  SEQMIX_VERB vf get(int64_t, int64_t j) const { return load(at + j * W); }
};

// One thread's memory. States are padded with zeros to a multiple of 4: they stay 0 and add nothing.
struct ScanTile {
  float *delta, *du, *u, *y;  // (kTokens, W)
  float *a, *h;               // (states, W)
  float *b, *c;               // (kTokens, states), or (states, W) when constant
  static int64_t size(int64_t states) {
    return 4 * kTokens * W + 2 * states * W + 2 * states * (kTokens > W ? kTokens : W);
  }
  ScanTile(float* memory, int64_t states) {
    float** const parts[] = {&delta, &du, &u, &y};
    for (float** const part : parts) {
      *part = memory;
      memory += kTokens * W;
    }
    a = memory;
    h = a + states * W;
    b = h + states * W;
    c = b + states * (kTokens > W ? kTokens : W);
  }
};

// S states from j on through tokens [t0, t1).
template <int S, class B, class C>
inline void scan_states(const ScanTile& tile, const B& b, const C& c, int64_t j, int64_t t0, int64_t t1) {
  vf h[S], a[S];
  for (int s = 0; s < S; s++) {
    h[s] = load(tile.h + (j + s) * W);
    a[s] = load(tile.a + (j + s) * W);
  }
  for (int64_t t = t0; t < t1; t++) {
    const vf delta = load(tile.delta + t * W), du = load(tile.du + t * W);
    vf y = j ? load(tile.y + t * W) : set1(0), y2 = set1(0);
    for (int s = 0; s < S; s++) {
      h[s] = fma(decay(delta * a[s]), h[s], du * b.get(t, j + s));
      if (s & 1)
        y2 = fma(h[s], c.get(t, j + s), y2);
      else
        y = fma(h[s], c.get(t, j + s), y);
    }
    store(tile.y + t * W, y + y2);
  }
  for (int s = 0; s < S; s++) store(tile.h + (j + s) * W, h[s]);
}

template <class B, class C>
inline void scan_tokens(const ScanTile& tile, const B& b, const C& c, int64_t states, int64_t t0, int64_t t1) {
  int64_t j = 0;
  for (; j + 8 <= states; j += 8) scan_states<8>(tile, b, c, j, t0, t1);
  if (j < states) scan_states<4>(tile, b, c, j, t0, t1);
}

// A token's states of B or C side by side: where they lie so in memory, there; else copied into `packed`, padded.
SEQMIX_VERB Rows scan_rows(const View& v, int64_t b, int64_t group, int64_t t0, int64_t tokens, int64_t n,
                           int64_t states, float* packed) {
  const float* const from = floats(v) + b * v.stride[0] + group * v.stride[1] + t0 * v.stride[3];
  if (v.stride[2] == 1 && n == states) return {from, v.stride[3]};
  for (int64_t j = 0; j < states; j += W) {
    float block[kTokens * W];
    const int64_t count = most(0, least(W, n - j)), wanted = least(W, states - j);
    load_tile(from + j * v.stride[2], v.stride[2], v.stride[3], count, tokens, block);
    for (int64_t t = 0; t < tokens; t++) store_head(packed + t * states + j, load(block + t * W), wanted);
  }
  return {packed, states};
}

// (d, n): n vectors of the block's channels, `factor` times, padded with zeros.
SEQMIX_VERB void scan_columns(const View& v, int64_t c, int64_t count, int64_t n, int64_t states, float factor,
                              float* to) {
  for (int64_t j = 0; j < states; j++) {
    vf x = set1(0);
    if (j < n) x = gather(floats(v) + c * v.stride[0] + j * v.stride[1], v.stride[0], count);
    store(to + j * W, x * set1(factor));
  }
}

struct ScanBlock {
  int64_t b, c, count;  // batch row, first channel, channels
};

// Channels that share a group's B or C; a constant one sets no bounds.
SEQMIX_VERB int64_t channels_of(const View& v, int64_t d) { return v.rank == 4 ? d / v.shape[1] : d; }

SEQMIX_VERB int64_t common_divisor(int64_t a, int64_t b) {
  while (b) {
    const int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

// Δ, Δu and u of tokens [t0, t0 + tokens).
SEQMIX_VERB void scan_inputs(const SelectiveScan& p, const ScanBlock& at, int64_t t0, int64_t tokens,
                             const ScanTile& tile) {
  const View &u = p.u, &delta = p.delta;
  load_tile(floats(delta) + at.b * delta.stride[0] + at.c * delta.stride[1] + t0 * delta.stride[2], delta.stride[1],
            delta.stride[2], at.count, tokens, tile.delta);
  load_tile(floats(u) + at.b * u.stride[0] + at.c * u.stride[1] + t0 * u.stride[2], u.stride[1], u.stride[2], at.count,
            tokens, tile.u);
  const vf bias = channels(p.delta_bias, at.c, at.count, 0);
  for (int64_t t = 0; t < tokens; t++) {
    vf v = load(tile.delta + t * W) + bias;
    if (p.delta_softplus) v = softplus(v);
    store(tile.delta + t * W, v);
    store(tile.du + t * W, v * load(tile.u + t * W));
  }
}

SEQMIX_VERB void scan_outputs(const SelectiveScan& p, const ScanBlock& at, int64_t t0, int64_t tokens,
                              const ScanTile& tile) {
  const vf skip = channels(p.D, at.c, at.count, 0);
  if (p.D.present)
    for (int64_t t = 0; t < tokens; t++) store(tile.y + t * W, fma(skip, load(tile.u + t * W), load(tile.y + t * W)));
  if (p.z.present) {
    load_tile(floats(p.z) + at.b * p.z.stride[0] + at.c * p.z.stride[1] + t0 * p.z.stride[2], p.z.stride[1],
              p.z.stride[2], at.count, tokens, tile.u);
    for (int64_t t = 0; t < tokens; t++) store(tile.y + t * W, load(tile.y + t * W) * silu(load(tile.u + t * W)));
  }
  store_tile(floats(p.out) + at.b * p.out.stride[0] + at.c * p.out.stride[1] + t0 * p.out.stride[2], p.out.stride[1],
             p.out.stride[2], at.count, tokens, tile.y);
}

// The states through one tile, from 0 again wherever the sequence number changes.
SEQMIX_VERB void scan_tile(const SelectiveScan& p, const ScanBlock& at, int64_t t0, int64_t tokens, int64_t states,
                           const ScanTile& tile) {
  const int64_t d = p.A.shape[0], n = p.A.shape[1];
  const bool fixed_b = p.B.rank == 2, fixed_c = p.C.rank == 2;
  Rows rows_b{}, rows_c{};
  if (!fixed_b) rows_b = scan_rows(p.B, at.b, at.c / channels_of(p.B, d), t0, tokens, n, states, tile.b);
  if (!fixed_c) rows_c = scan_rows(p.C, at.b, at.c / channels_of(p.C, d), t0, tokens, n, states, tile.c);
  int64_t begin = 0;
  while (begin < tokens) {
    int64_t end = tokens;
    if (p.seq_idx.present) {
      const int32_t* const s = ints(p.seq_idx) + at.b * p.seq_idx.stride[0];
      const int64_t step = p.seq_idx.stride[1];
      end = begin + 1;
      while (end < tokens && s[(t0 + end) * step] == s[(t0 + end - 1) * step]) end++;
      const int64_t t = t0 + begin;
      if (t > 0 && s[t * step] != s[(t - 1) * step])
        for (int64_t j = 0; j < states; j++) store(tile.h + j * W, set1(0));
    }
    if (fixed_b && fixed_c)
      scan_tokens(tile, Columns{tile.b}, Columns{tile.c}, states, begin, end);
    else if (fixed_b)
      scan_tokens(tile, Columns{tile.b}, rows_c, states, begin, end);
    else if (fixed_c)
      scan_tokens(tile, rows_b, Columns{tile.c}, states, begin, end);
    else
      scan_tokens(tile, rows_b, rows_c, states, begin, end);
    begin = end;
  }
  if (states == 0)
    for (int64_t t = 0; t < tokens; t++) store(tile.y + t * W, set1(0));
}

inline void scan_block(const SelectiveScan& p, const ScanBlock& at, int64_t states, const ScanTile& tile) {
  const int64_t n = p.A.shape[1], L = p.u.shape[2];
  scan_columns(p.A, at.c, at.count, n, states, 1.44269504f, tile.a);
  if (p.B.rank == 2) scan_columns(p.B, at.c, at.count, n, states, 1, tile.b);
  if (p.C.rank == 2) scan_columns(p.C, at.c, at.count, n, states, 1, tile.c);
  const View &first = p.initial_state, &last = p.last_state;
  for (int64_t j = 0; j < states; j++) {
    vf h = set1(0);
    if (first.present && j < n)
      h = gather(floats(first) + at.b * first.stride[0] + at.c * first.stride[1] + j * first.stride[2], first.stride[1],
                 at.count);
    store(tile.h + j * W, h);
  }
  for (int64_t t = 0; t < L; t += kTokens) {
    const int64_t tokens = least(kTokens, L - t);
    scan_inputs(p, at, t, tokens, tile);
    scan_tile(p, at, t, tokens, states, tile);
    scan_outputs(p, at, t, tokens, tile);
  }
  if (last.present)
    for (int64_t j = 0; j < n; j++)
      scatter(floats(last) + at.b * last.stride[0] + at.c * last.stride[1] + j * last.stride[2], last.stride[1],
              load(tile.h + j * W), at.count);
}

static void selective_scan_kernel(Context& context, const Problem& problem) {
  const auto& p = static_cast<const SelectiveScan&>(problem);
  const int64_t batch = p.u.shape[0], d = p.u.shape[1], L = p.u.shape[2], n = p.A.shape[1];
  context.kernel =
      p.u.stride[1] == 1 && d > 1 ? SEQMIX_KERNEL("selective_scan.bld") : SEQMIX_KERNEL("selective_scan.bdl");
  if (batch == 0 || d == 0) return;
  const int64_t states = ceil_div(n, 4) * 4;
  // A block lies in one group of B and in one of C, which may have different numbers of groups.
  const int64_t members = common_divisor(channels_of(p.B, d), channels_of(p.C, d)), blocks = ceil_div(members, W);
  const int64_t units = d / members;
  const int64_t size = ceil_div(ScanTile::size(states), 16) * 16;
  float* const memory = scratch<float>(context, size * context.threads);
  parallel_ranges(context, batch * units * blocks, grain_of(least(L, 1 << 20) * W * (n + 8)),
                  [&](int64_t begin, int64_t end, int thread) {
                    const ScanTile tile(memory + thread * size, states);
                    for (int64_t i = begin; i < end; i++) {
                      const int64_t inside = i % blocks * W, c = i / blocks % units * members + inside;
                      scan_block(p, {i / blocks / units, c, least(W, members - inside)}, states, tile);
                    }
                  });
}
