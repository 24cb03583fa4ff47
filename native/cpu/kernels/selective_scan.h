// selective_scan: h = exp(Δ A) h + Δ B u, y = C·h + D u, out = y silu(z), token after token, for each channel and
// state.
//
// A thread owns blocks of W channels of one group, a channel a lane, and takes the sequence in tiles of kTokens tokens.
// Per tile: Δ (softplus done) and Δu come into channels-last tiles; then the states, eight at a time, run through the
// tile (scan_states.h), B and C broadcast from rows that hold a token's states side by side, and y gathered in the
// tile; then y gets D u and the gate and goes out. Nothing is summed across lanes. Everything between memory and memory
// is float32; operands of 16 bits are widened as they come in, and the result is rounded as it goes out.
//
// Floor: scan_states.h, and about three dozen vector operations for a token of W channels; bytes are far from it
// (n = 16: 16 bytes for 16 states). While a tile is worked on, the lines of the next one are called for: they lie far
// apart, and no processor guesses them.

constexpr int64_t kTokens = 64;

// W channels of one batch row. States are padded with zeros to a multiple of 4: they stay 0 and add nothing.
struct ScanBlock {
  int64_t batch, channel, count;  // where, and how many of the W channels there are
  bool decays;                    // no A is positive
  float *a, *h, *b, *c;           // (states, W): A log2 e, the states, and B and C where they are constant
};

// What a thread works on: one tile of one block.
struct ScanTile {
  float *delta, *du, *u, *z, *y;  // (kTokens, W); behind delta is more
  float *b, *c;                   // (kTokens, pitch): room for a tile of B and C
  Rows rows_b, rows_c;            // the tile's B and C, there or where they lie
  bool damped;                    // no Δ A of the tile is positive
  vf highest;                     // Δ of the tile
  int64_t lines[kOperands][kTokens];
  Ahead ahead;
  bool more;  // ahead says something
};

constexpr int64_t kBlocks = 8;  // of a thread at a time

SEQMIX_VERB int64_t scan_pitch(int64_t n) { return ceil_div(n, W) * W; }

// One thread's memory, in floats.
SEQMIX_VERB int64_t scan_memory(int64_t n, int64_t states) {
  return (5 * W + 2 * scan_pitch(n)) * kTokens + kBlocks * 4 * states * W;
}

// Whether some Δ A of states [j, j + count) passes kFar.
SEQMIX_VERB bool scan_far(const ScanBlock& at, const ScanTile& tile, int64_t j, int64_t count) {
  vf lowest = set1(0);
  for (int64_t s = j; s < j + count; s++) lowest = min(load(at.a + s * W), lowest);
  return any(less(lowest * tile.highest, set1(kFar)));
}

// All states through tokens [t0, t1).
template <class B, class C>
inline void scan_tokens(const ScanBlock& at, const ScanTile& tile, B b, C c, int64_t states, int64_t t0, int64_t t1) {
  Stretch stretch{at.a, tile.delta, tile.du, at.h, tile.y, 0, t0, t1, tile.more ? &tile.ahead : nullptr};
  for (int64_t& j = stretch.j; j < states; stretch.ahead = nullptr) {
    const int64_t count = j + 8 <= states ? 8 : 4;
    const bool near = tile.damped && !scan_far(at, tile, j, count);
    if (near && count == 8)
      scan_states<Near, 8>(stretch, b, c);
    else if (near)
      scan_states<Near, 4>(stretch, b, c);
    else if (tile.damped)
      scan_states<Far, 4>(stretch, b, c);
    else
      scan_states<Free, 4>(stretch, b, c);
    j += near ? count : 4;
  }
}

// A token's states of B or C side by side: where they lie so in memory, there; else copied into `packed`, padded.
template <class T>
inline Rows scan_rows(const View& v, int64_t b, int64_t group, int64_t t0, int64_t tokens, int64_t n, int64_t states,
                      float* packed) {
  const T* const from = pointer<T>(v) + b * v.stride[0] + group * v.stride[1] + t0 * v.stride[3];
  if constexpr (sizeof(T) == sizeof(float))
    if (v.stride[2] == 1 && n == states) return {from, v.stride[3]};
  const int64_t pitch = scan_pitch(n);
  for (int64_t j = 0; j < n; j += W)
    load_tile(from + j * v.stride[2], v.stride[2], v.stride[3], least(W, n - j), tokens, packed + j, pitch);
  return {packed, pitch};
}

// (d, n): n vectors of the block's channels, `factor` times, padded with zeros.
SEQMIX_VERB void scan_columns(const View& v, int64_t c, int64_t count, int64_t n, int64_t states, float factor,
                              float* to) {
  for (int64_t j = 0; j < states; j++) {
    vf x = set1(0);
    if (j < n) x = gather_any(v, c * v.stride[0] + j * v.stride[1], v.stride[0], count);
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

SEQMIX_VERB int64_t scan_offset(const View& v, const ScanBlock& at, int64_t t) {
  return at.batch * v.stride[0] + at.channel * v.stride[1] + t * v.stride[2];
}

// Tokens [t0, t0 + tokens) of an operand, W channels a token: where they lie, or brought into `tile`.
struct ScanStrip {
  const float* at;
  int64_t step;
  SEQMIX_VERB vf operator[](int64_t t) const { return load(at + t * step); }
};
template <class T>
SEQMIX_VERB ScanStrip scan_strip(const View& v, const ScanBlock& at, int64_t t0, int64_t tokens, float* tile) {
  const T* const from = pointer<T>(v) + scan_offset(v, at, t0);
  if constexpr (sizeof(T) == sizeof(float))
    if (v.stride[1] == 1 && at.count == W) return {from, v.stride[2]};
  load_tile(from, v.stride[1], v.stride[2], at.count, tokens, tile, W);
  return {tile, W};
}

// e^-|x| of a tile's x = delta + bias, for softplus. This and what comes after are loops of their own because they are
// chains of dependent operations: the shorter a token's chain, the more tokens a processor has in sight.
inline void scan_soften(const ScanStrip& delta, vf bias, int64_t tokens, float* e) {
  vf lowest = set1(0);
  for (int64_t t = 0; t < tokens; t++) {
    const vf y = set1(0.0f) - abs(delta[t] + bias);
    lowest = min(y, lowest);
    store(e + t * W, exp_normal(max(set1(kTiny), y)));
  }
  if (!any(less(lowest, set1(kTiny)))) return;
  for (int64_t t = 0; t < tokens; t++) {
    const vf y = set1(0.0f) - abs(delta[t] + bias);
    store(e + t * W, select(less(y, set1(kTiny)), exp(y), load(e + t * W)));
  }
}

// Δ and Δu; returns u.
template <class T>
inline ScanStrip scan_inputs(const SelectiveScan& p, const ScanBlock& at, int64_t t0, int64_t tokens, ScanTile& tile) {
  const ScanStrip delta = scan_strip<T>(p.delta, at, t0, tokens, tile.delta);
  const ScanStrip u = scan_strip<T>(p.u, at, t0, tokens, tile.u);
  const vf bias = channels(p.delta_bias, at.channel, at.count, 0);
  const bool soft = p.delta_softplus;
  vf lowest = set1(0), highest = set1(0);
  if (soft) scan_soften(delta, bias, tokens, tile.du);
  for (int64_t t = 0; t < tokens; t++) {
    vf v = delta[t] + bias;
    if (soft) v = softplus_of(v, load(tile.du + t * W));
    lowest = min(v, lowest);
    highest = max(v, highest);
    store(tile.delta + t * W, v);
    store(tile.du + t * W, v * u[t]);
  }
  tile.damped = at.decays && !any(less(lowest, set1(0)));
  tile.highest = highest;
  return u;
}

template <class T>
inline void scan_outputs(const SelectiveScan& p, const ScanBlock& at, int64_t t0, int64_t tokens, const ScanStrip& u,
                         const ScanTile& tile) {
  if (p.D.present) {
    const vf skip = channels(p.D, at.channel, at.count, 0);
    for (int64_t t = 0; t < tokens; t++) store(tile.y + t * W, fma(skip, u[t], load(tile.y + t * W)));
  }
  if (p.z.present) {
    const ScanStrip z = scan_strip<T>(p.z, at, t0, tokens, tile.z);
    for (int64_t t = 0; t < tokens; t++) store(tile.y + t * W, load(tile.y + t * W) * silu(z[t]));
  }
  store_tile(pointer<T>(p.out) + scan_offset(p.out, at, t0), p.out.stride[1], p.out.stride[2], at.count, tokens,
             tile.y);
}

// The states through one tile, from 0 again wherever the sequence number changes.
inline void scan_tile(const SelectiveScan& p, const ScanBlock& at, int64_t t0, int64_t tokens, int64_t states,
                      ScanTile& tile) {
  const bool fixed_b = p.B.rank == 2, fixed_c = p.C.rank == 2;
  for (int64_t begin = 0, end = 0; begin < tokens; begin = end, tile.more = false) {
    end = tokens;
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
  }
  if (states == 0)
    for (int64_t t = 0; t < tokens; t++) store(tile.y + t * W, set1(0));
}

inline void scan_begin(const SelectiveScan& p, ScanBlock& at, int64_t states) {
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
      h = gather_any(p.initial_state, scan_offset(p.initial_state, at, j), p.initial_state.stride[1], at.count);
    store(at.h + j * W, h);
  }
}

// What is called for while a tile is worked on: the next block's, or the next tile's of the first.
constexpr int64_t kLine = 64;
template <class T>
inline void scan_lines(const View& v, int64_t* lines) {
  const int64_t size = sizeof(T), channel = v.stride[1] * size, token = v.stride[2] * size;
  const int64_t each = kTokens * size / kLine;  // of a channel whose tokens are side by side
  for (int64_t t = 0; t < kTokens; t++)
    lines[t] = v.stride[2] == 1 && v.stride[1] != 1 ? least(W - 1, t / each) * channel + t % each * kLine : t * token;
}

// Up to kBlocks blocks through the whole sequence, tile by tile and in each tile block by block: B and C are packed
// once for all of them, and in (b, L, d) memory a token's row is used for a while before the next.
template <class T>
inline void scan_blocks(const SelectiveScan& p, ScanBlock* blocks, int64_t count, int64_t states, ScanTile& tile) {
  const int64_t d = p.A.shape[0], n = p.A.shape[1], L = p.u.shape[2];
  for (int64_t i = 0; i < count; i++) scan_begin(p, blocks[i], states);
  const View* const operands[kOperands] = {&p.u, &p.delta, p.z.present ? &p.z : &p.u, &p.out};
  for (int k = 0; k < kOperands; k++) {
    scan_lines<T>(*operands[k], tile.lines[k]);
    tile.ahead.lines[k] = tile.lines[k];
  }
  for (int64_t t = 0; t < L; t += kTokens) {
    const int64_t tokens = least(kTokens, L - t), b = blocks[0].batch, c = blocks[0].channel;
    if (p.B.rank == 4) tile.rows_b = scan_rows<T>(p.B, b, c / channels_of(p.B, d), t, tokens, n, states, tile.b);
    if (p.C.rank == 4) tile.rows_c = scan_rows<T>(p.C, b, c / channels_of(p.C, d), t, tokens, n, states, tile.c);
    for (int64_t i = 0; i < count; i++) {
      const int64_t next = i + 1 < count ? i + 1 : 0, after = next ? t : t + kTokens;
      tile.more = after + kTokens <= L;
      for (int k = 0; k < kOperands && tile.more; k++)
        tile.ahead.at[k] =
            reinterpret_cast<const char*>(pointer<T>(*operands[k]) + scan_offset(*operands[k], blocks[next], after));
      const ScanStrip u = scan_inputs<T>(p, blocks[i], t, tokens, tile);
      scan_tile(p, blocks[i], t, tokens, states, tile);
      scan_outputs<T>(p, blocks[i], t, tokens, u, tile);
    }
  }
  const View& last = p.last_state;
  for (int64_t i = 0; i < count && last.present; i++)
    for (int64_t j = 0; j < n; j++)
      scatter(floats(last) + scan_offset(last, blocks[i], j), last.stride[1], load(blocks[i].h + j * W),
              blocks[i].count);
}

template <class T>
static void selective_scan_of(Context& context, const SelectiveScan& p) {
  const int64_t batch = p.u.shape[0], d = p.u.shape[1], L = p.u.shape[2], n = p.A.shape[1];
  const int64_t states = ceil_div(n, 4) * 4;
  // A block lies in one group of B and in one of C, which may have different numbers of groups.
  const int64_t members = common_divisor(channels_of(p.B, d), channels_of(p.C, d)), units = d / members;
  // Fewer blocks at a time where threads would have nothing to do. No block's bits depend on its company.
  const int64_t each = ceil_div(members, W);
  int64_t together = kBlocks;
  while (together > 1 && batch * units * ceil_div(each, together) < 4 * context.threads) together /= 2;
  const int64_t parts = ceil_div(each, together), channels_each = together * W;
  const int64_t size = scan_memory(n, states);
  float* const memory = scratch<float>(context, size * context.threads);
  const auto work = [&](int64_t begin, int64_t end, int thread) {
    ScanTile tile;
    float* at = memory + thread * size;
    float** const parts_of[] = {&tile.delta, &tile.du, &tile.u, &tile.z, &tile.y};
    for (float** const part : parts_of) {
      *part = at;
      at += kTokens * W;
    }
    tile.b = at;
    tile.c = tile.b + kTokens * scan_pitch(n);
    at = tile.c + kTokens * scan_pitch(n);
    for (int64_t i = begin; i < end; i++) {
      const int64_t first = i % parts * channels_each, unit = i / parts % units;
      ScanBlock blocks[kBlocks];
      int64_t count = 0;
      for (int64_t c = first; c < least(members, first + channels_each); c += W) {
        float* const mine = at + count * 4 * states * W;
        blocks[count++] = {i / parts / units, unit * members + c,    least(W, members - c), false, mine,
                           mine + states * W, mine + 2 * states * W, mine + 3 * states * W};
      }
      scan_blocks<T>(p, blocks, count, states, tile);
    }
  };
  parallel_ranges(context, batch * units * parts, grain_of(least(L, 1 << 20) * channels_each * (n + 8)), work);
}

static void selective_scan_kernel(Context& context, const Problem& problem) {
  const auto& p = static_cast<const SelectiveScan&>(problem);
  context.kernel = p.u.stride[1] == 1 && p.u.shape[1] > 1 ? SEQMIX_KERNEL("selective_scan.bld")
                                                          : SEQMIX_KERNEL("selective_scan.bdl");
  if (p.u.shape[0] == 0 || p.u.shape[1] == 0) return;
  with_float(p.u.dtype, [&](auto kind) {
    using T = decltype(kind);
    selective_scan_of<T>(context, p);
  });
}
