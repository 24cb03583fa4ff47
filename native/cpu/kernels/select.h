// argmax, topk, sample: choices within a row, exact on every device. Rows are spread over the pool.
//
// argmax runs through the row twice, in vectors: for the largest value, then for where it stands first. topk keeps the
// k best seen so far in a heap, its worst at the root, so that most elements cost one comparison. Order is that of
// sampling::order_key, largest first, ties to the lower index; both in one integer (choice_key) make all keys
// different.

template <class T>
SEQMIX_VERB int64_t first_nan(const T* x, int64_t n) {
  int64_t i = 0;
  for (; i + W <= n; i += W) {
    const unsigned found = bits_of(is_nan(load(x + i)));
    if (found) return i + __builtin_ctz(found);
  }
  for (; i < n; i++)
    if (widen(x[i]) != widen(x[i])) return i;
  return -1;
}

template <class T>
SEQMIX_VERB int64_t first_equal(const T* x, int64_t n, float to) {
  int64_t i = 0;
  for (; i + W <= n; i += W) {
    const unsigned found = bits_of(equal(load(x + i), set1(to)));
    if (found) return i + __builtin_ctz(found);
  }
  for (; i < n; i++)
    if (widen(x[i]) == to) return i;
  return 0;
}

template <class T>
SEQMIX_VERB int64_t argmax_row(const T* x, int64_t n) {
  const int64_t nan = first_nan(x, n);
  return nan >= 0 ? nan : first_equal(x, n, row_max(x, n));
}

static void argmax_kernel(Context& context, const Problem& problem) {
  const auto& p = static_cast<const ArgMax&>(problem);
  context.kernel = SEQMIX_KERNEL("argmax");
  const int64_t n = p.x.shape[1];
  with_float(p.x.dtype, [&](auto kind) {
    using T = decltype(kind);
    parallel_ranges(context, p.x.shape[0], grain_of(n), [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; r++)
        pointer<int32_t>(p.out)[r * p.out.stride[0]] =
            static_cast<int32_t>(argmax_row(pointer<T>(p.x) + r * p.x.stride[0], n));
    });
  });
}

SEQMIX_VERB uint64_t choice_key(float x, int64_t i) {
  return static_cast<uint64_t>(sampling::order_key(x)) << 32 | (0xffffffffu - static_cast<uint32_t>(i));
}
SEQMIX_VERB int64_t choice_index(uint64_t key) { return 0xffffffffu - static_cast<uint32_t>(key); }

// Puts `key` at the root of heap[0, n), whose smallest key is at the root, and restores that order.
SEQMIX_VERB void sift_down(uint64_t* heap, int64_t n, uint64_t key) {
  int64_t at = 0;
  for (;;) {
    int64_t child = 2 * at + 1;
    if (child >= n) break;
    if (child + 1 < n && heap[child + 1] < heap[child]) child++;
    if (heap[child] >= key) break;
    heap[at] = heap[child];
    at = child;
  }
  heap[at] = key;
}

// The k best keys of a row, best first.
inline void best_keys(const float* x, int64_t n, int64_t k, uint64_t* best) {
  for (int64_t i = 0; i < k; i++) {  // the first k, inserted from the bottom
    const uint64_t key = choice_key(x[i], i);
    int64_t at = i;
    while (at > 0 && best[(at - 1) / 2] > key) {
      best[at] = best[(at - 1) / 2];
      at = (at - 1) / 2;
    }
    best[at] = key;
  }
  int64_t i = k;
  while (i < n) {
    // A whole vector below the worst kept, none of it NaN, is passed over at once.
    const float worst = x[choice_index(best[0])];
    if (i + W <= n && bits_of(less(load(x + i), set1(worst))) == (1u << W) - 1) {
      i += W;
      continue;
    }
    const int64_t end = least(n, i + W);
    for (; i < end; i++) {
      const uint64_t key = choice_key(x[i], i);
      if (key > best[0]) sift_down(best, k, key);
    }
  }
  for (int64_t left = k - 1; left > 0; left--) {  // the smallest goes to the end
    const uint64_t key = best[left];
    best[left] = best[0];
    sift_down(best, left, key);
  }
}

static void topk_kernel(Context& context, const Problem& problem) {
  const auto& p = static_cast<const TopK&>(problem);
  context.kernel = SEQMIX_KERNEL("topk");
  const int64_t rows = p.x.shape[0], n = p.x.shape[1], k = p.k;
  if (k == 0) return;
  uint64_t* const heaps = scratch<uint64_t>(context, k * context.threads);
  float* const memory = wide_rows(context, p.x);
  parallel_ranges(context, rows, grain_of(n * 2), [&](int64_t begin, int64_t end, int thread) {
    uint64_t* const best = heaps + thread * k;
    for (int64_t r = begin; r < end; r++) {
      best_keys(wide_row(p.x, r, memory, thread), n, k, best);
      with_float(p.x.dtype, [&](auto kind) {
        using T = decltype(kind);
        for (int64_t i = 0; i < k; i++) {
          const int64_t at = choice_index(best[i]);
          pointer<T>(p.values)[r * p.values.stride[0] + i] = pointer<T>(p.x)[r * p.x.stride[0] + at];
          pointer<int32_t>(p.indices)[r * p.indices.stride[0] + i] = static_cast<int32_t>(at);
        }
      });
    }
  });
}
