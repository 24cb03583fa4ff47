// out = act(x Wᵀ + bias) + residual on Hopper: x and W of one 16-bit dtype, sums in float32.
//
// A block makes a tile of 64 rows for each of its one or two consumer warpgroups by BN features. One more warp, the
// producer, has the copy engine bring both operands' next 64 elements of `in` (128 bytes of a row, swizzled) into a
// ring of stages; what lies outside a matrix arrives as zeros, so ragged sizes need no other care. A stage's `full`
// barrier counts its bytes, its `empty` barrier the consumers' warps that are done with it. The consumers multiply
// straight from shared memory with their sums in registers, one stage's products running while the next are set off.
//
// The sums go to shared memory and from there to the result in whole rows, 16 bytes a thread, with bias, activation and
// residual on the way. The large tile (128 × 256) has memory of its own for that and its blocks stay, tile after tile,
// so that the copies for the next one run meanwhile; the others use the ring's memory, take one tile each, and hide the
// end of one behind another that shares the multiprocessor.
//
// Where there are fewer tiles than multiprocessors, `in` is cut into parts, one for each block of a cluster: the blocks
// read each other's sums from shared memory and add them up in order, each for its share of the tile's rows.
//
// Floor: 2 rows · features · in operations on the tensor cores, or the operands' bytes.
#include "cuda/kernels/sm90/linear.h"

#include <cuda.h>

#include "cuda/kernels/any/linear_args.cuh"
#include "cuda/kernels/sm90/pipeline.cuh"
#include "cuda/ptx/hopper.cuh"
#include "cuda/ptx/tensor.cuh"
#include "cuda/ptx/wgmma.cuh"

namespace seqmix::cuda {

namespace {

constexpr int kDepth = kHopperDepth;
constexpr int kLine = kDepth * 2;  // bytes
constexpr int kBand = 16;          // tiles of rows that follow each other before the next features: both stay in L2

template <int GROUPS, int BN, int STAGES, int SLAB>
struct Plan {
  static constexpr int kRows = GROUPS * 64;
  static constexpr int kConsumers = GROUPS * 128;
  static constexpr int kThreads = kConsumers + 32;
  static constexpr bool kStays = SLAB < BN;  // takes tile after tile, with memory of its own for the results
  static constexpr int kStage = (kRows + BN) * kLine;
  static constexpr int kSlab = 16 * kSlabLine<SLAB> * 4;  // of a warp
  static constexpr int kBarriers = STAGES * kStage;
  static constexpr int kSlabs = kStays ? kBarriers + 128 : 0;
  static constexpr int kBytes = 1024 + kBarriers + 128 + (kStays ? kConsumers / 32 * kSlab : 0);
  static constexpr int kBlocks = 227 * 1024 / (kBytes + 1024);
  static_assert(kStays || kConsumers / 32 * kSlab <= kBarriers);
  static_assert(STAGES * 16 <= 128);
};

struct Tile {
  int row, feature;
};

__device__ __forceinline__ Tile tile_at(int64_t i, int64_t tiles_m, int64_t tiles_n, int rows, int features) {
  const int64_t band = i / (kBand * tiles_n), inside = i % (kBand * tiles_n);
  const int64_t height = min(int64_t{kBand}, tiles_m - band * kBand);
  return {static_cast<int>((band * kBand + inside % height) * rows), static_cast<int>(inside / height * features)};
}

template <class T, int GROUPS, int BN, int STAGES, int SLAB>
__global__ void __launch_bounds__(Plan<GROUPS, BN, STAGES, SLAB>::kThreads, Plan<GROUPS, BN, STAGES, SLAB>::kBlocks)
    hopper_tile(const __grid_constant__ CUtensorMap x_map, const __grid_constant__ CUtensorMap weight_map,
                const __grid_constant__ LinearArgs p) {
  using P = Plan<GROUPS, BN, STAGES, SLAB>;
  extern __shared__ uint8_t memory[];
  const uint32_t base = (ptx::shared_address(memory) + 1023) & ~1023u;
  uint8_t* const start = memory + (base - ptx::shared_address(memory));
  const uint32_t full = base + P::kBarriers, empty = full + 8 * STAGES;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const bool producer = warp == P::kConsumers / 32;

  if (producer && lane == 0) {
    ptx::tensor_prefetch(x_map);
    ptx::tensor_prefetch(weight_map);
    for (int i = 0; i < STAGES; i++) {
      ptx::barrier_init(full + 8 * i, 1);
      ptx::barrier_init(empty + 8 * i, P::kConsumers / 32);
    }
    ptx::barrier_fence();
  }
  __syncthreads();

  const int64_t tiles_m = (p.rows + P::kRows - 1) / P::kRows, tiles_n = (p.features + BN - 1) / BN;
  const int rank = P::kStays ? 0 : static_cast<int>(blockIdx.x % p.splits);
  const int64_t begin = rank * p.part, end = min(begin + p.part, p.in);
  const int64_t first = P::kStays ? blockIdx.x : blockIdx.x / p.splits;
  const int64_t tiles = P::kStays ? tiles_m * tiles_n : first + 1;

  if (producer) {
    if (lane == 0) {
      Place<STAGES> at;
      for (int64_t i = first; i < tiles; i += gridDim.x) {
        const Tile tile = tile_at(i, tiles_m, tiles_n, P::kRows, BN);
        for (int64_t k = begin; k < end; k += kDepth, at.next()) {
          const uint32_t stage = base + at.stage * P::kStage;
          wait(empty + 8 * at.stage, at.parity ^ 1);
          ptx::barrier_expect(full + 8 * at.stage, P::kStage);
          ptx::tensor_copy(stage, x_map, full + 8 * at.stage, static_cast<int>(k), tile.row);
          ptx::tensor_copy(stage + P::kRows * kLine, weight_map, full + 8 * at.stage, static_cast<int>(k),
                           tile.feature);
        }
      }
    }
    __syncwarp();
  } else {
    const int group = warp / 4;
    float* const slab = reinterpret_cast<float*>(start + P::kSlabs + warp * P::kSlab);
    Place<STAGES> at;
    for (int64_t i = first; i < tiles; i += gridDim.x) {
      const Tile tile = tile_at(i, tiles_m, tiles_n, P::kRows, BN);
      float sums[BN / 8][4] = {};
      int before = -1;  // the stage whose products may still run
      for (int64_t k = begin; k < end; k += kDepth, at.next()) {
        const uint32_t stage = base + at.stage * P::kStage;
        const uint64_t x = ptx::descriptor_128b(stage + group * 64 * kLine);
        const uint64_t weight = ptx::descriptor_128b(stage + P::kRows * kLine);
        wait(full + 8 * at.stage, at.parity);
        ptx::hold(sums);
        ptx::wgmma_fence();
#pragma unroll
        for (int j = 0; j < kDepth / 16; j++) ptx::wgmma(sums, x + 2 * j, weight + 2 * j, T());
        ptx::wgmma_commit();
        ptx::wgmma_wait<1>();
        if (before >= 0 && lane == 0) ptx::barrier_arrive(empty + 8 * before);
        before = at.stage;
      }
      ptx::wgmma_wait<0>();
      ptx::hold(sums);
      if (before >= 0 && lane == 0) ptx::barrier_arrive(empty + 8 * before);

      if constexpr (P::kStays) {
#pragma unroll
        for (int n = 0; n < BN; n += SLAB) {
          put_slab<SLAB>(sums + n / 8, slab);
          __syncwarp();
          finish_slab<T, SLAB>(p, slab, tile.row + warp * 16, tile.feature + n);
          __syncwarp();
        }
      } else {
        ptx::meet(1, P::kConsumers);  // the ring is free
        put_slab<SLAB>(sums, slab);
        __syncwarp();
        if (p.splits == 1) finish_slab<T, SLAB>(p, slab, tile.row + warp * 16, tile.feature);
      }
    }
  }

  if constexpr (!P::kStays) {
    if (p.splits == 1) return;
    ptx::cluster_meet();
    if (!producer) {
      const Tile tile = tile_at(first, tiles_m, tiles_n, P::kRows, BN);
      const int rows = P::kRows / p.splits;
      for (int i = threadIdx.x; i < rows * (BN / 8); i += P::kConsumers) {
        const int r = rank * rows + i / (BN / 8), c = i % (BN / 8) * 8;
        const int64_t row = tile.row + r, feature = tile.feature + c;
        if (row >= p.rows || feature >= p.features) continue;
        const uint32_t place = base + (r * kSlabLine<SLAB> + c) * 4;
        Floats<8> sums{};
        for (int q = 0; q < p.splits; q++) {
          const uint32_t theirs = ptx::cluster_address(place, q);
          const float4 a = ptx::cluster_load4(theirs), b = ptx::cluster_load4(theirs + 16);
          const float v[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
          for (int j = 0; j < 8; j++) sums.v[j] += v[j];
        }
        p.finish8<T>(row, feature, sums, p.bias8(feature));
      }
    }
    ptx::cluster_meet();  // none goes while its sums are read
  }
}

using Kernel = void (*)(CUtensorMap, CUtensorMap, LinearArgs);
struct Choice {
  HopperShape shape;
  int threads, bytes;
  bool stays;
  Kernel kernel[2];  // Half, Brain
};

template <int GROUPS, int BN, int STAGES, int SLAB>
constexpr Choice choice() {
  using P = Plan<GROUPS, BN, STAGES, SLAB>;
  return {{P::kRows, BN, P::kBlocks},
          P::kThreads,
          P::kBytes,
          P::kStays,
          {hopper_tile<Half, GROUPS, BN, STAGES, SLAB>, hopper_tile<Brain, GROUPS, BN, STAGES, SLAB>}};
}
// In HopperTile's order.
constexpr Choice kChoices[] = {choice<1, 64, 4, 64>(), choice<2, 128, 3, 128>(), choice<2, 256, 4, 32>()};

using Encode = decltype(&cuTensorMapEncodeTiled);

Encode encoder() {
  static const Encode encode = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
    return error == cudaSuccess && result == cudaDriverEntryPointSuccess ? reinterpret_cast<Encode>(found) : nullptr;
  }();
  return encode;
}

bool describe(CUtensorMap& map, DType dtype, const void* data, int64_t rows, int64_t in, int64_t stride,
              int64_t box_rows) {
  const cuuint64_t shape[] = {static_cast<cuuint64_t>(in), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(stride) * 2};
  const cuuint32_t box[] = {kDepth, static_cast<cuuint32_t>(box_rows)}, steps[] = {1, 1};
  return encoder()(&map, dtype == DType::float16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                   2, const_cast<void*>(data), shape, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                   CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                   CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

// A row's stride in a tensor map: of one row any multiple of 16 bytes will do.
int64_t stride_of(int64_t rows, int64_t in, int64_t stride) { return rows > 1 ? stride : (in + 7) / 8 * 8; }

bool can(const void* data, int64_t rows, int64_t in, int64_t stride) {
  stride = stride_of(rows, in, stride);
  return aligned16(data) && stride % 8 == 0 && stride >= in && stride < int64_t{1} << 38 && rows <= INT32_MAX &&
         in <= INT32_MAX;
}

}  // namespace

HopperShape shape_of(HopperTile tile) { return kChoices[static_cast<int>(tile)].shape; }

bool hopper_can(const LinearArgs& a) {
  return a.in > 0 && can(a.x, a.rows, a.in, a.x_stride) && can(a.weight, a.features, a.in, a.weight_stride) &&
         encoder() != nullptr;
}

bool launch_hopper(Context& c, const LinearArgs& args, HopperTile tile, int splits) {
  const Choice& choice = kChoices[static_cast<int>(tile)];
  LinearArgs a = args;
  CUtensorMap x, weight;
  if (!describe(x, a.x_dtype, a.x, a.rows, a.in, stride_of(a.rows, a.in, a.x_stride), choice.shape.rows) ||
      !describe(weight, a.x_dtype, a.weight, a.features, a.in, stride_of(a.features, a.in, a.weight_stride),
                choice.shape.features))
    return false;
  a.splits = splits;
  a.part = ceil_div(ceil_div(a.in, kDepth), splits) * kDepth;
  const int64_t tiles = ceil_div(a.rows, choice.shape.rows) * ceil_div(a.features, choice.shape.features);
  const int64_t blocks = choice.stays ? std::min<int64_t>(tiles, c.multiprocessors) : tiles * splits;
  const Kernel kernel = choice.kernel[a.x_dtype == DType::bfloat16];
  if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, choice.bytes) != cudaSuccess)
    return true;  // the caller looks at the last error
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(splits), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(choice.threads));
  config.dynamicSmemBytes = static_cast<size_t>(choice.bytes);
  config.stream = c.stream;
  config.attrs = &cluster;
  config.numAttrs = splits > 1 ? 1 : 0;
  (void)cudaLaunchKernelEx(&config, kernel, x, weight, a);
  return true;
}

}  // namespace seqmix::cuda
