// topk and sample.
#include "core/problem/rows.h"
#include "cuda/kernels/any/choose.cuh"
#include "cuda/launch/launch.h"

namespace seqmix::cuda {

namespace {

template <class T>
void topk(Context& c, const Problem& problem) {
  const auto& p = static_cast<const TopK&>(problem);
  TopKRows<T> r{};
  r.x = {p.x.as<const T>(), p.x.stride[0]};
  r.rows = p.x.shape[0];
  r.n = p.x.shape[1];
  r.k = p.k;
  r.padded = 1;
  while (r.padded < r.k) r.padded *= 2;
  r.values = p.values.as<T>();
  r.indices = p.indices.as<int32_t>();
  r.values_stride = p.values.stride[0];
  r.indices_stride = p.indices.stride[0];
  if (r.rows == 0 || r.k == 0) return;
  const unsigned grid = grid_for(c, r.rows, 2);
  if (r.padded > kSharedRanks) r.scratch = c.scratch<Wide>(grid * r.padded);
  topk_rows<T><<<grid, r.n <= 4096 ? 256 : 1024, 0, c.stream>>>(r);
}

template <class T>
void sample(Context& c, const Problem& problem) {
  const auto& p = static_cast<const Sample&>(problem);
  SampleRows<T> r{};
  r.logits = {p.logits.as<const T>(), p.logits.stride[0]};
  r.rows = p.logits.shape[0];
  r.n = p.logits.shape[1];
  r.temperature = p.temperature;
  r.top_p = p.top_p;
  r.top_k = p.top_k;
  r.seed = p.seed;
  r.step = p.step;
  r.counter = p.counter.present ? p.counter.data : nullptr;
  r.wide = p.counter.dtype == DType::int64;
  r.out = p.out.as<int32_t>();
  r.out_stride = p.out.stride[0];
  if (r.rows == 0) return;
  const unsigned grid = grid_for(c, r.rows, 2);
  r.weights = c.scratch<Wide>(grid * r.n);
  sample_rows<T><<<grid, 512, 0, c.stream>>>(r);
}

constexpr Launcher topk_by_dtype[kFloatDtypes] = {topk<float>, topk<Half>, topk<Brain>};
constexpr Launcher sample_by_dtype[kFloatDtypes] = {sample<float>, sample<Half>, sample<Brain>};

}  // namespace

void launch_topk(Context& c, const Problem& p) {
  c.kernel = "cuda.any.topk";
  topk_by_dtype[dtype_index(static_cast<const TopK&>(p).x.dtype)](c, p);
}

void launch_sample(Context& c, const Problem& problem) {
  const auto& p = static_cast<const Sample&>(problem);
  if (p.temperature == 0) {
    ArgMax greedy;
    greedy.x = p.logits;
    greedy.out = p.out;
    launch_argmax(c, greedy);
    c.kernel = "cuda.any.sample";
    return;
  }
  c.kernel = "cuda.any.sample";
  sample_by_dtype[dtype_index(p.logits.dtype)](c, p);
}

}  // namespace seqmix::cuda
