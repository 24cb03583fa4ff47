// Flash attention for few queries on Hopper: as on the GPUs before it, but that the copy engine brings in keys and
// values, 16 of a head at a time, told by one lane of each warp. So nothing but shared memory bounds how much is under
// way, and a block that has few keys asks for all of them at once.
//
// Floor: the bytes of the keys and values that are seen.
#include "cuda/kernels/sm90/flash_attention_decode.h"

#include "cuda/kernels/sm80/flash_attention_decode.cuh"
#include "cuda/kernels/sm90/tensor_map.h"
#include "cuda/ptx/hopper.cuh"

namespace seqmix::cuda {

namespace {

struct HopperDecodeArgs {
  CUtensorMap k, v;  // (64, tokens, D / 64, heads, slots)
  AttentionArgs of;
};

// A box for each of a warp's turns. Keys that no row sees come in as well, but what is not there as 0.
template <class Shape>
struct TensorCopy {
  static constexpr bool kExact = false;
  const HopperDecodeArgs& args;
  const uint32_t ring, barriers;
  int head = 0;

  __device__ __forceinline__ TensorCopy(const HopperDecodeArgs& a, uint32_t own, uint32_t own_barriers)
      : args(a), ring(own), barriers(own_barriers) {
    if (threadIdx.x % 32 == 0) {
#pragma unroll
      for (int i = 0; i < Shape::STAGES; i++) ptx::barrier_init(barrier(i), 1);
      ptx::barrier_fence();
      ptx::tensor_prefetch(args.k);
      ptx::tensor_prefetch(args.v);
    }
    __syncwarp();
  }
  __device__ __forceinline__ void find(const AttentionArgs&, const AttentionTask& t) { head = t.head; }
  __device__ __forceinline__ void begin(const AttentionArgs& p, const DecodeKeys&, int turn, int, bool wanted,
                                        const DecodePlace& at) const {
    if (threadIdx.x % 32 != 0) return;
    const uint32_t to = ring + turn % Shape::STAGES * Shape::kStage;
    if (!wanted) return ptx::barrier_arrive(barrier(turn));
    const int first = static_cast<int>(at.first), slot = static_cast<int>(at.there ? at.b : p.slots);
    ptx::barrier_expect(barrier(turn), Shape::kStage);
    if (p.streamed) {
      ptx::tensor_copy_streamed(to, args.k, barrier(turn), 0, first, 0, head, slot);
      ptx::tensor_copy_streamed(to + Shape::kTile, args.v, barrier(turn), 0, first, 0, head, slot);
    } else {
      ptx::tensor_copy(to, args.k, barrier(turn), 0, first, 0, head, slot);
      ptx::tensor_copy(to + Shape::kTile, args.v, barrier(turn), 0, first, 0, head, slot);
    }
  }
  __device__ __forceinline__ void wait(int turn) const {
    while (!ptx::barrier_try(barrier(turn), turn / Shape::STAGES & 1)) {
    }
  }
  __device__ __forceinline__ void wait_for_queries() const {
    ptx::copy_commit();
    ptx::copy_wait<0>();
  }
  __device__ __forceinline__ void end() const {}  // every turn has been waited for
  __device__ __forceinline__ void written() const { ptx::shared_written(); }

 private:
  __device__ __forceinline__ uint32_t barrier(int turn) const { return barriers + turn % Shape::STAGES * 8; }
};

template <class T, class Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::BLOCKS)
    hopper_decode(const __grid_constant__ HopperDecodeArgs a) {
  extern __shared__ __align__(1024) uint8_t memory[];
  __shared__ uint64_t barriers[Shape::WARPS][Shape::STAGES];
  const int warp = threadIdx.x / 32;
  ptx::look_at_arguments(a);
  TensorCopy<Shape> copy(a, ptx::shared_address(memory) + warp * Shape::kWarp, ptx::shared_address(barriers[warp]));
  decode_block<T, Shape>(a.of, memory, copy);
}

using Kernel = void (*)(HopperDecodeArgs);
struct Choice {
  AttentionKernel shape;
  Kernel kernel[2];  // float16, bfloat16
};
template <class Shape>
constexpr Choice choice() {
  static_assert(Shape::kShared + Shape::kQueryBytes + 2048 <= 227 * 1024 && Shape::kRings % 16 == 0);
  return {{Shape::D, Shape::kRows, Shape::kKeys, Shape::kThreads, Shape::kShared, Shape::kQueryBytes, 1, {}},
          {hopper_decode<Half, Shape>, hopper_decode<Brain, Shape>}};
}
// Rows, columns, warps, stages: as much under way as one block of a multiprocessor has room for, and warps enough that
// arithmetic never makes it wait.
constexpr Choice kChoices[] = {
    choice<DecodeShape<8, 64, 8, 4, 2, 1>>(),  choice<DecodeShape<16, 64, 8, 4, 2, 1>>(),
    choice<DecodeShape<8, 128, 8, 2, 2, 1>>(), choice<DecodeShape<16, 128, 8, 2, 2, 1>>(),
    choice<DecodeShape<8, 256, 4, 2, 2, 1>>(), choice<DecodeShape<16, 256, 4, 2, 2, 1>>(),
};

// Boxes of 16 keys of a head.
bool describe(CUtensorMap& map, const View& x) {
  const auto size = [&](int i) { return static_cast<cuuint64_t>(x.shape[i]); };
  const cuuint64_t shape[] = {64, size(1), size(3) / 64, size(2), size(0)};
  // Of one row any stride will do.
  const auto stride = [&](int i) { return static_cast<cuuint64_t>(x.shape[i] > 1 ? x.stride[i] * 2 : 16); };
  const cuuint64_t strides[] = {stride(1), 128, stride(2), stride(0)};
  for (const cuuint64_t s : strides)
    if (s % 16 != 0 || s >= cuuint64_t{1} << 40) return false;
  const cuuint32_t boxes[] = {64, 16, static_cast<cuuint32_t>(size(3) / 64), 1, 1}, steps[] = {1, 1, 1, 1, 1};
  return tensor_map_encoder()(
             &map, x.dtype == DType::float16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 5,
             x.data, shape, strides, boxes, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace

const AttentionKernel* hopper_decode_kernel(int64_t columns, int64_t rows) {
  if (!tensor_map_encoder()) return nullptr;
  for (const Choice& c : kChoices)
    if (c.shape.columns == columns && (rows <= c.shape.rows || c.shape.rows == 16)) return &c.shape;
  return nullptr;
}

bool launch_hopper_decode(Context& c, const FlashAttention& p, const AttentionKernel& k, const AttentionArgs& args,
                          unsigned blocks, int shared) {
  HopperDecodeArgs a;
  a.of = args;
  for (const View* const x : {&p.k, &p.v})
    for (int i = 0; i < 3; i++)
      if (x->shape[i] < 1 || x->shape[i] > INT32_MAX) return false;
  if (!describe(a.k, p.k) || !describe(a.v, p.v)) return false;
  const Kernel kernel = reinterpret_cast<const Choice&>(k).kernel[p.q.dtype == DType::float16 ? 0 : 1];
  if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared) != cudaSuccess) return false;
  set_off_with(c, kernel, dim3(blocks), static_cast<unsigned>(k.threads), static_cast<size_t>(shared), a);
  return true;
}

}  // namespace seqmix::cuda
