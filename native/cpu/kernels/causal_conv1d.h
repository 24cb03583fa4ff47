// causal_conv1d: a short filter along each channel, act(bias + Σ_k weight[k] x[t - (w-1) + k]). Where channels lie next
// to each other in memory, (b, L, d), a thread takes some tokens with all their channels, so that memory is walked
// forward, and adds up rows by rows of weights turned around before. Else, in (b, d, L) or anything, it takes a piece
// of one channel, tokens in the lanes. The w - 1 inputs before a row's first token come from initial_states or are 0.
// Floor: x read and out written once.

constexpr int64_t kConvPiece = 2048;  // tokens of one channel

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

// Channels next to each other in memory: a token is a row, and its output a sum of rows, each by its row of weights.
// `rows` are the row's taps, oldest first, null where there is none.
SEQMIX_VERB void conv_row(const CausalConv1d& p, const float* const* rows, const float* weight, int64_t ld,
                          const float* bias, int64_t d, float* out) {
  const int64_t w = p.weight.shape[1];
  int64_t c = 0;
  if (w == 4 && rows[0] && rows[1] && rows[2]) {  // the width that models have
    const float *const r0 = rows[0], *const r1 = rows[1], *const r2 = rows[2], *const r3 = rows[3];
    for (; c + W <= d; c += W) {
      vf v = fma(load(weight + c), load(r0 + c), load(bias + c));
      v = fma(load(weight + ld + c), load(r1 + c), v);
      v = fma(load(weight + 2 * ld + c), load(r2 + c), v);
      v = fma(load(weight + 3 * ld + c), load(r3 + c), v);
      store(out + c, activated(p.activation, v));
    }
  }
  for (; c < d; c += W) {
    const int64_t count = least(W, d - c);
    vf v = load(bias + c);
    for (int64_t k = 0; k < w; k++)
      if (rows[k]) v = fma(load(weight + k * ld + c), load_head(rows[k] + c, count), v);
    store_head(out + c, activated(p.activation, v), count);
  }
}

// Tokens [t0, t1). `initial` are the w - 1 rows before the first token, or null.
inline void conv_rows(const CausalConv1d& p, int64_t b, int64_t t0, int64_t t1, const float* weight, int64_t ld,
                      const float* bias, const float* initial, const float** rows, const int32_t* sequence) {
  const int64_t d = p.x.shape[1], w = p.weight.shape[1];
  const float* const x = floats(p.x) + b * p.x.stride[0];
  for (int64_t t = t0; t < t1; t++) {
    for (int64_t k = 0; k < w; k++) {
      const int64_t at = t - (w - 1) + k;
      rows[k] = at >= 0 ? x + at * p.x.stride[2] : initial ? initial + (at + w - 1) * ld : nullptr;
      if (sequence && sequence[t - t0 + k] != sequence[t - t0 + w - 1]) rows[k] = nullptr;
    }
    conv_row(p, rows, weight, ld, bias, d, floats(p.out) + b * p.out.stride[0] + t * p.out.stride[2]);
  }
}

// Sequence numbers of tokens [t0 - (w-1), t1) and a vector beyond: how often they have changed, so that one which comes
// again is another sequence, as it is to the scan. Initial states belong to the first sequence.
SEQMIX_VERB void conv_sequence(const CausalConv1d& p, int64_t b, int64_t t0, int64_t t1, int32_t* sequence) {
  const int64_t L = p.x.shape[2], w = p.weight.shape[1];
  const auto number = [&](int64_t j) {
    const int64_t t = most(0, least(L - 1, t0 - (w - 1) + j));
    return ints(p.seq_idx)[b * p.seq_idx.stride[0] + t * p.seq_idx.stride[1]];
  };
  sequence[0] = 0;
  for (int64_t j = 1; j < t1 - t0 + w - 1 + W; j++) sequence[j] = sequence[j - 1] + (number(j) != number(j - 1));
}

static void conv_channels_last(Context& context, const CausalConv1d& p) {
  constexpr int64_t kPiece = 32;  // tokens a thread takes at a time
  const int64_t batch = p.x.shape[0], d = p.x.shape[1], L = p.x.shape[2], w = p.weight.shape[1];
  const int64_t pieces = ceil_div(L, kPiece), ld = ceil_div(d, W) * W, reach = kPiece + w - 1 + W;
  const bool begins = p.initial_states.present && w > 1;
  // weights, bias and initial states as rows
  float* const weight = scratch<float>(context, (w + 1) * ld);
  float* const bias = weight + w * ld;
  float* const initial = begins ? scratch<float>(context, batch * (w - 1) * ld) : nullptr;
  const float** const rows = scratch<const float*>(context, w * context.threads);
  int32_t* const sequences = p.seq_idx.present ? scratch<int32_t>(context, reach * context.threads) : nullptr;
  const int64_t per_row = ceil_div(ld, 512);
  parallel_for(context, (begins ? batch + 1 : 1) * per_row, [&](int64_t i, int) {
    const int64_t row = i / per_row, c0 = i % per_row * 512, c1 = least(d, c0 + 512);
    for (int64_t c = c0; c < c1; c += W) {
      const int64_t count = least(W, c1 - c);
      if (row > 0) {
        const View& s = p.initial_states;
        const float* const from = floats(s) + (row - 1) * s.stride[0] + c * s.stride[1];
        for (int64_t k = 0; k < w - 1; k++)
          store(initial + ((row - 1) * (w - 1) + k) * ld + c, gather(from + k * s.stride[2], s.stride[1], count));
        continue;
      }
      const float* const from = floats(p.weight) + c * p.weight.stride[0];
      for (int64_t k = 0; k < w; k++)
        store(weight + k * ld + c, gather(from + k * p.weight.stride[1], p.weight.stride[0], count));
      store(bias + c, channels(p.bias, c, count, 0));
    }
  });
  parallel_ranges(context, batch * pieces, grain_of(kPiece * d * 4), [&](int64_t begin, int64_t end, int thread) {
    int32_t* const sequence = sequences ? sequences + thread * reach : nullptr;
    for (int64_t i = begin; i < end; i++) {
      const int64_t b = i / pieces, t0 = i % pieces * kPiece, t1 = least(L, t0 + kPiece);
      if (sequence) conv_sequence(p, b, t0, t1, sequence);
      conv_rows(p, b, t0, t1, weight, ld, bias, initial ? initial + b * (w - 1) * ld : nullptr, rows + thread * w,
                sequence);
    }
  });
}

static void conv_channels_apart(Context& context, const CausalConv1d& p) {
  const int64_t batch = p.x.shape[0], d = p.x.shape[1], L = p.x.shape[2], w = p.weight.shape[1];
  const int64_t pieces = ceil_div(L, kConvPiece), reach = kConvPiece + w - 1 + W;
  float* const inputs = scratch<float>(context, reach * context.threads);
  int32_t* const sequences = p.seq_idx.present ? scratch<int32_t>(context, reach * context.threads) : nullptr;
  const int64_t grain = grain_of(least(L, kConvPiece));
  parallel_ranges(context, batch * pieces * d, grain, [&](int64_t begin, int64_t end, int thread) {
    int64_t staged = -1;  // the (batch, piece) whose sequence numbers lie in scratch
    int32_t* const sequence = sequences ? sequences + thread * reach : nullptr;
    for (int64_t i = begin; i < end; i++) {
      const int64_t b = i / d / pieces, t0 = i / d % pieces * kConvPiece, t1 = least(L, t0 + kConvPiece);
      if (sequence && staged != i / d) conv_sequence(p, b, t0, t1, sequence);
      staged = i / d;
      conv_channel(p, b, i % d, t0, t1, inputs + thread * reach, sequence);
    }
  });
}

static void causal_conv1d_kernel(Context& context, const Problem& problem) {
  const auto& p = static_cast<const CausalConv1d&>(problem);
  const int64_t batch = p.x.shape[0], d = p.x.shape[1], L = p.x.shape[2], w = p.weight.shape[1];
  const bool channels_last = p.x.stride[1] == 1 && p.out.stride[1] == 1 && d > 1;
  context.kernel = channels_last ? SEQMIX_KERNEL("causal_conv1d.bld") : SEQMIX_KERNEL("causal_conv1d.bdl");

  if (channels_last)
    conv_channels_last(context, p);
  else
    conv_channels_apart(context, p);
  if (!p.final_states.present || w == 1) return;
  const View& f = p.final_states;
  parallel_ranges(context, batch * d, grain_of(w * 4), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++)
      for (int64_t k = 0; k < w - 1; k++)
        floats(f)[i / d * f.stride[0] + i % d * f.stride[1] + k * f.stride[2]] =
            conv_input(p, i / d, i % d, L - (w - 1) + k);
  });
}
