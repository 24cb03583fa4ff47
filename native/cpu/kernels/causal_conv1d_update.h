// causal_conv1d_update: s new tokens of each channel against a state of its last inputs, which changes in place. A
// thread takes W channels at a time, a channel a lane: all outputs first, with the old state, then the state. Lanes are
// gathered from wherever channels lie, which costs less than filters this short would waste along a single channel.
// Floor: weights and state read once, the state written once.

// Place of position `position` in a ring; positions before the first wrap as well.
SEQMIX_VERB int64_t ring_slot(int64_t position, int64_t length) {
  const int64_t r = position % length;
  return r < 0 ? r + length : r;
}

// A (…, channels, time) operand of W channels.
struct UpdateLanes {
  float* at;
  int64_t channel, time, count;  // strides, and how many of the channels there are
  UpdateLanes(const View& v, int64_t row, int64_t c, int64_t n)
      : at(floats(v) + row * v.stride[0] + c * v.stride[1]), channel(v.stride[1]), time(v.stride[2]), count(n) {}
  SEQMIX_VERB vf get(int64_t t) const { return gather(at + t * time, channel, count); }
  SEQMIX_VERB void set(int64_t t, vf v) const { scatter(at + t * time, channel, v, count); }
};

inline void conv_update_lanes(const CausalConv1dUpdate& p, int64_t b, int64_t slot, int64_t c, int64_t count,
                              int64_t position) {
  const int64_t s = p.x.shape[2], w = p.weight.shape[1], length = p.conv_state.shape[2];
  const bool ring = p.cache_seqlens.present;
  const UpdateLanes x(p.x, b, c, count), state(p.conv_state, slot, c, count), out(p.out, b, c, count);
  const vf bias = channels(p.bias, c, count, 0);
  for (int64_t t = 0; t < s; t++) {
    vf v = bias;
    for (int64_t k = 0; k < w; k++) {
      const int64_t at = t - (w - 1) + k;
      const vf weight =
          gather(floats(p.weight) + c * p.weight.stride[0] + k * p.weight.stride[1], p.weight.stride[0], count);
      const vf tap = at >= 0 ? x.get(at) : state.get(ring ? ring_slot(position + at, length) : length + at);
      v = fma(weight, tap, v);
    }
    out.set(t, activated(p.activation, v));
  }
  if (ring)
    for (int64_t t = most(0, s - length); t < s; t++) state.set(ring_slot(position + t, length), x.get(t));
  else  // element i of the new state is element i + s of the old one followed by x
    for (int64_t i = 0; i < length; i++) state.set(i, i + s < length ? state.get(i + s) : x.get(i + s - length));
}

static void causal_conv1d_update_kernel(Context& context, const Problem& problem) {
  const auto& p = static_cast<const CausalConv1dUpdate&>(problem);
  context.kernel = SEQMIX_KERNEL("causal_conv1d_update");
  const int64_t batch = p.x.shape[0], d = p.x.shape[1], s = p.x.shape[2], w = p.weight.shape[1];
  const int64_t blocks = ceil_div(d, W), grain = grain_of(W * (s * w * 2 + p.conv_state.shape[2]));
  parallel_ranges(context, batch * blocks, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t b = i / blocks, c = i % blocks * W, count = least(W, d - c);
      const int64_t slot = p.state_indices.present ? ints(p.state_indices)[b * p.state_indices.stride[0]] : b;
      if (slot >= 0 && slot < p.conv_state.shape[0]) {
        const int64_t position = p.cache_seqlens.present ? ints(p.cache_seqlens)[b * p.cache_seqlens.stride[0]] : 0;
        conv_update_lanes(p, b, slot, c, count, position);
        continue;
      }
      if (slot >= 0) report_index_error(context, p);
      const UpdateLanes out(p.out, b, c, count);
      for (int64_t t = 0; t < s; t++) out.set(t, set1(0));
    }
  });
}
