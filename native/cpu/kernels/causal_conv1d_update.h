// causal_conv1d_update: s new tokens of each channel against a state of its last inputs, which changes in place. A
// thread takes W channels at a time, a channel a lane: the inputs that their outputs need, old ones from the state and
// then x, come side by side into scratch memory as float32 (tile.h), outputs are summed up from there, and what the
// state is to keep goes back. The state keeps its dtype; a state that shifts and has it in common with x moves as it
// is, since widening is exact. Floor: weights and state read once, the state written once.

// Place of position `position` in a ring; positions before the first wrap as well.
SEQMIX_VERB int64_t ring_slot(int64_t position, int64_t length) {
  const int64_t r = position % length;
  return r < 0 ? r + length : r;
}

// W channels or fewer from `channel` on of batch row b, whose state is `slot`.
struct ConvUpdateBlock {
  const CausalConv1dUpdate& p;
  int64_t batch, slot, channel, count;
  int64_t position;  // in a ring
  float* inputs;     // (old + s, W), old = max(length, w - 1)
  float* weight;     // (w, W)
};

// S: the state's type.
template <class T, class S>
inline void conv_update_block(const ConvUpdateBlock& at) {
  const CausalConv1dUpdate& p = at.p;
  const View &x = p.x, &v = p.conv_state, &o = p.out;
  const int64_t s = x.shape[2], w = p.weight.shape[1], length = v.shape[2], count = at.count;
  const bool ring = p.cache_seqlens.present;
  S* const state = pointer<S>(v) + at.slot * v.stride[0] + at.channel * v.stride[1];
  const int64_t old = most(length, w - 1);
  float* const fresh = at.inputs + old * W;
  if (ring)
    for (int64_t i = 0; i < w - 1; i++) {
      const int64_t from = ring_slot(at.position + i - (w - 1), length);
      store(at.inputs + (old - (w - 1) + i) * W, gather(state + from * v.stride[2], v.stride[1], count));
    }
  else
    load_tile(state, v.stride[1], v.stride[2], count, length, at.inputs, W);
  load_tile(pointer<T>(x) + at.batch * x.stride[0] + at.channel * x.stride[1], x.stride[1], x.stride[2], count, s,
            fresh, W);
  const vf bias = channels(p.bias, at.channel, count, 0);
  T* const out = pointer<T>(o) + at.batch * o.stride[0] + at.channel * o.stride[1];
  for (int64_t t = 0; t < s; t++) {
    const float* const taps = fresh + (t - (w - 1)) * W;
    vf y = bias;
    for (int64_t k = 0; k < w; k++) y = fma(load(at.weight + k * W), load(taps + k * W), y);
    scatter(out + t * o.stride[2], o.stride[1], activated(p.activation, y), count);
  }
  if (ring)
    for (int64_t t = most(0, s - length); t < s; t++)
      scatter(state + ring_slot(at.position + t, length) * v.stride[2], v.stride[1], load(fresh + t * W), count);
  else
    store_tile(state, v.stride[1], v.stride[2], count, length, fresh + (s - length) * W);
}

static void causal_conv1d_update_kernel(Context& context, const Problem& problem) {
  const auto& p = static_cast<const CausalConv1dUpdate&>(problem);
  context.kernel = SEQMIX_KERNEL("causal_conv1d_update");
  const int64_t batch = p.x.shape[0], d = p.x.shape[1], s = p.x.shape[2], w = p.weight.shape[1];
  const int64_t blocks = ceil_div(d, W), length = p.conv_state.shape[2];
  const int64_t size = (most(length, w - 1) + s + w) * W;
  float* const memory = scratch<float>(context, size * context.threads);
  const auto work = [&](int64_t begin, int64_t end, int thread) {
    float *const inputs = memory + size * thread, *const weight = inputs + (most(length, w - 1) + s) * W;
    for (int64_t i = begin; i < end; i++) {
      const int64_t b = i / blocks, c = i % blocks * W, count = least(W, d - c);
      const int64_t slot = p.state_indices.present ? ints(p.state_indices)[b * p.state_indices.stride[0]] : b;
      if (slot >= 0 && slot < p.conv_state.shape[0]) {
        const int64_t position = p.cache_seqlens.present ? ints(p.cache_seqlens)[b * p.cache_seqlens.stride[0]] : 0;
        const ConvUpdateBlock at{p, b, slot, c, count, position, inputs, weight};
        const View& v = p.weight;
        with_float(v.dtype, [&](auto kind) {
          using V = decltype(kind);
          load_tile(pointer<V>(v) + c * v.stride[0], v.stride[0], v.stride[1], count, w, weight, W);
        });
        with_float(p.x.dtype, [&](auto kind) {
          using T = decltype(kind);
          with_float(p.conv_state.dtype, [&](auto state_kind) {
            using S = decltype(state_kind);
            conv_update_block<T, S>(at);
          });
        });
        continue;
      }
      if (slot >= 0) report_index_error(context, p);
      with_float(p.out.dtype, [&](auto kind) {
        using T = decltype(kind);
        T* const out = pointer<T>(p.out) + b * p.out.stride[0] + c * p.out.stride[1];
        for (int64_t t = 0; t < s; t++) scatter(out + t * p.out.stride[2], p.out.stride[1], set1(0), count);
      });
    }
  };
  parallel_tapering(context, batch * blocks, grain_of(W * (s * w * 2 + length)), work);
}
