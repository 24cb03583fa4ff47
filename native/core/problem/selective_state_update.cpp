#include "core/problem/selective_state_update.h"

#include "core/check.h"

namespace seqmix {

namespace {

// Puts a dimension of size `size` and stride 0 or 1-element at the end: (b, d) becomes (b, d, 1).
void append(View& v, int64_t size) {
  v.shape[v.rank] = size;
  v.stride[v.rank] = 0;
  v.rank++;
}

void insert(View& v, int at, int64_t size) {
  for (int i = v.rank; i > at; i--) {
    v.shape[i] = v.shape[i - 1];
    v.stride[i] = v.stride[i - 1];
  }
  v.shape[at] = size;
  v.stride[at] = 0;
  v.rank++;
}

void check_matrix(const char* what, View& m, const View& x, int64_t heads, int64_t n, const char* heads_letter) {
  const int64_t b = x.shape[0];
  expect_same_dtype(what, m, x, "as x has");
  if (m.rank == 2) {
    expect_shape(what, m, {b, n}, "(b, n)");
    insert(m, 1, 1);
    return;
  }
  if (m.rank != 3) fail(Code::shape, what, "shape (b, n) or (b, g, n)", shape_text(m));
  expect_shape(what, m, {b, m.shape[1], n}, "(b, g, n)");
  if (m.shape[1] == 0 || heads % m.shape[1] != 0)
    fail(Code::shape, what,
         std::string("a number of groups that divides ") + heads_letter + " = " + std::to_string(heads),
         std::to_string(m.shape[1]));
}

}  // namespace

void SelectiveStateUpdate::validate() {
  if (state.rank != 3 && state.rank != 4)
    fail(Code::shape, "state", "shape (b, d, n) or (b, h, p, n)", shape_text(state));
  expect_float("state", state);
  const bool heads = state.rank == 4;
  const char* const letters = heads ? "(b, h, p)" : "(b, d)";
  expect_rank("x", x, heads ? 3 : 2, letters);
  expect_float("x", x);
  const int64_t b = x.shape[0], h = state.shape[1], p = heads ? state.shape[2] : 1, n = state.shape[state.rank - 1];
  if (!state_indices.present && state.shape[0] != b)
    fail(Code::shape, "state", "as many rows as x has, " + std::to_string(b) + ", or stateIndices", shape_text(state));
  if (state_indices.present) {
    expect_dtype("stateIndices", state_indices, DType::int32);
    expect_shape("stateIndices", state_indices, {b}, "(b)");
  }
  expect_same_dtype("dt", dt, x, "as x has");
  expect_float("A", A);
  if (z.present) expect_same_dtype("z", z, x, "as x has");
  if (D.present) expect_float("D", D);
  if (dt_bias.present) expect_float("dtBias", dt_bias);
  if (heads) {
    expect_shape("x", x, {b, h, p}, "(b, h, p) as state has");
    if (dt.rank == 2) {
      expect_shape("dt", dt, {b, h}, "(b, h)");
      append(dt, p);
    } else {
      expect_shape("dt", dt, {b, h, p}, "as x has");
    }
    if (A.rank == 1) {
      expect_shape("A", A, {h}, "(h)");
      append(A, p);
      append(A, n);
    } else {
      expect_shape("A", A, {h, p, n}, "(h, p, n)");
    }
    if (z.present) expect_shape("z", z, {b, h, p}, "as x has");
    View* const per_channel[] = {&D, &dt_bias};
    const char* const names[] = {"D", "dtBias"};
    for (int i = 0; i < 2; i++) {
      View& v = *per_channel[i];
      if (!v.present) continue;
      if (v.rank == 1) {
        expect_shape(names[i], v, {h}, "(h)");
        append(v, p);
      } else {
        expect_shape(names[i], v, {h, p}, "(h, p)");
      }
    }
  } else {
    const int64_t d = h;
    expect_shape("x", x, {b, d}, "(b, d) as state has");
    expect_shape("dt", dt, {b, d}, "as x has");
    expect_shape("A", A, {d, n}, "(d, n)");
    if (z.present) expect_shape("z", z, {b, d}, "as x has");
    if (D.present) expect_shape("D", D, {d}, "(d)");
    if (dt_bias.present) expect_shape("dtBias", dt_bias, {d}, "(d)");
    insert(state, 2, 1);
    append(x, 1);
    append(dt, 1);
    insert(A, 1, 1);
    if (z.present) append(z, 1);
    if (D.present) append(D, 1);
    if (dt_bias.present) append(dt_bias, 1);
  }
  check_matrix("B", B, x, h, n, heads ? "h" : "d");
  check_matrix("C", C, x, h, n, heads ? "h" : "d");
  out = dense(x.dtype, {b, h, p});
  out_rank = heads ? 3 : 2;
  out_shape[0] = b;
  out_shape[1] = h;
  out_shape[2] = p;
  work = 1.0 * b * h * p * (n + 4);  // a dozen operations each, but all of them in whole vectors
}

}  // namespace seqmix
