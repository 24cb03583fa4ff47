// softmax, rms_norm, embedding: each row by itself, rows spread over the pool. A row is read once from memory (and
// again from cache), so the floor is the bytes. Sums run in vector accumulators over blocks of a few thousand elements
// and in double precision from block to block: the error does not grow with the row. Rows of 16 bits are widened as
// they are read and rounded once, as they are written.

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
template <class T>
SEQMIX_VERB float row_max(const T* x, int64_t n) {
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
    if (widen(x[i]) > m) m = widen(x[i]);
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

template <class T>
SEQMIX_VERB void fill_row(T* out, int64_t n, float with) {
  for (int64_t i = 0; i < n; i += W) store_some(out + i, set1(with), least(W, n - i));
}

template <class T>
SEQMIX_VERB void copy_row(const T* from, T* to, int64_t n) {
  __builtin_memcpy(to, from, static_cast<std::size_t>(n) * sizeof(T));
}
template <class From, class To>
SEQMIX_VERB void copy_row(const From* from, To* to, int64_t n) {
  for (int64_t i = 0; i < n; i += W) {
    const int64_t count = least(W, n - i);
    store_some(to + i, load_some(from + i, count), count);
  }
}

// A row as float32: where it lies, or widened into the thread's part of `memory`, which wide_rows gave.
SEQMIX_VERB const float* wide_row(const View& v, int64_t row, float* memory, int thread) {
  const float* wide = nullptr;
  with_float(v.dtype, [&](auto kind) {
    using T = decltype(kind);
    const T* const from = pointer<T>(v) + row * v.stride[0];
    if constexpr (sizeof(T) == sizeof(float)) {
      wide = from;
    } else {
      float* const to = memory + thread * v.shape[1];
      copy_row(from, to, v.shape[1]);
      wide = to;
    }
  });
  return wide;
}
inline float* wide_rows(Context& context, const View& v) {
  return v.dtype == DType::float32 ? nullptr : scratch<float>(context, v.shape[1] * context.threads);
}

SEQMIX_VERB void softmax_row(const float* x, float* out, int64_t n) {
  const float highest_x = row_max(x, n);
  if (highest_x == -__builtin_inff()) return fill_row(out, n, row_has_nan(x, n) ? __builtin_nanf("") : 0.0f);
  const vf m = set1(highest_x);
  const double total = row_sum(n, [&](int64_t i, int64_t count) {
    const vf e = exp(load_some(x + i, count) - m);
    store_some(out + i, e, count);
    // what load_head makes up beyond the row must not count
    return count == W ? e : load_head(out + i, count);
  });
  const vf inverse = set1(static_cast<float>(1.0 / total));
  for (int64_t i = 0; i < n; i += W) {
    const int64_t count = least(W, n - i);
    store_some(out + i, load_some(out + i, count) * inverse, count);
  }
}

static void softmax_kernel(Context& context, const Problem& problem) {
  const auto& p = static_cast<const Softmax&>(problem);
  context.kernel = SEQMIX_KERNEL("softmax");
  const int64_t rows = p.x.shape[0], n = p.x.shape[1];
  float* const memory = wide_rows(context, p.x);
  with_float(p.out.dtype, [&](auto kind) {
    using T = decltype(kind);
    parallel_ranges(context, rows, grain_of(n * 4), [&](int64_t begin, int64_t end, int thread) {
      for (int64_t r = begin; r < end; r++) {
        T* const out = pointer<T>(p.out) + r * p.out.stride[0];
        if constexpr (sizeof(T) == sizeof(float)) {
          softmax_row(floats(p.x) + r * p.x.stride[0], out, n);
        } else {
          float* const wide = memory + thread * n;
          softmax_row(wide_row(p.x, r, memory, thread), wide, n);
          copy_row(wide, out, n);
        }
      }
    });
  });
}

// What rms_norm works on: a row of x, or the sums of one and a residual's. Asked for twice, which is cheaper than to
// keep them, and leaves them unrounded.
template <class T>
struct Alone {
  const T* x;
  SEQMIX_VERB vf at(int64_t i, int64_t n) const { return load_some(x + i, n); }
};
template <class T, class R>
struct Added {
  const T* x;
  const R* residual;
  SEQMIX_VERB vf at(int64_t i, int64_t n) const { return load_some(x + i, n) + load_some(residual + i, n); }
};

// Factors of each element of a row; any of them may be null.
struct Factors {
  const float* before;  // silu(z), of what is normed
  const float* after;   // silu(z), of the norm
  const float* weight;
};

// silu of a row as float32: an exponential is what a gate costs beside its bytes, so four vectors go side by side.
template <class T>
static void silu_row(const T* z, float* out, int64_t n) {
  int64_t i = 0;
  for (; i + 4 * W <= n; i += 4 * W) {
    vf v[4] = {load(z + i), load(z + i + W), load(z + i + 2 * W), load(z + i + 3 * W)};
    silu<4>(v);
    for (int k = 0; k < 4; k++) store(out + i + k * W, v[k]);
  }
  for (; i < n; i += W) store_some(out + i, silu(load_some(z + i, least(W, n - i))), least(W, n - i));
}

// `sums`, where the row itself is kept, may be null.
template <class Row, class S, class T>
SEQMIX_VERB void norm_row(const Row& row, const Factors& by, const RmsNorm& p, S* sums, T* out) {
  const int64_t n = p.x.shape[1];
  const auto at = [&](int64_t i, int64_t count) {
    const vf v = row.at(i, count);
    return by.before ? v * load_some(by.before + i, count) : v;
  };
  for (int64_t from = 0; from < n; from += p.group) {
    const double squares = row_sum(p.group, [&](int64_t i, int64_t count) {
      if (sums) store_some(sums + from + i, row.at(from + i, count), count);
      const vf v = at(from + i, count);
      return v * v;
    });
    const double mean = squares / static_cast<double>(p.group);
    const vf inverse = set1(static_cast<float>(1.0 / __builtin_sqrt(mean + p.eps)));
    const int64_t to = from + p.group;
    for (int64_t i = from; i < to; i += W) {
      const int64_t count = least(W, to - i);
      vf v = at(i, count) * inverse;
      if (by.weight) v = v * load_some(by.weight + i, count);
      if (by.after) v = v * load_some(by.after + i, count);
      store_some(out + i, v, count);
    }
  }
}

// norm(r, out, by) for every row r.
template <class T, class F>
inline void norm_rows(Context& context, const RmsNorm& p, const F& norm) {
  const View wide = widened(context, p.weight);
  const int64_t n = p.x.shape[1];
  if (n == 0) return;
  float* const gates = p.z.present ? scratch<float>(context, n * context.threads) : nullptr;
  parallel_ranges(context, p.x.shape[0], grain_of(p.z.present ? 4 * n : n),
                  [&](int64_t begin, int64_t end, int thread) {
                    Factors by{nullptr, nullptr, wide.present ? floats(wide) : nullptr};
                    if (p.z.present) (p.norm_before_gate ? by.after : by.before) = gates + thread * n;
                    for (int64_t r = begin; r < end; r++) {
                      if (p.z.present) silu_row(pointer<T>(p.z) + r * p.z.stride[0], gates + thread * n, n);
                      norm(r, pointer<T>(p.out) + r * p.out.stride[0], by);
                    }
                  });
}

template <class T, class R, class S>
inline void norm_sums(Context& context, const RmsNorm& p) {
  norm_rows<T>(context, p, [&](int64_t r, T* out, const Factors& by) {
    const Added<T, R> row{pointer<T>(p.x) + r * p.x.stride[0], pointer<R>(p.residual) + r * p.residual.stride[0]};
    norm_row(row, by, p, pointer<S>(p.sum) + r * p.sum.stride[0], out);
  });
}

// The floor: x, a residual and z read once, the results written once. A row's gate is computed into memory of the
// thread's own, which stays in its cache.
static void rms_norm_kernel(Context& context, const Problem& problem) {
  const auto& p = static_cast<const RmsNorm&>(problem);
  context.kernel = SEQMIX_KERNEL("rms_norm");
  const bool wide_residual = p.residual.dtype == DType::float32, wide_sum = p.sum.dtype == DType::float32;
  with_float(p.x.dtype, [&](auto kind) {
    using T = decltype(kind);
    if (p.residual.present) {
      if (wide_residual) return norm_sums<T, float, float>(context, p);
      if (wide_sum) return norm_sums<T, T, float>(context, p);
      return norm_sums<T, T, T>(context, p);
    }
    norm_rows<T>(context, p, [&](int64_t r, T* out, const Factors& by) {
      norm_row(Alone<T>{pointer<T>(p.x) + r * p.x.stride[0]}, by, p, static_cast<T*>(nullptr), out);
    });
  });
}

// Row id of the table is copied to each place of `ids` that names it.
template <class From, class To>
static void look_up(Context& context, const Embedding& p) {
  const int64_t count = p.ids.shape[0], vocabulary = p.table.shape[0], n = p.table.shape[1];
  parallel_ranges(context, count, grain_of(n), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t at = i * p.ids.stride[0];
      const int64_t id = p.ids.dtype == DType::int64 ? static_cast<const int64_t*>(p.ids.data)[at]
                                                     : static_cast<int64_t>(ints(p.ids)[at]);
      To* const out = pointer<To>(p.out) + i * p.out.stride[0];
      if (id >= 0 && id < vocabulary) {
        copy_row(pointer<From>(p.table) + id * p.table.stride[0], out, n);
      } else {
        report_index_error(context, p);
        fill_row(out, n, 0.0f);
      }
    }
  });
}

static void embedding_kernel(Context& context, const Problem& problem) {
  const auto& p = static_cast<const Embedding&>(problem);
  context.kernel = SEQMIX_KERNEL("embedding");
  with_float(p.table.dtype, [&](auto from) {
    using From = decltype(from);
    with_float(p.out.dtype, [&](auto to) {
      using To = decltype(to);
      look_up<From, To>(context, p);
    });
  });
}
