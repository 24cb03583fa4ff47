// selective_state_update: one token of the scan, the state changed in place. A thread takes blocks of channels of one
// head: Δ (softplus done), and later the skip, gate and result, in vectors across channels; the states in vectors along
// n, W channels at a time under the same W states' B and C. Their C·h are turned around and added up for W channels
// together. A decay that a channel's states share (Mamba-2's A, one number a head) is computed once.
//
// All is float32 but the state, which is read in its own dtype and rounded to it as it is stored. Where states or A do
// not lie side by side, W channels of them go through scratch memory. Floor: the state read and written once, or some
// 18 vector operations for W states.

constexpr int64_t kUpdateChannels = 64;

// The states of W channels or fewer, and what goes with them: rows of n. `a` counts only where each state has its own.
template <class S>
struct UpdateRows {
  S* h;
  const float *a, *b, *c;
  int64_t h_stride, a_stride, n, count;
};

// A step of W states of a channel, whose decay is its Δ log2 e times each state's A, or one for all of them.
struct OwnDecays {
  float rates[W];
  template <class Lanes>
  SEQMIX_VERB vf step(const float* a, int64_t channel, Lanes lanes, vf h, vf x, vf b) const {
    const vf t = set1(rates[channel]) * lanes.get(a);
    return any(less(set1(0), t)) ? stepped<Free>(t, h, x, b) : stepped<Far>(t, h, x, b);
  }
};
template <class Step>
struct SharedDecays {
  float power[W], growth[W];
  explicit SharedDecays(vf t) {
    const Decay d = Step::finish(Step::begin(t));
    store(power, d.power);
    store(growth, d.growth);
  }
  template <class Lanes>
  SEQMIX_VERB vf step(const float*, int64_t channel, Lanes, vf h, vf x, vf b) const {
    return Step::step({set1(power[channel]), set1(growth[channel])}, h, x, b);
  }
};

struct WholeLanes {
  template <class S>
  SEQMIX_VERB static vf get(const S* p) {
    return load(p);
  }
  template <class S>
  SEQMIX_VERB static void put(S* p, vf v) {
    store(p, v);
  }
};
struct FirstLanes {
  int64_t n;
  template <class S>
  SEQMIX_VERB vf get(const S* p) const {
    return load_head(p, n);
  }
  template <class S>
  SEQMIX_VERB void put(S* p, vf v) const {
    store_head(p, v, n);
  }
};

// States [j, j + W) or fewer of all the channels, whose Δx are in x; adds C h to y, (W, W).
template <class S, class Decays, class Lanes>
SEQMIX_VERB void update_lanes(const UpdateRows<S>& at, const Decays& decays, const float* x, int64_t j, Lanes lanes,
                              float* y) {
  const vf b = lanes.get(at.b + j), c = lanes.get(at.c + j);
  const int64_t count = at.count, h_stride = at.h_stride, a_stride = at.a_stride;
  S* h = at.h + j;
  const float* a = at.a + j;
  for (int64_t i = 0; i < count; i++, h += h_stride, a += a_stride) {
    const vf s = decays.step(a, i, lanes, lanes.get(h), set1(x[i]), b);
    lanes.put(h, s);
    store(y + i * W, fma(s, c, load(y + i * W)));
  }
}

// Lane i of the result: the sum of row i's lanes.
SEQMIX_VERB vf row_sums(const float* y) {
  vf rows[W];
#pragma GCC unroll 16
  for (int i = 0; i < W; i++) rows[i] = load(y + i * W);
  transpose(rows);
#pragma GCC unroll 16
  for (int i = 0; i < W / 2; i++) rows[i] = rows[i] + rows[i + W / 2];
#pragma GCC unroll 16
  for (int i = 0; i < W / 4; i++) rows[i] = rows[i] + rows[i + W / 4];
  for (int i = 1; i < W / 4; i++) rows[0] = rows[0] + rows[i];
  return rows[0];
}

// C·h of the channels.
template <class S, class Decays>
static __attribute__((noinline)) vf update_states(const UpdateRows<S>& at, const Decays& decays, vf dx) {
  float x[W], y[W * W];
  store(x, dx);
#pragma GCC unroll 16
  for (int i = 0; i < W; i++) store(y + i * W, set1(0));
  int64_t j = 0;
  for (; j + W <= at.n; j += W) update_lanes(at, decays, x, j, WholeLanes{}, y);
  if (j < at.n) update_lanes(at, decays, x, j, FirstLanes{at.n - j}, y);
  return row_sums(y);
}

// Channels [c0, c0 + count) of one head of one batch row.
struct UpdateBlock {
  const SelectiveStateUpdate& p;
  int64_t batch, slot, head, c0, count;
  const float *b, *c;
  float* room;  // (2 W, pitch): for W channels' states and A where those are brought together

  SEQMIX_VERB int64_t at(const View& v, int64_t first) const {
    return batch * v.stride[0] + head * v.stride[1] + (c0 + first) * v.stride[2];
  }
  SEQMIX_VERB int64_t weight_at(const View& v, int64_t first) const {
    return head * v.stride[0] + (c0 + first) * v.stride[1];
  }
};

SEQMIX_VERB int64_t update_pitch(int64_t n) { return ceil_div(n, W) * W; }

// C·h of W channels from `first` on, their states in `rows`.
template <class S>
SEQMIX_VERB vf update_rows(const UpdateBlock& block, int64_t first, UpdateRows<S> rows, vf delta, vf x) {
  const View& v = block.p.A;
  const vf rate = delta * set1(1.44269504f);
  if (v.stride[2] == 0 || rows.n == 1) {
    const vf t = rate * gather(floats(v) + block.weight_at(v, first), v.stride[1], rows.count);
    if (any(less(set1(0), t))) return update_states(rows, SharedDecays<Free>(t), delta * x);
    return update_states(rows, SharedDecays<Far>(t), delta * x);
  }
  rows.a = floats(v) + block.weight_at(v, first);
  rows.a_stride = v.stride[1];
  if (v.stride[2] != 1) {
    rows.a_stride = update_pitch(rows.n);
    float* const room = block.room + W * rows.a_stride;
    rows.a = room;
    for (int64_t i = 0; i < rows.count; i++)
      copy_row(v, block.weight_at(v, first + i), v.stride[2], rows.n, room + i * rows.a_stride);
  }
  OwnDecays decays;
  store(decays.rates, rate);
  return update_states(rows, decays, delta * x);
}

inline vf update_channels(const UpdateBlock& block, int64_t first, vf delta, vf x) {
  const View& v = block.p.state;
  const int64_t n = v.shape[3], pitch = update_pitch(n), count = least(W, block.count - first);
  if (n == 0) return set1(0);
  const auto at = [&](int64_t i) {
    return block.slot * v.stride[0] + block.head * v.stride[1] + (block.c0 + first + i) * v.stride[2];
  };
  vf y = set1(0);
  if (v.stride[3] == 1 || n == 1) {
    with_float(v.dtype, [&](auto state_kind) {
      using S = decltype(state_kind);
      y = update_rows<S>(block, first, {pointer<S>(v) + at(0), block.b, block.b, block.c, v.stride[2], 0, n, count},
                         delta, x);
    });
    return y;
  }
  float* const room = block.room;
  for (int64_t i = 0; i < count; i++) copy_row(v, at(i), v.stride[3], n, room + i * pitch);
  y = update_rows<float>(block, first, {room, block.b, block.b, block.c, pitch, 0, n, count}, delta, x);
  for (int64_t i = 0; i < count; i++) put_row(v, at(i), v.stride[3], n, room + i * pitch);
  return y;
}

inline void update_block(const UpdateBlock& block) {
  const SelectiveStateUpdate& p = block.p;
  float delta[kUpdateChannels], x[kUpdateChannels], y[kUpdateChannels], other[kUpdateChannels];
  copy_row(p.dt, block.at(p.dt, 0), p.dt.stride[2], block.count, delta);
  copy_row(p.x, block.at(p.x, 0), p.x.stride[2], block.count, x);
  if (p.dt_bias.present) {
    copy_row(p.dt_bias, block.weight_at(p.dt_bias, 0), p.dt_bias.stride[1], block.count, other);
    for (int64_t i = 0; i < block.count; i += W) store(delta + i, load(delta + i) + load(other + i));
  }
  if (p.dt_softplus)
    for (int64_t i = 0; i < block.count; i += W) store(delta + i, softplus(load(delta + i)));
  for (int64_t i = 0; i < block.count; i += W) store(y + i, update_channels(block, i, load(delta + i), load(x + i)));
  if (p.D.present) {
    copy_row(p.D, block.weight_at(p.D, 0), p.D.stride[1], block.count, other);
    for (int64_t i = 0; i < block.count; i += W) store(y + i, fma(load(other + i), load(x + i), load(y + i)));
  }
  if (p.z.present) {
    copy_row(p.z, block.at(p.z, 0), p.z.stride[2], block.count, other);
    for (int64_t i = 0; i < block.count; i += W) store(y + i, load(y + i) * silu(load(other + i)));
  }
  put_row(p.out, block.at(p.out, 0), p.out.stride[2], block.count, y);
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

// n numbers of a row's B or C: where they lie, or copied.
SEQMIX_VERB const float* update_row(const View& v, int64_t b, int64_t group, float* room) {
  const int64_t n = v.shape[2], step = v.stride[2], from = b * v.stride[0] + group * v.stride[1];
  if (v.dtype == DType::float32 && (step == 1 || n <= 1)) return floats(v) + from;
  copy_row(v, from, step, n, room);
  return room;
}

static void selective_state_update_kernel(Context& context, const Problem& problem) {
  SelectiveStateUpdate p = static_cast<const SelectiveStateUpdate&>(problem);
  context.kernel = SEQMIX_KERNEL("selective_state_update");
  p.out.present = true;
  p.A = widened(context, p.A);
  if (p.state.shape[2] == 1 && p.B.shape[1] == 1 && p.C.shape[1] == 1) join_heads(p);
  const int64_t batch = p.x.shape[0], heads = p.state.shape[1], channels_each = p.state.shape[2], n = p.state.shape[3];
  const int64_t blocks = ceil_div(channels_each, kUpdateChannels), pitch = update_pitch(n), size = (2 * W + 2) * pitch;
  float* const memory = scratch<float>(context, size * context.threads);
  const auto work = [&](int64_t begin, int64_t end, int thread) {
    float *const room = memory + size * thread, *const rows = room + 2 * W * pitch;
    for (int64_t item = begin; item < end; item++) {
      const int64_t b = item / blocks / heads, i = item / blocks % heads, c0 = item % blocks * kUpdateChannels;
      const int64_t slot = p.state_indices.present ? ints(p.state_indices)[b * p.state_indices.stride[0]] : b;
      const int64_t count = least(kUpdateChannels, channels_each - c0);
      UpdateBlock block{p, b, slot, i, c0, count, nullptr, nullptr, room};
      if (slot >= 0 && slot < p.state.shape[0]) {
        block.b = update_row(p.B, b, i * p.B.shape[1] / heads, rows);
        block.c = update_row(p.C, b, i * p.C.shape[1] / heads, rows + pitch);
        update_block(block);
        continue;
      }
      if (slot >= 0) report_index_error(context, p);
      const float zeros[kUpdateChannels] = {};
      put_row(p.out, block.at(p.out, 0), p.out.stride[2], count, zeros);
    }
  };
  const int64_t each = least(channels_each, kUpdateChannels) * (n + n / 2);
  parallel_tapering(context, batch * heads * blocks, grain_of(each), work);
}
