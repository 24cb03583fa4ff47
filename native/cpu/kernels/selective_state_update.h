// selective_state_update: one token of the scan, the state changed in place. A thread takes blocks of 64 channels of
// one head: Δ (softplus done), and later the skip, gate and result, in vectors across channels; the states of each
// channel in vectors along n, summed across lanes once a channel. Floor: the state read and written once.

constexpr int64_t kUpdateChannels = 64;

SEQMIX_VERB float* update_at(const View& v, int64_t i, int64_t j) {
  return floats(v) + i * v.stride[0] + j * v.stride[1];
}

// The states of one channel: h = exp2(Δ A log2 e) h + Δx B; returns C·h.
SEQMIX_VERB float update_channel(const SelectiveStateUpdate& p, float* state, const float* a, const float* b,
                                 const float* c, float delta, float x) {
  const int64_t n = p.state.shape[3];
  const int64_t ss = p.state.stride[3], sa = p.A.stride[2], sb = p.B.stride[2], sc = p.C.stride[2];
  const vf rate = set1(delta), dx = set1(delta * x);
  vf y = set1(0);
  int64_t j = 0;
  if (ss == 1 && sa == 1 && sb == 1 && sc == 1)
    for (; j + W <= n; j += W) {
      const vf h = Free::step(rate * (load(a + j) * set1(1.44269504f)), load(state + j), dx * load(b + j));
      store(state + j, h);
      y = fma(h, load(c + j), y);
    }
  for (; j < n; j += W) {
    const int64_t count = least(W, n - j);
    const vf rates = sa ? gather(a + j * sa, sa, count) : set1(*a);
    const vf h = Free::step(rate * (rates * set1(1.44269504f)), gather(state + j * ss, ss, count),
                            dx * gather(b + j * sb, sb, count));
    scatter(state + j * ss, ss, h, count);
    y = fma(h, gather(c + j * sc, sc, count), y);
  }
  return sum(y);
}

// Channels [c0, c0 + count) of head i, batch row b.
inline void update_block(const SelectiveStateUpdate& p, int64_t b, int64_t slot, int64_t i, int64_t c0, int64_t count) {
  const int64_t group_b = i * p.B.shape[1] / p.state.shape[1], group_c = i * p.C.shape[1] / p.state.shape[1];
  float delta[kUpdateChannels], x[kUpdateChannels], y[kUpdateChannels];
  for (int64_t c = 0; c < count; c += W) {
    const int64_t n = least(W, count - c);
    vf v = gather(update_at(p.dt, b, i) + (c0 + c) * p.dt.stride[2], p.dt.stride[2], n);
    if (p.dt_bias.present) v = v + gather(update_at(p.dt_bias, i, c0 + c), p.dt_bias.stride[1], n);
    if (p.dt_softplus) v = softplus(v);
    store(delta + c, v);
    store(x + c, gather(update_at(p.x, b, i) + (c0 + c) * p.x.stride[2], p.x.stride[2], n));
  }
  for (int64_t c = 0; c < count; c++)
    y[c] = update_channel(p, update_at(p.state, slot, i) + (c0 + c) * p.state.stride[2], update_at(p.A, i, c0 + c),
                          update_at(p.B, b, group_b), update_at(p.C, b, group_c), delta[c], x[c]);
  for (int64_t c = 0; c < count; c += W) {
    const int64_t n = least(W, count - c);
    vf v = load_head(y + c, n);
    if (p.D.present) v = fma(gather(update_at(p.D, i, c0 + c), p.D.stride[1], n), load(x + c), v);
    if (p.z.present) v = v * silu(gather(update_at(p.z, b, i) + (c0 + c) * p.z.stride[2], p.z.stride[2], n));
    scatter(update_at(p.out, b, i) + (c0 + c) * p.out.stride[2], p.out.stride[2], v, n);
  }
}

// Mamba's form comes as h heads of one channel: seen as one head of h channels, where no group divides them, it fills
// vectors.
SEQMIX_VERB void join_heads(SelectiveStateUpdate& p) {
  View* const views[] = {&p.state, &p.x, &p.dt, &p.z, &p.A, &p.D, &p.dt_bias, &p.out};
  const int heads_at[] = {1, 1, 1, 1, 0, 0, 0, 1};
  for (int k = 0; k < 8; k++) {
    View& v = *views[k];
    if (!v.present) continue;
    const int h = heads_at[k];
    v.shape[h + 1] = v.shape[h];
    v.stride[h + 1] = v.stride[h];
    v.shape[h] = 1;
    v.stride[h] = 0;
  }
}

static void selective_state_update_kernel(Context& context, const Problem& problem) {
  SelectiveStateUpdate p = static_cast<const SelectiveStateUpdate&>(problem);
  context.kernel = SEQMIX_KERNEL("selective_state_update");
  p.out.present = true;
  if (p.state.shape[2] == 1 && p.B.shape[1] == 1 && p.C.shape[1] == 1) join_heads(p);
  const int64_t batch = p.x.shape[0], heads = p.state.shape[1], channels_each = p.state.shape[2], n = p.state.shape[3];
  const int64_t blocks = ceil_div(channels_each, kUpdateChannels);
  parallel_ranges(
      context, batch * heads * blocks, grain_of(least(channels_each, kUpdateChannels) * (n + 8) * 2),
      [&](int64_t begin, int64_t end, int) {
        for (int64_t item = begin; item < end; item++) {
          const int64_t b = item / blocks / heads, i = item / blocks % heads, c0 = item % blocks * kUpdateChannels;
          const int64_t count = least(kUpdateChannels, channels_each - c0);
          const int64_t slot = p.state_indices.present ? ints(p.state_indices)[b * p.state_indices.stride[0]] : b;
          if (slot >= 0 && slot < p.state.shape[0]) {
            update_block(p, b, slot, i, c0, count);
            continue;
          }
          if (slot >= 0) report_index_error(context, p);
          for (int64_t c = 0; c < count; c++) update_at(p.out, b, i)[(c0 + c) * p.out.stride[2]] = 0;
        }
      });
}
