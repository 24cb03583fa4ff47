// topk and sample: which elements of a row are among its best, by rank (kernels/any/rank.cuh), a 64-bit number
// that is different for each element. The rank that parts the chosen from the rest is found a byte at a time, from the
// top: a histogram of that byte over the elements that share the bytes found so far, then the bin in which the running
// count (or weight) from above reaches what is wanted. At most eight passes over the row, from L2 after the first; all
// sums are of integers, so the order of the atomics does not show. A block takes a row.
#pragma once
#include "core/sample_math.h"
#include "cuda/kernels/any/rank.cuh"

namespace seqmix::cuda {

using Wide = unsigned long long;

constexpr int kBins = 256;

struct Histogram {
  Wide bins[kBins];
  Wide before, inside;  // of the bin found: the total above it, and its own
  int bin;
};

// The bin, from the last one down, in which the running total reaches `wanted` ≥ 1: each lane of the first warp adds up
// eight bins, and the lane in whose eight it lies looks closer.
__device__ inline void find_bin(Histogram& h, Wide wanted) {
  if (threadIdx.x < 32) {
    const int lane = threadIdx.x, top = kBins - 1 - 8 * lane;
    Wide own = 0;
    for (int i = 0; i < 8; i++) own += h.bins[top - i];
    Wide upto = own;
    for (int i = 1; i < 32; i <<= 1) {
      const Wide other = __shfl_up_sync(kFullWarp, upto, i);
      if (lane >= i) upto += other;
    }
    Wide before = upto - own;
    if (before < wanted && wanted <= upto) {
      int bin = top;
      while (before + h.bins[bin] < wanted) before += h.bins[bin--];
      h.bin = bin;
      h.before = before;
      h.inside = h.bins[bin];
    }
  }
  __syncthreads();
}

// The smallest rank among the `k` best of a row (1 ≤ k ≤ n), or a number between it and the next best.
template <class T>
__device__ inline Wide kth_rank(const T* row, int64_t n, Wide k, Histogram& h) {
  Wide found = 0;
  for (int shift = 56; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < kBins; i += blockDim.x) h.bins[i] = 0;
    __syncthreads();
    for (int64_t base = 0; base < n; base += blockDim.x) {
      const int64_t i = base + threadIdx.x;
      const Wide rank = i < n ? rank_of(widen(row[i]), i) : 0;
      const bool in = i < n && (shift == 56 || rank >> (shift + 8) == found >> (shift + 8));
      // Most elements share a few bins: lanes with the same one add once.
      const unsigned bin = in ? static_cast<unsigned>(rank >> shift) % kBins : kBins;
      const unsigned peers = __match_any_sync(kFullWarp, bin);
      if (in && threadIdx.x % 32 == __ffs(static_cast<int>(peers)) - 1)
        atomicAdd(&h.bins[bin], static_cast<Wide>(__popc(peers)));
    }
    __syncthreads();
    find_bin(h, k);
    found |= static_cast<Wide>(h.bin) << shift;
    k -= h.before;
    const bool all = h.inside == k;  // the whole bin is chosen: the bytes below do not matter
    __syncthreads();
    if (all) break;
  }
  return found;
}

// The rank of the last element of the shortest prefix, from the best down, whose weights reach `wanted` ≥ 1, or a lower
// number that takes in only elements of weight 0 besides.
template <class T>
__device__ inline Wide nucleus_rank(const T* row, const Wide* weights, int64_t n, Wide wanted, Histogram& h) {
  Wide found = 0;
  for (int shift = 56; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < kBins; i += blockDim.x) h.bins[i] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
      const Wide weight = weights[i];
      if (weight == 0) continue;
      const Wide rank = rank_of(widen(row[i]), i);
      if (shift == 56 || rank >> (shift + 8) == found >> (shift + 8))
        atomicAdd(&h.bins[static_cast<unsigned>(rank >> shift) % kBins], weight);
    }
    __syncthreads();
    find_bin(h, wanted);
    found |= static_cast<Wide>(h.bin) << shift;
    wanted -= h.before;
    __syncthreads();
  }
  return found;
}

// Sorts `count` ranks, a power of two, in shared or global memory: bitonic, largest first.
__device__ inline void sort_descending(Wide* ranks, int64_t count) {
  for (int64_t size = 2; size <= count; size <<= 1)
    for (int64_t step = size >> 1; step > 0; step >>= 1) {
      for (int64_t i = threadIdx.x; i < count / 2; i += blockDim.x) {
        const int64_t low = i / step * 2 * step + i % step, high = low + step;
        const bool descending = (low & size) == 0;
        const Wide a = ranks[low], b = ranks[high];
        if ((a < b) == descending) {
          ranks[low] = b;
          ranks[high] = a;
        }
      }
      __syncthreads();
    }
}

constexpr int kSharedRanks = 2048;

template <class T>
struct TopKRows {
  Rows<T> x;
  int64_t rows, n, k, padded;  // padded: k rounded up to a power of two
  Wide* scratch;               // `padded` ranks a block, where they do not fit in shared memory
  T* values;
  int32_t* indices;
  int64_t values_stride, indices_stride;
};

template <class T>
__global__ void __launch_bounds__(1024) topk_rows(const __grid_constant__ TopKRows<T> p) {
  __shared__ Histogram histogram;
  __shared__ Wide shared_ranks[kSharedRanks];
  __shared__ unsigned taken;
  Wide* const ranks = p.padded <= kSharedRanks ? shared_ranks : p.scratch + blockIdx.x * p.padded;
  for (int64_t r = blockIdx.x; r < p.rows; r += gridDim.x) {
    const T* const row = p.x.row(r);
    const Wide least = kth_rank(row, p.n, static_cast<Wide>(p.k), histogram);
    if (threadIdx.x == 0) taken = 0;
    for (int64_t i = p.k + threadIdx.x; i < p.padded; i += blockDim.x) ranks[i] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < p.n; i += blockDim.x) {
      const Wide rank = rank_of(widen(row[i]), i);
      if (rank >= least) ranks[atomicAdd(&taken, 1u)] = rank;
    }
    __syncthreads();
    sort_descending(ranks, p.padded);
    for (int64_t i = threadIdx.x; i < p.k; i += blockDim.x) {
      const int32_t index = index_of(ranks[i]);
      p.indices[r * p.indices_stride + i] = index;
      p.values[r * p.values_stride + i] = row[index];
    }
    __syncthreads();
  }
}

template <class T>
struct SampleRows {
  Rows<T> logits;
  int64_t rows, n;
  double temperature, top_p;
  int64_t top_k;  // 0: all
  uint64_t seed, step;
  const void* counter;  // the step, where it lives on the device
  bool wide;            // it is an int64
  Wide* weights;        // n a block
  int32_t* out;
  int64_t out_stride;
};

// core/sample_math.h says what is drawn. Weights are worked out once, in double precision, and kept in scratch memory;
// then each thread adds up a run of neighbours, and the one in whose run the random number falls finds the element.
template <class T>
__global__ void __launch_bounds__(512) sample_rows(const __grid_constant__ SampleRows<T> p) {
  __shared__ Histogram histogram;
  __shared__ Wide shared[32];
  Wide* const weights = p.weights + blockIdx.x * p.n;
  const uint64_t step = sampling::step_of(p.step, p.counter, p.wide);
  for (int64_t r = blockIdx.x; r < p.rows; r += gridDim.x) {
    const T* const row = p.logits.row(r);
    const int32_t best = index_of(best_of(row, p.n, shared));
    const float largest = widen(row[best]);
    if (!(fabsf(largest) < INFINITY)) {  // nothing to draw from
      if (threadIdx.x == 0) p.out[r * p.out_stride] = best;
      continue;
    }
    const Wide least = p.top_k > 0 && p.top_k < p.n ? kth_rank(row, p.n, static_cast<Wide>(p.top_k), histogram) : 0;
    Wide sum = 0;
    for (int64_t i = threadIdx.x; i < p.n; i += blockDim.x) {
      const float x = widen(row[i]);
      const Wide weight = rank_of(x, i) >= least ? sampling::weight_of(x, largest, p.temperature) : 0;
      weights[i] = weight;
      sum += weight;
    }
    sum = block_reduce(sum, 0ull, Sum(), shared);
    __syncthreads();
    Wide last = 0;
    if (p.top_p < 1) {
      const Wide wanted = sampling::nucleus(p.top_p, sum);
      last = nucleus_rank(row, weights, p.n, wanted > 0 ? wanted : 1, histogram);
    }
    const auto kept = [&](int64_t i) -> Wide { return rank_of(widen(row[i]), i) >= last ? weights[i] : 0; };
    const int64_t run = (p.n + blockDim.x - 1) / blockDim.x;
    const int64_t from = min(p.n, threadIdx.x * run), to = min(p.n, from + run);
    Wide own = 0;
    for (int64_t i = from; i < to; i++) own += kept(i);
    // The sums before each thread's run: within its warp, then of the warps before.
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Wide upto = own;
    for (int i = 1; i < 32; i <<= 1) {
      const Wide other = __shfl_up_sync(kFullWarp, upto, i);
      if (lane >= i) upto += other;
    }
    if (lane == 31) shared[warp] = upto;
    __syncthreads();
    Wide total = 0, before = upto - own;
    for (int i = 0; i < static_cast<int>(blockDim.x / 32); i++) {
      if (i < warp) before += shared[i];
      total += shared[i];
    }
    const Wide draw = sampling::high_product(sampling::hash(p.seed, step, static_cast<uint64_t>(r)), total);
    if (before <= draw && draw < before + own) {
      int64_t i = from;
      for (Wide running = before + kept(i); running <= draw; running += kept(i)) i++;
      p.out[r * p.out_stride] = static_cast<int32_t>(i);
    }
    __syncthreads();
  }
}

}  // namespace seqmix::cuda
