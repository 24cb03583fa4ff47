// silu, gelu, softcap, add, mul, fill: one pass over memory. All views have one shape and any strides; the last
// dimension is the inner loop, the others are counted through as rows. Work is cut into runs of about 16K elements.
// Floor: the bytes.

constexpr int64_t kRun = 16384;

// body(row, begin, end): elements [begin, end) of a row, for every row of v.
template <class F>
inline void for_each_run(Context& context, const View& v, const F& body) {
  const int64_t size = size_of_view(v);
  if (size == 0) return;
  const int64_t n = v.rank ? v.shape[v.rank - 1] : 1, rows = size / n;
  const int64_t pieces = ceil_div(n, kRun), together = most(1, kRun / n);
  parallel_for(context, ceil_div(rows, together) * pieces, [&](int64_t i, int) {
    const int64_t first = i / pieces * together, begin = i % pieces * kRun;
    for (int64_t row = first; row < least(rows, first + together); row++) body(row, begin, least(n, begin + kRun));
  });
}

SEQMIX_VERB int64_t last_stride(const View& v) { return v.rank ? v.stride[v.rank - 1] : 1; }

struct SiluOf {
  SEQMIX_VERB vf of(vf x) const { return silu(x); }
};
struct GeluOf {
  SEQMIX_VERB vf of(vf x) const { return gelu(x); }
};
struct GeluTanhOf {
  SEQMIX_VERB vf of(vf x) const { return gelu_tanh(x); }
};

struct SoftcapOf {
  float cap, inverse;
  SEQMIX_VERB vf of(vf x) const { return tanh(x * set1(inverse)) * set1(cap); }
};

template <class Function>
inline void unary(Context& context, const View& from, const View& to, Function f = {}) {
  const int64_t sx = last_stride(from), so = last_stride(to);
  with_float(to.dtype, [&](auto kind) {
    using T = decltype(kind);
    for_each_run(context, to, [&](int64_t row, int64_t begin, int64_t end) {
      const T* const x = pointer<T>(from) + row_offset(from, row);
      T* const out = pointer<T>(to) + row_offset(to, row);
      int64_t i = begin;
      if (so == 1 && sx == 1)
        for (; i + W <= end; i += W) store(out + i, f.of(load(x + i)));
      for (; i < end; i += W) {
        const int64_t n = least(W, end - i);
        scatter(out + i * so, so, f.of(gather(x + i * sx, sx, n)), n);
      }
    });
  });
}

static void silu_kernel(Context& context, const Problem& problem) {
  const auto& p = static_cast<const Silu&>(problem);
  context.kernel = SEQMIX_KERNEL("silu");
  unary<SiluOf>(context, p.x, p.out);
}

static void gelu_kernel(Context& context, const Problem& problem) {
  const auto& p = static_cast<const Gelu&>(problem);
  context.kernel = SEQMIX_KERNEL("gelu");
  p.tanh ? unary<GeluTanhOf>(context, p.x, p.out) : unary<GeluOf>(context, p.x, p.out);
}

struct Sum {
  template <class V>
  SEQMIX_VERB static V of(V a, V b) {
    return a + b;
  }
};
struct Product {
  template <class V>
  SEQMIX_VERB static V of(V a, V b) {
    return a * b;
  }
};

template <class Operation>
inline void binary(Context& context, const Binary& p) {
  const int64_t sa = last_stride(p.a), sb = last_stride(p.b), so = last_stride(p.out);
  with_float(p.out.dtype, [&](auto kind) {
    using T = decltype(kind);
    for_each_run(context, p.out, [&](int64_t row, int64_t begin, int64_t end) {
      const T* const a = pointer<T>(p.a) + row_offset(p.a, row);
      const T* const b = pointer<T>(p.b) + row_offset(p.b, row);
      T* const out = pointer<T>(p.out) + row_offset(p.out, row);
      int64_t i = begin;
      if (so == 1 && sa == 1 && sb == 1)
        for (; i + W <= end; i += W) store(out + i, Operation::of(load(a + i), load(b + i)));
      if (so == 1 && sa == 1 && sb == 0)
        for (; i + W <= end; i += W) store(out + i, Operation::of(load(a + i), set1(widen(*b))));
      if (so == 1 && sa == 0 && sb == 1)
        for (; i + W <= end; i += W) store(out + i, Operation::of(set1(widen(*a)), load(b + i)));
      for (; i < end; i++) narrow(Operation::of(widen(a[i * sa]), widen(b[i * sb])), out + i * so);
    });
  });
}

static void softcap_kernel(Context& context, const Problem& problem) {
  const auto& p = static_cast<const Softcap&>(problem);
  context.kernel = SEQMIX_KERNEL("softcap");
  unary(context, p.x, p.out, SoftcapOf{static_cast<float>(p.cap), static_cast<float>(1 / p.cap)});
}

// out = f(a) b, the product rounded once.
template <class Function>
inline void gated(Context& context, const Binary& p) {
  const int64_t sa = last_stride(p.a), sb = last_stride(p.b), so = last_stride(p.out);
  with_float(p.out.dtype, [&](auto kind) {
    using T = decltype(kind);
    for_each_run(context, p.out, [&](int64_t row, int64_t begin, int64_t end) {
      const T* const a = pointer<T>(p.a) + row_offset(p.a, row);
      const T* const b = pointer<T>(p.b) + row_offset(p.b, row);
      T* const out = pointer<T>(p.out) + row_offset(p.out, row);
      int64_t i = begin;
      if (so == 1 && sa == 1 && sb == 1)
        for (; i + W <= end; i += W) store(out + i, Function().of(load(a + i)) * load(b + i));
      for (; i < end; i += W) {
        const int64_t n = least(W, end - i);
        scatter(out + i * so, so, Function().of(gather(a + i * sa, sa, n)) * gather(b + i * sb, sb, n), n);
      }
    });
  });
}

static void add_kernel(Context& context, const Problem& problem) {
  context.kernel = SEQMIX_KERNEL("add");
  binary<Sum>(context, static_cast<const Binary&>(problem));
}

static void mul_kernel(Context& context, const Problem& problem) {
  const auto& p = static_cast<const Binary&>(problem);
  context.kernel = SEQMIX_KERNEL("mul");
  if (p.activation == Activation::silu) return gated<SiluOf>(context, p);
  if (p.activation == Activation::gelu) return gated<GeluOf>(context, p);
  if (p.activation == Activation::gelu_tanh) return gated<GeluTanhOf>(context, p);
  binary<Product>(context, p);
}

static void fill_kernel(Context& context, const Problem& problem) {
  const auto& p = static_cast<const Fill&>(problem);
  context.kernel = SEQMIX_KERNEL("fill");
  parallel_ranges(context, size_of_view(p.out), 1 << 18, [&](int64_t begin, int64_t end, int) {
    __builtin_memset(static_cast<uint8_t*>(p.out.data) + begin, p.byte, static_cast<std::size_t>(end - begin));
  });
}
