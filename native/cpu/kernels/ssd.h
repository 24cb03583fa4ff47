// What the forms of ssdChunkScan share: how its operands are cut and brought into a thread's memory.
//
// A strip is 2 W channels of one head. Its state is kept as (n, strip), channels in lanes, so that B and C are
// broadcast and nothing is summed across lanes; x, y and out pass through tiles (tokens, strip). A row's tokens are
// taken in pieces of at most so many, each of one sequence: nothing inside a piece has to be masked, and no NaN gets
// from one sequence into the next. 16-bit operands are widened on the way in, and results rounded on the way out.

constexpr int kSsdStrip = 2 * W;
constexpr int64_t kSsdTokens = kSsdMostChunk;  // of the largest piece

struct SsdPiece {
  int64_t row, t0, count;
  bool fresh;    // no state comes in
  bool goes_on;  // the state after it is asked for
};

SEQMIX_VERB int64_t ssd_strips(const SsdChunkScan& p) { return ceil_div(p.x.shape[3], kSsdStrip); }
SEQMIX_VERB int64_t ssd_channels(const SsdChunkScan& p, int64_t strip) {
  return least(kSsdStrip, p.x.shape[3] - strip * kSsdStrip);
}
SEQMIX_VERB int64_t ssd_state_size(const SsdChunkScan& p) { return p.B.shape[3] * kSsdStrip; }  // of a strip

// A token with which a sequence begins that was not there before.
SEQMIX_VERB bool ssd_begins(const SsdChunkScan& p, int64_t row, int64_t t) {
  if (!p.seq_idx.present || t == 0) return false;
  const int32_t* const s = ints(p.seq_idx) + row * p.seq_idx.stride[0] + t * p.seq_idx.stride[1];
  return s[0] != s[-p.seq_idx.stride[1]];
}

SEQMIX_VERB SsdPiece ssd_piece(const SsdChunkScan& p, int64_t row, int64_t t0, int64_t most) {
  const int64_t L = p.x.shape[1], last = least(L, t0 + most);
  int64_t end = p.seq_idx.present ? t0 + 1 : last;
  while (end < last && !ssd_begins(p, row, end)) end++;
  const bool fresh = t0 == 0 ? !p.initial_states.present : ssd_begins(p, row, t0);
  return {row, t0, end - t0, fresh, end < L ? !ssd_begins(p, row, end) : p.final_states.present};
}

// Up to W elements, `stride` apart: whole vectors with one access, since masked ones are slow on some processors.
template <class T>
SEQMIX_VERB vf ssd_load(const T* p, int64_t stride, int64_t n) {
  return stride == 1 && n == W ? load(p) : gather(p, stride, n);
}

// to[k * width + i] = from[i * si + k * sk] for i < count and k < depth, 0 for what is left of the width. Whole vectors
// are stored: what hangs over is written again by the next k, and behind the last there must be room for W.
template <class T>
inline void ssd_turn(const T* from, int64_t si, int64_t sk, int64_t count, int64_t depth, int64_t width, float* to) {
  for (int64_t i0 = 0; i0 < width; i0 += W)
    for (int64_t k = 0; k < depth; k += W) {
      const int64_t n = least(W, depth - k);
      vf block[W];
      for (int i = 0; i < W; i++) block[i] = i0 + i < count ? ssd_load(from + (i0 + i) * si + k * sk, sk, n) : set1(0);
      transpose(block);
      for (int64_t i = 0; i < n; i++) store(to + (k + i) * width + i0, block[i]);
    }
}

// One strip of a head's state: the initial one, or 0.
inline void ssd_load_state(const SsdChunkScan& p, int64_t row, int64_t head, int64_t strip, float* state) {
  const View& v = p.initial_states;
  const int64_t n = p.B.shape[3];
  if (!v.present) {
    for (int64_t i = 0; i < n * kSsdStrip; i += W) store(state + i, set1(0));
    return;
  }
  with_float(v.dtype, [&](auto kind) {
    using T = decltype(kind);
    ssd_turn(pointer<T>(v) + row * v.stride[0] + head * v.stride[1] + strip * kSsdStrip * v.stride[2], v.stride[2],
             v.stride[3], ssd_channels(p, strip), n, kSsdStrip, state);
  });
}

inline void ssd_store_state(const SsdChunkScan& p, int64_t row, int64_t head, int64_t strip, const float* state) {
  const View& v = p.final_states;
  const int64_t n = p.B.shape[3], channels_ = ssd_channels(p, strip);
  float* const to = floats(v) + row * v.stride[0] + head * v.stride[1] + strip * kSsdStrip * v.stride[2];
  for (int64_t c = 0; c < channels_; c += W)
    for (int64_t k = 0; k < n; k += W) {
      const int64_t count = least(W, n - k);
      vf block[W];
      for (int64_t i = 0; i < W; i++) block[i] = i < count ? load(state + (k + i) * kSsdStrip + c) : set1(0);
      transpose(block);
      for (int64_t i = 0; i < least(W, channels_ - c); i++)
        if (count == W)
          store(to + (c + i) * v.stride[2] + k, block[i]);
        else
          store_head(to + (c + i) * v.stride[2] + k, block[i], count);
    }
}

// B or C of a piece's tokens, one group's: a token's states side by side.
struct SsdRows {
  const float* at;
  int64_t stride;
};

// Copied into (tokens, pitch), padded with zeros; pitch a multiple of W.
inline void ssd_copy_rows(const View& v, const SsdPiece& at, int64_t group, int64_t pitch, float* to) {
  const int64_t n = v.shape[3];
  with_float(v.dtype, [&](auto kind) {
    using T = decltype(kind);
    const T* const from = pointer<T>(v) + at.row * v.stride[0] + at.t0 * v.stride[1] + group * v.stride[2];
    for (int64_t t = 0; t < at.count; t++)
      for (int64_t k = 0; k < n; k += W)
        store(to + t * pitch + k, ssd_load(from + t * v.stride[1] + k * v.stride[3], v.stride[3], least(W, n - k)));
  });
}

// Where they lie, if they are floats side by side; else copied.
inline SsdRows ssd_rows(const View& v, const SsdPiece& at, int64_t group, float* room) {
  if (v.dtype == DType::float32 && (v.stride[3] == 1 || v.shape[3] == 1))
    return {floats(v) + at.row * v.stride[0] + at.t0 * v.stride[1] + group * v.stride[2], v.stride[1]};
  const int64_t pitch = ceil_div(v.shape[3], W) * W;
  ssd_copy_rows(v, at, group, pitch, room);
  return {room, pitch};
}

// What is done to dt, for the tokens of a piece; dt has room for whole vectors.
inline void ssd_deltas(const SsdChunkScan& p, const SsdPiece& at, int64_t head, float* dt) {
  const vf bias = set1(p.dt_bias.present ? floats(p.dt_bias)[head * p.dt_bias.stride[0]] : 0.0f);
  const vf low = set1(static_cast<float>(p.dt_min)), high = set1(static_cast<float>(p.dt_max));
  const int64_t step = p.dt.stride[1];
  with_float(p.dt.dtype, [&](auto kind) {
    using T = decltype(kind);
    const T* const from = pointer<T>(p.dt) + at.row * p.dt.stride[0] + at.t0 * step + head * p.dt.stride[2];
    for (int64_t t = 0; t < at.count; t += W) {
      vf v = ssd_load(from + t * step, step, least(W, at.count - t)) + bias;
      if (p.dt_softplus) v = softplus(v);
      store(dt + t, max(low, min(high, v)));  // NaN stays
    }
  });
}

// A strip of x, (tokens, strip), channels that are not there 0.
inline void ssd_load_strip(const SsdChunkScan& p, const SsdPiece& at, int64_t head, int64_t strip, float* to) {
  const View& v = p.x;
  const int64_t n0 = least(W, ssd_channels(p, strip)), n1 = ssd_channels(p, strip) - n0, step = v.stride[3];
  with_float(v.dtype, [&](auto kind) {
    using T = decltype(kind);
    const T* from =
        pointer<T>(v) + at.row * v.stride[0] + at.t0 * v.stride[1] + head * v.stride[2] + strip * kSsdStrip * step;
    for (int64_t t = 0; t < at.count; t++, from += v.stride[1], to += kSsdStrip) {
      store(to, ssd_load(from, step, n0));
      store(to + W, n1 ? ssd_load(from + W * step, step, n1) : set1(0));
    }
  });
}

template <class T>
SEQMIX_VERB void ssd_store(T* to, vf v, int64_t n) {
  if (n == W)
    store(to, v);
  else
    store_head(to, v, n);
}

// out = (y + D x) silu(z), for a strip of y and x.
inline void ssd_finish_strip(const SsdChunkScan& p, const SsdPiece& at, int64_t head, int64_t strip, const float* y,
                             const float* x) {
  const int64_t n = ssd_channels(p, strip), first = strip * kSsdStrip;
  with_float(p.x.dtype, [&](auto kind) {
    using T = decltype(kind);
    T* to = pointer<T>(p.out) + at.row * p.out.stride[0] + at.t0 * p.out.stride[1] + head * p.out.stride[2] + first;
    for (int64_t c = 0; c < n; c += W) {
      const int64_t count = least(W, n - c);
      vf skip = set1(0);
      if (p.D.present)
        skip = gather(floats(p.D) + head * p.D.stride[0] + (first + c) * p.D.stride[1], p.D.stride[1], count);
      const T* gate = nullptr;
      if (p.z.present)
        gate = pointer<T>(p.z) + at.row * p.z.stride[0] + at.t0 * p.z.stride[1] + head * p.z.stride[2] +
               (first + c) * p.z.stride[3];
      for (int64_t t = 0; t < at.count; t++) {
        vf v = load(y + t * kSsdStrip + c);
        if (p.D.present) v = fma(skip, load(x + t * kSsdStrip + c), v);
        if (gate) v = v * silu(ssd_load(gate + t * p.z.stride[1], p.z.stride[3], count));
        ssd_store(to + t * p.out.stride[1] + c, v, count);
      }
    }
  });
}
