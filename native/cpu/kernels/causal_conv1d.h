// causal_conv1d: a short filter along each channel, act(bias + Σ_k weight[k] x[t - (w-1) + k]). A thread takes a piece
// of one channel's (b, d, L) row, or, where channels lie next to each other in memory, of W channels; the w - 1 inputs
// before the piece come from the row itself, from initial_states, or are 0. Floor: x read and out written once.

constexpr int64_t kConvPiece = 2048;  // tokens a thread takes at a time
constexpr int kConvLanes = 4;         // and vectors of channels

// Input t of a channel, -w < t < L, wherever it is.
SEQMIX_VERB float conv_input(const CausalConv1d& p, int64_t b, int64_t c, int64_t t) {
  if (t >= 0) return floats(p.x)[b * p.x.stride[0] + c * p.x.stride[1] + t * p.x.stride[2]];
  const int64_t from = t + p.weight.shape[1] - 1;  // the oldest initial state is 0
  if (!p.initial_states.present || from < 0) return 0;
  const View& s = p.initial_states;
  return floats(s)[b * s.stride[0] + c * s.stride[1] + from * s.stride[2]];
}

SEQMIX_VERB vf activated(Activation a, vf v) { return a == Activation::silu ? silu(v) : v; }

// One channel, tokens [t0, t1), through a buffer of w - 1 + t1 - t0 inputs; `sequence` likewise, where there is
// seq_idx.
inline void conv_channel(const CausalConv1d& p, int64_t b, int64_t c, int64_t t0, int64_t t1, float* inputs,
                         const int32_t* sequence) {
  const int64_t w = p.weight.shape[1], n = t1 - t0;
  const float* x = floats(p.x) + b * p.x.stride[0] + c * p.x.stride[1];
  const float* from = inputs;
  if (t0 >= w - 1 && p.x.stride[2] == 1) {
    from = x + t0 - (w - 1);
  } else {
    const int64_t before = most(0, w - 1 - t0);
    for (int64_t i = 0; i < before; i++) inputs[i] = conv_input(p, b, c, t0 - (w - 1) + i);
    x += (t0 - (w - 1) + before) * p.x.stride[2];
    for (int64_t i = before; i < n + w - 1; i += W, x += W * p.x.stride[2]) {
      const int64_t count = least(W, n + w - 1 - i);
      store_head(inputs + i, gather(x, p.x.stride[2], count), count);
    }
  }
  const float* const weight = floats(p.weight) + c * p.weight.stride[0];
  const vf bias = set1(p.bias.present ? floats(p.bias)[c * p.bias.stride[0]] : 0.0f);
  float* const out = floats(p.out) + b * p.out.stride[0] + c * p.out.stride[1] + t0 * p.out.stride[2];
  int64_t i = 0;
  if (w == 4 && !sequence && p.out.stride[2] == 1) {  // the width that models have, with the filter in registers
    const int64_t sw = p.weight.stride[1];
    const vf w0 = set1(weight[0]), w1 = set1(weight[sw]), w2 = set1(weight[2 * sw]), w3 = set1(weight[3 * sw]);
    for (; i + W <= n; i += W) {
      const vf v = fma(w1, load(from + i + 1), fma(w0, load(from + i), bias));
      store(out + i, activated(p.activation, fma(w3, load(from + i + 3), fma(w2, load(from + i + 2), v))));
    }
  }
  for (; i < n; i += W) {
    const int64_t count = least(W, n - i);
    vf v = bias;
    for (int64_t k = 0; k < w; k++) {
      vf tap = count == W ? load(from + i + k) : load_head(from + i + k, count);
      if (sequence) tap = select(equal_ints(sequence + i + k, sequence + i + w - 1), tap, set1(0));
      v = fma(set1(weight[k * p.weight.stride[1]]), tap, v);
    }
    scatter(out + i * p.out.stride[2], p.out.stride[2], activated(p.activation, v), count);
  }
}

// Up to W channels next to each other, tokens [t0, t1).
inline void conv_channels(const CausalConv1d& p, int64_t b, int64_t c, int64_t count, int64_t t0, int64_t t1,
                          vf* weight, const int32_t* sequence) {
  const int64_t w = p.weight.shape[1];
  for (int64_t k = 0; k < w; k++)
    weight[k] = gather(floats(p.weight) + c * p.weight.stride[0] + k * p.weight.stride[1], p.weight.stride[0], count);
  const vf bias = channels(p.bias, c, count, 0);
  const float* const x = floats(p.x) + b * p.x.stride[0] + c;
  float* const out = floats(p.out) + b * p.out.stride[0] + c;
  for (int64_t t = t0; t < t1; t++) {
    vf v = bias;
    for (int64_t k = 0; k < w; k++) {
      const int64_t at = t - (w - 1) + k;
      if (sequence && sequence[t - t0 + k] != sequence[t - t0 + w - 1]) continue;
      vf tap;
      if (at >= 0) {
        tap = load_head(x + at * p.x.stride[2], count);
      } else {
        if (!p.initial_states.present) continue;
        const View& s = p.initial_states;
        tap = gather(floats(s) + b * s.stride[0] + c * s.stride[1] + (at + w - 1) * s.stride[2], s.stride[1], count);
      }
      v = fma(weight[k], tap, v);
    }
    store_head(out + t * p.out.stride[2], activated(p.activation, v), count);
  }
}

// N vectors of channels next to each other, tokens [t0, t1), all of whose taps are in x. A row of W floats is one cache
// line: rows are asked for ahead, since they lie too far apart for the processor to guess.
template <int N>
inline void conv_inside(const CausalConv1d& p, int64_t b, int64_t c, int64_t t0, int64_t t1, vf* weight) {
  constexpr int64_t kAhead = 16;
  const int64_t w = p.weight.shape[1], st = p.x.stride[2];
  vf bias[N];
  for (int i = 0; i < N; i++) {
    bias[i] = channels(p.bias, c + i * W, W, 0);
    for (int64_t k = 0; k < w; k++)
      weight[k * N + i] =
          gather(floats(p.weight) + (c + i * W) * p.weight.stride[0] + k * p.weight.stride[1], p.weight.stride[0], W);
  }
  const float* x = floats(p.x) + b * p.x.stride[0] + c + (t0 - (w - 1)) * st;
  float* out = floats(p.out) + b * p.out.stride[0] + c + t0 * p.out.stride[2];
  for (int64_t t = t0; t < t1; t++) {
    vf v[N];
    const int64_t ahead = least(kAhead, t1 - 1 - t);
    for (int i = 0; i < N; i++) {
      v[i] = bias[i];
      __builtin_prefetch(x + (w - 1 + ahead) * st + i * W);
      __builtin_prefetch(out + ahead * p.out.stride[2] + i * W, 1);
    }
    for (int64_t k = 0; k < w; k++)
      for (int i = 0; i < N; i++) v[i] = fma(weight[k * N + i], load(x + k * st + i * W), v[i]);
    for (int i = 0; i < N; i++) store(out + i * W, activated(p.activation, v[i]));
    x += st;
    out += p.out.stride[2];
  }
}

static void causal_conv1d_kernel(Context& context, const Problem& problem) {
  const auto& p = static_cast<const CausalConv1d&>(problem);
  const int64_t batch = p.x.shape[0], d = p.x.shape[1], L = p.x.shape[2], w = p.weight.shape[1];
  const bool channels_last = p.x.stride[1] == 1 && p.out.stride[1] == 1 && d > 1;
  context.kernel = channels_last ? SEQMIX_KERNEL("causal_conv1d.bld") : SEQMIX_KERNEL("causal_conv1d.bdl");

  const int64_t together = channels_last ? kConvLanes * W : 1;
  const int64_t blocks = ceil_div(d, together), pieces = ceil_div(L, kConvPiece);
  const int64_t reach = kConvPiece + w - 1 + W;
  float* const inputs = scratch<float>(context, reach * context.threads);
  int32_t* const sequences = p.seq_idx.present ? scratch<int32_t>(context, reach * context.threads) : nullptr;
  vf* const weights = scratch<vf>(context, w * kConvLanes * context.threads);
  const int64_t grain = grain_of(least(L, kConvPiece) * together);
  parallel_ranges(context, batch * pieces * blocks, grain, [&](int64_t begin, int64_t end, int thread) {
    int64_t staged = -1;  // the (batch, piece) whose sequence numbers lie in scratch
    int32_t* const sequence = sequences ? sequences + thread * reach : nullptr;
    for (int64_t i = begin; i < end; i++) {
      const int64_t b = i / blocks / pieces, t0 = i / blocks % pieces * kConvPiece, t1 = least(L, t0 + kConvPiece);
      const int64_t c = i % blocks * together;
      if (sequence && staged != i / blocks) {
        staged = i / blocks;
        // How often the number has changed, so that one which comes again is another sequence, as it is to the scan.
        // Initial states belong to the first sequence; past the end anything will do.
        const auto number = [&](int64_t j) {
          const int64_t t = most(0, least(L - 1, t0 - (w - 1) + j));
          return ints(p.seq_idx)[b * p.seq_idx.stride[0] + t * p.seq_idx.stride[1]];
        };
        sequence[0] = 0;
        const int64_t wanted = t1 - t0 + w - 1 + W;
        for (int64_t j = 1; j < wanted; j++) sequence[j] = sequence[j - 1] + (number(j) != number(j - 1));
      }
      if (!channels_last) {
        conv_channel(p, b, c, t0, t1, inputs + thread * reach, sequence);
        continue;
      }
      vf* const weight = weights + thread * w * kConvLanes;
      const int64_t c1 = least(d, c + together);
      // The first tokens reach before the row; packed sequences are looked at token by token.
      const bool inside = c1 - c == together && !sequence;
      const int64_t edge = inside ? least(t1, most(t0, w - 1)) : t1;
      for (int64_t at = c; at < c1 && edge > t0; at += W)
        conv_channels(p, b, at, least(W, d - at), t0, edge, weight, sequence);
      if (edge < t1) conv_inside<kConvLanes>(p, b, c, edge, t1, weight);
    }
  });
  if (!p.final_states.present || w == 1) return;
  const View& f = p.final_states;
  parallel_ranges(context, batch * d, grain_of(w * 4), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++)
      for (int64_t k = 0; k < w - 1; k++)
        floats(f)[i / d * f.stride[0] + i % d * f.stride[1] + k * f.stride[2]] =
            conv_input(p, i / d, i % d, L - (w - 1) + k);
  });
}
