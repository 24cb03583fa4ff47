// selective_scan: h = exp(Δ A) h + Δ B u, y = C·h + D u, out = y silu(z), token after token, for each channel and
// state.
//
// A thread owns blocks of W channels of one group, a channel a lane, and takes the sequence in tiles of 64 tokens. Per
// tile: Δ, Δu and u come into a channels-last tile (tile.h), softplus done; then the states, eight at a time, run
// through the tile with their h and A in registers, B and C broadcast from rows that hold a token's states side by
// side, and y gathered in the tile; then y gets D u and the gate and goes out. Nothing is summed across lanes. A is
// scaled by log2 e, so that the decay is one exp2: 2^k p(f) with f = t - k in [-1/2, 1/2] and p(0) = 1, degree 5.
//
// Floor: about a dozen vector operations for W states; bytes are far from it (n = 16: 16 bytes for 16 states).

constexpr int64_t kTokens = 64;

// (2^f - 1) / f for f in [-1/2, 1/2], so that f times it is 2^f - 1 to 9e-8 at the ends and to rounding near 0.
SEQMIX_VERB vf growth(vf f) {
  vf q = set1(1.3407259155e-3f);
  q = fma(q, f, set1(9.6718752073e-3f));
  q = fma(q, f, set1(5.5503083620e-2f));
  q = fma(q, f, set1(2.4022234622e-1f));
  return fma(q, f, set1(6.9314721491e-1f));
}

// One step of a state: 2^t h + x. NaN stays. Damped, for t <= 0, never rounds 2^t itself, since near t = 0 such a
// rounding, repeated over thousands of steps, is what accuracy would be lost to: with g = 2^k h, exact, it is
// (g + x) + g (2^f - 1). Free, for any t, gives infinity where float32 ends, and not the NaN of a difference of two.
struct Damped {
  SEQMIX_VERB static vf step(vf t, vf h, vf x) {
    t = damping(t);
    const vf k = round(t), f = t - k, g = damped(h, k);
    return fma(g, growth(f) * f, g + x);
  }
};
struct Free {
  SEQMIX_VERB static vf step(vf t, vf h, vf x) {
    t = max(set1(-250.0f), min(set1(250.0f), t));
    const vf k = round(t), f = t - k;
    return fma(scale(h, k), fma(growth(f), f, set1(1.0f)), x);
  }
};

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

// The next tile's lines of one operand, one for each token of this tile: W rows side by side, or a row a token.
struct Ahead {
  const float* from = nullptr;
  int64_t row = 0, column = 0;
  Ahead() = default;
  Ahead(const View& v, int64_t b, int64_t c, int64_t t)
      : from(floats(v) + b * v.stride[0] + c * v.stride[1] + t * v.stride[2]) {
    row = v.stride[2] == 1 ? v.stride[1] : v.stride[2];
    column = v.stride[2] == 1 ? W : v.stride[2] * W;
  }
  SEQMIX_VERB const float* line(int64_t t) const { return from + t % W * row + t / W * column; }
};

// W channels of one batch row. States are padded with zeros to a multiple of 4: they stay 0 and add nothing.
struct ScanBlock {
  int64_t batch, channel, count;  // where, and how many of the W channels there are
  bool decays;                    // no A is positive
  float *a, *h, *b, *c;           // (states, W): A log2 e, the states, and B and C where they are constant
};

// What a thread works on: one tile of one block.
struct ScanTile {
  float *delta, *du, *u, *y;  // (kTokens, W)
  float *b, *c;               // (kTokens, states): room for a tile of B and C
  Rows rows_b, rows_c;        // the tile's B and C, there or where they lie
  bool damped;                // no Δ A of the tile is positive
  Ahead ahead[4];             // u, delta, z and out of what comes next, if anything
};

constexpr int64_t kBlocks = 8;  // of a thread at a time

// One thread's memory, in floats.
SEQMIX_VERB int64_t scan_memory(int64_t states) {
  return (4 * W + 2 * (ceil_div(states, 16) * 16)) * kTokens + kBlocks * 4 * states * W;
}

// S states from j on through tokens [t0, t1).
template <class Step, int S, class B, class C>
inline void scan_states(const ScanBlock& at, const ScanTile& tile, const B& b, const C& c, int64_t j, int64_t t0,
                        int64_t t1) {
  vf h[S], a[S];
  for (int s = 0; s < S; s++) {
    h[s] = load(at.h + (j + s) * W);
    a[s] = load(at.a + (j + s) * W);
  }
  for (int64_t t = t0; t < t1; t++) {
    const vf delta = load(tile.delta + t * W), du = load(tile.du + t * W);
    if (j == 0 && tile.ahead[0].from) {
      for (int i = 0; i < 3; i++) __builtin_prefetch(tile.ahead[i].line(t));
      __builtin_prefetch(tile.ahead[3].line(t), 1);
    }
    vf y = j ? load(tile.y + t * W) : set1(0), y2 = set1(0);
    for (int s = 0; s < S; s++) {
      h[s] = Step::step(delta * a[s], h[s], du * b.get(t, j + s));
      if (s & 1)
        y2 = fma(h[s], c.get(t, j + s), y2);
      else
        y = fma(h[s], c.get(t, j + s), y);
    }
    store(tile.y + t * W, y + y2);
  }
  for (int s = 0; s < S; s++) store(at.h + (j + s) * W, h[s]);
}

template <class B, class C>
inline void scan_tokens(const ScanBlock& at, const ScanTile& tile, const B& b, const C& c, int64_t states, int64_t t0,
                        int64_t t1) {
  int64_t j = 0;
  if (tile.damped) {
    for (; j + 8 <= states; j += 8) scan_states<Damped, 8>(at, tile, b, c, j, t0, t1);
    if (j < states) scan_states<Damped, 4>(at, tile, b, c, j, t0, t1);
  } else {
    for (; j < states; j += 4) scan_states<Free, 4>(at, tile, b, c, j, t0, t1);
  }
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

SEQMIX_VERB float* scan_at(const View& v, const ScanBlock& at, int64_t t) {
  return floats(v) + at.batch * v.stride[0] + at.channel * v.stride[1] + t * v.stride[2];
}

// Δ, Δu and u of tokens [t0, t0 + tokens).
SEQMIX_VERB void scan_inputs(const SelectiveScan& p, const ScanBlock& at, int64_t t0, int64_t tokens, ScanTile& tile) {
  const View &u = p.u, &delta = p.delta;
  load_tile(scan_at(delta, at, t0), delta.stride[1], delta.stride[2], at.count, tokens, tile.delta);
  load_tile(scan_at(u, at, t0), u.stride[1], u.stride[2], at.count, tokens, tile.u);
  const vf bias = channels(p.delta_bias, at.channel, at.count, 0);
  vf lowest = set1(0);
  for (int64_t t = 0; t < tokens; t++) {
    vf v = load(tile.delta + t * W) + bias;
    if (p.delta_softplus) v = softplus(v);
    lowest = min(v, lowest);
    store(tile.delta + t * W, v);
    store(tile.du + t * W, v * load(tile.u + t * W));
  }
  tile.damped = at.decays && !any(less(lowest, set1(0)));
}

SEQMIX_VERB void scan_outputs(const SelectiveScan& p, const ScanBlock& at, int64_t t0, int64_t tokens,
                              const ScanTile& tile) {
  const vf skip = channels(p.D, at.channel, at.count, 0);
  if (p.D.present)
    for (int64_t t = 0; t < tokens; t++) store(tile.y + t * W, fma(skip, load(tile.u + t * W), load(tile.y + t * W)));
  if (p.z.present) {
    load_tile(scan_at(p.z, at, t0), p.z.stride[1], p.z.stride[2], at.count, tokens, tile.u);
    for (int64_t t = 0; t < tokens; t++) store(tile.y + t * W, load(tile.y + t * W) * silu(load(tile.u + t * W)));
  }
  store_tile(scan_at(p.out, at, t0), p.out.stride[1], p.out.stride[2], at.count, tokens, tile.y);
}

// The states through one tile, from 0 again wherever the sequence number changes.
SEQMIX_VERB void scan_tile(const SelectiveScan& p, const ScanBlock& at, int64_t t0, int64_t tokens, int64_t states,
                           const ScanTile& tile) {
  const bool fixed_b = p.B.rank == 2, fixed_c = p.C.rank == 2;
  int64_t begin = 0;
  while (begin < tokens) {
    int64_t end = tokens;
    if (p.seq_idx.present) {
      const int32_t* const s = ints(p.seq_idx) + at.batch * p.seq_idx.stride[0];
      const int64_t step = p.seq_idx.stride[1];
      end = begin + 1;
      while (end < tokens && s[(t0 + end) * step] == s[(t0 + end - 1) * step]) end++;
      const int64_t t = t0 + begin;
      if (t > 0 && s[t * step] != s[(t - 1) * step])
        for (int64_t j = 0; j < states; j++) store(at.h + j * W, set1(0));
    }
    if (fixed_b && fixed_c)
      scan_tokens(at, tile, Columns{at.b}, Columns{at.c}, states, begin, end);
    else if (fixed_b)
      scan_tokens(at, tile, Columns{at.b}, tile.rows_c, states, begin, end);
    else if (fixed_c)
      scan_tokens(at, tile, tile.rows_b, Columns{at.c}, states, begin, end);
    else
      scan_tokens(at, tile, tile.rows_b, tile.rows_c, states, begin, end);
    begin = end;
  }
  if (states == 0)
    for (int64_t t = 0; t < tokens; t++) store(tile.y + t * W, set1(0));
}

SEQMIX_VERB void scan_begin(const SelectiveScan& p, ScanBlock& at, int64_t states) {
  const int64_t n = p.A.shape[1];
  scan_columns(p.A, at.channel, at.count, n, states, 1.44269504f, at.a);
  vf highest_a = set1(0);
  for (int64_t j = 0; j < states; j++) {
    // finite, so that Δ A is: an A of -exp(100) is a decay to 0 and not a NaN
    const vf a = max(set1(-1e30f), min(set1(1e30f), load(at.a + j * W)));
    highest_a = max(a, highest_a);
    store(at.a + j * W, a);
  }
  at.decays = !any(less(set1(0), highest_a));
  if (p.B.rank == 2) scan_columns(p.B, at.channel, at.count, n, states, 1, at.b);
  if (p.C.rank == 2) scan_columns(p.C, at.channel, at.count, n, states, 1, at.c);
  for (int64_t j = 0; j < states; j++) {
    vf h = set1(0);
    if (p.initial_state.present && j < n)
      h = gather(scan_at(p.initial_state, at, j), p.initial_state.stride[1], at.count);
    store(at.h + j * W, h);
  }
}

// Up to kBlocks blocks through the whole sequence, tile by tile and in each tile block by block: B and C are packed
// once for all of them, and in (b, L, d) memory a token's row is used for a while before the next.
inline void scan_blocks(const SelectiveScan& p, ScanBlock* blocks, int64_t count, int64_t states, ScanTile& tile) {
  const int64_t d = p.A.shape[0], n = p.A.shape[1], L = p.u.shape[2];
  for (int64_t i = 0; i < count; i++) scan_begin(p, blocks[i], states);
  const View* const operands[] = {&p.u, &p.delta, p.z.present ? &p.z : &p.u, &p.out};
  for (int64_t t = 0; t < L; t += kTokens) {
    const int64_t tokens = least(kTokens, L - t), b = blocks[0].batch, c = blocks[0].channel;
    if (p.B.rank == 4) tile.rows_b = scan_rows(p.B, b, c / channels_of(p.B, d), t, tokens, n, states, tile.b);
    if (p.C.rank == 4) tile.rows_c = scan_rows(p.C, b, c / channels_of(p.C, d), t, tokens, n, states, tile.c);
    for (int64_t i = 0; i < count; i++) {
      const int64_t next = i + 1 < count ? i + 1 : 0, after = next ? t : t + kTokens;
      for (int k = 0; k < 4; k++)
        tile.ahead[k] = after + kTokens <= L ? Ahead(*operands[k], b, blocks[next].channel, after) : Ahead();
      scan_inputs(p, blocks[i], t, tokens, tile);
      scan_tile(p, blocks[i], t, tokens, states, tile);
      scan_outputs(p, blocks[i], t, tokens, tile);
    }
  }
  const View& last = p.last_state;
  for (int64_t i = 0; i < count && last.present; i++)
    for (int64_t j = 0; j < n; j++)
      scatter(scan_at(last, blocks[i], j), last.stride[1], load(blocks[i].h + j * W), blocks[i].count);
}

static void selective_scan_kernel(Context& context, const Problem& problem) {
  const auto& p = static_cast<const SelectiveScan&>(problem);
  const int64_t batch = p.u.shape[0], d = p.u.shape[1], L = p.u.shape[2], n = p.A.shape[1];
  context.kernel =
      p.u.stride[1] == 1 && d > 1 ? SEQMIX_KERNEL("selective_scan.bld") : SEQMIX_KERNEL("selective_scan.bdl");
  if (batch == 0 || d == 0) return;
  const int64_t states = ceil_div(n, 4) * 4;
  // A block lies in one group of B and in one of C, which may have different numbers of groups.
  const int64_t members = common_divisor(channels_of(p.B, d), channels_of(p.C, d)), units = d / members;
  // Fewer blocks at a time where threads would have nothing to do. No block's bits depend on its company.
  const int64_t each = ceil_div(members, W);
  int64_t together = kBlocks;
  while (together > 1 && batch * units * ceil_div(each, together) < 4 * context.threads) together /= 2;
  const int64_t parts = ceil_div(each, together), channels_each = together * W;
  const int64_t size = scan_memory(states);
  float* const memory = scratch<float>(context, size * context.threads);
  const auto work = [&](int64_t begin, int64_t end, int thread) {
    ScanTile tile{};
    float* at = memory + thread * size;
    float** const parts_of[] = {&tile.delta, &tile.du, &tile.u, &tile.y};
    for (float** const part : parts_of) {
      *part = at;
      at += kTokens * W;
    }
    tile.b = at;
    tile.c = tile.b + kTokens * (ceil_div(states, 16) * 16);
    at = tile.c + kTokens * (ceil_div(states, 16) * 16);
    for (int64_t i = begin; i < end; i++) {
      const int64_t first = i % parts * channels_each, unit = i / parts % units;
      ScanBlock blocks[kBlocks];
      int64_t count = 0;
      for (int64_t c = first; c < least(members, first + channels_each); c += W) {
        float* const mine = at + count * 4 * states * W;
        blocks[count++] = {i / parts / units, unit * members + c,    least(W, members - c), false, mine,
                           mine + states * W, mine + 2 * states * W, mine + 3 * states * W};
      }
      scan_blocks(p, blocks, count, states, tile);
    }
  };
  parallel_ranges(context, batch * units * parts, grain_of(least(L, 1 << 20) * channels_each * (n + 8)), work);
}
