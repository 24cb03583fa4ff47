// sample: one draw a row, as core/sample_math.h defines it to the bit. A small topK takes its elements with topk's
// heap, and all the rest concerns those few. Otherwise the weights of a row, as integers, are made once into scratch
// memory; topK and topP only cut a set off below a key, so both look for that key digit by digit, from the top, through
// a histogram of 2048 counts or weights: three passes over the row, no sorting. Rows are spread over the pool.

constexpr int kDigit = 11;  // 32 bits of order_key in digits of 11, 11 and 10
constexpr int64_t kDigits = int64_t{1} << kDigit;

// What is kept of a row: every element whose order_key is above `key`, and of those equal to it the first `ties`.
struct Cut {
  uint32_t key = 0;
  int64_t ties = INT64_MAX;
};

// Finds the cut at which a running measure of the elements of `from`, in descending order, first reaches `wanted` (at
// least one element is kept). measure(i) is 1 for topK, the weight for topP; equal keys have equal measures.
template <class Measure>
inline Cut find_cut(const float* x, int64_t n, const Cut& from, uint64_t wanted, uint64_t* histogram,
                    const Measure& measure) {
  uint32_t prefix = 0, known = 0;  // the digits found so far, and a mask of them
  uint64_t above = 0;              // measure of what lies above them
  if (wanted == 0) wanted = 1;
  for (int shift = 32 - kDigit; known != 0xffffffffu; shift = shift > kDigit ? shift - kDigit : 0) {
    const uint32_t digits = static_cast<uint32_t>(kDigits - 1);
    for (int64_t i = 0; i < kDigits; i++) histogram[i] = 0;
    int64_t ties = from.ties;
    for (int64_t i = 0; i < n; i++) {
      const uint32_t key = sampling::order_key(x[i]);
      if (key < from.key || (key == from.key && ties-- <= 0)) continue;
      // keys of larger digits are in `above` already
      if ((key & known) == prefix) histogram[key >> shift & digits] += measure(i);
    }
    int64_t digit = kDigits - 1;
    while (digit > 0 && above + histogram[digit] < wanted) above += histogram[digit--];
    const uint32_t mask = digits << shift;
    prefix = (prefix & ~mask) | static_cast<uint32_t>(digit) << shift;
    known |= mask;
  }
  Cut cut;
  cut.key = prefix;
  cut.ties = 0;
  for (int64_t i = 0; i < n && above < wanted; i++) {
    if (sampling::order_key(x[i]) != prefix) continue;
    if (prefix == from.key && cut.ties >= from.ties) break;
    above += measure(i);
    cut.ties++;
  }
  return cut;
}

template <class F>
SEQMIX_VERB void for_each_kept(const float* x, int64_t n, const Cut& cut, const F& f) {
  int64_t ties = cut.ties;
  for (int64_t i = 0; i < n; i++) {
    const uint32_t key = sampling::order_key(x[i]);
    if (key < cut.key || (key == cut.key && ties-- <= 0)) continue;
    if (!f(i)) return;
  }
}

// The draw from few elements: best first, cut to the prefix that topP keeps, then in index order.
inline int64_t sample_few(const Sample& p, uint64_t step, const float* x, int64_t n, int64_t row, uint64_t* best,
                          uint64_t* weights) {
  int64_t kept = p.top_k;
  best_keys(x, n, kept, best);
  uint64_t total = 0;
  for (int64_t i = 0; i < kept; i++) {
    weights[i] = sampling::weight_of(x[choice_index(best[i])], x[choice_index(best[0])], p.temperature);
    total += weights[i];
  }
  if (p.top_p < 1) {
    const uint64_t wanted = sampling::nucleus(p.top_p, total);
    total = weights[0];
    int64_t count = 1;
    while (count < kept && total < wanted) total += weights[count++];
    kept = count;
  }
  const uint64_t r = sampling::high_product(sampling::hash(p.seed, step, static_cast<uint64_t>(row)), total);
  for (int64_t i = 1; i < kept; i++) {  // by insertion
    const uint64_t key = best[i], weight = weights[i];
    int64_t at = i;
    for (; at > 0 && choice_index(best[at - 1]) > choice_index(key); at--) {
      best[at] = best[at - 1];
      weights[at] = weights[at - 1];
    }
    best[at] = key;
    weights[at] = weight;
  }
  int64_t i = 0;
  for (uint64_t running = weights[0]; running <= r && i + 1 < kept; running += weights[i]) i++;
  return choice_index(best[i]);
}

constexpr int64_t kFew = 256;

inline int64_t sample_row(const Sample& p, uint64_t step, const float* x, int64_t n, int64_t row, uint64_t* weights,
                          uint64_t* histogram) {
  const int64_t best = argmax_row(x, n);
  const float highest_x = x[best];
  if (p.temperature == 0 || !(highest_x - highest_x == 0)) return best;  // NaN, +∞, or nothing but −∞
  if (p.top_k > 0 && p.top_k < n && p.top_k <= kFew) return sample_few(p, step, x, n, row, histogram, weights);
  for (int64_t i = 0; i < n; i++) weights[i] = sampling::weight_of(x[i], highest_x, p.temperature);
  Cut cut;
  if (p.top_k > 0 && p.top_k < n)
    cut = find_cut(x, n, cut, static_cast<uint64_t>(p.top_k), histogram, [](int64_t) { return uint64_t{1}; });
  const auto kept_sum = [&] {
    uint64_t total = 0;
    for_each_kept(x, n, cut, [&](int64_t i) {
      total += weights[i];
      return true;
    });
    return total;
  };
  uint64_t total = kept_sum();
  if (p.top_p < 1) {
    cut = find_cut(x, n, cut, sampling::nucleus(p.top_p, total), histogram, [&](int64_t i) { return weights[i]; });
    total = kept_sum();
  }
  const uint64_t r = sampling::high_product(sampling::hash(p.seed, step, static_cast<uint64_t>(row)), total);
  uint64_t running = 0;
  int64_t token = best;
  for_each_kept(x, n, cut, [&](int64_t i) {
    running += weights[i];
    token = i;
    return running <= r;
  });
  return token;
}

static void sample_kernel(Context& context, const Problem& problem) {
  const auto& p = static_cast<const Sample&>(problem);
  context.kernel = SEQMIX_KERNEL("sample");
  const int64_t rows = p.logits.shape[0], n = p.logits.shape[1];
  const uint64_t step = sampling::step_of(p.step, p.counter.data, p.counter.dtype == DType::int64);
  uint64_t* const memory = scratch<uint64_t>(context, (n + kDigits) * context.threads);
  float* const wide = wide_rows(context, p.logits);
  parallel_ranges(context, rows, grain_of(n * 16), [&](int64_t begin, int64_t end, int thread) {
    uint64_t* const mine = memory + thread * (n + kDigits);
    for (int64_t r = begin; r < end; r++) {
      const float* const x = wide_row(p.logits, r, wide, thread);
      pointer<int32_t>(p.out)[r * p.out.stride[0]] =
          static_cast<int32_t>(sample_row(p, step, x, n, r, mine + kDigits, mine));
    }
  });
}
