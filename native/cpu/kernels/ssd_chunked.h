// ssdChunkScan in chunks. With a_i = Σ Δ A over a chunk's tokens up to i, and S the state that the chunk began with:
//   Y_i = e^{a_i} C_i S + Σ_{j≤i} e^{a_i - a_j} (C_i·B_j) Δ_j X_j      S = e^{a_Q} S + Σ_j B_j (e^{a_Q - a_j} Δ_j X_j)
//
// Every sum is a product of small matrices (ssd_tiles.h): C Bᵀ once for the heads of a group, then head by head and
// strip by strip, C S and the weights times X into one tile, and Bᵀ X on top of the state.
//
// Decays are e^(a_i - a_j) with j ≤ i only, from prefixes in two floats, so they are at most 1 and accurate. A head
// whose state grows inside the chunk by more than float32 may hold is stepped through (ssd_recurrent.h). The tokens of
// a tile see each other in a triangle of their own: what comes later is not multiplied by 0, since that would let NaN
// through.
//
// A thread owns some heads of one group and goes through the row chunk by chunk, head by head: the panels of B, C and
// C Bᵀ and a head's x stay in L1 and L2, the states in L2. Where there are fewer heads than threads, chunks are shared
// out instead, in three passes: what each chunk adds to the state, the states in order, the outputs.
// Floor: 2 n + Q / 2 multiply-adds a channel and token.

constexpr double kSsdGrowth = 20;  // e^20 is no danger to float32

// Δ of a head's tokens, and the prefixes a in two parts, each with room for whole vectors.
struct SsdSums {
  float *dt, *high, *low;
  SEQMIX_VERB SsdSums from(int64_t t) const { return {dt + t, high + t, low + t}; }
  SEQMIX_VERB float total(int64_t count) const { return high[count - 1] + low[count - 1]; }
};

// Fills them for a piece of any length. False where e^a grows so much that products could overflow, or is NaN.
inline bool ssd_sum(const SsdChunkScan& p, const SsdPiece& at, int64_t head, const SsdSums& s) {
  ssd_deltas(p, at, head, s.dt);
  const double rate = static_cast<double>(floats(p.A)[head * p.A.stride[0]]);
  double a = 0, lowest = 0;
  bool tame = true;
  for (int64_t t = 0; t < at.count; t++) {
    const double d = static_cast<double>(s.dt[t]) * rate;
    a += d < -1e3 ? -1e3 : d;  // not so much that it hides what comes after: e^-1000 is 0 by far
    s.high[t] = static_cast<float>(a);
    s.low[t] = static_cast<float>(a - static_cast<double>(s.high[t]));
    if (!(a - lowest <= kSsdGrowth)) tame = false;
    if (a < lowest) lowest = a;
  }
  return tame;
}

// e^(a - b) for b ≥ a in two parts each; 0 where that is nearly 0, and never a number so small that it is slow.
SEQMIX_VERB vf ssd_decay(vf high_a, vf low_a, vf high_b, vf low_b) {
  const vf d = (high_a - high_b) + (low_a - low_b);
  return select(less(d, set1(-80.0f)), set1(0), exp(d));
}
// to[j] = e^(a_at - a_j), times Δ_j; and to[i] = e^(a_i - a_at).
SEQMIX_VERB void ssd_columns(const SsdSums& s, float high, float low, int64_t count, float* to) {
  for (int64_t j = 0; j < count; j += W)
    store(to + j, load(s.dt + j) * ssd_decay(set1(high), set1(low), load(s.high + j), load(s.low + j)));
}
SEQMIX_VERB void ssd_row_factors(const SsdSums& s, float high, float low, int64_t count, float* to) {
  for (int64_t i = 0; i < count; i += W)
    store(to + i, ssd_decay(load(s.high + i), load(s.low + i), set1(high), set1(low)));
}

// The weights of the tokens [first, first + rows): row r's, of tokens up to its own, are e^{a_r - a_j} (C_r·B_j) Δ_j.
// Up to the first they are products of what row and column have of the decay from there on, both at most 1.
inline void ssd_weights(const SsdSums& s, const float* products, int64_t first, int64_t rows, float* weights) {
  float column[kSsdTokens + W], row[kSsdRows + W];
  ssd_columns(s, s.high[first], s.low[first], first, column);
  ssd_row_factors(s.from(first), s.high[first], s.low[first], rows, row);
  for (int64_t r = 0; r < rows; r++) {
    const float* const from = products + (first + r) * kSsdPitch;
    float* const to = weights + (first + r) * kSsdPitch;
    const vf factor = set1(row[r]), high = set1(s.high[first + r]), low = set1(s.low[first + r]);
    for (int64_t j = 0; j < first; j += W) store(to + j, load(from + j) * load(column + j) * factor);
    for (int64_t j = first; j <= first + r; j += W)
      store(to + j, load(from + j) * load(s.dt + j) * ssd_decay(high, low, load(s.high + j), load(s.low + j)));
  }
}

// What a group's heads share in a chunk.
struct SsdShared {
  float *rows_b, *rows_c;  // (tokens, pitch)
  float* panels_c;         // of tokens, (n, R) each
  float* strips_b;         // of tokens, (n, strip) each
  float* panels_b;         // of states, (tokens, R) each
  float* products;         // C Bᵀ, rows kSsdPitch apart
};

// A thread's memory for the head it is at: what is of one size, and what depends on the problem.
struct SsdHead {
  float dt[kSsdTokens + W], high[kSsdTokens + W], low[kSsdTokens + W], decay[kSsdTokens + W], end[kSsdTokens + W];
  bool tame;  // or else it is stepped through
  SsdSteps steps;
  SEQMIX_VERB SsdSums sums() { return {dt, high, low}; }
};
struct SsdRoom {
  float* x;                // strips (tokens, strip)
  float *weighted, *y;     // a strip
  float *weights, *state;  // rows kSsdPitch apart; a strip's state to step
};

struct SsdMemory {
  int64_t n, pitch, tokens, strips, state;
  SEQMIX_VERB SsdMemory(const SsdChunkScan& p, int64_t most)
      : n(p.B.shape[3]),
        pitch(ceil_div(n, W) * W),
        tokens(ceil_div(most, kSsdStrip) * kSsdStrip),
        strips(ssd_strips(p)),
        state(n * kSsdStrip) {}
  SEQMIX_VERB int64_t shared() const { return 2 * (tokens * pitch + W) + 3 * (tokens * n + W) + tokens * kSsdPitch; }
  SEQMIX_VERB int64_t room() const { return tokens * (kSsdPitch + (strips + 2) * kSsdStrip) + state; }
  SEQMIX_VERB SsdShared shared_at(float* at) const {
    SsdShared s;
    s.rows_b = at;
    s.rows_c = s.rows_b + tokens * pitch + W;
    s.panels_c = s.rows_c + tokens * pitch + W;
    s.strips_b = s.panels_c + tokens * n + W;
    s.panels_b = s.strips_b + tokens * n + W;
    s.products = s.panels_b + tokens * n + W;
    return s;
  }
  SEQMIX_VERB SsdRoom room_at(float* at) const {
    SsdRoom r;
    r.x = at;
    r.weighted = r.x + strips * tokens * kSsdStrip;
    r.y = r.weighted + tokens * kSsdStrip;
    r.weights = r.y + tokens * kSsdStrip;
    r.state = r.weights + tokens * kSsdPitch;
    return r;
  }
};

// B as the states' update wants it.
inline void ssd_share_states(const SsdPiece& at, const SsdMemory& m, const SsdShared& s) {
  const SsdPanels states(m.n);
  for (int64_t i = 0; i < states.count; i++) {
    const int64_t size = states.size(i);
    const float* from = s.rows_b + states.begin(i);
    float* to = s.panels_b + states.begin(i) * at.count;
    for (int64_t t = 0; t < at.count; t++, from += m.pitch, to += size) store(to, load(from));
  }
}

// B and C as the outputs want them.
inline void ssd_share_strips(const SsdPiece& at, const SsdMemory& m, const SsdShared& s) {
  for (int64_t j = 0; j < at.count; j += kSsdStrip)
    ssd_turn(s.rows_b + j * m.pitch, m.pitch, 1, least(kSsdStrip, at.count - j), m.n, kSsdStrip, s.strips_b + j * m.n);
}
inline void ssd_share_panels(const SsdPiece& at, const SsdMemory& m, const SsdShared& s) {
  const SsdPanels tokens(at.count);
  for (int64_t i = 0; i < tokens.count; i++)
    ssd_turn(s.rows_c + tokens.begin(i) * m.pitch, m.pitch, 1, tokens.size(i), m.n, tokens.size(i),
             s.panels_c + tokens.begin(i) * m.n);
}
// C Bᵀ of some tokens' C by the B of `of_b` others or, where those are 0, of the same up to its own.
inline void ssd_share_products(int64_t of_c, int64_t of_b, const SsdMemory& m, const SsdShared& s) {
  const SsdPanels tokens(of_c);
  for (int64_t i = 0; i < tokens.count; i++) {
    const int64_t first = tokens.begin(i), end = of_b ? of_b : tokens.begin(i + 1);
    for (int64_t j = 0; j < end; j += kSsdStrip)
      SsdTile::product[tokens.size(i) - 1][end - j > W](s.panels_c + first * m.n, s.strips_b + j * m.n, m.n,
                                                        s.products + first * kSsdPitch + j, kSsdPitch);
  }
}
inline void ssd_share_outputs(const SsdPiece& at, const SsdMemory& m, const SsdShared& s) {
  ssd_share_strips(at, m, s);
  ssd_share_panels(at, m, s);
  ssd_share_products(at.count, 0, m, s);
}

// What a thread comes to next: a head's x, z and out, whose rows lie apart, each too short for the processor to
// foresee.
struct SsdAhead {
  const char* at[3] = {};  // or null
  int64_t step[3] = {};    // from token to token, in bytes
  int64_t tokens = 0, bytes = 0;

  SsdAhead(const SsdChunkScan& p, int64_t row, int64_t t0, int64_t head, int64_t most) {
    tokens = least(most, p.x.shape[1] - t0);
    bytes = p.x.shape[3] * size_of(p.x.dtype);
    const View* const views[] = {&p.x, &p.z, &p.out};
    for (int i = 0; i < 3; i++) {
      const View& v = *views[i];
      if (!v.present || v.stride[3] != 1) continue;
      at[i] = static_cast<const char*>(v.data) +
              (row * v.stride[0] + t0 * v.stride[1] + head * v.stride[2]) * size_of(v.dtype);
      step[i] = v.stride[1] * size_of(v.dtype);
    }
  }
  // The part-th of `parts` parts of it.
  SEQMIX_VERB void fetch(int64_t part, int64_t parts) const {
    for (int64_t t = part * tokens / parts; t < (part + 1) * tokens / parts; t++)
      for (int i = 0; i < 3; i++)
        for (int64_t b = 0; at[i] && b < bytes; b += 64) __builtin_prefetch(at[i] + t * step[i] + b, 0, 2);
  }
};

// What both outputs and states of a head need of a chunk.
inline void ssd_begin_head(const SsdChunkScan& p, const SsdPiece& at, int64_t head, const SsdMemory& m, SsdHead& s,
                           const SsdRoom& room) {
  s.tame = ssd_sum(p, at, head, s.sums());
  for (int64_t strip = 0; strip < m.strips && s.tame; strip++)
    ssd_load_strip(p, at, head, strip, room.x + strip * m.tokens * kSsdStrip);
}

// A strip of a head that is not tame, from `state` on; its outputs are written if `outputs` says so.
inline void ssd_step_chunk(const SsdChunkScan& p, const SsdPiece& at, int64_t head, int64_t strip, const SsdMemory& m,
                           const SsdShared& shared, SsdSteps& steps, bool outputs, float* state) {
  for (int64_t t = 0; t < at.count; t += kSsdStepped) {
    const SsdPiece part{at.row, at.t0 + t, least(kSsdStepped, at.count - t), at.fresh && t == 0, true};
    const SsdRows b{shared.rows_b + t * m.pitch, m.pitch}, c{shared.rows_c + t * m.pitch, m.pitch};
    ssd_decays(p, part, head, steps);
    ssd_step_strip(p, part, head, strip, b, c, state, steps);
    if (outputs) ssd_finish_strip(p, part, head, strip, steps.y, steps.x);
  }
}

// A head's outputs in a chunk; `states` are those before it, strip by strip.
inline void ssd_chunk_outputs(const SsdChunkScan& p, const SsdPiece& at, int64_t head, const SsdMemory& m,
                              const SsdShared& shared, SsdHead& s, const SsdRoom& room, const SsdAhead& ahead,
                              const float* states) {
  const SsdPanels tokens(at.count);
  if (s.tame) {
    ssd_row_factors(s.sums(), 0, 0, at.count, s.decay);
    for (int64_t i = 0; i < tokens.count; i++)
      ssd_weights(s.sums(), shared.products, tokens.begin(i), tokens.size(i), room.weights);
  }
  for (int64_t strip = 0; strip < m.strips; strip++) {
    const float* const state = states + strip * m.state;
    if (!s.tame) {
      for (int64_t i = 0; i < m.state && !at.fresh; i += W) store(room.state + i, load(state + i));
      ssd_step_chunk(p, at, head, strip, m, shared, s.steps, true, room.state);
      continue;
    }
    const float* const x = room.x + strip * m.tokens * kSsdStrip;
    for (int64_t i = 0; i < tokens.count; i++) {
      const int64_t first = tokens.begin(i);
      ahead.fetch(strip * tokens.count + i, m.strips * tokens.count);
      SsdTile::output[tokens.size(i) - 1][ssd_channels(p, strip) > W](
          {shared.panels_c + first * m.n, at.fresh ? nullptr : state, m.n, s.decay + first,
           room.weights + first * kSsdPitch, x, first, true, false, room.y + first * kSsdStrip});
    }
    ssd_finish_strip(p, at, head, strip, room.y, x);
  }
}

// A strip of x by the weights that its tokens have at the end; and what that with B makes of a strip's state.
SEQMIX_VERB void ssd_weigh(const float* x, const float* end, int64_t count, float* to) {
  for (int64_t t = 0; t < count; t++)
    for (int64_t v = t * kSsdStrip; v < (t + 1) * kSsdStrip; v += W) store(to + v, set1(end[t]) * load(x + v));
}
inline void ssd_update_strip(const SsdChunkScan& p, int64_t strip, const SsdMemory& m, const SsdShared& shared,
                             const SsdRoom& room, int64_t count, const SsdCarry& carry, float* state) {
  const SsdPanels panels(m.n);
  const bool wide = ssd_channels(p, strip) > W;
  for (int64_t i = 0; i < panels.count; i++)
    SsdTile::update[panels.size(i) - 1][wide](shared.panels_b + panels.begin(i) * count, room.weighted, count,
                                              state + panels.begin(i) * kSsdStrip, carry);
}

// A head's states after a chunk from those before it; a fresh carry leaves what the chunk itself adds.
inline void ssd_chunk_update(const SsdChunkScan& p, const SsdPiece& at, int64_t head, const SsdMemory& m,
                             const SsdShared& shared, SsdHead& s, const SsdRoom& room, const SsdCarry& carry,
                             float* states) {
  const int64_t last = at.count - 1;
  if (s.tame) ssd_columns(s.sums(), s.high[last], s.low[last], at.count, s.end);
  for (int64_t strip = 0; strip < m.strips; strip++) {
    float* const state = states + strip * m.state;
    if (s.tame) {
      ssd_weigh(room.x + strip * m.tokens * kSsdStrip, s.end, at.count, room.weighted);
      ssd_update_strip(p, strip, m, shared, room, at.count, carry, state);
      continue;
    }
    SsdPiece alone = at;
    alone.fresh = true;
    ssd_step_chunk(p, alone, head, strip, m, shared, s.steps, false, room.state);
    for (int64_t i = 0; i < m.state; i += W) {
      const vf more = load(room.state + i);
      store(state + i, carry.fresh ? more : carry.carried(load(state + i), more));
    }
  }
}

inline void ssd_load_states(const SsdChunkScan& p, int64_t row, int64_t head, const SsdMemory& m, float* states) {
  for (int64_t strip = 0; strip < m.strips; strip++) ssd_load_state(p, row, head, strip, states + strip * m.state);
}
inline void ssd_store_states(const SsdChunkScan& p, int64_t row, int64_t head, const SsdMemory& m,
                             const float* states) {
  if (!p.final_states.present) return;
  for (int64_t strip = 0; strip < m.strips; strip++) ssd_store_state(p, row, head, strip, states + strip * m.state);
}

// Heads [h0, h1) of one group through a whole row.
inline void ssd_chunked_row(const SsdChunkScan& p, int64_t row, int64_t group, int64_t h0, int64_t h1, int64_t chunk,
                            const SsdMemory& m, const SsdShared& shared, SsdHead& s, const SsdRoom& room,
                            float* states) {
  const int64_t each = m.strips * m.state;
  for (int64_t h = h0; h < h1; h++) ssd_load_states(p, row, h, m, states + (h - h0) * each);
  for (int64_t t = 0; t < p.x.shape[1];) {
    const SsdPiece at = ssd_piece(p, row, t, chunk);
    ssd_copy_rows(p.B, at, group, m.pitch, shared.rows_b);
    ssd_copy_rows(p.C, at, group, m.pitch, shared.rows_c);
    ssd_share_outputs(at, m, shared);
    if (at.goes_on) ssd_share_states(at, m, shared);
    for (int64_t h = h0; h < h1; h++) {
      const SsdAhead ahead = h + 1 < h1 ? SsdAhead(p, row, t, h + 1, chunk) : SsdAhead(p, row, t + at.count, h0, chunk);
      float* const state = states + (h - h0) * each;
      ssd_begin_head(p, at, h, m, s, room);
      ssd_chunk_outputs(p, at, h, m, shared, s, room, ahead, state);
      if (at.goes_on)
        ssd_chunk_update(p, at, h, m, shared, s, room, SsdCarry(s.sums().total(at.count), at.fresh), state);
    }
    t += at.count;
  }
  for (int64_t h = h0; h < h1; h++) ssd_store_states(p, row, h, m, states + (h - h0) * each);
}

// A thread's memory for all of this.
struct SsdThreads {
  const SsdMemory& m;
  int64_t size;
  SsdHead* heads;
  float* floats;
  SsdThreads(Context& context, const SsdMemory& memory, int64_t more)
      : m(memory),
        size(memory.shared() + memory.room() + more),
        heads(scratch<SsdHead>(context, context.threads)),
        floats(scratch<float>(context, context.threads * size)) {}
  SEQMIX_VERB SsdShared shared(int thread) const { return m.shared_at(floats + thread * size); }
  SEQMIX_VERB SsdRoom room(int thread) const { return m.room_at(floats + thread * size + m.shared()); }
  SEQMIX_VERB float* more(int thread) const { return floats + thread * size + m.shared() + m.room(); }
};

// Rows in passes over some chunks at a time, which the threads share.
inline void ssd_chunked_passes(Context& context, const SsdChunkScan& p, int64_t chunk, const SsdMemory& m) {
  const int64_t L = p.x.shape[1], heads = p.x.shape[2], groups = p.B.shape[2], members = heads / groups;
  const int64_t each = m.strips * m.state, together = ceil_div(4 * context.threads, groups);
  const SsdThreads own(context, m, 0);
  SsdPiece* const pieces = scratch<SsdPiece>(context, together);
  SsdCarry* const carries = scratch<SsdCarry>(context, together * heads);
  float* const befores = scratch<float>(context, together * heads * each);  // and, first, what each chunk adds
  float* const states = scratch<float>(context, heads * each);
  const auto begin_group = [&](const SsdPiece& at, int64_t group, const SsdShared& shared) {
    ssd_copy_rows(p.B, at, group, m.pitch, shared.rows_b);
    ssd_copy_rows(p.C, at, group, m.pitch, shared.rows_c);
  };
  for (int64_t row = 0, t = 0; row < p.x.shape[0]; row++, t = 0) {
    for (int64_t h = 0; h < heads; h++) ssd_load_states(p, row, h, m, states + h * each);
    while (t < L) {
      int64_t count = 0;
      for (; count < together && t < L; t += pieces[count++].count) pieces[count] = ssd_piece(p, row, t, chunk);
      parallel_for(context, count * groups, [&](int64_t item, int thread) {
        const int64_t i = item / groups, group = item % groups;
        if (!pieces[i].goes_on) return;
        begin_group(pieces[i], group, own.shared(thread));
        ssd_share_states(pieces[i], m, own.shared(thread));
        for (int64_t h = group * members; h < (group + 1) * members; h++) {
          SsdHead& s = own.heads[thread];
          ssd_begin_head(p, pieces[i], h, m, s, own.room(thread));
          carries[i * heads + h] = SsdCarry(s.sums().total(pieces[i].count), pieces[i].fresh);
          ssd_chunk_update(p, pieces[i], h, m, own.shared(thread), s, own.room(thread), SsdCarry(0, true),
                           befores + (i * heads + h) * each);
        }
      });
      parallel_for(context, heads * m.strips, [&](int64_t item, int) {
        float* const state = states + item * m.state;
        for (int64_t i = 0; i < count; i++) {
          float* const before = befores + i * heads * each + item * m.state;
          const SsdCarry& carry = carries[i * heads + item / m.strips];
          for (int64_t k = 0; k < m.state; k += W) {
            const vf old = load(state + k);
            if (pieces[i].goes_on) store(state + k, carry.carried(old, load(before + k)));
            store(before + k, old);
          }
        }
      });
      parallel_for(context, count * groups, [&](int64_t item, int thread) {
        const int64_t i = item / groups, group = item % groups;
        begin_group(pieces[i], group, own.shared(thread));
        ssd_share_outputs(pieces[i], m, own.shared(thread));
        for (int64_t h = group * members; h < (group + 1) * members; h++) {
          const SsdAhead ahead(p, row, pieces[i].t0, least(h + 1, heads - 1), pieces[i].count);
          ssd_begin_head(p, pieces[i], h, m, own.heads[thread], own.room(thread));
          ssd_chunk_outputs(p, pieces[i], h, m, own.shared(thread), own.heads[thread], own.room(thread), ahead,
                            befores + (i * heads + h) * each);
        }
      });
    }
    for (int64_t h = 0; h < heads; h++) ssd_store_states(p, row, h, m, states + h * each);
  }
}

// In how many parts threads take the heads of a group, for all to be equally busy. No head's bits depend on its
// company.
SEQMIX_VERB int64_t ssd_parts(const Context& context, int64_t units, int64_t members) {
  int64_t parts = 1;
  while (parts < members && units * parts < 4 * context.threads && units * parts % context.threads != 0) parts++;
  return parts;
}

static void ssd_chunked(Context& context, const SsdChunkScan& p, int64_t chunk) {
  const int64_t batch = p.x.shape[0], heads = p.x.shape[2], groups = p.B.shape[2], threads = context.threads;
  const SsdMemory m(p, chunk);
  // In passes where whole rows would leave more than a quarter of the threads' time unused. A head's chunk is computed
  // in the same way in both.
  const int64_t pairs = batch * heads;
  if (4 * pairs < 3 * ceil_div(pairs, threads) * threads && p.x.shape[1] > chunk)
    return ssd_chunked_passes(context, p, chunk, m);
  const int64_t members = heads / groups, parts = ssd_parts(context, batch * groups, members);
  const int64_t each = ceil_div(members, parts);
  const SsdThreads own(context, m, each * m.strips * m.state);
  parallel_for(context, batch * groups * parts, [&](int64_t item, int thread) {
    const int64_t row = item / parts / groups, group = item / parts % groups;
    const int64_t h0 = group * members + item % parts * each, h1 = least((group + 1) * members, h0 + each);
    if (h0 < h1)
      ssd_chunked_row(p, row, group, h0, h1, chunk, m, own.shared(thread), own.heads[thread], own.room(thread),
                      own.more(thread));
  });
}
