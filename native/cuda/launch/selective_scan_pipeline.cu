// The scan's pipeline: which cut of it a shape takes.
#include "cuda/kernels/any/selective_scan_pipeline.cuh"

#include "cuda/launch/selective_scan.h"

namespace seqmix::cuda {

namespace {

struct Variant {
  int channels, threads, blocks;           // channels of a block; blocks of a multiprocessor
  int64_t cycles;                          // that a token takes where all of a multiprocessor's blocks are there
  void (*kernel[kFloatDtypes])(ScanArgs);  // null where it would need more registers than there are
  int64_t shared[kFloatDtypes];            // bytes
};

template <class X>
constexpr int kPlace = std::is_same_v<X, float>  ? 0
                       : std::is_same_v<X, Half> ? 1
                                                 : 2;  // as dtype_index has it

template <class Shape, class... X>
constexpr Variant variant(int64_t cycles) {
  Variant v{Shape::channels, Shape::threads, Shape::blocks, cycles, {}, {}};
  ((v.kernel[kPlace<X>] = selective_scan_pipeline<X, Shape>, v.shared[kPlace<X>] = Shape::template shared_bytes<X>()),
   ...);
  return v;
}

// The fewer channels there are, the more lanes each of them gets. The cycles are from measurements on an H100,
// bfloat16; the order they lead to is right for the other dtypes as well.
constexpr Variant kVariants[] = {
    variant<PipelineShape<16, 64, 16, true, 6, 6, 3, 1>, float, Half, Brain>(28),
    variant<PipelineShape<8, 32, 8, true, 5, 5, 3, 2>, float, Half, Brain>(86),
    variant<PipelineShape<4, 64, 4, false, 12, 12, 2, 1>, Half, Brain>(164),
    variant<PipelineShape<2, 32, 4, false, 4, 4, 2, 2>, Half, Brain>(250),
};

int64_t blocks_of(const Variant& v, const ScanArgs& a) {
  return a.batch * (a.d / a.unit) * ceil_div(a.unit, v.channels);
}

// Whether four elements are one access wherever a multiple of four begins along the dense dimension.
bool in_fours(const void* data, DType dtype, int64_t dense, std::initializer_list<int64_t> strides) {
  const auto at_four = [](int64_t stride) { return stride % 4 == 0; };
  return dense == 1 && reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(4 * size_of(dtype)) == 0 &&
         std::all_of(strides.begin(), strides.end(), at_four);
}

}  // namespace

bool launch_scan_pipeline(Context& c, ScanArgs a, DType dtype) {
  if (a.L >= int64_t{1} << 35) return false;  // tiles are counted in 32 bits
  const int of = dtype_index(dtype);
  int room = 0;  // bytes of shared memory that a block can have
  if (cudaDeviceGetAttribute(&room, cudaDevAttrMaxSharedMemoryPerBlockOptin, c.device) != cudaSuccess) return false;
  const Variant* best = nullptr;
  int64_t least = INT64_MAX;
  for (const Variant& v : kVariants) {
    if (!v.kernel[of] || v.shared[of] > room) continue;
    // Where a multiprocessor has several blocks at a time, the last round's are fewer and faster: a good part of its
    // gap is closed.
    const int64_t blocks = blocks_of(v, a), at_once = v.blocks * c.multiprocessors, rounds = ceil_div(blocks, at_once);
    const bool closes = rounds > 1 && v.blocks > 1;
    const int64_t cycles = closes ? (3 * blocks * v.cycles / at_once + rounds * v.cycles) / 4 : rounds * v.cycles;
    if (cycles >= least) continue;
    least = cycles;
    best = &v;
  }
  if (!best || blocks_of(*best, a) > INT32_MAX) return false;

  a.by_token = a.u.by_token;
  a.matrices_by_token = a.B.by_token;
  const bool whole = a.unit == a.d || a.unit % 4 == 0;  // a block's first channel is a multiple of four
  for (ScanTile* x : {&a.u, &a.delta, &a.z, &a.out})
    x->fours = a.by_token ? in_fours(x->data, dtype, x->t, {x->b, x->d})
                          : whole && in_fours(x->data, dtype, x->d, {x->b, x->t});
  for (ScanMatrix* m : {&a.B, &a.C})
    m->fours = a.matrices_by_token ? in_fours(m->data, dtype, m->t, {m->b, m->g, m->n})
                                   : in_fours(m->data, dtype, m->n, {m->b, m->g, m->t});
  const int bytes = static_cast<int>(best->shared[of]);
  if (cudaFuncSetAttribute(best->kernel[of], cudaFuncAttributeMaxDynamicSharedMemorySize, bytes) != cudaSuccess)
    return false;
  c.kernel = "cuda.any.selective_scan.pipeline";
  const unsigned grid = static_cast<unsigned>(blocks_of(*best, a));
  set_off_with(c, best->kernel[of], dim3(grid), static_cast<unsigned>(best->threads), static_cast<size_t>(bytes), a);
  return true;
}

}  // namespace seqmix::cuda
