// rotary: see core/problem/rotary.h. Tokens are shared out; a token's heads go one after the other, so that its rows of
// the tables stay in the first cache. Pairs go W at a time. Floor: the bytes.

SEQMIX_VERB int64_t rotary_position(const Rotary& p, int64_t b, int64_t t) {
  const View& v = p.positions;
  if (!v.present) return t;
  const int64_t at = b * v.stride[0] + t * v.stride[1];
  return v.dtype == DType::int64 ? pointer<const int64_t>(v)[at] : ints(v)[at];
}

template <class T>
inline void rotary_token(const Rotary& p, int64_t b, int64_t t, int64_t position) {
  const int64_t heads = p.x.shape[2], d = p.x.shape[3], half = p.cos.shape[1], sx = p.x.stride[3];
  const int64_t step = p.interleaved ? 2 : 1, apart = p.interleaved ? 1 : half;
  for (int64_t h = 0; h < heads; h++) {
    const T* const x = pointer<T>(p.x) + b * p.x.stride[0] + t * p.x.stride[1] + h * p.x.stride[2];
    T* const out = pointer<T>(p.out) + b * p.out.stride[0] + t * p.out.stride[1] + h * p.out.stride[2];
    for (int64_t c = 0; c < half; c += W) {
      const int64_t n = least(W, half - c), i = c * step, j = i + apart;
      const vf cos = gather_any(p.cos, position * p.cos.stride[0] + c * p.cos.stride[1], p.cos.stride[1], n);
      const vf sin = gather_any(p.sin, position * p.sin.stride[0] + c * p.sin.stride[1], p.sin.stride[1], n);
      const vf u = gather(x + i * sx, step * sx, n), v = gather(x + j * sx, step * sx, n);
      scatter(out + i, step, u * cos - v * sin, n);
      scatter(out + j, step, fma(u, sin, v * cos), n);
    }
    for (int64_t c = 2 * half; c < d; c++) out[c] = x[c * sx];
  }
}

static void rotary_kernel(Context& context, const Problem& problem) {
  const auto& p = static_cast<const Rotary&>(problem);
  context.kernel = SEQMIX_KERNEL("rotary");
  const int64_t length = p.x.shape[1], row = p.x.shape[2] * p.x.shape[3];
  with_float(p.x.dtype, [&](auto kind) {
    using T = decltype(kind);
    parallel_ranges(context, p.x.shape[0] * length, grain_of(row * 2), [&](int64_t begin, int64_t end, int) {
      for (int64_t token = begin; token < end; token++) {
        const int64_t b = token / length, t = token % length, position = rotary_position(p, b, t);
        if (position >= 0 && position < p.cos.shape[0]) {
          rotary_token<T>(p, b, t, position);
          continue;
        }
        report_index_error(context, p);
        __builtin_memset(pointer<T>(p.out) + token * row, 0, static_cast<std::size_t>(row) * sizeof(T));
      }
    });
  });
}
