// softmax, rms_norm, embedding: each row by itself, rows spread over the pool. A row is read once from memory (a
// softmax twice, from cache), so the floor is the bytes. Sums run in vector accumulators over blocks of a few thousand
// elements and in double precision from block to block: the error does not grow with the row.

constexpr int64_t kBlock = 4096;

// The sum over a row of f(begin, n), each giving a vector of at most W terms.
template <class F>
SEQMIX_VERB double row_sum(int64_t n, const F& f) {
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = least(n, begin + kBlock);
    vf a = set1(0), b = set1(0), c = set1(0), d = set1(0);
    int64_t i = begin;
    for (; i + 4 * W <= end; i += 4 * W) {
      a = a + f(i, W);
      b = b + f(i + W, W);
      c = c + f(i + 2 * W, W);
      d = d + f(i + 3 * W, W);
    }
    for (; i < end; i += W) a = a + f(i, least(W, end - i));
    total += sum((a + b) + (c + d));
  }
  return total;
}

// The largest element that is a number; −∞ when there is none.
SEQMIX_VERB float row_max(const float* x, int64_t n) {
  const vf lowest = set1(-__builtin_inff());
  vf a = lowest, b = lowest;
  int64_t i = 0;
  for (; i + 2 * W <= n; i += 2 * W) {
    a = max(load(x + i), a);
    b = max(load(x + i + W), b);
  }
  a = max(a, b);
  for (; i + W <= n; i += W) a = max(load(x + i), a);
  float m = highest(a);
  for (; i < n; i++)
    if (x[i] > m) m = x[i];
  return m;
}

SEQMIX_VERB bool row_has_nan(const float* x, int64_t n) {
  int64_t i = 0;
  for (; i + W <= n; i += W)
    if (any(is_nan(load(x + i)))) return true;
  for (; i < n; i++)
    if (x[i] != x[i]) return true;
  return false;
}

SEQMIX_VERB void fill_row(float* out, int64_t n, float with) {
  for (int64_t i = 0; i < n; i += W) store_head(out + i, set1(with), least(W, n - i));
}

SEQMIX_VERB void softmax_row(const float* x, float* out, int64_t n) {
  const float highest_x = row_max(x, n);
  if (highest_x == -__builtin_inff()) return fill_row(out, n, row_has_nan(x, n) ? __builtin_nanf("") : 0.0f);
  const vf m = set1(highest_x);
  const double total = row_sum(n, [&](int64_t i, int64_t count) {
    const vf e = exp(load_head(x + i, count) - m);
    store_head(out + i, e, count);
    // what load_head makes up beyond the row must not count
    return count == W ? e : load_head(out + i, count);
  });
  const vf inverse = set1(static_cast<float>(1.0 / total));
  for (int64_t i = 0; i < n; i += W) {
    const int64_t count = least(W, n - i);
    store_head(out + i, load_head(out + i, count) * inverse, count);
  }
}

static void softmax_kernel(Context& context, const Problem& problem) {
  const auto& p = static_cast<const Softmax&>(problem);
  context.kernel = SEQMIX_KERNEL("softmax");
  const int64_t rows = p.x.shape[0], n = p.x.shape[1];
  parallel_ranges(context, rows, grain_of(n * 4), [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; r++)
      softmax_row(floats(p.x) + r * p.x.stride[0], floats(p.out) + r * p.out.stride[0], n);
  });
}

static void rms_norm_kernel(Context& context, const Problem& problem) {
  const auto& p = static_cast<const RmsNorm&>(problem);
  context.kernel = SEQMIX_KERNEL("rms_norm");
  const int64_t rows = p.x.shape[0], n = p.x.shape[1];
  const bool dense_weight = p.weight.present && p.weight.stride[0] == 1;
  parallel_ranges(context, rows, grain_of(n), [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; r++) {
      const float* x = floats(p.x) + r * p.x.stride[0];
      float* const out = floats(p.out) + r * p.out.stride[0];
      if (p.residual.present) {
        const float* const residual = floats(p.residual) + r * p.residual.stride[0];
        float* const total = floats(p.sum) + r * p.sum.stride[0];
        for (int64_t i = 0; i < n; i += W) {
          const int64_t count = least(W, n - i);
          store_head(total + i, load_head(x + i, count) + load_head(residual + i, count), count);
        }
        x = total;
      }
      const double squares = row_sum(n, [&](int64_t i, int64_t count) {
        const vf v = count == W ? load(x + i) : load_head(x + i, count);
        return v * v;
      });
      const vf inverse = set1(static_cast<float>(1.0 / __builtin_sqrt(squares / static_cast<double>(n) + p.eps)));
      for (int64_t i = 0; i < n; i += W) {
        const int64_t count = least(W, n - i);
        vf v = load_head(x + i, count) * inverse;
        if (dense_weight)
          v = v * load_head(floats(p.weight) + i, count);
        else if (p.weight.present)
          v = v * gather(floats(p.weight) + i * p.weight.stride[0], p.weight.stride[0], count);
        store_head(out + i, v, count);
      }
    }
  });
}

static void embedding_kernel(Context& context, const Problem& problem) {
  const auto& p = static_cast<const Embedding&>(problem);
  context.kernel = SEQMIX_KERNEL("embedding");
  const int64_t count = p.ids.shape[0], vocabulary = p.table.shape[0], n = p.table.shape[1];
  parallel_ranges(context, count, grain_of(n), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t at = i * p.ids.stride[0];
      const int64_t id = p.ids.dtype == DType::int64 ? static_cast<const int64_t*>(p.ids.data)[at]
                                                     : static_cast<int64_t>(ints(p.ids)[at]);
      float* const out = floats(p.out) + i * p.out.stride[0];
      if (id < 0 || id >= vocabulary) {
        report_index_error(context, p);
        fill_row(out, n, 0.0f);
        continue;
      }
      const float* const row = floats(p.table) + id * p.table.stride[0];
      for (int64_t j = 0; j < n; j += W) store_head(out + j, load_head(row + j, least(W, n - j)), least(W, n - j));
    }
  });
}
