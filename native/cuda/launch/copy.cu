// copy and fill.
#include "core/problem/elementwise.h"
#include "cuda/error.h"
#include "cuda/kernels/any/copy.cuh"
#include "cuda/launch/elementwise.h"

namespace seqmix::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kShortRun = 8;  // runs no longer than this are not worth a transpose

using Convert = void (*)(Context&, const Copy&);

template <class D, class S>
void convert_to(Context& c, const Copy& p) {
  const View* const views[] = {&p.dst, &p.src};
  copy_converting<D, S><<<grid_for(c, ceil_div(p.dst.size(), kThreads), 16), kThreads, 0, c.stream>>>(
      nest_of(views), p.dst.as<D>(), p.src.as<const S>());
}

template <class T>
void same(Context& c, const Copy& p);

using Float16 = __half;
using BFloat16 = __nv_bfloat16;
// [source][target]; the diagonal moves bits.
constexpr Convert conversions[7][7] = {
    {same<uint32_t>, convert_to<Float16, float>, convert_to<BFloat16, float>, convert_to<int32_t, float>,
     convert_to<int64_t, float>, convert_to<Bool, float>, convert_to<int8_t, float>},
    {convert_to<float, Float16>, same<uint16_t>, convert_to<BFloat16, Float16>, convert_to<int32_t, Float16>,
     convert_to<int64_t, Float16>, convert_to<Bool, Float16>, convert_to<int8_t, Float16>},
    {convert_to<float, BFloat16>, convert_to<Float16, BFloat16>, same<uint16_t>, convert_to<int32_t, BFloat16>,
     convert_to<int64_t, BFloat16>, convert_to<Bool, BFloat16>, convert_to<int8_t, BFloat16>},
    {convert_to<float, int32_t>, convert_to<Float16, int32_t>, convert_to<BFloat16, int32_t>, same<uint32_t>,
     convert_to<int64_t, int32_t>, convert_to<Bool, int32_t>, convert_to<int8_t, int32_t>},
    {convert_to<float, int64_t>, convert_to<Float16, int64_t>, convert_to<BFloat16, int64_t>,
     convert_to<int32_t, int64_t>, same<uint64_t>, convert_to<Bool, int64_t>, convert_to<int8_t, int64_t>},
    {convert_to<float, Bool>, convert_to<Float16, Bool>, convert_to<BFloat16, Bool>, convert_to<int32_t, Bool>,
     convert_to<int64_t, Bool>, same<uint8_t>, convert_to<int8_t, Bool>},
    {convert_to<float, int8_t>, convert_to<Float16, int8_t>, convert_to<BFloat16, int8_t>, convert_to<int32_t, int8_t>,
     convert_to<int64_t, int8_t>, convert_to<Bool, int8_t>, same<uint8_t>},
};

// The longest dimension along which v is dense, or -1.
int dense_dimension(const View& v) {
  int found = -1;
  for (int i = 0; i < v.rank; i++)
    if (v.stride[i] == 1 && v.shape[i] > kShortRun && (found < 0 || v.shape[i] > v.shape[found])) found = i;
  return found;
}

template <class T>
void same(Context& c, const Copy& p) {
  const int64_t n = p.dst.size();
  T* const dst = p.dst.as<T>();
  const T* const src = p.src.as<const T>();
  if (is_dense_vector(p.dst) && is_dense_vector(p.src)) {
    check(c.device, cudaMemcpyAsync(dst, src, static_cast<size_t>(n) * sizeof(T), cudaMemcpyDeviceToDevice, c.stream),
          "copy");
    return;
  }
  const int i = dense_dimension(p.src), j = dense_dimension(p.dst);
  if (i >= 0 && j >= 0 && i != j && p.src.stride[j] != 1 && p.dst.stride[i] != 1) {
    View d = p.dst, s = p.src;
    Transpose t{};
    t.rows = d.shape[i];
    t.columns = d.shape[j];
    t.dst_row = d.stride[i];
    t.src_column = s.stride[j];
    d.shape[i] = d.shape[j] = 1;
    const View* const outer[] = {&d, &s};
    t.outer = nest_of(outer);
    const int64_t tiles = t.outer.size * ceil_div(t.rows, kTile) * ceil_div(t.columns, kTile);
    copy_transposed<T><<<grid_for(c, tiles, 32), kThreads, 0, c.stream>>>(t, dst, src);
    return;
  }
  const View* const views[] = {&p.dst, &p.src};
  copy_strided<T><<<grid_for(c, ceil_div(n, kThreads), 16), kThreads, 0, c.stream>>>(nest_of(views), dst, src);
}

}  // namespace

void launch_copy(Context& c, const Problem& problem) {
  const auto& p = static_cast<const Copy&>(problem);
  c.kernel = "cuda.any.copy";
  if (p.dst.size() == 0) return;
  conversions[static_cast<int>(p.src.dtype)][static_cast<int>(p.dst.dtype)](c, p);
}

void launch_fill(Context& c, const Problem& problem) {
  const auto& p = static_cast<const Fill&>(problem);
  c.kernel = "cuda.any.fill";
  const int64_t bytes = p.out.size() * size_of(p.out.dtype);
  if (bytes == 0) return;
  check(c.device, cudaMemsetAsync(p.out.data, p.byte, static_cast<size_t>(bytes), c.stream), "fill");
}

}  // namespace seqmix::cuda
