// What every kernel file uses: names, loops over the pool, scratch memory, the error word. Included first, inside the
// target's namespace.

#define SEQMIX_KERNEL(name) "cpu." SEQMIX_TARGET "." name

// body(i, thread) for each i in [0, count), over the pool.
template <class F>
inline void parallel_for(Context& context, int64_t count, const F& body) {
  if (count <= 0) return;
  const auto call = [](void* argument, int64_t i, int thread) { (*static_cast<const F*>(argument))(i, thread); };
  context.parallel(&context, count, call, const_cast<F*>(&body));
}

// body(begin, end, thread) over ranges of [0, count) of `grain` each: the cut depends on shapes only.
template <class F>
inline void parallel_ranges(Context& context, int64_t count, int64_t grain, const F& body) {
  parallel_for(context, ceil_div(count, grain),
               [&](int64_t i, int thread) { body(i * grain, least(count, (i + 1) * grain), thread); });
}

// The same over ranges that get shorter, down to `grain`: long ones first, since memory is read fastest from front to
// back, and short ones last, so that threads end together. How they are cut depends on the threads.
template <class F>
inline void parallel_tapering(Context& context, int64_t count, int64_t grain, const F& body) {
  const int64_t threads = context.threads;
  const auto length = [&](int64_t left) { return most(grain, left / (2 * threads)); };  // of a round's `threads` ranges
  int64_t items = 0;
  for (int64_t left = count; left > 0; left -= threads * length(left))
    items += least(threads, ceil_div(left, length(left)));
  parallel_for(context, items, [&](int64_t i, int thread) {
    int64_t begin = 0;
    for (int64_t round = i / threads; round > 0; round--) begin += threads * length(count - begin);
    const int64_t each = length(count - begin), from = begin + i % threads * each;
    body(from, least(count, from + each), thread);
  });
}

// Items of one thread's work when each costs about `each` scalar operations: enough that handing it out is noise.
SEQMIX_VERB int64_t grain_of(int64_t each) { return most(1, 65536 / most(1, each)); }

template <class T>
inline T* scratch(Context& context, int64_t count) {
  return static_cast<T*>(context.scratch(&context, most(1, count) * static_cast<int64_t>(sizeof(T))));
}

SEQMIX_VERB void report_index_error(Context& context, const Problem& p) {
  uint64_t none = 0;
  __atomic_compare_exchange_n(context.index_error, &none, index_error(p), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

template <class T>
SEQMIX_VERB T* pointer(const View& v) {
  return static_cast<T*>(v.data);
}
SEQMIX_VERB float* floats(const View& v) { return static_cast<float*>(v.data); }
SEQMIX_VERB const int32_t* ints(const View& v) { return static_cast<const int32_t*>(v.data); }

SEQMIX_VERB int64_t size_of_view(const View& v) {
  int64_t n = 1;
  for (int i = 0; i < v.rank; i++) {
    if (v.shape[i] == 0) return 0;
    n *= v.shape[i];
  }
  return n;
}

// body(T{}) with T the type of a floating-point dtype: float, Half or Brain. (A template lambda would say it plainer,
// but the linter cannot read one.)
template <class F>
SEQMIX_VERB void with_float(DType dtype, const F& body) {
  if (dtype == DType::float32) return body(float{});
  if (dtype == DType::float16) return body(Half{});
  return body(Brain{});
}

// Where row `row` of a view begins, when all dimensions but the last are counted through as rows; in elements.
SEQMIX_VERB int64_t row_offset(const View& v, int64_t row) {
  int64_t at = 0;
  for (int i = v.rank - 2; i >= 0; i--) {
    at += row % v.shape[i] * v.stride[i];
    row /= v.shape[i];
  }
  return at;
}

// Up to W elements side by side. A whole vector goes by one plain access: a masked one of 16 bits is several.
template <class T>
SEQMIX_VERB vf load_some(const T* p, int64_t n) {
  return n == W ? load(p) : load_head(p, n);
}
template <class T>
SEQMIX_VERB void store_some(T* p, vf v, int64_t n) {
  if (n == W) return store(p, v);
  store_head(p, v, n);
}

// A small operand of any floating-point dtype (a bias, a filter) as float32: itself, or a copy in scratch memory.
inline View widened(Context& context, const View& v) {
  if (!v.present || v.dtype == DType::float32) return v;
  View wide = v;
  wide.dtype = DType::float32;
  const int64_t size = size_of_view(v), n = v.rank ? v.shape[v.rank - 1] : 1;
  float* const to = scratch<float>(context, size);
  wide.data = to;
  int64_t stride = 1;
  for (int i = v.rank - 1; i >= 0; i--) {
    wide.stride[i] = stride;
    stride *= v.shape[i];
  }
  if (size == 0) return wide;
  const int64_t step = v.rank ? v.stride[v.rank - 1] : 1;
  with_float(v.dtype, [&](auto kind) {
    using T = decltype(kind);
    for (int64_t row = 0; row < size / n; row++) {
      const T* const from = pointer<T>(v) + row_offset(v, row);
      for (int64_t i = 0; i < n; i += W)
        store_head(to + row * n + i, gather(from + i * step, step, least(W, n - i)), least(W, n - i));
    }
  });
  return wide;
}

// n elements of a floating-point operand of any dtype, `stride` apart from element `at` on.
SEQMIX_VERB vf gather_any(const View& v, int64_t at, int64_t stride, int64_t n) {
  if (v.dtype == DType::float32) return gather(floats(v) + at, stride, n);
  if (v.dtype == DType::float16) return gather(pointer<Half>(v) + at, stride, n);
  return gather(pointer<Brain>(v) + at, stride, n);
}

// The same into or from a row of floats; room for whole vectors is written to.
static __attribute__((noinline)) void copy_row(const View& v, int64_t at, int64_t stride, int64_t n, float* row) {
  with_float(v.dtype, [&](auto kind) {
    using T = decltype(kind);
    const T* const from = pointer<T>(v) + at;
    for (int64_t i = 0; i < n; i += W) store(row + i, gather(from + i * stride, stride, least(W, n - i)));
  });
}
static __attribute__((noinline)) void put_row(const View& v, int64_t at, int64_t stride, int64_t n, const float* row) {
  with_float(v.dtype, [&](auto kind) {
    using T = decltype(kind);
    T* const to = pointer<T>(v) + at;
    for (int64_t i = 0; i < n; i += W) scatter(to + i * stride, stride, load(row + i), least(W, n - i));
  });
}

// A per-channel operand that may be absent (then `otherwise`), as a vector of n channels from c.
SEQMIX_VERB vf channels(const View& v, int64_t c, int64_t n, float otherwise) {
  return v.present ? gather_any(v, c * v.stride[0], v.stride[0], n) : set1(otherwise);
}
