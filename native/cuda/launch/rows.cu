// softmax, argmax, rms_norm and embedding.
#include "core/problem/rows.h"

#include "cuda/kernels/any/rows.cuh"
#include "cuda/launch/launch.h"

namespace seqmix::cuda {

namespace {

// Threads for a row of n vectors: a warp for a short one, more where each still has some to do.
int threads_for(int64_t n) { return n <= 128 ? 32 : n <= 1024 ? 128 : n <= 16384 ? 256 : 1024; }

// As many as keep a row of n elements in registers, where it fits.
template <int V>
int threads_to_keep(int64_t n) {
  return static_cast<int>(std::clamp<int64_t>(ceil_div(n, V * kKept<V> * 32) * 32, 32, kNormThreads));
}

// Rows of n elements can be read and written V at a time.
bool all_aligned(std::initializer_list<const View*> views, int64_t n, int64_t V) {
  if (n % V != 0) return false;
  for (const View* const v : views)
    if (!rows_aligned(*v, V)) return false;
  return true;
}

template <class T>
Rows<T> rows_of(const View& v) {
  return {v.as<T>(), v.stride[0]};
}

template <class T>
void softmax(Context& c, const Problem& problem) {
  const auto& p = static_cast<const Softmax&>(problem);
  const int64_t rows = p.x.shape[0], n = p.x.shape[1];
  if (rows == 0 || n == 0) return;
  const bool wide = all_aligned({&p.x, &p.out}, n, kWide<T>);
  const auto kernel = wide ? softmax_rows<T, kWide<T>> : softmax_rows<T, 1>;
  kernel<<<grid_for(c, rows, 64), threads_for(wide ? n / kWide<T> : n), 0, c.stream>>>(rows, n, rows_of<T>(p.x),
                                                                                       p.out.as<T>(), p.out.stride[0]);
}

template <class T>
void argmax(Context& c, const Problem& problem) {
  const auto& p = static_cast<const ArgMax&>(problem);
  const int64_t rows = p.x.shape[0], n = p.x.shape[1];
  if (rows == 0) return;
  argmax_rows<T><<<grid_for(c, rows, 64), threads_for(n), 0, c.stream>>>(rows, n, rows_of<T>(p.x), p.out.as<int32_t>(),
                                                                         p.out.stride[0]);
}

// S: of the sum.
template <class T, class S, class Gate>
void rms_norm_with(Context& c, const RmsNorm& p, const Gate& gate) {
  RmsNormRows<T, S, Gate> r{};
  r.x = p.x.as<T>();
  r.residual = p.residual.present ? p.residual.data : nullptr;
  r.residual_dtype = p.residual.dtype;
  r.weight = weights_of(p.weight);
  r.out = p.out.as<T>();
  r.sum = p.residual.present ? p.sum.as<S>() : nullptr;
  r.x_stride = p.x.stride[0];
  r.residual_stride = p.residual.stride[0];
  r.out_stride = p.out.stride[0];
  r.sum_stride = p.sum.stride[0];
  if (p.x.shape[0] == 0 || p.x.shape[1] == 0) return;
  r.n = p.group;
  r.rows = p.x.shape[0];
  r.width = p.x.shape[1];
  r.eps = p.eps;
  r.gate = gate;
  constexpr int V = kWide<T>;
  const bool wide = all_aligned({&p.x, &p.residual, &p.z, &p.out, &p.sum}, r.n, V);
  r.weight_together = together(p.weight, wide ? V : 1);
  const auto kernel = wide ? rms_norm_rows<T, S, V, Gate> : rms_norm_rows<T, S, 1, Gate>;
  const int threads = wide ? threads_to_keep<V>(r.n) : threads_to_keep<1>(r.n);
  const unsigned across = static_cast<unsigned>(std::min<int64_t>(r.width / r.n, 64));
  const unsigned down = std::max(1u, grid_for(c, r.rows * across, 64) / across);
  set_off(c, kernel, dim3(down, across), threads, r);
}

template <class T, class S>
void rms_norm(Context& c, const Problem& problem) {
  const auto& p = static_cast<const RmsNorm&>(problem);
  if (!p.z.present) return rms_norm_with<T, S>(c, p, Ungated{});
  rms_norm_with<T, S>(c, p, Gated<T>{p.z.as<T>(), p.z.stride[0], p.norm_before_gate});
}

template <class T>
void embedding(Context& c, const Problem& problem) {
  const auto& p = static_cast<const Embedding&>(problem);
  EmbeddingRows<T> r{};
  r.ids = p.ids.data;
  r.wide_ids = p.ids.dtype == DType::int64;
  r.ids_stride = p.ids.stride[0];
  r.count = p.out.shape[0];
  r.table = p.table.data;
  r.table_dtype = p.table.dtype;
  r.table_stride = p.table.stride[0];
  r.vocabulary = p.table.shape[0];
  r.n = p.out.shape[1];
  r.out = p.out.as<T>();
  r.out_stride = p.out.stride[0];
  r.index_error = c.index_error;
  r.error = index_error(p);
  if (r.count == 0) return;
  const bool wide = all_aligned({&p.out, &p.table}, r.n, kWide<T>);
  const auto kernel = wide ? embedding_rows<T, kWide<T>> : embedding_rows<T, 1>;
  kernel<<<grid_for(c, r.count, 64), threads_for(wide ? r.n / kWide<T> : r.n), 0, c.stream>>>(r);
}

constexpr Launcher softmax_by_dtype[kFloatDtypes] = {softmax<float>, softmax<Half>, softmax<Brain>};
constexpr Launcher argmax_by_dtype[kFloatDtypes] = {argmax<float>, argmax<Half>, argmax<Brain>};
constexpr Launcher embedding_by_dtype[kFloatDtypes] = {embedding<float>, embedding<Half>, embedding<Brain>};
// By x's dtype and whether the sum is float32 beside it.
constexpr Launcher rms_norm_by_dtype[kFloatDtypes][2] = {{rms_norm<float, float>, rms_norm<float, float>},
                                                         {rms_norm<Half, Half>, rms_norm<Half, float>},
                                                         {rms_norm<Brain, Brain>, rms_norm<Brain, float>}};

}  // namespace

void launch_softmax(Context& c, const Problem& p) {
  c.kernel = "cuda.any.softmax";
  softmax_by_dtype[dtype_index(static_cast<const Softmax&>(p).x.dtype)](c, p);
}

void launch_argmax(Context& c, const Problem& p) {
  c.kernel = "cuda.any.argmax";
  argmax_by_dtype[dtype_index(static_cast<const ArgMax&>(p).x.dtype)](c, p);
}

void launch_rms_norm(Context& c, const Problem& problem) {
  const auto& p = static_cast<const RmsNorm&>(problem);
  c.kernel = "cuda.any.rms_norm";
  rms_norm_by_dtype[dtype_index(p.x.dtype)][p.sum.present && p.sum.dtype == DType::float32](c, p);
}

void launch_embedding(Context& c, const Problem& p) {
  c.kernel = "cuda.any.embedding";
  embedding_by_dtype[dtype_index(static_cast<const Embedding&>(p).out.dtype)](c, p);
}

}  // namespace seqmix::cuda
