// ssdChunkScan as attention does it: Y = (C Bᵀ ∘ M) X over each whole sequence, M_ij = e^{a_i - a_j} Δ_j for j ≤ i, and
// no state on the way.
//
// A thread owns some heads of one group and takes a sequence in blocks of 256 tokens: for each block, every block
// before it in turn (B's strips and C Bᵀ once for the heads; a head's x, its weights, and the tiles added to y), and at
// last the block itself, as a chunk with nothing before it. Decays are those of ssd_chunked.h, a counted from the
// sequence's first token; between two blocks they are products of a row's and a column's, both at most 1. An initial
// state is one more product for its sequence, and the final states are one sum over the last. Floor: L / 2
// multiply-adds a channel and token, n / (heads of the group) as many for C Bᵀ.

constexpr int64_t kSsdBlock = kSsdTokens;

// The heads that a thread owns, in one sequence.
struct SsdSequence {
  int64_t row, group, h0, h1, t0, count;
  bool seeded, goes_on;  // from an initial state; to a final one
};

// What a thread has for each of its heads: y of a block, the state, the whole sequence's sums, and whether it is tame.
struct SsdOwned {
  float *y, *states;
  float *dt, *high, *low;
  int64_t length;  // of a head's sums
  bool* tame;
  SEQMIX_VERB SsdSums sums(int64_t i) const { return {dt + i * length, high + i * length, low + i * length}; }
};

SEQMIX_VERB SsdPiece ssd_block(const SsdSequence& q, int64_t block, bool goes_on) {
  const int64_t t = block * kSsdBlock;
  return {q.row, q.t0 + t, least(kSsdBlock, q.count - t), !(q.seeded && block == 0), goes_on};
}

// What the tokens of block j give to y of block i, for the i-th of the heads.
inline void ssd_far_block(const SsdChunkScan& p, const SsdSequence& q, int64_t head, int64_t i, int64_t j,
                          const SsdMemory& m, const SsdShared& shared, const SsdRoom& room, const SsdSums& sums,
                          float* y) {
  const SsdPiece here = ssd_block(q, i, false), there = ssd_block(q, j, false);
  const SsdPanels tokens(here.count);
  const SsdSums first = sums.from(i * kSsdBlock);
  float column[kSsdTokens + W], row[kSsdTokens + W];
  ssd_columns(sums.from(j * kSsdBlock), first.high[0], first.low[0], there.count, column);
  ssd_row_factors(first, first.high[0], first.low[0], here.count, row);
  for (int64_t r = 0; r < here.count; r++)
    for (int64_t k = r * kSsdPitch; k < r * kSsdPitch + there.count; k += W)
      store(room.weights + k, load(shared.products + k) * load(column + k - r * kSsdPitch) * set1(row[r]));
  for (int64_t strip = 0; strip < m.strips; strip++) {
    ssd_load_strip(p, there, head, strip, room.x);
    for (int64_t k = 0; k < tokens.count; k++) {
      const int64_t at = tokens.begin(k);
      SsdTile::output[tokens.size(k) - 1][ssd_channels(p, strip) > W](
          {nullptr, nullptr, m.n, nullptr, room.weights + at * kSsdPitch, room.x, there.count, false, true,
           y + (strip * m.tokens + at) * kSsdStrip});
    }
  }
}

// Block i by itself, on top of y, and what is left to do to it.
inline void ssd_own_block(const SsdChunkScan& p, const SsdSequence& q, int64_t head, int64_t i, const SsdMemory& m,
                          const SsdShared& shared, const SsdRoom& room, const SsdSums& sums, float* decay, float* y,
                          const float* states) {
  const SsdPiece at = ssd_block(q, i, false);
  const SsdPanels tokens(at.count);
  const SsdSums first = sums.from(i * kSsdBlock);
  if (q.seeded) ssd_row_factors(first, 0, 0, at.count, decay);
  for (int64_t k = 0; k < tokens.count; k++)
    ssd_weights(first, shared.products, tokens.begin(k), tokens.size(k), room.weights);
  for (int64_t strip = 0; strip < m.strips; strip++) {
    float* const to = y + strip * m.tokens * kSsdStrip;
    ssd_load_strip(p, at, head, strip, room.x);
    for (int64_t k = 0; k < tokens.count; k++) {
      const int64_t begin = tokens.begin(k);
      SsdTile::output[tokens.size(k) - 1][ssd_channels(p, strip) > W](
          {shared.panels_c + begin * m.n, q.seeded ? states + strip * m.state : nullptr, m.n, decay + begin,
           room.weights + begin * kSsdPitch, room.x, begin, true, i > 0, to + begin * kSsdStrip});
    }
    ssd_finish_strip(p, at, head, strip, to, room.x);
  }
}

// The final states: those before, and all tokens, block by block.
inline void ssd_final_states(const SsdChunkScan& p, const SsdSequence& q, const SsdMemory& m, const SsdShared& shared,
                             SsdHead& s, const SsdRoom& room, const SsdOwned& own) {
  const int64_t blocks = ceil_div(q.count, kSsdBlock);
  for (int64_t j = 0; j < blocks; j++) {
    const SsdPiece at = ssd_block(q, j, true);
    ssd_copy_rows(p.B, at, q.group, m.pitch, shared.rows_b);
    ssd_share_states(at, m, shared);
    for (int64_t h = q.h0; h < q.h1; h++) {
      if (!own.tame[h - q.h0]) continue;
      const SsdSums sums = own.sums(h - q.h0);
      ssd_columns(sums.from(j * kSsdBlock), sums.high[q.count - 1], sums.low[q.count - 1], at.count, s.end);
      SsdCarry carry(j == 0 ? sums.total(q.count) : 0.0f, j == 0 && !q.seeded);
      for (int64_t strip = 0; strip < m.strips; strip++) {
        ssd_load_strip(p, at, h, strip, room.x);
        ssd_weigh(room.x, s.end, at.count, room.weighted);
        ssd_update_strip(p, strip, m, shared, room, at.count, carry,
                         own.states + ((h - q.h0) * m.strips + strip) * m.state);
      }
    }
  }
}

inline void ssd_quadratic_sequence(const SsdChunkScan& p, const SsdSequence& q, const SsdMemory& m,
                                   const SsdShared& shared, SsdHead& s, const SsdRoom& room, const SsdOwned& own) {
  const int64_t blocks = ceil_div(q.count, kSsdBlock), y_size = m.strips * m.tokens * kSsdStrip;
  const SsdPiece whole{q.row, q.t0, q.count, !q.seeded, q.goes_on};
  for (int64_t h = q.h0; h < q.h1; h++) own.tame[h - q.h0] = ssd_sum(p, whole, h, own.sums(h - q.h0));
  for (int64_t i = 0; i < blocks; i++) {
    const SsdPiece here = ssd_block(q, i, false);
    const SsdPiece stepped{q.row, here.t0, here.count, !q.seeded && i == 0, true};
    ssd_copy_rows(p.C, here, q.group, m.pitch, shared.rows_c);
    ssd_share_panels(here, m, shared);
    for (int64_t k = 0; k < (q.h1 - q.h0) * y_size && i > 0; k += W) store(own.y + k, set1(0));
    for (int64_t j = 0; j <= i; j++) {
      const SsdPiece there = ssd_block(q, j, false);
      ssd_copy_rows(p.B, there, q.group, m.pitch, shared.rows_b);
      ssd_share_strips(there, m, shared);
      ssd_share_products(here.count, j < i ? there.count : 0, m, shared);
      for (int64_t h = q.h0; h < q.h1; h++) {
        const int64_t k = h - q.h0;
        float* const states = own.states + k * m.strips * m.state;
        if (!own.tame[k]) {
          for (int64_t strip = 0; strip < m.strips && j == i; strip++)
            ssd_step_chunk(p, stepped, h, strip, m, shared, s.steps, true, states + strip * m.state);
        } else if (j < i) {
          ssd_far_block(p, q, h, i, j, m, shared, room, own.sums(k), own.y + k * y_size);
        } else {
          ssd_own_block(p, q, h, i, m, shared, room, own.sums(k), s.decay, own.y + k * y_size, states);
        }
      }
    }
  }
  if (q.goes_on) ssd_final_states(p, q, m, shared, s, room, own);
}

static void ssd_quadratic(Context& context, const SsdChunkScan& p) {
  const int64_t batch = p.x.shape[0], L = p.x.shape[1], heads = p.x.shape[2], groups = p.B.shape[2];
  const int64_t members = heads / groups, parts = ssd_parts(context, batch * groups, members);
  const int64_t each = ceil_div(members, parts), length = ceil_div(L, W) * W + W;
  const SsdMemory m(p, least(kSsdBlock, most(L, 1)));
  const int64_t y_size = m.strips * m.tokens * kSsdStrip;
  const SsdThreads own(context, m, each * (y_size + m.strips * m.state + 3 * length));
  bool* const tame = scratch<bool>(context, context.threads * each);
  parallel_for(context, batch * groups * parts, [&](int64_t item, int thread) {
    SsdSequence q{};
    q.row = item / parts / groups;
    q.group = item / parts % groups;
    q.h0 = q.group * members + item % parts * each;
    q.h1 = least((q.group + 1) * members, q.h0 + each);
    SsdOwned mine;
    mine.y = own.more(thread);
    mine.states = mine.y + each * y_size;
    mine.dt = mine.states + each * m.strips * m.state;
    mine.high = mine.dt + each * length;
    mine.low = mine.high + each * length;
    mine.length = length;
    mine.tame = tame + thread * each;
    for (int64_t h = q.h0; h < q.h1; h++)
      ssd_load_states(p, q.row, h, m, mine.states + (h - q.h0) * m.strips * m.state);
    for (int64_t t = 0; t < L && q.h0 < q.h1; t += q.count) {
      const SsdPiece at = ssd_piece(p, q.row, t, L);
      q.t0 = t;
      q.count = at.count;
      q.seeded = !at.fresh;
      q.goes_on = at.goes_on;
      ssd_quadratic_sequence(p, q, m, own.shared(thread), own.heads[thread], own.room(thread), mine);
    }
    for (int64_t h = q.h0; h < q.h1; h++)
      ssd_store_states(p, q.row, h, m, mine.states + (h - q.h0) * m.strips * m.state);
  });
}
