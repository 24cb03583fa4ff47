// copy: dst = src, converted. Both views have one shape and any strides. Dimensions are taken in the order of dst's
// strides, so that writes run along memory; where src runs along another dimension than dst, the two are walked in
// tiles of 64 x 64, so that a cache line of either side is used up while it is near. Floor: the bytes.

// n values, whose places lie ss and ds elements apart.
using CopyRow = void (*)(const void* src, int64_t ss, void* dst, int64_t ds, int64_t n);

template <class From, class To>
inline void convert_row(const void* src, int64_t ss, void* dst, int64_t ds, int64_t n) {
  const From* const s = static_cast<const From*>(src);
  To* const d = static_cast<To*>(dst);
  if (ss == 1 && ds == 1)
    for (int64_t i = 0; i < n; i++) put(d[i], value(s[i]));
  else
    for (int64_t i = 0; i < n; i++) put(d[i * ds], value(s[i * ss]));
}

// The same dtype on both sides: bits as they are.
template <class Bits>
inline void move_row(const void* src, int64_t ss, void* dst, int64_t ds, int64_t n) {
  const Bits* const s = static_cast<const Bits*>(src);
  Bits* const d = static_cast<Bits*>(dst);
  if (ss == 1 && ds == 1)
    __builtin_memcpy(d, s, static_cast<std::size_t>(n) * sizeof(Bits));
  else
    for (int64_t i = 0; i < n; i++) d[i * ds] = s[i * ss];
}

// by src's dtype, then dst's, in DType's order
static const CopyRow copy_rows[7][7] = {
    {move_row<uint32_t>, convert_row<float, Half>, convert_row<float, Brain>, convert_row<float, int32_t>,
     convert_row<float, int64_t>, convert_row<float, Truth>, convert_row<float, int8_t>},
    {convert_row<Half, float>, move_row<uint16_t>, convert_row<Half, Brain>, convert_row<Half, int32_t>,
     convert_row<Half, int64_t>, convert_row<Half, Truth>, convert_row<Half, int8_t>},
    {convert_row<Brain, float>, convert_row<Brain, Half>, move_row<uint16_t>, convert_row<Brain, int32_t>,
     convert_row<Brain, int64_t>, convert_row<Brain, Truth>, convert_row<Brain, int8_t>},
    {convert_row<int32_t, float>, convert_row<int32_t, Half>, convert_row<int32_t, Brain>, move_row<uint32_t>,
     convert_row<int32_t, int64_t>, convert_row<int32_t, Truth>, convert_row<int32_t, int8_t>},
    {convert_row<int64_t, float>, convert_row<int64_t, Half>, convert_row<int64_t, Brain>,
     convert_row<int64_t, int32_t>, move_row<uint64_t>, convert_row<int64_t, Truth>, convert_row<int64_t, int8_t>},
    {convert_row<Truth, float>, convert_row<Truth, Half>, convert_row<Truth, Brain>, convert_row<Truth, int32_t>,
     convert_row<Truth, int64_t>, move_row<uint8_t>, convert_row<Truth, int8_t>},
    {convert_row<int8_t, float>, convert_row<int8_t, Half>, convert_row<int8_t, Brain>, convert_row<int8_t, int32_t>,
     convert_row<int8_t, int64_t>, convert_row<int8_t, Truth>, move_row<uint8_t>},
};

constexpr int64_t kCopyTile = 64;

SEQMIX_VERB int64_t magnitude(int64_t x) { return x < 0 ? -x : x; }

SEQMIX_VERB void swap_dimensions(View& v, int i, int j) {
  const int64_t shape = v.shape[i], stride = v.stride[i];
  v.shape[i] = v.shape[j];
  v.stride[i] = v.stride[j];
  v.shape[j] = shape;
  v.stride[j] = stride;
}

// The 4-byte case of a tile where memory runs along n in dst and along m in src: W x W at a time through registers. The
// next rows of src are asked for meanwhile, since they lie a page or more apart.
inline void transpose_tile(const float* s, int64_t sn, float* d, int64_t dm, int64_t n, int64_t m) {
  for (int64_t n0 = 0; n0 < n; n0 += W) {
    const int64_t rows = least(W, n - n0);
    for (int64_t i = n0 + W; i < least(n, n0 + 2 * W); i++)
      for (int64_t j = 0; j < m; j += 16) __builtin_prefetch(s + i * sn + j);
    for (int64_t m0 = 0; m0 < m; m0 += W) {
      const int64_t columns = least(W, m - m0);
      vf block[W];
      for (int64_t i = 0; i < W; i++) block[i] = i < rows ? load_head(s + (n0 + i) * sn + m0, columns) : set1(0);
      transpose(block);
      for (int64_t j = 0; j < columns; j++) store_head(d + (m0 + j) * dm + n0, block[j], rows);
    }
  }
}

// Tiles of the last two dimensions, along the last in dst's memory and the one before it in src's.
inline void copy_tiled(Context& context, const View& src, const View& dst, CopyRow row_copy, int64_t from, int64_t to) {
  const int64_t n = dst.shape[dst.rank - 1], m = dst.shape[dst.rank - 2];
  const int64_t sn = src.stride[src.rank - 1], sm = src.stride[src.rank - 2];
  const int64_t dn = dst.stride[dst.rank - 1], dm = dst.stride[dst.rank - 2];
  View s_outer = src, d_outer = dst;  // row_offset ignores the last dimension
  s_outer.rank--;
  d_outer.rank--;
  const int64_t strips = ceil_div(m, kCopyTile), planes = size_of_view(dst) / (n * m);
  parallel_for(context, planes * strips, [&](int64_t i, int) {
    const int64_t plane = i / strips, m0 = i % strips * kCopyTile, m1 = least(m, m0 + kCopyTile);
    const char* const s = static_cast<const char*>(src.data) + row_offset(s_outer, plane) * from;
    char* const d = static_cast<char*>(dst.data) + row_offset(d_outer, plane) * to;
    if (row_copy == move_row<uint32_t> && sm == 1 && dn == 1)
      return transpose_tile(reinterpret_cast<const float*>(s + m0 * from), sn,
                            reinterpret_cast<float*>(d + m0 * dm * to), dm, n, m1 - m0);
    for (int64_t n0 = 0; n0 < n; n0 += kCopyTile)
      for (int64_t j = m0; j < m1; j++)
        row_copy(s + (j * sm + n0 * sn) * from, sn, d + (j * dm + n0 * dn) * to, dn, least(kCopyTile, n - n0));
  });
}

static void copy_kernel(Context& context, const Problem& problem) {
  const auto& p = static_cast<const Copy&>(problem);
  context.kernel = SEQMIX_KERNEL("copy");
  if (size_of_view(p.dst) == 0) return;
  const CopyRow row_copy = copy_rows[static_cast<int>(p.src.dtype)][static_cast<int>(p.dst.dtype)];
  const int64_t from = size_of(p.src.dtype), to = size_of(p.dst.dtype);
  View src = p.src, dst = p.dst;
  for (int i = 1; i < dst.rank; i++)  // the largest stride of dst first
    for (int j = i; j > 0 && magnitude(dst.stride[j]) > magnitude(dst.stride[j - 1]); j--) {
      swap_dimensions(src, j, j - 1);
      swap_dimensions(dst, j, j - 1);
    }
  const int last = dst.rank - 1;
  int along = last;  // src's fastest dimension
  for (int i = 0; i < last; i++)
    if (dst.shape[i] > 1 && magnitude(src.stride[i]) < magnitude(src.stride[along]) && src.stride[i] != 0) along = i;
  if (along != last && dst.shape[last] > 1) {
    swap_dimensions(src, along, last - 1);
    swap_dimensions(dst, along, last - 1);
    return copy_tiled(context, src, dst, row_copy, from, to);
  }
  const int64_t ss = last_stride(src), ds = last_stride(dst);
  for_each_run(context, dst, [&](int64_t row, int64_t begin, int64_t end) {
    row_copy(static_cast<const char*>(src.data) + (row_offset(src, row) + begin * ss) * from, ss,
             static_cast<char*>(dst.data) + (row_offset(dst, row) + begin * ds) * to, ds, end - begin);
  });
}
