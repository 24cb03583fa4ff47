#include <algorithm>
#include <cmath>

#include "core/problem/causal_conv1d.h"
#include "cuda/test/harness.h"

namespace seqmix::test {

namespace {

// x and out have `x`, the filter and the bias `weight`, the initial states or the state `state`.
struct Types {
  DType x, weight, state;
};
constexpr DType f32 = DType::float32, f16 = DType::float16, bf16 = DType::bfloat16;
constexpr Types kTypes[] = {{f32, f32, f32},  {f16, f16, f16},  {bf16, bf16, bf16}, {bf16, f32, f32},
                            {f16, f32, bf16}, {f32, bf16, f16}, {bf16, f16, f32}};

std::string named(const Types& t) {
  return std::string(", weights ") + name_of(t.weight) + ", state " + name_of(t.state);
}

void check(int64_t b, int64_t d, int64_t L, int64_t w, Layout layout, bool extras, const Types& types) {
  Array x = uniform({b, d, L}, -1, 1, layout, types.x), weight = uniform({d, w}, -1, 1, layout, types.weight);
  Array bias = uniform({d}, -1, 1, Layout::dense, types.weight);
  Array initial = uniform({b, d, w - 1}, -1, 1, layout, types.state), seq = integers(DType::int32, {b, L}, 0, 0);
  for (int64_t i = 0; i < b; i++)
    for (int64_t t = 1, id = 0; t < L; t++) seq.at({i, t}) = static_cast<double>(id += random()() % 4 == 0);
  seq.upload();
  CausalConv1d p;
  p.x = x.view();
  p.weight = weight.view();
  p.return_final_states = true;
  if (extras) {
    p.bias = bias.view();
    p.initial_states = initial.view();
    p.seq_idx = seq.view();
    p.activation = Activation::silu;
  }
  p.validate();
  Array out(p.out), final(p.final_states);
  p.out = out.view();
  p.final_states = final.view();
  device.run(p);
  std::vector<double> want, states;
  for (int64_t i = 0; i < b; i++)
    for (int64_t c = 0; c < d; c++) {
      const auto input = [&](int64_t t) {
        return t >= 0 ? x.at({i, c, t}) : extras ? initial.at({i, c, t + w - 1}) : 0;
      };
      int64_t begin = -w;
      for (int64_t t = 0; t < L; t++) {
        if (extras && t > 0 && seq.at({i, t}) != seq.at({i, t - 1})) begin = t;
        double y = extras ? bias.at({c}) : 0;
        for (int64_t k = 0; k < w; k++)
          if (t - (w - 1) + k >= begin) y += weight.at({c, k}) * input(t - (w - 1) + k);
        want.push_back(extras ? silu(y) : y);
      }
      for (int64_t k = 0; k < w - 1; k++) states.push_back(rounded(types.x, input(L - (w - 1) + k)));
    }
  const std::string what = "causal_conv1d (" + std::to_string(b) + ", " + std::to_string(d) + ", " + std::to_string(L) +
                           "), w " + std::to_string(w) + ", layout " + std::to_string(static_cast<int>(layout)) +
                           named(types);
  expect_close(what, out, want, 1e-6);
  expect_equal(what + ", final states", final, states);
}

// What is not a number reaches the tokens whose taps it is and no others, whatever the width.
void check_nan(int64_t w, Layout layout, DType dtype) {
  const int64_t d = 16, L = 70;
  Array x = uniform({1, d, L}, -1, 1, layout, dtype), weight = uniform({d, w}, 0.5, 1, Layout::dense, dtype);
  for (const int64_t t : {int64_t{0}, int64_t{8}, int64_t{29}, L - 1}) x.at({0, 5, t}) = NAN;
  x.upload();
  CausalConv1d p;
  p.x = x.view();
  p.weight = weight.view();
  p.validate();
  Array out(p.out);
  p.out = out.view();
  device.run(p);
  out.download();
  size_t wrong = 0;
  for (int64_t c = 0; c < d; c++)
    for (int64_t t = 0; t < L; t++) {
      bool tapped = false;
      for (int64_t k = 0; k < w; k++) tapped = tapped || (t - k >= 0 && std::isnan(x.at({0, c, t - k})));
      wrong += std::isnan(out.at({0, c, t})) != tapped;
    }
  expect("causal_conv1d, NaN, w " + std::to_string(w) + ", " + name_of(dtype), wrong == 0);
}

void check_update(int64_t s, int64_t w, int64_t length, Layout layout, bool ring, bool indexed, const Types& types) {
  const int64_t b = 5, d = 37, slots = indexed ? 7 : b;
  Array x = uniform({b, d, s}, -1, 1, layout, types.x), weight = uniform({d, w}, -1, 1, layout, types.weight);
  Array bias = uniform({d}, -1, 1, Layout::dense, types.weight);
  Array state = uniform({slots, d, length}, -1, 1, layout, types.state);
  Array seqlens = integers(DType::int32, {b}, 0, 20), indices(DType::int32, {b});
  indices.values() = {6, -1, 2, 9, 0};
  CausalConv1dUpdate p;
  p.x = x.view();
  p.conv_state = state.view();
  p.weight = weight.view();
  p.bias = bias.view();
  if (ring) p.cache_seqlens = seqlens.view();
  if (indexed) p.state_indices = indices.upload();
  p.activation = Activation::silu;
  p.validate();
  Array out(p.out);
  p.out = out.view();
  device.run(p);
  std::vector<double> want;
  Array after = uniform({slots, d, length}, 0, 0);
  after.values() = state.values();
  for (int64_t i = 0; i < b; i++)
    for (int64_t c = 0; c < d; c++) {
      const int64_t slot = indexed ? static_cast<int64_t>(indices.at({i})) : i;
      const bool good = slot >= 0 && slot < slots;
      const auto place = [&](int64_t t) {
        return ring ? ((static_cast<int64_t>(seqlens.at({i})) + t) % length + length) % length : length + t;
      };
      for (int64_t t = 0; t < s; t++) {
        double y = bias.at({c});
        for (int64_t k = 0; k < w && good; k++) {
          const int64_t from = t - (w - 1) + k;
          y += weight.at({c, k}) * (from >= 0 ? x.at({i, c, from}) : state.at({slot, c, place(from)}));
        }
        want.push_back(good ? silu(y) : 0);
      }
      if (!good || length == 0) continue;
      const auto kept = [&](int64_t t) { return rounded(types.state, x.at({i, c, t})); };
      if (ring)
        for (int64_t t = 0; t < s; t++) after.at({slot, c, place(t)}) = kept(t);
      else
        for (int64_t k = 0; k < length; k++)
          after.at({slot, c, k}) = k + s < length ? state.at({slot, c, k + s}) : kept(k + s - length);
    }
  const std::string what = "causal_conv1d_update s " + std::to_string(s) + ", w " + std::to_string(w) + ", length " +
                           std::to_string(length) + named(types);
  expect_close(what, out, want, 1e-6);
  expect_equal(what + ", state", state, after.values());
  const uint64_t word = device.backend->take_index_error(device.queue);
  expect(what + ", error word", indexed ? index_error_op(word) == Op::causal_conv1d_update : word == 0);
}

}  // namespace

void check_conv() {
  for (const Layout layout : {Layout::dense, Layout::swapped, Layout::odd})
    for (const Types& types : kTypes)
      for (const bool extras : {false, true}) {
        for (const int64_t w : {1, 2, 3, 4, 7}) {
          for (const int64_t L : {0, 1, 2, 3, 17, 64}) check(2, 33, L, w, layout, extras, types);
          check(1, 5, 1000, w, layout, extras, types);
          // Accesses of 16 bytes: along channels, and along tokens with the last ones on their own.
          check(2, 40, 45, w, layout, extras, types);
          for (const int64_t L : {5, 18, 1003}) check(1, 1, L, w, layout, extras, types);
          check(2, 6, 32, w, layout, extras, types);
        }
        check(3, 300, 129, 4, layout, extras, types);
        check(2, 3, 2501, 4, layout, extras, types);  // rows of more than a warp takes
        for (const bool ring : {false, true})
          for (const int64_t s : {1, 2, 9}) {
            check_update(s, 4, 3, layout, ring, extras, types);
            check_update(s, 4, 6, layout, ring, extras, types);
            check_update(s, 3, 3, layout, ring, extras, types);
            check_update(s, 2, 1, layout, ring, extras, types);
            check_update(s, 1, 0, layout, ring, extras, types);
            check_update(s, 1, 2, layout, ring, extras, types);
            check_update(s, 6, 5, layout, ring, extras, types);
          }
      }
  for (const DType dtype : kFloats)
    for (const int64_t w : {1, 2, 3, 4, 5})
      for (const Layout layout : {Layout::dense, Layout::swapped, Layout::odd}) check_nan(w, layout, dtype);
  // Channels enough for runs of more than one batch of tokens.
  for (const bool extras : {false, true}) {
    check(1, 8001, 1101, 4, Layout::swapped, extras, {f32, f32, f32});
    check(1, 8008, 1101, 4, Layout::swapped, extras, {bf16, bf16, bf16});
  }
}

}  // namespace seqmix::test
