// flashAttention: how its work is cut, and what does which part. First new keys go into the cache. Then each sequence
// takes one of two ways, by its own number of queries: few rows a KV head read keys where they lie (attention_few.h),
// more go through packed tiles (attention_tiles.h). Both cut a sequence into items for the pool, keys into parts where
// there are few other items; parts are merged in order. How keys are cut depends on lengths and sizes alone.

constexpr int64_t kTilesPart = 2048;     // keys of a part for tiles,
constexpr int64_t kTilesPartRows = 128;  // of so few rows of a KV head

struct AttnPlan {
  bool few;
  AttnRange keys;            // all that a query sees
  int64_t part_keys, parts;  // parts begin at multiples of part_keys; 1: the sums are the result
  int64_t queries, heads;    // of an item; KV heads
  int64_t query_blocks, head_blocks;
  int64_t first;   // item
  int64_t memory;  // where the parts' sums begin

  int64_t items() const { return query_blocks * head_blocks * parts; }
};

// `span` keys lie together in the kernel's blocks.
SEQMIX_VERB void attn_cut_keys(const FlashAttention& p, AttnPlan& plan, int64_t keys, int64_t span) {
  const int64_t all = plan.keys.end - plan.keys.begin;
  if (p.num_splits > 0) keys = ceil_div(all, p.num_splits);
  plan.part_keys = most(span, ceil_div(keys, span) * span);
  const int64_t begin = plan.keys.begin / plan.part_keys;
  plan.parts = most(1, ceil_div(plan.keys.end, plan.part_keys) - begin);
}

inline AttnPlan attn_plan(const FlashAttention& p, const AttnSequence& s, int threads) {
  AttnPlan plan{};
  if (!s.live || s.queries == 0) return plan;
  const int64_t hk = p.k.shape[2], group = p.q.shape[2] / hk, rows = group * s.queries;
  const AttnRange first = attn_range(p, s, 0), last = attn_range(p, s, s.queries - 1);
  plan.keys = {most(0, first.begin), most(first.begin, last.end)};
  plan.few = rows <= kFewMost;
  plan.query_blocks = plan.head_blocks = 1;
  if (plan.few) {
    const bool together = p.k.stride[2] <= p.k.stride[1] && p.v.stride[2] <= p.v.stride[1];
    plan.queries = s.queries;
    plan.heads = together ? hk : 1;
    plan.head_blocks = together ? 1 : hk;
    const int64_t bytes = plan.heads * (p.k.shape[3] + p.v.shape[3]) * size_of(p.k.dtype);
    const int64_t all = plan.keys.end - plan.keys.begin;
    attn_cut_keys(p, plan, most(kFewBytes / bytes, ceil_div(all, kFewParts)), kFewSpan);
  } else {
    plan.heads = 1;
    plan.head_blocks = hk;
    // Rows do not know of each other, so that they may be shared out by the threads there are.
    const int64_t share = p.sequences * s.queries * p.q.shape[2] / (4 * threads);
    const int64_t rows_of_item = least(kAttnRows, most(2 * kAttnLanes, share)) / kAttnLanes * kAttnLanes;
    plan.queries = most(1, rows_of_item / group);
    plan.query_blocks = ceil_div(s.queries, plan.queries);
    const int64_t block = attn_block(p);
    attn_cut_keys(p, plan, rows <= kTilesPartRows ? kTilesPart : most(1, s.keys), block);
  }
  return plan;
}

struct AttnWork {
  Context& context;
  const FlashAttention& p;
  const AttnScores scores;
  AttnSequence* sequences;
  AttnPlan* plans;
  float* parts = nullptr;
  int64_t row_floats;

  AttnWork(Context& c, const FlashAttention& problem)
      : context(c),
        p(problem),
        scores(attn_scores(c, problem)),
        sequences(scratch<AttnSequence>(c, problem.sequences)),
        plans(scratch<AttnPlan>(c, problem.sequences)),
        row_floats(AttnPart::row_floats(problem)) {}

  int64_t part_floats(const AttnSequence& s) const { return s.queries * p.q.shape[2] * row_floats; }
  AttnPart part(int64_t r, int64_t n) const {
    if (plans[r].parts == 1) return {};
    return {parts + plans[r].memory + n * part_floats(sequences[r]), row_floats};
  }
  // Of a sequence's keys, those that queries [i0, i1) see in part n.
  AttnRange keys(int64_t r, int64_t n, int64_t i0, int64_t i1) const {
    const AttnPlan& plan = plans[r];
    const AttnRange low = attn_range(p, sequences[r], i0), high = attn_range(p, sequences[r], i1 - 1);
    const int64_t at = (plan.keys.begin / plan.part_keys + n) * plan.part_keys;
    return {most(low.begin, at), least(high.end, at + plan.part_keys)};
  }
};

// The items of all sequences that go the one way, by number.
template <class F>
inline void attn_items(const AttnWork& work, bool few, const F& body) {
  int64_t total = 0;
  for (int64_t r = 0; r < work.p.sequences; r++) {
    work.plans[r].first = total;
    if (work.plans[r].few == few) total += work.plans[r].items();
  }
  parallel_for(work.context, total, [&](int64_t item, int thread) {
    int64_t low = 0, high = work.p.sequences - 1;  // the last sequence that begins at or before this item
    while (low < high) {
      const int64_t middle = (low + high + 1) / 2;
      if (work.plans[middle].first <= item)
        low = middle;
      else
        high = middle - 1;
    }
    while (work.plans[low].few != few || work.plans[low].items() == 0) low--;
    body(low, item - work.plans[low].first, thread);
  });
}

static void attn_few_sequences(const AttnWork& work) {
  const Few f(work.p, work.scores);
  int64_t floats = 0;
  for (int64_t r = 0; r < work.p.sequences; r++)
    if (work.plans[r].few) floats = most(floats, f.floats(work.plans[r].heads, f.group * work.sequences[r].queries));
  floats = ceil_div(floats, 64) * 64 + 64;
  float* const memory = scratch<float>(work.context, floats * work.context.threads);
  attn_items(work, true, [&](int64_t r, int64_t i, int thread) {
    const AttnPlan& plan = work.plans[r];
    const int64_t n = i / plan.head_blocks, h = i % plan.head_blocks * plan.heads;
    few_item(f, work.sequences[r],
             {r, h, h + plan.heads, work.keys(r, n, 0, work.sequences[r].queries), work.part(r, n)},
             memory + thread * floats);
  });
}

// Blocks of the sequences that several items of a head read are packed once, by all threads, so long as there is room:
// by sequence, (KV head, block), or null.
static const AttnBlock* const* attn_share_blocks(const AttnWork& work, const AttnTiles& t) {
  const AttnBlock** const shared = scratch<const AttnBlock*>(work.context, work.p.sequences);
  const int64_t hk = work.p.k.shape[2], size = t.block * (t.d + t.dv);
  int64_t left = kAttnShared / static_cast<int64_t>(sizeof(float));
  for (int64_t r = 0; r < work.p.sequences; r++) {
    const AttnPlan& plan = work.plans[r];
    const AttnSequence& s = work.sequences[r];
    shared[r] = nullptr;
    if (plan.few || plan.query_blocks <= 1) continue;
    const int64_t first = plan.keys.begin / t.block, count = ceil_div(plan.keys.end, t.block) - first;
    if (count <= 0 || count * hk * size > left) continue;
    left -= count * hk * size;
    AttnBlock* const blocks = scratch<AttnBlock>(work.context, count * hk);
    float* const memory = scratch<float>(work.context, count * hk * size);
    shared[r] = blocks;
    parallel_for(work.context, count * hk, [&](int64_t i, int) {
      const int64_t head = i % hk, b = i / hk, j = (first + b) * t.block;
      float* const keys = memory + (head * count + b) * size;
      float* const values = keys + t.block * t.d;
      const bool finite =
          t.pack(t, s, head, j, most(0, plan.keys.begin - j), least(t.block, plan.keys.end - j), keys, values);
      blocks[head * count + b] = {keys, values, finite};
    });
  }
  return shared;
}

static void attn_tile_sequences(const AttnWork& work) {
  const AttnTiles t(work.p, work.scores);
  int64_t rows = 0;
  for (int64_t r = 0; r < work.p.sequences; r++)
    if (!work.plans[r].few) rows = most(rows, t.group * least(work.plans[r].queries, work.sequences[r].queries));
  const int64_t floats = ceil_div(AttnRoom::floats(t.block, t.d, t.dv, rows), 64) * 64 + 64;
  float* const memory = scratch<float>(work.context, floats * work.context.threads);
  const AttnBlock* const* const shared = attn_share_blocks(work, t);
  attn_items(work, false, [&](int64_t r, int64_t i, int thread) {
    const AttnPlan& plan = work.plans[r];
    // the last queries first: under a causal mask they have the most to do
    const int64_t q = plan.query_blocks - 1 - i / (plan.parts * plan.head_blocks);
    const int64_t n = i / plan.head_blocks % plan.parts, head = i % plan.head_blocks;
    const int64_t i0 = q * plan.queries, i1 = least(work.sequences[r].queries, i0 + plan.queries);
    const int64_t first = plan.keys.begin / t.block, count = ceil_div(plan.keys.end, t.block) - first;
    attn_item(t, work.sequences[r],
              {r, head, i0, i1, work.keys(r, n, i0, i1), work.part(r, n),
               shared[r] ? shared[r] + head * count : nullptr, first},
              AttnRoom(memory + thread * floats, t.block, t.d, t.dv, rows));
  });
}

static void attn_merge_parts(const AttnWork& work) {
  const int64_t heads = work.p.q.shape[2];
  for (int64_t r = 0; r < work.p.sequences; r++) {
    const AttnPlan& plan = work.plans[r];
    const AttnSequence& s = work.sequences[r];
    if (plan.parts <= 1) continue;
    parallel_ranges(work.context, s.queries * heads, grain_of(plan.parts * work.row_floats * 2),
                    [&](int64_t begin, int64_t end, int) {
                      for (int64_t row = begin; row < end; row++)
                        attn_merge(work.p, work.scores, s, work.part(r, 0), plan.parts, work.part_floats(s),
                                   row / heads, row % heads);
                    });
  }
}

static void flash_attention_kernel(Context& context, const Problem& problem) {
  const auto& p = static_cast<const FlashAttention&>(problem);
  context.kernel = SEQMIX_KERNEL("flash_attention.few");
  const bool offsets =
      (!p.cu_seqlens_q.present || attn_ascends(p.cu_seqlens_q, p.q.shape[1])) &&
      (!p.cu_seqlens_k.present || attn_ascends(p.cu_seqlens_k, p.block_table.present ? INT64_MAX : p.k.shape[1]));
  if (!offsets) {
    report_index_error(context, p);
    return attn_finish_none(p, 0, 0, p.q.shape[1]);
  }
  AttnWork work(context, p);
  int64_t parts = 0;
  bool few = false, tiles = false;
  for (int64_t r = 0; r < p.sequences; r++) {
    const AttnSequence s = work.sequences[r] = attn_sequence(context, p, r);
    AttnPlan& plan = work.plans[r] = attn_plan(p, s, context.threads);
    if (!s.live) attn_finish_none(p, s.q_row, s.q0, s.q0 + s.queries);
    plan.memory = parts;
    if (plan.parts > 1) parts += plan.parts * work.part_floats(s);
    (plan.few ? few : tiles) |= plan.items() > 0;
  }
  if (p.cu_seqlens_q.present) attn_finish_none(p, 0, attn_int(p.cu_seqlens_q, p.sequences), p.q.shape[1]);
  if (p.new_k.present) attn_append(context, p, work.sequences);
  work.parts = scratch<float>(context, parts);
  if (tiles) {
    context.kernel = SEQMIX_KERNEL("flash_attention.tiles");
    attn_tile_sequences(work);
  }
  if (few) attn_few_sequences(work);
  attn_merge_parts(work);
}
