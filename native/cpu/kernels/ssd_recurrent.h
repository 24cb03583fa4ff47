// ssdChunkScan token by token: h = e^a h + Δx B, y = C·h, with a = Δ A one number for a head and token.
//
// A thread owns a head, or strips of it, and takes the sequence in pieces of 64 tokens. Per piece: Δ and the decays,
// then strip by strip Δx comes into a tile, a few states at a time run through the tokens with their h in registers, B
// and C broadcast, y gathered in a tile, and the tile goes out. Floor: three multiply-adds for W states and a token.

constexpr int64_t kSsdStepped = 64;
constexpr int kSsdStates = W == 16 ? 8 : 4;

// The step of a state, by the size of a. Thousands of slow steps add up what each one's decay loses to rounding, so
// there e is e^a - 1 and e^a itself is never rounded. A steep step grows by more than float32 holds: e is e^(a/2),
// applied twice, and a state of 0 stays 0. Any other e is e^a.
struct SsdSlow {
  SEQMIX_VERB static vf step(vf e, vf h, vf x, vf b) { return fma(e, h, fma(x, b, h)); }
};
struct SsdPlain {
  SEQMIX_VERB static vf step(vf e, vf h, vf x, vf b) { return fma(e, h, x * b); }
};
struct SsdSteep {
  SEQMIX_VERB static vf step(vf e, vf h, vf x, vf b) { return fma(e, e * h, x * b); }
};
enum SsdStep : int32_t { kSsdSlow, kSsdPlain, kSsdSteep };

// A thread's memory for a piece of at most kSsdStepped tokens.
struct SsdSteps {
  float dt[kSsdStepped + W], e[kSsdStepped + W];
  int32_t kind[kSsdStepped + W];
  float x[kSsdStepped * kSsdStrip], dx[kSsdStepped * kSsdStrip], y[kSsdStepped * kSsdStrip];
};

inline void ssd_decays(const SsdChunkScan& p, const SsdPiece& at, int64_t head, SsdSteps& steps) {
  ssd_deltas(p, at, head, steps.dt);
  const vf rate = set1(floats(p.A)[head * p.A.stride[0]]);
  for (int64_t t = 0; t < at.count; t += W) {
    const vf a = max(set1(-1e30f), min(set1(1e30f), load(steps.dt + t) * rate));
    const vf half = min(set1(3e38f), exp(a * set1(0.5f)));
    const vm slow = less(abs(a), set1(0.34f)), steep = less(set1(80), a);
    store(steps.e + t, select(slow, expm1_near(a), select(steep, half, exp(a))));
    const unsigned s = bits_of(slow), g = bits_of(steep);
    for (int i = 0; i < W; i++) steps.kind[t + i] = s >> i & 1 ? kSsdSlow : g >> i & 1 ? kSsdSteep : kSsdPlain;
  }
}

// States [j, j + S) of V vectors of channels through tokens [t0, t1).
template <class Step, int S, int V>
inline void ssd_step_states(SsdSteps& steps, float* state, SsdRows b, SsdRows c, int64_t j, int64_t t0, int64_t t1) {
  vf h[S][V];
  for (int s = 0; s < S; s++)
    for (int v = 0; v < V; v++) h[s][v] = load(state + (j + s) * kSsdStrip + v * W);
  const float *bt = b.at + t0 * b.stride + j, *ct = c.at + t0 * c.stride + j;
  for (int64_t t = t0; t < t1; t++, bt += b.stride, ct += c.stride) {
    const vf e = set1(steps.e[t]);
    vf x[V], y[V];
    for (int v = 0; v < V; v++) {
      x[v] = load(steps.dx + t * kSsdStrip + v * W);
      y[v] = load(steps.y + t * kSsdStrip + v * W);
    }
    for (int s = 0; s < S; s++) {
      const vf bs = set1(bt[s]), cs = set1(ct[s]);
      for (int v = 0; v < V; v++) {
        h[s][v] = Step::step(e, h[s][v], x[v], bs);
        y[v] = fma(h[s][v], cs, y[v]);
      }
    }
    for (int v = 0; v < V; v++) store(steps.y + t * kSsdStrip + v * W, y[v]);
  }
  for (int s = 0; s < S; s++)
    for (int v = 0; v < V; v++) store(state + (j + s) * kSsdStrip + v * W, h[s][v]);
}

template <class Step, int V>
inline void ssd_step_tokens(SsdSteps& steps, float* state, SsdRows b, SsdRows c, int64_t n, int64_t t0, int64_t t1) {
  int64_t j = 0;
  for (; j + kSsdStates <= n; j += kSsdStates) ssd_step_states<Step, kSsdStates, V>(steps, state, b, c, j, t0, t1);
  for (; j < n; j++) ssd_step_states<Step, 1, V>(steps, state, b, c, j, t0, t1);
}

// A strip's state through a piece of at most kSsdStepped tokens, whose decays are known; y is left in steps.y.
inline void ssd_step_strip(const SsdChunkScan& p, const SsdPiece& at, int64_t head, int64_t strip, SsdRows b, SsdRows c,
                           float* state, SsdSteps& steps) {
  using Tokens = void (*)(SsdSteps&, float*, SsdRows, SsdRows, int64_t, int64_t, int64_t);
  static constexpr Tokens tokens[3][2] = {{ssd_step_tokens<SsdSlow, 1>, ssd_step_tokens<SsdSlow, 2>},
                                          {ssd_step_tokens<SsdPlain, 1>, ssd_step_tokens<SsdPlain, 2>},
                                          {ssd_step_tokens<SsdSteep, 1>, ssd_step_tokens<SsdSteep, 2>}};
  const int64_t n = p.B.shape[3];
  if (at.fresh)
    for (int64_t i = 0; i < n * kSsdStrip; i += W) store(state + i, set1(0));
  ssd_load_strip(p, at, head, strip, steps.x);
  for (int64_t t = 0; t < at.count; t++)
    for (int v = 0; v < kSsdStrip; v += W) {
      store(steps.dx + t * kSsdStrip + v, set1(steps.dt[t]) * load(steps.x + t * kSsdStrip + v));
      store(steps.y + t * kSsdStrip + v, set1(0));
    }
  const int wide = ssd_channels(p, strip) > W;
  for (int64_t t = 0, end = 0; t < at.count; t = end) {
    end = t + 1;
    while (end < at.count && steps.kind[end] == steps.kind[t]) end++;
    tokens[steps.kind[t]][wide](steps, state, b, c, n, t, end);
  }
}

static void ssd_recurrent(Context& context, const SsdChunkScan& p) {
  const int64_t batch = p.x.shape[0], L = p.x.shape[1], heads = p.x.shape[2], n = p.B.shape[3];
  const int64_t members = heads / p.B.shape[2], strips = ssd_strips(p);
  // B and C are brought in once for the strips of a head, unless that leaves threads with nothing to do. No strip's
  // bits depend on its company.
  const int64_t together = batch * heads < 4 * context.threads ? 1 : strips, parts = ceil_div(strips, together);
  const int64_t rows = kSsdStepped * ceil_div(n, W) * W, states = together * ssd_state_size(p);
  SsdSteps* const all = scratch<SsdSteps>(context, context.threads);
  float* const memory = scratch<float>(context, context.threads * (2 * rows + states + W));
  parallel_for(context, batch * heads * parts, [&](int64_t item, int thread) {
    const int64_t first = item % parts * together, end = least(strips, first + together);
    const int64_t head = item / parts % heads, row = item / parts / heads;
    SsdSteps& steps = all[thread];
    float* const room = memory + thread * (2 * rows + states + W);
    float* const state = room + 2 * rows;
    for (int64_t s = first; s < end; s++) ssd_load_state(p, row, head, s, state + (s - first) * ssd_state_size(p));
    for (int64_t t = 0; t < L;) {
      const SsdPiece at = ssd_piece(p, row, t, kSsdStepped);
      const SsdRows b = ssd_rows(p.B, at, head / members, room), c = ssd_rows(p.C, at, head / members, room + rows);
      ssd_decays(p, at, head, steps);
      for (int64_t s = first; s < end; s++) {
        ssd_step_strip(p, at, head, s, b, c, state + (s - first) * ssd_state_size(p), steps);
        ssd_finish_strip(p, at, head, s, steps.y, steps.x);
      }
      t += at.count;
    }
    for (int64_t s = first; s < end && p.final_states.present; s++)
      ssd_store_state(p, row, head, s, state + (s - first) * ssd_state_size(p));
  });
}
