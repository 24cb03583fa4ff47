// linear: on the tensor cores where x and the weights have one 16-bit dtype, else by multiply-adds in float32.
#include "cuda/kernels/any/linear.cuh"

#include "core/problem/rows.h"
#include "cuda/launch/linear.h"

namespace seqmix::cuda {

namespace {

constexpr int64_t kVectorRows = 8;   // up to here the weights' bytes are the cost, and a warp a feature reads them once
constexpr int64_t kLeastPart = 256;  // of `in`, for a block
constexpr int64_t kMostSplits = 16;

using Kernel = void (*)(LinearArgs);

// The large tile reuses more of what it reads; the small one fills the chip sooner.
struct Matrix {
  int64_t rows, features;
  Kernel kernel[2][2];  // of float32, of any dtypes; one element, four elements at a time
};
template <int BM, int BN, int TM, int TN>
constexpr Matrix matrix() {
  return {BM,
          BN,
          {{matrix_tile<Float32, BM, BN, TM, TN, 1>, matrix_tile<Float32, BM, BN, TM, TN, 4>},
           {matrix_tile<AnyFloat, BM, BN, TM, TN, 1>, matrix_tile<AnyFloat, BM, BN, TM, TN, 4>}}};
}
constexpr Matrix kLarge = matrix<128, 128, 8, 8>(), kSmall = matrix<64, 64, 4, 4>();

struct Vector {
  int64_t rows;
  int features;            // of a warp
  Kernel kernel[2][3][2];  // x float32, of any dtype; the weights' dtype; one element, 16 bytes of weights at a time
};
template <class F, int R>
constexpr void vectors_of(Kernel (&to)[3][2]) {
  to[0][0] = vector_rows<F, float, R, 1>;
  to[0][1] = vector_rows<F, float, R, kWide<float>>;
  to[1][0] = vector_rows<F, Half, R, 1>;
  to[1][1] = vector_rows<F, Half, R, kWide<Half>>;
  to[2][0] = vector_rows<F, Brain, R, 1>;
  to[2][1] = vector_rows<F, Brain, R, kWide<Brain>>;
}
template <int R>
constexpr Vector vector_of() {
  Vector v{R, kVectorFeatures<R>, {}};
  vectors_of<Float32, R>(v.kernel[0]);
  vectors_of<AnyFloat, R>(v.kernel[1]);
  return v;
}
constexpr Vector kVectors[] = {vector_of<1>(), vector_of<2>(), vector_of<4>(), vector_of<8>()};

// Rows of both operands can be read `x` and `weight` bytes at a time.
bool aligned(const LinearArgs& a, int64_t x, int64_t weight) {
  return rows_begin_on(x, a.x, a.x_dtype, a.rows, a.x_stride) &&
         rows_begin_on(weight, a.weight, a.weight_dtype, a.features, a.weight_stride);
}

void launch_matrix(Context& c, LinearArgs a) {
  c.kernel = "cuda.any.linear.matrix";
  const bool float32 = a.x_dtype == DType::float32 && a.weight_dtype == DType::float32;
  const bool by_four = a.in % 4 == 0 && aligned(a, 4 * size_of(a.x_dtype), 4 * size_of(a.weight_dtype));
  const auto tiles_of = [&](const Matrix& m) { return ceil_div(a.rows, m.rows) * ceil_div(a.features, m.features); };
  const Matrix& m = tiles_of(kLarge) >= c.multiprocessors ? kLarge : kSmall;
  const int64_t tiles = tiles_of(m);
  cut(a, std::clamp<int64_t>(std::min(2 * c.multiprocessors / tiles, a.in / kLeastPart), 1, kMostSplits), kDepth);
  if (a.splits > 1) a.partial = c.scratch<float>(a.splits * a.rows * a.features);
  m.kernel[!float32][by_four]<<<grid_of_tiles(tiles * a.splits), kLinearThreads, 0, c.stream>>>(a);
  if (a.splits > 1) launch_add_parts(c, a);
}

void launch_vector(Context& c, const LinearArgs& a) {
  c.kernel = "cuda.any.linear.vector";
  const int64_t together = 16 / size_of(a.weight_dtype);
  const bool wide = a.in % together == 0 && aligned(a, std::min<int64_t>(16, together * size_of(a.x_dtype)), 16);
  for (const Vector& v : kVectors) {
    if (a.rows > v.rows) continue;
    const Kernel kernel = v.kernel[a.x_dtype != DType::float32][dtype_index(a.weight_dtype)][wide];
    const int64_t blocks = ceil_div(a.features, kVectorThreads / 32 * v.features);
    return kernel<<<grid_for(c, blocks, 32), kVectorThreads, 0, c.stream>>>(a);
  }
}

}  // namespace

void launch_add_parts(Context& c, const LinearArgs& a) {
  const Kernel add = a.x_dtype == DType::float32 ? add_parts<Float32> : add_parts<AnyFloat>;
  add<<<grid_for(c, ceil_div(a.rows * a.features, 256), 8), 256, 0, c.stream>>>(a);
}

void launch_linear(Context& c, const Problem& problem) {
  const auto& p = static_cast<const Linear&>(problem);
  LinearArgs a{};
  a.x = p.x.data;
  a.weight = p.weight.data;
  a.residual = p.residual.present ? p.residual.data : nullptr;
  a.out = p.out.data;
  a.bias = weights_of(p.bias);
  a.rows = p.out.shape[0];
  a.features = p.out.shape[1];
  a.in = p.x.shape[1];
  a.x_stride = p.x.stride[0];
  a.weight_stride = p.weight.stride[0];
  a.residual_stride = p.residual.stride[0];
  a.out_stride = p.out.stride[0];
  a.x_dtype = p.x.dtype;
  a.weight_dtype = p.weight.dtype;
  a.silu = p.activation == Activation::silu;
  a.wide = rows_begin_on(16, a.out, a.x_dtype, a.rows, a.out_stride) &&
           (!a.residual || rows_begin_on(16, a.residual, a.x_dtype, a.rows, a.residual_stride));
  a.splits = 1;
  a.part = a.in;
  const bool tensor = a.x_dtype == a.weight_dtype && a.x_dtype != DType::float32;
  // Few rows that cannot be read 16 bytes at a time are left to the loop over each.
  const bool odd = a.in % 8 != 0 || !aligned(a, 16, 16);
  if (a.rows == 0 || a.features == 0)
    c.kernel = "cuda.any.linear.nothing";
  else if (tensor && !(odd && a.rows <= kVectorRows))
    launch_tensor_linear(c, a);
  else if (a.rows <= kVectorRows)
    launch_vector(c, a);
  else
    launch_matrix(c, a);
}

}  // namespace seqmix::cuda
