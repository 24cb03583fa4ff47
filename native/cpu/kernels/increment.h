// increment: adds a whole number to every element, in place. Counters are small: a plain loop for each run of
// elementwise.h. Floor: the bytes, twice.

template <class T>
inline void increment_by(Context& context, const Increment& p) {
  const int64_t stride = last_stride(p.out);
  for_each_run(context, p.out, [&](int64_t row, int64_t begin, int64_t end) {
    T* const out = static_cast<T*>(p.out.data) + row_offset(p.out, row);
    for (int64_t i = begin; i < end; i++) out[i * stride] += static_cast<T>(p.by);
  });
}

static void increment_kernel(Context& context, const Problem& problem) {
  const auto& p = static_cast<const Increment&>(problem);
  context.kernel = SEQMIX_KERNEL("increment");
  if (p.out.dtype == DType::int64)
    increment_by<uint64_t>(context, p);  // unsigned, since that may wrap around
  else
    increment_by<uint32_t>(context, p);
}
