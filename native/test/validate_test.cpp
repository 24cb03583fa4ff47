// Every problem's validate(): it accepts the documented shapes, and refuses each operand with another shape or dtype in
// one grammar, naming the operand: what, expected, got.
#include <cmath>
#include <functional>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "core/check.h"
#include "core/problem/causal_conv1d.h"
#include "core/problem/elementwise.h"
#include "core/problem/flash_attention.h"
#include "core/problem/rows.h"
#include "core/problem/selective_scan.h"
#include "core/problem/selective_state_update.h"
#include "core/problem/ssd_chunk_scan.h"
#include "test/test.h"

namespace seqmix::test {
namespace {

View floats(std::initializer_list<int64_t> shape) { return dense(DType::float32, shape); }
View ints(std::initializer_list<int64_t> shape) { return dense(DType::int32, shape); }

// Expects an Error of that code whose text begins with `what` and follows the grammar.
void expect_refused(const std::function<void()>& body, const std::string& what, Code code, const std::string& when) {
  try {
    body();
  } catch (const Error& e) {
    const std::string text = e.what();
    const bool grammar = text.find(": expected ") != std::string::npos && text.find(", got ") != std::string::npos;
    EXPECT(grammar, when + ": '" + text + "' does not say what, expected, got");
    EXPECT(what.empty() || text.rfind(what + ":", 0) == 0, when + ": '" + text + "' should begin with " + what);
    EXPECT(e.code() == code, when + ": '" + text + "' has code " + std::to_string(static_cast<int>(e.code())));
    return;
  }
  EXPECT(false, when + ": was accepted");
}

// Weights and states: any floating-point dtype beside any activations.
const std::set<std::string> kAnyFloat = {"A",     "D",           "deltaBias", "dtBias",    "initialState",
                                         "state", "weight",      "bias",      "convState", "initialStates",
                                         "table", "alibiSlopes", "sinks"};

// Nothing has to agree with these.
const std::set<std::string> kOnlyActivation = {"causalConv1d x", "causalConv1dUpdate x"};

// `make` gives a valid problem. Each operand in turn gets shapes and dtypes that cannot be right.
template <class P>
void check_operands(const std::string& op, const std::function<P()>& make,
                    const std::vector<std::pair<const char*, View P::*>>& operands) {
  try {
    P p = make();
    p.validate();
  } catch (const Error& e) {
    EXPECT(false, op + " with good arguments: " + e.what());
    return;
  }
  for (const auto& [name, member] : operands) {
    const std::string when = op + "'s " + name;
    const auto with = [&](const std::function<void(View&)>& change) {
      return [&make, change, view = member] {
        P p = make();
        change(p.*view);
        p.validate();
      };
    };
    // Sizes with no factor in common with anything: no operand may have any of these shapes.
    const std::vector<std::vector<int64_t>> shapes = {
        {}, {997}, {991, 997}, {2, 991, 997}, {983, 991, 997, 2}, {2, 3, 4, 5, 6, 7}};
    for (const std::vector<int64_t>& shape : shapes) {
      const auto body = with([&](View& v) { v = dense(v.dtype, shape.data(), static_cast<int>(shape.size())); });
      // The shape of the first operand is the measure of the others, so the message may name another.
      expect_refused(body, "", Code::shape, when + " " + shape_text(shape.data(), static_cast<int>(shape.size())));
    }
    for (const DType dtype :
         {DType::float32, DType::float16, DType::bfloat16, DType::int32, DType::int64, DType::boolean, DType::int8}) {
      P p = make();
      const DType right = (p.*member).dtype;
      if (dtype == right || (op == "embedding" && right == DType::int32 && dtype == DType::int64)) continue;
      const auto body = with([&](View& v) { v.dtype = dtype; });
      if (!is_float(dtype) || !is_float(right)) {
        expect_refused(body, name, Code::dtype, when + " of " + name_of(dtype));
      } else if (operands.size() == 1 || kAnyFloat.count(name) || kOnlyActivation.count(op + " " + name)) {
        try {
          body();
        } catch (const Error& e) {
          EXPECT(false, when + " of " + name_of(dtype) + ": " + e.what());
        }
      } else {  // the message names it, or the one that does not agree with it
        expect_refused(body, "", Code::dtype, when + " of " + name_of(dtype));
      }
    }
  }
}

SelectiveScan scan() {
  SelectiveScan p;
  p.u = floats({2, 6, 5});
  p.delta = floats({2, 6, 5});
  p.A = floats({6, 4});
  p.B = floats({2, 3, 4, 5});
  p.C = floats({2, 4, 5});
  p.D = floats({6});
  p.z = floats({2, 6, 5});
  p.delta_bias = floats({6});
  p.initial_state = floats({2, 6, 4});
  p.seq_idx = ints({2, 5});
  p.return_last_state = true;
  return p;
}

TEST(validate_selective_scan) {
  using P = SelectiveScan;
  check_operands<P>("selectiveScan", scan,
                    {{"u", &P::u},
                     {"delta", &P::delta},
                     {"A", &P::A},
                     {"B", &P::B},
                     {"C", &P::C},
                     {"D", &P::D},
                     {"z", &P::z},
                     {"deltaBias", &P::delta_bias},
                     {"initialState", &P::initial_state},
                     {"seqIdx", &P::seq_idx}});
  P p = scan();
  p.validate();
  EXPECT(same_shape(p.out, p.u) && p.last_state.present && p.B.rank == 4 && p.C.rank == 4 && p.C.shape[1] == 1,
         "outputs");
  P groups = scan();
  groups.B = floats({2, 4, 4, 5});
  expect_refused([&] { groups.validate(); }, "B", Code::shape, "groups that do not divide d");
  P none = scan();
  none.B = floats({2, 0, 4, 5});
  expect_refused([&] { none.validate(); }, "B", Code::shape, "no groups");
  P constant = scan();
  constant.B = constant.C = floats({6, 4});
  constant.validate();
  EXPECT(constant.B.rank == 2, "constant B");
}

SelectiveStateUpdate update() {
  SelectiveStateUpdate p;
  p.state = floats({2, 6, 4});
  p.x = p.dt = p.z = floats({2, 6});
  p.A = floats({6, 4});
  p.B = floats({2, 4});
  p.C = floats({2, 3, 4});
  p.D = p.dt_bias = floats({6});
  p.state_indices = ints({2});
  return p;
}

SelectiveStateUpdate update_of_heads() {
  SelectiveStateUpdate p;
  p.state = floats({7, 6, 3, 4});
  p.x = p.z = floats({2, 6, 3});
  p.dt = floats({2, 6});
  p.A = floats({6});
  p.B = p.C = floats({2, 2, 4});
  p.D = floats({6, 3});
  p.dt_bias = floats({6});
  p.state_indices = ints({2});
  return p;
}

TEST(validate_selective_state_update) {
  using P = SelectiveStateUpdate;
  const std::vector<std::pair<const char*, View P::*>> operands = {{"state", &P::state},
                                                                   {"x", &P::x},
                                                                   {"dt", &P::dt},
                                                                   {"A", &P::A},
                                                                   {"B", &P::B},
                                                                   {"C", &P::C},
                                                                   {"D", &P::D},
                                                                   {"z", &P::z},
                                                                   {"dtBias", &P::dt_bias},
                                                                   {"stateIndices", &P::state_indices}};
  check_operands<P>("selectiveStateUpdate", update, operands);
  check_operands<P>("selectiveStateUpdate of heads", update_of_heads, operands);
  P p = update_of_heads();
  p.validate();
  for (const View* v : {&p.state, &p.x, &p.dt, &p.z, &p.A}) EXPECT(v->rank == (v == &p.state ? 4 : 3), shape_text(*v));
  EXPECT(p.B.rank == 3 && p.D.rank == 2 && p.dt_bias.rank == 2 && p.out_rank == 3, "one form for both");
  P slots = update();
  slots.state_indices = View();
  slots.state = floats({3, 6, 4});
  expect_refused([&] { slots.validate(); }, "state", Code::shape, "slots without stateIndices");
}

SsdChunkScan ssd() {
  SsdChunkScan p;
  p.x = p.z = floats({2, 5, 6, 3});
  p.dt = floats({2, 5, 6});
  p.A = p.dt_bias = floats({6});
  p.B = p.C = floats({2, 5, 2, 7});
  p.D = floats({6, 3});
  p.initial_states = floats({2, 6, 3, 7});
  p.seq_idx = ints({2, 5});
  p.return_final_states = true;
  return p;
}

TEST(validate_ssd_chunk_scan) {
  using P = SsdChunkScan;
  check_operands<P>("ssdChunkScan", ssd,
                    {{"x", &P::x},
                     {"dt", &P::dt},
                     {"A", &P::A},
                     {"B", &P::B},
                     {"C", &P::C},
                     {"D", &P::D},
                     {"z", &P::z},
                     {"dtBias", &P::dt_bias},
                     {"initialStates", &P::initial_states},
                     {"seqIdx", &P::seq_idx}});
  P p = ssd();
  p.D = floats({6});
  p.validate();
  EXPECT(same_shape(p.out, p.x) && p.final_states.rank == 4 && p.D.rank == 2 && p.D.stride[1] == 0, "outputs, D");
  for (View* v : {&p.x, &p.z, &p.B, &p.C}) v->dtype = DType::bfloat16;
  p.D = floats({6});
  p.validate();  // dt stays float32 beside 16-bit activations
  EXPECT(p.out.dtype == DType::bfloat16 && p.final_states.dtype == DType::float32, "dtypes of the outputs");
  P groups = ssd();
  groups.B = groups.C = floats({2, 5, 4, 7});
  expect_refused([&] { groups.validate(); }, "B", Code::shape, "groups that do not divide h");
  for (const int64_t size : {-1, 1, 15, 257}) {
    P chunks = ssd();
    chunks.chunk_size = size;
    expect_refused([&] { chunks.validate(); }, "chunkSize", Code::option_range, "chunks of " + std::to_string(size));
  }
  P limits = ssd();
  limits.dt_min = 2;
  expect_refused([&] { limits.validate(); }, "dtLimit", Code::option_range, "limits the wrong way around");
}

CausalConv1d conv() {
  CausalConv1d p;
  p.x = floats({2, 6, 5});
  p.weight = floats({6, 4});
  p.bias = floats({6});
  p.initial_states = floats({2, 6, 3});
  p.seq_idx = ints({2, 5});
  p.return_final_states = true;
  return p;
}

CausalConv1dUpdate conv_update() {
  CausalConv1dUpdate p;
  p.x = floats({2, 6, 2});
  p.conv_state = floats({7, 6, 5});
  p.weight = floats({6, 4});
  p.bias = floats({6});
  p.cache_seqlens = ints({2});
  p.state_indices = ints({2});
  return p;
}

TEST(validate_causal_conv1d) {
  using P = CausalConv1d;
  check_operands<P>("causalConv1d", conv,
                    {{"x", &P::x},
                     {"weight", &P::weight},
                     {"bias", &P::bias},
                     {"initialStates", &P::initial_states},
                     {"seqIdx", &P::seq_idx}});
  using U = CausalConv1dUpdate;
  check_operands<U>("causalConv1dUpdate", conv_update,
                    {{"x", &U::x},
                     {"convState", &U::conv_state},
                     {"weight", &U::weight},
                     {"bias", &U::bias},
                     {"cacheSeqlens", &U::cache_seqlens},
                     {"stateIndices", &U::state_indices}});
  U narrow = conv_update();
  narrow.conv_state = floats({7, 6, 2});
  expect_refused([&] { narrow.validate(); }, "convState", Code::shape, "a state shorter than w - 1");
  P empty = conv();
  empty.weight = floats({6, 0});
  expect_refused([&] { empty.validate(); }, "weight", Code::shape, "no taps");
}

TEST(validate_rows) {
  const auto linear = [] {
    Linear p;
    p.x = floats({2, 3, 4});
    p.weight = floats({5, 4});
    p.bias = floats({5});
    p.residual = floats({2, 3, 5});
    return p;
  };
  check_operands<Linear>(
      "linear", linear,
      {{"x", &Linear::x}, {"weight", &Linear::weight}, {"bias", &Linear::bias}, {"residual", &Linear::residual}});
  const auto norm = [] {
    RmsNorm p;
    p.x = p.residual = p.z = floats({2, 3, 4});
    p.weight = floats({4});
    return p;
  };
  check_operands<RmsNorm>(
      "rmsNorm", norm,
      {{"x", &RmsNorm::x}, {"weight", &RmsNorm::weight}, {"residual", &RmsNorm::residual}, {"z", &RmsNorm::z}});
  for (const int64_t group : {-1, 3, 8}) {
    RmsNorm p = norm();
    p.group = group;
    expect_refused([&] { p.validate(); }, "groupSize", Code::option_range, "groups of " + std::to_string(group));
  }
  for (const float eps : {-1.0f, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    RmsNorm p = norm();
    p.eps = eps;
    expect_refused([&] { p.validate(); }, "eps", Code::option_range, "eps " + std::to_string(eps));
  }

  Embedding wrong;
  wrong.ids = ints({2, 3});
  wrong.table = floats({7});
  expect_refused([&] { wrong.validate(); }, "table", Code::shape, "a table of one dimension");
  wrong.table = floats({7, 2});
  wrong.ids = dense(DType::int64, {1, 1, 1, 1, 1, 1, 1, 1});
  expect_refused([&] { wrong.validate(); }, "ids", Code::shape, "ids of 8 dimensions");
  wrong.ids = floats({2});
  expect_refused([&] { wrong.validate(); }, "ids", Code::dtype, "ids of float32");
}

TEST(validate_attention) {
  const auto attention = [] {
    FlashAttention p(Op::flash_attention);
    p.q = floats({2, 3, 4, 16});
    p.k = floats({2, 5, 2, 16});
    p.v = floats({2, 5, 2, 24});
    p.alibi_slopes = floats({2, 4});
    p.sinks = floats({4});
    p.scale = std::numeric_limits<double>::quiet_NaN();
    return p;
  };
  check_operands<FlashAttention>("flashAttention", attention,
                                 {{"q", &FlashAttention::q},
                                  {"k", &FlashAttention::k},
                                  {"v", &FlashAttention::v},
                                  {"alibiSlopes", &FlashAttention::alibi_slopes},
                                  {"sinks", &FlashAttention::sinks}});
  FlashAttention p = attention();
  p.causal = true;
  p.window_left = 7;
  p.return_lse = true;
  p.validate();
  EXPECT(p.scale == 0.25 && p.window_left == 7 && p.window_right == 0, "scale and window");
  EXPECT(same_shape(p.out, floats({2, 3, 4, 24})) && same_shape(p.lse, floats({2, 4, 3})), "outputs");
  for (const int64_t side : {int64_t{-2}, INT64_MIN}) {
    FlashAttention wrong = attention();
    wrong.window_left = side;
    expect_refused([&] { wrong.validate(); }, "window", Code::option_range, "a side of the window");
  }
}

TEST(validate_choices) {
  const View scalar = floats({}), none = floats({3, 0}), wide = dense(DType::float32, {1, int64_t{1} << 31});
  ArgMax a;
  Softmax s;
  TopK t;
  Sample d;
  a.x = s.x = t.x = d.logits = scalar;
  expect_refused([&] { a.validate(); }, "x", Code::shape, "argmax of a scalar");
  expect_refused([&] { s.validate(); }, "x", Code::shape, "softmax of a scalar");
  expect_refused([&] { t.validate(); }, "x", Code::shape, "topk of a scalar");
  expect_refused([&] { d.validate(); }, "logits", Code::shape, "sample of a scalar");
  a.x = t.x = d.logits = none;
  expect_refused([&] { a.validate(); }, "x", Code::shape, "argmax of nothing");
  expect_refused([&] { d.validate(); }, "logits", Code::shape, "sample of nothing");
  a.x = d.logits = wide;
  expect_refused([&] { a.validate(); }, "x", Code::unsupported, "argmax of more than int32 can name");
  expect_refused([&] { d.validate(); }, "logits", Code::unsupported, "sample of more than int32 can name");
  t.x = floats({3, 4});
  for (const int64_t k : {int64_t{-1}, int64_t{5}, INT64_MAX}) {
    t.k = k;
    expect_refused([&] { t.validate(); }, "k", Code::option_range, "k " + std::to_string(k));
  }
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  d.logits = floats({3, 4});
  for (const double bad : {-1.0, nan, inf}) {
    Sample p = d;
    p.temperature = bad;
    expect_refused([&] { p.validate(); }, "temperature", Code::option_range, "temperature");
  }
  for (const double bad : {-0.1, 1.1, nan}) {
    Sample p = d;
    p.top_p = bad;
    expect_refused([&] { p.validate(); }, "topP", Code::option_range, "topP");
  }
  d.top_k = -1;
  expect_refused([&] { d.validate(); }, "topK", Code::option_range, "topK");
}

TEST(validate_elementwise) {
  Binary b(Op::add);
  b.a = floats({2, 3});
  b.b = floats({4});
  expect_refused([&] { b.validate(); }, "b", Code::shape, "no broadcast");
  b.b = ints({3});
  expect_refused([&] { b.validate(); }, "b", Code::dtype, "int32");
  b.a = dense(DType::float32, {int64_t{1} << 33, 1});
  b.b = dense(DType::float32, {1, int64_t{1} << 33});
  expect_refused([&] { b.validate(); }, "shape", Code::shape, "a broadcast past 2^63 bytes");
  Copy c;
  c.src = floats({2, 3});
  c.dst = floats({3, 2});
  expect_refused([&] { c.validate(); }, "source", Code::shape, "another shape");
}

}  // namespace
}  // namespace seqmix::test
