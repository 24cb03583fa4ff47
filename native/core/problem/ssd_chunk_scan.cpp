#include "core/problem/ssd_chunk_scan.h"

#include "core/check.h"

namespace seqmix {

void SsdChunkScan::validate() {
  expect_rank("x", x, 4, "(b, L, h, p)");
  expect_float("x", x);
  const int64_t b = x.shape[0], L = x.shape[1], h = x.shape[2], p = x.shape[3];
  expect_float("dt", dt);
  if (dt.dtype != DType::float32) expect_same_dtype("dt", dt, x, "as x has, or float32");
  expect_shape("dt", dt, {b, L, h}, "(b, L, h)");
  expect_float("A", A);
  expect_shape("A", A, {h}, "(h)");
  expect_rank("B", B, 4, "(b, L, g, n)");
  expect_same_dtype("B", B, x, "as x has");
  const int64_t g = B.shape[2], n = B.shape[3];
  expect_shape("B", B, {b, L, g, n}, "(b, L, g, n)");
  if (g == 0 || h % g != 0)
    fail(Code::shape, "B", "a number of groups that divides h = " + std::to_string(h), std::to_string(g));
  expect_same_dtype("C", C, x, "as x has");
  expect_shape("C", C, {b, L, g, n}, "as B has");
  if (D.present) {
    expect_float("D", D);
    if (D.rank == 1) {
      expect_shape("D", D, {h}, "(h)");
      D.rank = 2;
      D.shape[1] = p;
      D.stride[1] = 0;
    } else {
      expect_shape("D", D, {h, p}, "(h, p), or (h)");
    }
  }
  if (z.present) {
    expect_same_dtype("z", z, x, "as x has");
    expect_shape("z", z, {b, L, h, p}, "as x has");
  }
  if (dt_bias.present) {
    expect_float("dtBias", dt_bias);
    expect_shape("dtBias", dt_bias, {h}, "(h)");
  }
  if (initial_states.present) {
    expect_float("initialStates", initial_states);
    expect_shape("initialStates", initial_states, {b, h, p, n}, "(b, h, p, n)");
  }
  if (seq_idx.present) {
    expect_dtype("seqIdx", seq_idx, DType::int32);
    expect_shape("seqIdx", seq_idx, {b, L}, "(b, L)");
  }
  if (!(dt_min <= dt_max))
    fail(Code::option_range, "dtLimit", "two numbers, the lower first",
         "[" + std::to_string(dt_min) + ", " + std::to_string(dt_max) + "]");
  if (chunk_size != 0 && (chunk_size < kSsdLeastChunk || chunk_size > kSsdMostChunk))
    fail(Code::option_range, "chunkSize",
         "a number from " + std::to_string(kSsdLeastChunk) + " to " + std::to_string(kSsdMostChunk),
         std::to_string(chunk_size));
  out = dense(x.dtype, {b, L, h, p});
  if (return_final_states) final_states = dense(DType::float32, {b, h, p, n});
  work = 1.0 * b * L * h * p * (6.0 * n + 20);
}

}  // namespace seqmix
