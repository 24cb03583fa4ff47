// causal_conv1d: a short filter along each channel, act(bias + Σ_k weight[k] x[t - (w-1) + k]). A thread takes a piece
// of one channel's (b, d, L) row, or, where channels lie next to each other in memory, of W channels; the w - 1 inputs
// before the piece come from the row itself, from initial_states, or are 0. Floor: x read and out written once.

constexpr int64_t kConvPiece = 2048;  // tokens a thread takes at a time

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
    for (int64_t i = 0; i < n + w - 1; i++) inputs[i] = conv_input(p, b, c, t0 - (w - 1) + i);
  }
  const float* const weight = floats(p.weight) + c * p.weight.stride[0];
  const vf bias = set1(p.bias.present ? floats(p.bias)[c * p.bias.stride[0]] : 0.0f);
  float* const out = floats(p.out) + b * p.out.stride[0] + c * p.out.stride[1] + t0 * p.out.stride[2];
  for (int64_t i = 0; i < n; i += W) {
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

static void causal_conv1d_kernel(Context& context, const Problem& problem) {
  const auto& p = static_cast<const CausalConv1d&>(problem);
  const int64_t batch = p.x.shape[0], d = p.x.shape[1], L = p.x.shape[2], w = p.weight.shape[1];
  const bool channels_last = p.x.stride[1] == 1 && p.out.stride[1] == 1 && d > 1;
  context.kernel = channels_last ? SEQMIX_KERNEL("causal_conv1d.bld") : SEQMIX_KERNEL("causal_conv1d.bdl");

  const int64_t together = channels_last ? W : 1;
  const int64_t blocks = ceil_div(d, together), pieces = ceil_div(L, kConvPiece);
  const int64_t reach = kConvPiece + w - 1 + W;
  float* const inputs = scratch<float>(context, reach * context.threads);
  int32_t* const sequences = p.seq_idx.present ? scratch<int32_t>(context, reach * context.threads) : nullptr;
  vf* const weights = scratch<vf>(context, w * context.threads);
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
      if (channels_last)
        conv_channels(p, b, c, least(W, d - c), t0, t1, weights + thread * w, sequence);
      else
        conv_channel(p, b, c, t0, t1, inputs + thread * reach, sequence);
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

// The update: each channel's s new tokens against a state of its last inputs. Tokens run in order; a tap older than
// the new tokens is read from the state before the state is changed.

// Place of position `position` in a ring; positions before the first wrap as well.
SEQMIX_VERB int64_t ring_slot(int64_t position, int64_t length) {
  const int64_t r = position % length;
  return r < 0 ? r + length : r;
}

SEQMIX_VERB void conv_update_channel(const CausalConv1dUpdate& p, int64_t b, int64_t c, float* state, int64_t position,
                                     float* out) {
  const int64_t s = p.x.shape[2], w = p.weight.shape[1], length = p.conv_state.shape[2];
  const int64_t ss = p.conv_state.stride[2], sx = p.x.stride[2], so = p.out.stride[2];
  const bool ring = p.cache_seqlens.present;
  const float* const x = floats(p.x) + b * p.x.stride[0] + c * p.x.stride[1];
  const float* const weight = floats(p.weight) + c * p.weight.stride[0];
  const float bias = p.bias.present ? floats(p.bias)[c * p.bias.stride[0]] : 0.0f;
  for (int64_t t = 0; t < s; t++) {
    float v = bias;
    for (int64_t k = 0; k < w; k++) {
      const int64_t at = t - (w - 1) + k;
      const float tap = at >= 0 ? x[at * sx] : state[(ring ? ring_slot(position + at, length) : length + at) * ss];
      v = __builtin_fmaf(weight[k * p.weight.stride[1]], tap, v);
    }
    out[t * so] = v;
  }
  if (ring) {
    for (int64_t t = most(0, s - length); t < s; t++) state[ring_slot(position + t, length) * ss] = x[t * sx];
  } else {
    for (int64_t i = 0; i < length; i++) {
      const int64_t from = i + s;  // where in the old state followed by x the new state's element i is
      state[i * ss] = from < length ? state[from * ss] : x[(from - length) * sx];
    }
  }
}

// One token for n <= W channels from c, when the state is no ring: the same, channels side by side.
SEQMIX_VERB void conv_update_token(const CausalConv1dUpdate& p, int64_t b, int64_t c, int64_t n, float* state) {
  const int64_t w = p.weight.shape[1], length = p.conv_state.shape[2];
  const int64_t across = p.conv_state.stride[1], along = p.conv_state.stride[2], so = p.out.stride[1];
  const vf x = gather(floats(p.x) + b * p.x.stride[0] + c * p.x.stride[1], p.x.stride[1], n);
  const float* const weight = floats(p.weight) + c * p.weight.stride[0];
  state += c * across;
  vf v = channels(p.bias, c, n, 0.0f);
  for (int64_t k = 0; k < w; k++) {
    const vf tap = k == w - 1 ? x : gather(state + (length - (w - 1) + k) * along, across, n);
    v = fma(gather(weight + k * p.weight.stride[1], p.weight.stride[0], n), tap, v);
  }
  scatter(floats(p.out) + b * p.out.stride[0] + c * so, so, p.activation == Activation::silu ? silu(v) : v, n);
  for (int64_t i = 0; i < length; i++)
    scatter(state + i * along, across, i + 1 < length ? gather(state + (i + 1) * along, across, n) : x, n);
}

static void causal_conv1d_update_kernel(Context& context, const Problem& problem) {
  const auto& p = static_cast<const CausalConv1dUpdate&>(problem);
  context.kernel = SEQMIX_KERNEL("causal_conv1d_update");
  const int64_t batch = p.x.shape[0], d = p.x.shape[1], s = p.x.shape[2], w = p.weight.shape[1];
  const int64_t blocks = ceil_div(d, 64);
  parallel_ranges(
      context, batch * blocks, grain_of(64 * (s * w + p.conv_state.shape[2])), [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; i++) {
          const int64_t b = i / blocks, c0 = i % blocks * 64, c1 = least(d, c0 + 64);
          const int64_t slot = p.state_indices.present ? ints(p.state_indices)[b * p.state_indices.stride[0]] : b;
          const bool bad = slot >= p.conv_state.shape[0];
          if (bad) report_index_error(context, p);
          const int64_t position = p.cache_seqlens.present ? ints(p.cache_seqlens)[b * p.cache_seqlens.stride[0]] : 0;
          if (s == 1 && !p.cache_seqlens.present && !bad && slot >= 0) {
            float* const state = floats(p.conv_state) + slot * p.conv_state.stride[0];
            for (int64_t c = c0; c < c1; c += W) conv_update_token(p, b, c, least(W, c1 - c), state);
            continue;
          }
          for (int64_t c = c0; c < c1; c++) {
            float* const out = floats(p.out) + b * p.out.stride[0] + c * p.out.stride[1];
            if (bad || slot < 0) {
              for (int64_t t = 0; t < s; t++) out[t * p.out.stride[2]] = 0;
              continue;
            }
            conv_update_channel(p, b, c,
                                floats(p.conv_state) + slot * p.conv_state.stride[0] + c * p.conv_state.stride[1],
                                position, out);
          }
          if (p.activation == Activation::silu)  // over channels, since there is mostly one token; silu(0) = 0
            for (int64_t t = 0; t < s; t++)
              for (int64_t c = c0; c < c1; c += W) {
                const int64_t n = least(W, c1 - c), stride = p.out.stride[1];
                float* const out = floats(p.out) + b * p.out.stride[0] + c * stride + t * p.out.stride[2];
                scatter(out, stride, silu(gather(out, stride, n)), n);
              }
        }
      });
}
