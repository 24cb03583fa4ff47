// softmax, argmax, rms_norm and embedding.
#include "core/problem/rows.h"

#include "cuda/kernels/any/rows.cuh"
#include "cuda/launch/launch.h"

namespace seqmix::cuda {

namespace {

// Threads for a row of n elements: a warp for a short one, more where each still has some to do.
int threads_for(int64_t n) { return n <= 128 ? 32 : n <= 1024 ? 128 : n <= 16384 ? 256 : 1024; }

Rows rows_of(const View& v) { return {v.present ? v.as<const float>() : nullptr, v.stride[0]}; }

}  // namespace

void launch_softmax(Context& c, const Problem& problem) {
  const auto& p = static_cast<const Softmax&>(problem);
  c.kernel = "cuda.any.softmax";
  const int64_t rows = p.x.shape[0], n = p.x.shape[1];
  if (rows == 0 || n == 0) return;
  softmax_rows<<<grid_for(c, rows, 64), threads_for(n), 0, c.stream>>>(rows, n, rows_of(p.x), p.out.as<float>(),
                                                                       p.out.stride[0]);
}

void launch_argmax(Context& c, const Problem& problem) {
  const auto& p = static_cast<const ArgMax&>(problem);
  c.kernel = "cuda.any.argmax";
  const int64_t rows = p.x.shape[0], n = p.x.shape[1];
  if (rows == 0) return;
  argmax_rows<<<grid_for(c, rows, 64), threads_for(n), 0, c.stream>>>(rows, n, rows_of(p.x), p.out.as<int32_t>(),
                                                                      p.out.stride[0]);
}

void launch_rms_norm(Context& c, const Problem& problem) {
  const auto& p = static_cast<const RmsNorm&>(problem);
  c.kernel = "cuda.any.rms_norm";
  RmsNormRows r{};
  r.x = rows_of(p.x);
  r.residual = rows_of(p.residual);
  r.weight = p.weight.present ? p.weight.as<const float>() : nullptr;
  r.weight_stride = p.weight.stride[0];
  r.out = p.out.as<float>();
  r.sum = p.residual.present ? p.sum.as<float>() : nullptr;
  r.out_stride = p.out.stride[0];
  r.sum_stride = p.sum.stride[0];
  r.rows = p.x.shape[0];
  r.n = p.x.shape[1];
  r.eps = p.eps;
  if (r.rows == 0 || r.n == 0) return;
  const bool by_four = r.n % 4 == 0 && rows_aligned16(p.x) && rows_aligned16(p.residual) && rows_aligned16(p.out) &&
                       (!p.residual.present || rows_aligned16(p.sum));
  const auto kernel = by_four ? rms_norm_rows<4> : rms_norm_rows<1>;
  kernel<<<grid_for(c, r.rows, 64), threads_for(by_four ? r.n / 4 : r.n), 0, c.stream>>>(r);
}

void launch_embedding(Context& c, const Problem& problem) {
  const auto& p = static_cast<const Embedding&>(problem);
  c.kernel = "cuda.any.embedding";
  EmbeddingRows r{};
  r.ids = p.ids.data;
  r.ids_stride = p.ids.stride[0];
  r.count = p.out.shape[0];
  r.table = rows_of(p.table);
  r.vocabulary = p.table.shape[0];
  r.n = p.out.shape[1];
  r.out = p.out.as<float>();
  r.out_stride = p.out.stride[0];
  r.index_error = c.index_error;
  r.error = index_error(p);
  if (r.count == 0) return;
  const bool by_four = r.n % 4 == 0 && rows_aligned16(p.out) && aligned16(p.table.data) && p.table.stride[0] % 4 == 0;
  const bool wide = p.ids.dtype == DType::int64;
  const auto kernel = by_four ? wide ? embedding_rows<int64_t, 4> : embedding_rows<int32_t, 4>
                      : wide  ? embedding_rows<int64_t, 1>
                              : embedding_rows<int32_t, 1>;
  kernel<<<grid_for(c, r.count, 64), threads_for(by_four ? r.n / 4 : r.n), 0, c.stream>>>(r);
}

}  // namespace seqmix::cuda
