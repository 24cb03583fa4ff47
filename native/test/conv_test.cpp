// causal_conv1d and its update against float64 loops.
#include "core/problem/causal_conv1d.h"
#include "test/cpu.h"

namespace seqmix::test {
namespace {

double silu(double x) { return x / (1 + std::exp(-x)); }

struct ConvCase {
  int64_t b = 2, d = 8, L = 37, w = 4;
  Layout x{};
  bool silu = true, bias = true, initial = false, packed = false;
  DType dtype = DType::float32, weights = DType::float32, state = DType::float32;
};

void check_conv(const std::string& name, const ConvCase& s) {
  const int64_t b = s.b, d = s.d, L = s.L, w = s.w;
  const Array x = numbers(s.dtype, {b, d, L}, -2, 2, s.x);
  const Array weight = numbers(s.weights, {d, w}), bias = numbers(s.weights, {d});
  const Array initial = numbers(s.state, {b, d, w - 1});
  Array seq(DType::int32, {b, L});
  for (int64_t i = 0; i < b; i++)
    for (int64_t t = 0, k = 3; t < L; t++) seq.i32(i * L + t) = static_cast<int32_t>(k += pick(0, 5) == 0);
  CausalConv1d p;
  p.x = x.view;
  p.weight = weight.view;
  if (s.bias) p.bias = bias.view;
  if (s.initial) p.initial_states = initial.view;
  if (s.packed) p.seq_idx = seq.view;
  if (s.silu) p.activation = Activation::silu;
  p.return_final_states = true;
  p.validate();
  Array out(s.dtype, {b, d, L}, {s.x.order, 0}), last(s.dtype, {b, d, w - 1});
  p.out = out.view;
  p.final_states = last.view;
  std::vector<double> want(b * d * L), want_last(b * d * (w - 1));
  for (int64_t i = 0; i < b; i++)
    for (int64_t c = 0; c < d; c++) {
      const auto input = [&](int64_t t) -> double {
        if (t >= 0) return x.at((i * d + c) * L + t);
        return s.initial && t >= 1 - w ? initial.at((i * d + c) * (w - 1) + t + w - 1) : 0.0;
      };
      const auto sequence = [&](int64_t t) { return seq.i32(i * L + (t > 0 ? t : 0)); };
      for (int64_t t = 0; t < L; t++) {
        double v = s.bias ? bias.at(c) : 0.0;
        for (int64_t k = 0; k < w; k++) {
          const int64_t at = t - (w - 1) + k;
          if (s.packed && sequence(at) != sequence(t)) continue;
          v += weight.at(c * w + k) * input(at);
        }
        want[(i * d + c) * L + t] = s.silu ? silu(v) : v;
      }
      for (int64_t k = 0; k < w - 1; k++)
        want_last[(i * d + c) * (w - 1) + k] = rounded(s.dtype, input(L - (w - 1) + k));
    }
  run_everywhere(name, p, {&out, &last}, [&](const std::string& where, const Outcome&) {
    expect_close(where + " out", out, want);
    expect_close(where + " final states", last, want_last, 0);
  });
}

const Layout kChannelsLast{{0, 2, 1}, 0};

TEST(conv) {
  for (const Layout& x : {Layout{}, Layout{{}, 3}, kChannelsLast, Layout{{0, 2, 1}, 7}, Layout{{2, 1, 0}, 0}})
    for (const int64_t w : {1, 2, 3, 4, 5, 9})
      for (const int64_t L : {1, 2, 17, 70}) {
        const std::string name = "w " + std::to_string(w) + " L " + std::to_string(L) + " stride " +
                                 std::to_string(x.order.empty() ? 0 : x.order[1]);
        check_conv(name, {.d = 1 + L / 3, .L = L, .w = w, .x = x, .silu = w % 2 == 0});
        check_conv(name + " initial", {.d = 33, .L = L, .w = w, .x = x, .bias = false, .initial = true});
        check_conv(name + " packed", {.d = 20, .L = L, .w = w, .x = x, .initial = true, .packed = true});
      }
  check_conv("long", {.b = 1, .d = 5, .L = 5000});
  check_conv("long packed", {.b = 1, .d = 18, .L = 4200, .x = kChannelsLast, .initial = true, .packed = true});
  check_conv("no tokens", {.L = 0, .initial = true});
  check_conv("no rows", {.b = 0});
}

TEST(conv_dtypes) {
  for (const DType dtype : kFloats)
    for (const DType weights : kFloats)
      for (const DType state : {DType::float32, weights}) {
        const std::string name =
            std::string(name_of(dtype)) + ", weights " + name_of(weights) + ", state " + name_of(state);
        for (const Layout& x : {Layout{}, kChannelsLast, Layout{{2, 1, 0}, 1}})
          check_conv(name, {.d = 45, .x = x, .initial = true, .dtype = dtype, .weights = weights, .state = state});
      }
  for (const DType dtype : {DType::float16, DType::bfloat16})
    for (const Layout& x : {Layout{{}, 3}, Layout{{0, 2, 1}, 7}}) {
      const std::string name = std::string(name_of(dtype)) + (x.order.empty() ? "" : " channels last");
      for (const int64_t w : {1, 2, 4, 9})
        for (const int64_t L : {1, 2, 17, 70})
          check_conv(name, {.d = 19, .L = L, .w = w, .x = x, .silu = w % 2 == 0, .dtype = dtype});
      check_conv(name + " long", {.b = 1, .d = 5, .L = 2100, .x = x, .dtype = dtype});
      check_conv(name + " wide", {.b = 1, .d = 2070, .L = 35, .x = x, .dtype = dtype});
      check_conv(name + " packed", {.d = 18, .L = 2100, .x = x, .initial = true, .packed = true, .dtype = dtype});
    }
}

struct ConvUpdateCase {
  int64_t b = 2, d = 20, s = 1, w = 4, length = 3, slots = 0;
  bool ring = false, silu = true, bias = true;
  Layout state{};
  DType dtype = DType::float32, weights = DType::float32, state_dtype = DType::float32;
};

void check_conv_update(const std::string& name, const ConvUpdateCase& s) {
  const int64_t b = s.b, d = s.d, w = s.w, length = s.length, slots = s.slots ? s.slots : b;
  const Array x = numbers(s.dtype, {b, d, s.s}), weight = numbers(s.weights, {d, w}), bias = numbers(s.weights, {d});
  Array state = numbers(s.state_dtype, {slots, d, length}, -1, 1, s.state);
  Array lengths(DType::int32, {b}), indices(DType::int32, {b});
  for (int64_t i = 0; i < b; i++) {
    lengths.i32(i) = static_cast<int32_t>(pick(0, 20));
    indices.i32(i) = static_cast<int32_t>(i == 1 ? -3 : i == 2 ? slots + 1 : slots - 1 - i);
  }
  CausalConv1dUpdate p;
  p.x = x.view;
  p.conv_state = state.view;
  p.weight = weight.view;
  if (s.bias) p.bias = bias.view;
  if (s.ring) p.cache_seqlens = lengths.view;
  if (s.slots) p.state_indices = indices.view;
  if (s.silu) p.activation = Activation::silu;
  p.sequence = 9;
  p.validate();
  Array out(s.dtype, {b, d, s.s});
  p.out = out.view;
  std::vector<double> want(b * d * s.s), states = state.values();
  for (int64_t i = 0; i < b; i++) {
    const int64_t slot = s.slots ? indices.i32(i) : i;
    if (slot < 0 || slot >= slots) continue;
    for (int64_t c = 0; c < d; c++) {
      double* const mine = states.data() + (slot * d + c) * length;
      const std::vector<double> old(mine, mine + length);
      const int64_t position = lengths.i32(i);
      const auto slot_of = [&](int64_t t) { return ((position + t) % length + length) % length; };
      for (int64_t t = 0; t < s.s; t++) {
        double v = s.bias ? bias.at(c) : 0.0;
        for (int64_t k = 0; k < w; k++) {
          const int64_t at = t - (w - 1) + k;
          const double tap = at >= 0 ? x.at((i * d + c) * s.s + at) : s.ring ? old[slot_of(at)] : old[length + at];
          v += weight.at(c * w + k) * tap;
        }
        want[(i * d + c) * s.s + t] = s.silu ? silu(v) : v;
      }
      std::vector<double> all = old;
      for (int64_t t = 0; t < s.s; t++) {
        const double in = rounded(s.state_dtype, x.at((i * d + c) * s.s + t));
        all.push_back(in);
        if (s.ring && length) mine[slot_of(t)] = in;
      }
      if (!s.ring)
        for (int64_t k = 0; k < length; k++) mine[k] = all[all.size() - length + k];
    }
  }
  run_everywhere(name, p, {&out},
                 [&](const std::string& where, const Outcome& outcome) {
                   expect_close(where + " out", out, want);
                   expect_close(where + " state", state, states, 0);
                   EXPECT(outcome.index_error == (s.slots && b > 2 ? index_error(p) : 0), where + ": index error");
                 },
                 {&state});
}

TEST(conv_update) {
  check_conv_update("plain", {});
  check_conv_update("wide", {.b = 1, .d = 333});
  for (const int64_t s : {1, 2, 3, 7})
    for (const int64_t length : {3, 4, 6})
      for (const bool ring : {false, true})
        check_conv_update("s " + std::to_string(s) + " length " + std::to_string(length) + (ring ? " ring" : ""),
                          {.b = 3, .s = s, .length = length, .ring = ring});
  check_conv_update("w 1", {.w = 1, .length = 0});
  check_conv_update("w 2", {.w = 2, .length = 1, .silu = false, .bias = false});
  check_conv_update("w 7", {.w = 7, .length = 8});
  check_conv_update("slots", {.b = 4, .slots = 6});
  check_conv_update("slots in a ring", {.b = 4, .slots = 6, .ring = true});
  check_conv_update("channels last state", {.b = 2, .d = 40, .state = kChannelsLast});
}

TEST(conv_update_dtypes) {
  for (const DType dtype : kFloats)
    for (const DType state : kFloats)
      for (const DType weights : kFloats)
        for (const bool ring : {false, true}) {
          const std::string name = std::string(name_of(dtype)) + ", state " + name_of(state) + ", weights " +
                                   name_of(weights) + (ring ? ", ring" : "");
          for (const int64_t s : {1, 2, 5})
            check_conv_update(
                name,
                {.s = s, .length = 2 + s, .ring = ring, .dtype = dtype, .weights = weights, .state_dtype = state});
          check_conv_update(name + ", channels last", {.b = 3,
                                                       .d = 45,
                                                       .slots = 5,
                                                       .ring = ring,
                                                       .state = kChannelsLast,
                                                       .dtype = dtype,
                                                       .weights = weights,
                                                       .state_dtype = state});
        }
}

}  // namespace
}  // namespace seqmix::test
