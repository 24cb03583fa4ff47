// causal_conv1d: a short filter along each channel, act(bias + Σ_k weight[k] x[t - (w-1) + k]). Where channels lie next
// to each other in memory, (b, L, d), a thread takes some tokens of a row's channels, so that memory is walked
// forward, and adds up rows by rows of weights turned around before. Else, in (b, d, L) or anything, it takes a piece
// of one channel, tokens in the lanes. The w - 1 inputs before a row's first token come from initial_states or are 0.
//
// Sums are float32. Inputs of 16 bits are widened once, into scratch memory, and not once for each tap; results are
// rounded as they are stored. Floor: x read and out written once.

constexpr int64_t kConvPiece = 2048;  // tokens of one channel
constexpr int64_t kConvTokens = 32;   // tokens of many channels
// So many: memory is walked forward for two pages, and what a token needs stays in the second-level cache. A quarter as
// many stay in the first, but that took a third longer.
constexpr int64_t kConvChannels = 2048;
constexpr int kConvVectors = 2;  // side by side; more do not fit into sixteen registers

SEQMIX_VERB vf activated(Activation a, vf v) { return a == Activation::silu ? silu(v) : v; }

// Inputs t of n channels from c on, -w < t < L, wherever they are.
template <class T>
SEQMIX_VERB vf conv_inputs(const CausalConv1d& p, int64_t b, int64_t c, int64_t n, int64_t t) {
  if (t >= 0)
    return gather(pointer<T>(p.x) + b * p.x.stride[0] + c * p.x.stride[1] + t * p.x.stride[2], p.x.stride[1], n);
  const int64_t from = t + p.weight.shape[1] - 1;  // the oldest initial state is 0
  if (!p.initial_states.present || from < 0) return set1(0);
  const View& s = p.initial_states;
  return gather_any(s, b * s.stride[0] + c * s.stride[1] + from * s.stride[2], s.stride[1], n);
}

// What a thread needs for the channels it takes one at a time.
struct ConvRoom {
  float* inputs;            // w - 1 + kConvPiece and a vector
  const int32_t* sequence;  // likewise, or null
};

// n outputs of a channel from n + w - 1 inputs.
template <class T>
SEQMIX_VERB void conv_span(const CausalConv1d& p, const float* weight, vf bias, const float* from,
                           const int32_t* sequence, int64_t n, T* out) {
  const int64_t w = p.weight.shape[1], sw = p.weight.stride[1], so = p.out.stride[2];
  int64_t i = 0;
  if (w == 4 && !sequence && so == 1) {  // the width that models have, with the filter in registers
    const vf w0 = set1(weight[0]), w1 = set1(weight[sw]), w2 = set1(weight[2 * sw]), w3 = set1(weight[3 * sw]);
    for (; i + kConvVectors * W <= n; i += kConvVectors * W) {
      vf v[kConvVectors];
#pragma GCC unroll 8
      for (int k = 0; k < kConvVectors; k++) {
        const float* const taps = from + i + k * W;
        v[k] = fma(w1, load(taps + 1), fma(w0, load(taps), bias));
        v[k] = fma(w3, load(taps + 3), fma(w2, load(taps + 2), v[k]));
      }
      if (p.activation == Activation::silu) silu<kConvVectors>(v);
#pragma GCC unroll 8
      for (int k = 0; k < kConvVectors; k++) store(out + i + k * W, v[k]);
    }
  }
  for (; i < n; i += W) {
    const int64_t count = least(W, n - i);
    vf v = bias;
    for (int64_t k = 0; k < w; k++) {
      vf tap = load_some(from + i + k, count);
      if (sequence) tap = select(equal_ints(sequence + i + k, sequence + i + w - 1), tap, set1(0));
      v = fma(set1(weight[k * sw]), tap, v);
    }
    scatter(out + i * so, so, activated(p.activation, v), count);
  }
}

// One channel, tokens [t0, t1). Floats side by side are read where they lie, but for the first few tokens' inputs.
template <class T>
inline void conv_channel(const CausalConv1d& p, int64_t b, int64_t c, int64_t t0, int64_t t1, const ConvRoom& room) {
  const int64_t w = p.weight.shape[1], sx = p.x.stride[2], so = p.out.stride[2];
  const T* const x = pointer<T>(p.x) + b * p.x.stride[0] + c * p.x.stride[1];
  const float* const weight = floats(p.weight) + c * p.weight.stride[0];
  const vf bias = set1(p.bias.present ? floats(p.bias)[c * p.bias.stride[0]] : 0.0f);
  T* const out = pointer<T>(p.out) + b * p.out.stride[0] + c * p.out.stride[1];
  int64_t staged = t1;  // tokens before this get their inputs from the room
  if constexpr (sizeof(T) == sizeof(float))
    if (sx == 1) staged = t0 >= w - 1 ? t0 : least(t1, t0 + ceil_div(w - 1 - t0, W) * W);
  if (staged > t0) {
    const int64_t first = t0 - (w - 1), before = least(staged - first, most(0, -first));
    float one[W];
    for (int64_t i = 0; i < before; i++) {
      store(one, conv_inputs<T>(p, b, c, 1, first + i));
      room.inputs[i] = one[0];
    }
    for (int64_t i = before; i < staged - first; i += W)
      store(room.inputs + i, gather(x + (first + i) * sx, sx, least(W, staged - first - i)));
    conv_span(p, weight, bias, room.inputs, room.sequence, staged - t0, out + t0 * so);
  }
  if constexpr (sizeof(T) == sizeof(float))
    if (staged < t1)
      conv_span(p, weight, bias, x + staged - (w - 1), room.sequence ? room.sequence + (staged - t0) : nullptr,
                t1 - staged, out + staged * so);
}

// Channels next to each other in memory: a token is a row, and its output a sum of rows, each by its row of weights.
// `rows` are the row's taps, oldest first, null where there is none. n channels; weights and bias have room beyond.
template <class T>
SEQMIX_VERB void conv_row(const CausalConv1d& p, const float* const* rows, const float* weight, int64_t ld,
                          const float* bias, int64_t n, T* out) {
  const int64_t w = p.weight.shape[1];
  int64_t c = 0;
  if (w == 4 && rows[0] && rows[1] && rows[2]) {  // the width that models have
    const float *const r0 = rows[0], *const r1 = rows[1], *const r2 = rows[2], *const r3 = rows[3];
    for (; c + kConvVectors * W <= n; c += kConvVectors * W) {
      vf v[kConvVectors];
#pragma GCC unroll 8
      for (int k = 0; k < kConvVectors; k++) {
        const int64_t at = c + k * W;
        v[k] = fma(load(weight + at), load(r0 + at), load(bias + at));
        v[k] = fma(load(weight + ld + at), load(r1 + at), v[k]);
        v[k] = fma(load(weight + 2 * ld + at), load(r2 + at), v[k]);
        v[k] = fma(load(weight + 3 * ld + at), load(r3 + at), v[k]);
      }
      if (p.activation == Activation::silu) silu<kConvVectors>(v);
#pragma GCC unroll 8
      for (int k = 0; k < kConvVectors; k++) store(out + c + k * W, v[k]);
    }
  }
  for (; c < n; c += W) {
    const int64_t count = least(W, n - c);
    vf v = load(bias + c);
    for (int64_t k = 0; k < w; k++)
      if (rows[k]) v = fma(load(weight + k * ld + c), load_some(rows[k] + c, count), v);
    store_some(out + c, activated(p.activation, v), count);
  }
}

// Weights, bias and initial states as rows of ld floats; and for a thread, the taps of a token, a ring of w widened
// rows, and sequence numbers.
struct ConvRows {
  const float *weight, *bias, *initial;
  int64_t ld;
  const float** taps;
  float* ring;  // (w, kConvChannels), where inputs are widened
  const int32_t* sequence;
};

// Tokens [t0, t1) of channels [c0, c0 + n).
template <class T>
inline void conv_rows(const CausalConv1d& p, int64_t b, int64_t t0, int64_t t1, int64_t c0, int64_t n,
                      const ConvRows& r) {
  const int64_t w = p.weight.shape[1];
  const T* const x = pointer<T>(p.x) + b * p.x.stride[0] + c0;
  const float* const initial = r.initial ? r.initial + b * (w - 1) * r.ld + c0 : nullptr;
  const auto row_of = [&](int64_t t) -> const float* {  // of an input that is there, or null
    if (t < 0) return initial ? initial + (t + w - 1) * r.ld : nullptr;
    if constexpr (sizeof(T) == sizeof(float))
      return x + t * p.x.stride[2];
    else
      return r.ring + t % w * kConvChannels;
  };
  const auto widen_row = [&](int64_t t) {
    if constexpr (sizeof(T) != sizeof(float)) {
      float* const to = r.ring + t % w * kConvChannels;
      const T* const from = x + t * p.x.stride[2];
      for (int64_t c = 0; c < n; c += W) store(to + c, load_some(from + c, least(W, n - c)));
    }
  };
  for (int64_t t = most(0, t0 - (w - 1)); t < t0; t++) widen_row(t);
  for (int64_t t = t0; t < t1; t++) {
    widen_row(t);
    for (int64_t k = 0; k < w; k++) {
      r.taps[k] = row_of(t - (w - 1) + k);
      if (r.sequence && r.sequence[t - t0 + k] != r.sequence[t - t0 + w - 1]) r.taps[k] = nullptr;
    }
    conv_row(p, r.taps, r.weight + c0, r.ld, r.bias + c0, n,
             pointer<T>(p.out) + b * p.out.stride[0] + t * p.out.stride[2] + c0);
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

template <class T>
static void conv_channels_last(Context& context, const CausalConv1d& p) {
  const int64_t batch = p.x.shape[0], d = p.x.shape[1], L = p.x.shape[2], w = p.weight.shape[1];
  const int64_t pieces = ceil_div(L, kConvTokens), ld = ceil_div(d, W) * W, reach = kConvTokens + w - 1 + W;
  const bool begins = p.initial_states.present && w > 1, widens = sizeof(T) != sizeof(float);
  float* const weight = scratch<float>(context, (w + 1) * ld);
  float* const bias = weight + w * ld;
  float* const initial = begins ? scratch<float>(context, batch * (w - 1) * ld) : nullptr;
  const float** const taps = scratch<const float*>(context, w * context.threads);
  float* const rings = widens ? scratch<float>(context, w * kConvChannels * context.threads) : nullptr;
  int32_t* const sequences = p.seq_idx.present ? scratch<int32_t>(context, reach * context.threads) : nullptr;
  const int64_t blocks = ceil_div(d, kConvChannels);
  parallel_for(context, (begins ? batch + 1 : 1) * blocks, [&](int64_t i, int) {
    const int64_t row = i / blocks, c0 = i % blocks * kConvChannels, c1 = least(d, c0 + kConvChannels);
    for (int64_t c = c0; c < c1; c += W) {
      const int64_t count = least(W, c1 - c);
      if (row > 0) {
        for (int64_t k = 0; k < w - 1; k++)
          store(initial + ((row - 1) * (w - 1) + k) * ld + c, conv_inputs<T>(p, row - 1, c, count, k - (w - 1)));
        continue;
      }
      const View& v = p.weight;
      for (int64_t k = 0; k < w; k++)
        store(weight + k * ld + c, gather_any(v, c * v.stride[0] + k * v.stride[1], v.stride[0], count));
      store(bias + c, channels(p.bias, c, count, 0));
    }
  });
  parallel_ranges(context, batch * pieces, grain_of(kConvTokens * d * 4), [&](int64_t begin, int64_t end, int thread) {
    int32_t* const sequence = sequences ? sequences + thread * reach : nullptr;
    float* const ring = rings ? rings + thread * w * kConvChannels : nullptr;
    const ConvRows rows{weight, bias, initial, ld, taps + thread * w, ring, sequence};
    for (int64_t i = begin; i < end; i++) {
      const int64_t b = i / pieces, t0 = i % pieces * kConvTokens, t1 = least(L, t0 + kConvTokens);
      if (sequence) conv_sequence(p, b, t0, t1, sequence);
      for (int64_t c = 0; c < d; c += kConvChannels) conv_rows<T>(p, b, t0, t1, c, least(kConvChannels, d - c), rows);
    }
  });
}

template <class T>
static void conv_channels_apart(Context& context, const CausalConv1d& given) {
  CausalConv1d p = given;
  p.weight = widened(context, given.weight);
  p.bias = widened(context, given.bias);
  const int64_t batch = p.x.shape[0], d = p.x.shape[1], L = p.x.shape[2], w = p.weight.shape[1];
  const int64_t pieces = ceil_div(L, kConvPiece), reach = kConvPiece + w - 1 + W;
  float* const inputs = scratch<float>(context, reach * context.threads);
  int32_t* const sequences = p.seq_idx.present ? scratch<int32_t>(context, reach * context.threads) : nullptr;
  const int64_t grain = grain_of(least(L, kConvPiece));
  parallel_ranges(context, batch * pieces * d, grain, [&](int64_t begin, int64_t end, int thread) {
    int64_t staged = -1;  // the (batch, piece) whose sequence numbers lie in scratch
    int32_t* const sequence = sequences ? sequences + thread * reach : nullptr;
    const ConvRoom room{inputs + thread * reach, sequence};
    for (int64_t i = begin; i < end; i++) {
      const int64_t b = i / d / pieces, t0 = i / d % pieces * kConvPiece, t1 = least(L, t0 + kConvPiece);
      if (sequence && staged != i / d) conv_sequence(p, b, t0, t1, sequence);
      staged = i / d;
      conv_channel<T>(p, b, i % d, t0, t1, room);
    }
  });
}

// The last w - 1 inputs, in x's dtype.
template <class T>
static void conv_final_states(Context& context, const CausalConv1d& p) {
  const View& f = p.final_states;
  const int64_t batch = p.x.shape[0], d = p.x.shape[1], L = p.x.shape[2], w = p.weight.shape[1];
  const int64_t blocks = ceil_div(d, W);
  parallel_ranges(context, batch * blocks, grain_of(W * w * 4), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t b = i / blocks, c = i % blocks * W, count = least(W, d - c);
      T* const to = pointer<T>(f) + b * f.stride[0] + c * f.stride[1];
      for (int64_t k = 0; k < w - 1; k++)
        scatter(to + k * f.stride[2], f.stride[1], conv_inputs<T>(p, b, c, count, L - (w - 1) + k), count);
    }
  });
}

static void causal_conv1d_kernel(Context& context, const Problem& problem) {
  const auto& p = static_cast<const CausalConv1d&>(problem);
  const bool channels_last = p.x.stride[1] == 1 && p.out.stride[1] == 1 && p.x.shape[1] > 1;
  context.kernel = channels_last ? SEQMIX_KERNEL("causal_conv1d.bld") : SEQMIX_KERNEL("causal_conv1d.bdl");
  with_float(p.x.dtype, [&](auto kind) {
    using T = decltype(kind);
    if (channels_last)
      conv_channels_last<T>(context, p);
    else
      conv_channels_apart<T>(context, p);
    if (p.final_states.present && p.weight.shape[1] > 1) conv_final_states<T>(context, p);
  });
}
