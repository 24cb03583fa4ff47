// out = act(x Wᵀ + bias) + residual on Hopper: x and W of one 16-bit dtype T, sums in float32.
//
// A block makes tiles of 64 rows for each of its one or two consumer warpgroups by BN features, one after another. One
// more warp, the producer, has the copy engine bring both operands' next 64 elements of `in` (128 bytes of a row,
// swizzled) into a ring of stages; what lies outside a matrix arrives as zeros, so ragged sizes need no other care. A
// stage's `full` barrier counts its bytes, its `empty` barrier the consumers' warps that are done with it. The
// consumers multiply straight from shared memory with their sums in registers, one stage's products running while the
// next are set off.
//
// The sums are finished in registers, rounded and laid down in shared memory of their own, from where the copy engine
// stores them while the next tile is multiplied, whose operands have been coming in meanwhile. It stores 16 bytes at a
// time, whole ones even where a row ends within them: a result whose rows do not begin and end on 16 bytes is stored by
// the warps.
//
// Where there are fewer tiles than multiprocessors, `in` is cut into parts, one for each block of a cluster (of any
// number of blocks up to eight): the blocks read each other's sums from shared memory (the ring's, which is free then)
// and add them up in order, each for its share of the tile's rows.
//
// Floor: 2 rows · features · in operations on the tensor cores; the operands' bytes; and for each stage of 64 elements
// what a multiprocessor can take in, some 50 bytes a cycle, which is what limits all tiles but the largest. The widths
// between are for a chip with a number of multiprocessors like 132: a few shapes of each size divide it well.
#include "cuda/kernels/sm90/linear.h"

#include <cuda.h>

#include "cuda/kernels/any/linear_args.cuh"
#include "cuda/kernels/sm90/pipeline.cuh"
#include "cuda/kernels/sm90/tensor_map.h"
#include "cuda/ptx/barrier.cuh"
#include "cuda/ptx/hopper.cuh"
#include "cuda/ptx/tensor.cuh"
#include "cuda/ptx/wgmma.cuh"

namespace seqmix::cuda {

namespace {

constexpr int kDepth = kHopperDepth;
constexpr int kLine = kDepth * 2;  // bytes
constexpr int kBand = 16;          // tiles of rows that follow each other before the next features: both stay in L2

// Named barriers: those of the groups follow the last.
constexpr int kMeetAll = 1, kStart = 2, kMeetGroup = 3;

template <int GROUPS, int BN, int STAGES, int BLOCKS>
struct Plan {
  static constexpr int kRows = GROUPS * 64;
  static constexpr int kConsumers = GROUPS * 128;
  static constexpr int kThreads = kConsumers + 32;
  static constexpr int kStage = (kRows + BN) * kLine;
  static constexpr int kBox = BN % 64 == 0 ? 64 : 32;  // features that are stored at once
  static constexpr int kStaged = 64 * BN * 2;          // bytes, of a group's results
  static constexpr int kStaging = STAGES * kStage;     // where they begin
  static constexpr int kBias = kStaging + GROUPS * kStaged;
  static constexpr int kBarriers = kBias + GROUPS * BN * 4;
  static constexpr int kBytes = 1024 + kBarriers + 16 * STAGES;
  static_assert(kBytes <= 227 * 1024 && BLOCKS * (kBytes + 1024) <= 228 * 1024);
  static_assert(kRows * kSlabLine<BN> * 4 <= kStaging);
};

struct Tile {
  int row, feature;
};

// In 32 bits (can and launch_hopper see to it that they are enough): divisions of 64 are slow, and all wait for these.
__device__ __forceinline__ Tile tile_at(int i, int tiles_m, int tiles_n, int rows, int features) {
  const int band = i / (kBand * tiles_n), inside = i - band * (kBand * tiles_n);
  const int height = min(kBand, tiles_m - band * kBand), column = inside / height;
  return {(band * kBand + inside - column * height) * rows, column * features};
}

// Where eight results lie, the chunk'th of a row of a group's 64, swizzled as the tensor store expects it: boxes of 64
// features (128 bytes a row) or of 32 (64 bytes), one after another.
template <int BOX>
__device__ __forceinline__ uint32_t staged_at(int row, int chunk) {
  constexpr int kChunks = BOX / 8;
  const int swizzle = BOX == 64 ? row & 7 : row >> 1 & 3;
  return static_cast<uint32_t>(chunk / kChunks * (64 * BOX * 2) + row * BOX * 2 + ((chunk % kChunks ^ swizzle) << 4));
}

// Two neighbours of a row of the residual, 0 where there is none.
template <class T>
__device__ __forceinline__ uint32_t residual_pair(const LinearArgs& p, int64_t row, int64_t feature) {
  if (row >= p.rows || feature >= p.features) return 0;
  const T* const from = static_cast<const T*>(p.residual) + row * p.residual_stride + feature;
  if (p.wide && feature + 2 <= p.features) return *reinterpret_cast<const uint32_t*>(from);
  return pack<T>(widen(from[0]), feature + 1 < p.features ? widen(from[1]) : 0.0f);
}

// Finishes a warp's 16 rows of sums (as the tensor cores leave them: row lane/4 and eight below, features 8 j + 2 (lane
// % 4) and the next) and lays them down in its group's memory, of which its rows begin at `first`. The tile's feature
// is `feature`, the warp's first row `row`.
template <class T, int BN, int BOX>
__device__ __forceinline__ void put_results(const LinearArgs& p, float (&sums)[BN / 8][4], const float* bias,
                                            uint32_t staged, int first, int64_t row, int64_t feature) {
  constexpr int kAtOnce = 4;  // eights of features, so that several loads of the residual are under way
  const int lane = threadIdx.x % 32;
  const int64_t r = row + lane / 4, f = feature + lane % 4 * 2;
#pragma unroll
  for (int j0 = 0; j0 < BN / 8; j0 += kAtOnce) {
    uint32_t residual[kAtOnce][2];
    if (p.residual) {
#pragma unroll
      for (int j = 0; j < kAtOnce; j++) {
        residual[j][0] = residual_pair<T>(p, r, f + 8 * (j0 + j));
        residual[j][1] = residual_pair<T>(p, r + 8, f + 8 * (j0 + j));
      }
    }
    if (p.bias.data) {
#pragma unroll
      for (int j = j0; j < j0 + kAtOnce; j++) {
        const float2 b = *reinterpret_cast<const float2*>(bias + 8 * j + lane % 4 * 2);
        sums[j][0] += b.x;
        sums[j][1] += b.y;
        sums[j][2] += b.x;
        sums[j][3] += b.y;
      }
    }
    if (p.silu) {
#pragma unroll
      for (int j = j0; j < j0 + kAtOnce; j++)
#pragma unroll
        for (int q = 0; q < 4; q++) sums[j][q] = fast_silu(sums[j][q]);
    }
    if (p.residual) {
#pragma unroll
      for (int j = 0; j < kAtOnce; j++)
#pragma unroll
        for (int q = 0; q < 2; q++) {
          const float2 both = unpack<T>(residual[j][q]);
          sums[j0 + j][2 * q] += both.x;
          sums[j0 + j][2 * q + 1] += both.y;
        }
    }
#pragma unroll
    for (int j = j0; j < j0 + kAtOnce; j += 2)
      ptx::store_matrices(staged + staged_at<BOX>(first + lane % 16, j + lane / 16), pack<T>(sums[j][0], sums[j][1]),
                          pack<T>(sums[j][2], sums[j][3]), pack<T>(sums[j + 1][0], sums[j + 1][1]),
                          pack<T>(sums[j + 1][2], sums[j + 1][3]));
  }
}

// A warp's 16 rows of results, from where they were laid down to the result, an element a lane.
template <class T, int BN, int BOX>
__device__ __forceinline__ void bring_out(const LinearArgs& p, const uint8_t* staged, int first, int64_t row,
                                          int64_t feature) {
  for (int r = 0; r < 16 && row + r < p.rows; r++) {
    T* const to = static_cast<T*>(p.out) + (row + r) * p.out_stride + feature;
    for (int c = threadIdx.x % 32; c < BN && feature + c < p.features; c += 32)
      to[c] = *reinterpret_cast<const T*>(staged + staged_at<BOX>(first + r, c / 8) + c % 8 * 2);
  }
}

// The sums of all blocks of a cluster, `sums` in the shared memory of each, of this block's share of the tile's rows.
template <class T, int ROWS, int BN, int THREADS>
__device__ __forceinline__ void add_up(const LinearArgs& p, uint32_t sums, int rank, const Tile& tile) {
  const int rows = (ROWS + p.splits - 1) / p.splits;
  for (int i = threadIdx.x; i < rows * (BN / 8); i += THREADS) {
    const int r = rank * rows + i / (BN / 8), c = i % (BN / 8) * 8;
    const int64_t row = tile.row + r, feature = tile.feature + c;
    if (r >= ROWS || row >= p.rows || feature >= p.features) continue;
    const uint32_t place = sums + (r * kSlabLine<BN> + c) * 4;
    float4 part[kMostHopperSplits][2];
#pragma unroll
    for (int q = 0; q < kMostHopperSplits; q++) {
      if (q >= p.splits) break;
      const uint32_t theirs = ptx::cluster_address(place, q);
      part[q][0] = ptx::cluster_load4(theirs);
      part[q][1] = ptx::cluster_load4(theirs + 16);
    }
    Floats<8> sum{};
#pragma unroll
    for (int q = 0; q < kMostHopperSplits; q++) {
      if (q >= p.splits) break;
      const float4 a = part[q][0], b = part[q][1];
      const float v[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
      for (int j = 0; j < 8; j++) sum.v[j] += v[j];
    }
    p.finish8<T>(row, feature, sum, p.bias8(feature));
  }
}

// by_copy: the result is stored by the copy engine.
template <class T, int GROUPS, int BN, int STAGES, int BLOCKS>
__global__ void __launch_bounds__(Plan<GROUPS, BN, STAGES, BLOCKS>::kThreads, BLOCKS)
    hopper_tile(const __grid_constant__ CUtensorMap x_map, const __grid_constant__ CUtensorMap weight_map,
                const __grid_constant__ CUtensorMap out_map, const __grid_constant__ LinearArgs p, const bool by_copy) {
  using P = Plan<GROUPS, BN, STAGES, BLOCKS>;
  extern __shared__ uint8_t memory[];
  const uint32_t base = (ptx::shared_address(memory) + 1023) & ~1023u;
  uint8_t* const start = memory + (base - ptx::shared_address(memory));
  const uint32_t full = base + P::kBarriers, empty = full + 8 * STAGES;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  const int tiles_m = static_cast<int>((p.rows + P::kRows - 1) / P::kRows);
  const int tiles_n = static_cast<int>((p.features + BN - 1) / BN), tiles = tiles_m * tiles_n;
  const int rank = static_cast<int>(blockIdx.x) % p.splits;
  const int first = static_cast<int>(blockIdx.x) / p.splits, step = static_cast<int>(gridDim.x) / p.splits;
  const int64_t begin = rank * p.part, end = min(begin + p.part, p.in);

  if (warp == P::kConsumers / 32) {
    if (lane == 0) {
      ptx::tensor_prefetch(x_map);
      ptx::tensor_prefetch(weight_map);
      if (by_copy) ptx::tensor_prefetch(out_map);
      for (int i = 0; i < STAGES; i++) {
        ptx::barrier_init(full + 8 * i, 1);
        ptx::barrier_init(empty + 8 * i, P::kConsumers / 32);
      }
      ptx::barrier_fence();
    }
    __syncwarp();
    ptx::arrive(kStart, P::kThreads);
    if (lane == 0) {
      Place<STAGES> at;
      for (int i = first; i < tiles; i += step) {
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
    const int group = warp / 4, in_group = threadIdx.x % 128;
    uint8_t* const staged = start + P::kStaging + group * P::kStaged;
    float* const bias = reinterpret_cast<float*>(start + P::kBias) + group * BN;
    ptx::meet(kStart, P::kThreads);
    Place<STAGES> at;
    for (int i = first; i < tiles; i += step) {
      const Tile tile = tile_at(i, tiles_m, tiles_n, P::kRows, BN);
      if (p.bias.data)
        for (int f = in_group; f < BN && tile.feature + f < p.features; f += 128) bias[f] = p.bias.at(tile.feature + f);
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

      if (p.splits > 1) {
        ptx::meet(kMeetAll, P::kConsumers);  // the ring is free
        put_slab<BN>(sums, reinterpret_cast<float*>(start) + warp * 16 * kSlabLine<BN>);
        break;
      }
      if (in_group == 0) ptx::stores_read();
      ptx::meet(kMeetGroup + group, 128);  // the results before are out, and the bias has come in
      const int64_t row = tile.row + warp * 16;
      put_results<T, BN, P::kBox>(p, sums, bias, ptx::shared_address(staged), warp % 4 * 16, row, tile.feature);
      ptx::shared_written();
      ptx::meet(kMeetGroup + group, 128);
      if (by_copy) {
        if (in_group == 0) {
#pragma unroll
          for (int b = 0; b < BN / P::kBox; b++)
            ptx::tensor_store(out_map, ptx::shared_address(staged) + b * 64 * P::kBox * 2, tile.feature + b * P::kBox,
                              tile.row + group * 64);
          ptx::stores_commit();
        }
      } else {
        bring_out<T, BN, P::kBox>(p, staged, warp % 4 * 16, row, tile.feature);
      }
    }
    if (in_group == 0) ptx::stores_read();
  }

  if (p.splits > 1) {
    ptx::cluster_meet();
    if (warp < P::kConsumers / 32)
      add_up<T, P::kRows, BN, P::kConsumers>(p, base, rank, tile_at(first, tiles_m, tiles_n, P::kRows, BN));
    ptx::cluster_meet();  // none goes while its sums are read
  }
}

using Kernel = void (*)(CUtensorMap, CUtensorMap, CUtensorMap, LinearArgs, bool);
struct Choice {
  HopperShape shape;
  int threads, bytes, box;
  Kernel kernel[2];  // Half, Brain
};

template <int GROUPS, int BN, int STAGES, int BLOCKS>
constexpr Choice choice() {
  using P = Plan<GROUPS, BN, STAGES, BLOCKS>;
  return {{P::kRows, BN, BLOCKS},
          P::kThreads,
          P::kBytes,
          P::kBox,
          {hopper_tile<Half, GROUPS, BN, STAGES, BLOCKS>, hopper_tile<Brain, GROUPS, BN, STAGES, BLOCKS>}};
}
// In HopperTile's order.
constexpr Choice kChoices[] = {choice<1, 64, 6, 2>(),  choice<1, 96, 4, 2>(),  choice<2, 96, 7, 1>(),
                               choice<2, 128, 6, 1>(), choice<2, 160, 5, 1>(), choice<2, 192, 4, 1>(),
                               choice<2, 256, 3, 1>()};
static_assert(std::size(kChoices) == static_cast<size_t>(HopperTile::count));

bool describe(CUtensorMap& map, DType dtype, const void* data, int64_t rows, int64_t n, int64_t stride,
              int64_t box_rows, int box) {
  const cuuint64_t shape[] = {static_cast<cuuint64_t>(n), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(stride) * 2};
  const cuuint32_t boxes[] = {static_cast<cuuint32_t>(box), static_cast<cuuint32_t>(box_rows)}, steps[] = {1, 1};
  return tensor_map_encoder()(
             &map, dtype == DType::float16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2,
             const_cast<void*>(data), shape, strides, boxes, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
             box == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

// A row's stride in a tensor map: of one row any multiple of 16 bytes will do.
int64_t stride_of(int64_t rows, int64_t n, int64_t stride) { return rows > 1 ? stride : (n + 7) / 8 * 8; }

constexpr int64_t kMostSize = INT32_MAX - 255;  // rounded up to whole tiles, it is still a place in a tensor map

bool can(const void* data, int64_t rows, int64_t n, int64_t stride) {
  stride = stride_of(rows, n, stride);
  return aligned16(data) && stride % 8 == 0 && stride >= n && stride < int64_t{1} << 38 && rows <= kMostSize &&
         n <= kMostSize;
}

}  // namespace

HopperShape shape_of(HopperTile tile) { return kChoices[static_cast<int>(tile)].shape; }

bool hopper_can(const LinearArgs& a) {
  return a.in > 0 && can(a.x, a.rows, a.in, a.x_stride) && can(a.weight, a.features, a.in, a.weight_stride) &&
         tensor_map_encoder() != nullptr;
}

bool launch_hopper(Context& c, const LinearArgs& args, HopperTile tile, int splits) {
  const Choice& choice = kChoices[static_cast<int>(tile)];
  LinearArgs a = args;
  const int64_t tiles = ceil_div(a.rows, choice.shape.rows) * ceil_div(a.features, choice.shape.features);
  if (tiles > INT32_MAX / 2) return false;
  CUtensorMap x, weight, out{};
  const bool by_copy = a.features % 8 == 0 && can(a.out, a.rows, a.features, a.out_stride);
  if (!describe(x, a.x_dtype, a.x, a.rows, a.in, stride_of(a.rows, a.in, a.x_stride), choice.shape.rows, kDepth) ||
      !describe(weight, a.x_dtype, a.weight, a.features, a.in, stride_of(a.features, a.in, a.weight_stride),
                choice.shape.features, kDepth) ||
      (by_copy && !describe(out, a.x_dtype, a.out, a.rows, a.features, stride_of(a.rows, a.features, a.out_stride), 64,
                            choice.box)))
    return false;
  a.splits = splits;
  a.part = ceil_div(ceil_div(a.in, kDepth), splits) * kDepth;
  const int64_t blocks =
      splits > 1 ? tiles * splits : std::min<int64_t>(tiles, c.multiprocessors * choice.shape.blocks);
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
  (void)cudaLaunchKernelEx(&config, kernel, x, weight, out, a, by_copy);
  return true;
}

}  // namespace seqmix::cuda
