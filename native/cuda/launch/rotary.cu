#include "core/problem/rotary.h"

#include "cuda/kernels/any/rotary.cuh"
#include "cuda/launch/launch.h"

namespace seqmix::cuda {

namespace {

// Heads of x begin on multiples of 16 bytes, and so do the turned part's halves and what lies behind it.
bool goes_wide(const Rotary& p, int64_t wide) {
  const View& x = p.x;
  if (x.stride[3] != 1 || !aligned16(x.data) || x.shape[3] % wide != 0) return false;
  for (int i = 0; i < 3; i++)
    if (x.shape[i] > 1 && x.stride[i] % wide != 0) return false;
  return p.cos.shape[1] % wide == 0;
}

// `pairs` of a row of a table are one access, or several of 16 bytes.
bool reads_together(const View& table, int64_t pairs) {
  return (table.shape[1] <= 1 || table.stride[1] == 1) && rows_aligned(table, pairs);
}

template <class T>
void run(Context& c, const Rotary& p) {
  RotaryArgs<T> a{};
  a.x = p.x.as<const T>();
  for (int i = 0; i < 4; i++) a.stride[i] = p.x.stride[i];
  a.cos = p.cos.data;
  a.sin = p.sin.data;
  a.table_dtype = p.cos.dtype;
  for (int i = 0; i < 2; i++) {
    a.cos_stride[i] = p.cos.stride[i];
    a.sin_stride[i] = p.sin.stride[i];
    a.position_stride[i] = p.positions.stride[i];
  }
  a.rows = p.cos.shape[0];
  a.half = p.cos.shape[1];
  a.positions = p.positions.present ? p.positions.data : nullptr;
  a.wide_positions = p.positions.dtype == DType::int64;
  a.out = p.out.as<T>();
  a.length = p.x.shape[1];
  a.tokens = p.x.shape[0] * a.length;
  a.heads = p.x.shape[2];
  a.d = p.x.shape[3];
  a.interleaved = p.interleaved;
  a.index_error = c.index_error;
  a.error = index_error(p);
  if (p.out.size() == 0) return;
  constexpr int kThreads = 256, kV = kWide<T>;
  const int pairs = p.interleaved ? kV / 2 : kV;
  const bool wide = goes_wide(p, kV) && reads_together(p.cos, pairs) && reads_together(p.sin, pairs);
  const int64_t units = wide ? a.half / pairs + (a.d - 2 * a.half) / kV : a.d - a.half;
  const auto kernel = !wide ? rotary<T, 1, 1> : p.interleaved ? rotary<T, kV / 2, kV> : rotary<T, kV, kV>;
  kernel<<<grid_for(c, ceil_div(a.tokens * a.heads * units, kThreads), 16), kThreads, 0, c.stream>>>(a);
}

}  // namespace

void launch_rotary(Context& c, const Problem& problem) {
  const auto& p = static_cast<const Rotary&>(problem);
  c.kernel = "cuda.any.rotary";
  if (p.x.dtype == DType::float32)
    run<float>(c, p);
  else if (p.x.dtype == DType::float16)
    run<Half>(c, p);
  else
    run<Brain>(c, p);
}

}  // namespace seqmix::cuda
