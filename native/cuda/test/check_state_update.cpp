// selective_state_update.
#include <algorithm>
#include <cmath>

#include "core/problem/selective_state_update.h"
#include "cuda/test/harness.h"

namespace seqmix::test {

namespace {

constexpr double kBound = 2e-6;

enum class Form { channels, heads, per_head };  // the last: A, dt, D and the bias are one number a head

// x and its like have `x`, A `A`, D and the bias `weight`, the state `state`.
struct Types {
  DType x, A, weight, state;
};
constexpr DType f32 = DType::float32, f16 = DType::float16, bf16 = DType::bfloat16;
constexpr Types kTypes[] = {{f32, f32, f32, f32},   {f16, f16, f16, f16},   {bf16, bf16, bf16, bf16},
                            {bf16, f32, f32, f32},  {bf16, f32, f32, bf16}, {f16, f32, bf16, f32},
                            {f32, bf16, f16, bf16}, {f32, f16, f32, f16}};

struct Case {
  Form form;
  int64_t n, groups;
  Layout layout;
  bool extras, indexed;
  int64_t b = 3, h = 12, p = 5;
  Types types = kTypes[0];
};

void check(const Case& k) {
  const bool heads = k.form != Form::channels, single = k.form == Form::per_head, extras = k.extras,
             indexed = k.indexed;
  const int64_t n = k.n, groups = k.groups, b = k.b, h = k.h, p = heads ? k.p : 1, slots = indexed ? b + 5 : b;
  const Layout layout = k.layout;
  const auto channels = [&](std::initializer_list<int64_t> first, std::initializer_list<int64_t> rest) {
    Shape s = first;
    s.push_back(h);
    if (heads) s.push_back(p);
    s.insert(s.end(), rest);
    return s;
  };
  const Types& t = k.types;
  Array state = uniform(channels({slots}, {n}), -1, 1, layout, t.state);
  Array x = uniform(channels({b}, {}), -1, 1, layout, t.x);
  const auto numbers = [&](std::initializer_list<int64_t> first, std::initializer_list<int64_t> rest) {
    Shape s = first;
    s.push_back(h);
    return single ? s : channels(first, rest);
  };
  Array dt = uniform(numbers({b}, {}), -2, 2, layout, t.x), z = uniform(channels({b}, {}), -3, 3, layout, t.x);
  Array A = uniform(numbers({}, {n}), -4, -0.1, layout, t.A), D = uniform(numbers({}, {}), -1, 1, layout, t.weight);
  Array bias = uniform(numbers({}, {}), -1, 1, Layout::dense, t.weight);
  Array B = uniform({b, groups, n}, -1, 1, layout, t.x), C = uniform({b, groups, n}, -1, 1, layout, t.x);
  Array indices(DType::int32, {b});
  for (int64_t i = 0; i < b; i++) indices.at({i}) = static_cast<double>(i == 0 ? slots - 1 : i);
  if (indexed) indices.at({1}) = groups > 1 ? static_cast<double>(slots) : -3;
  SelectiveStateUpdate q;
  q.state = state.view();
  q.x = x.view();
  q.dt = dt.view();
  q.A = A.view();
  q.B = B.view();
  q.C = C.view();
  if (extras) {
    q.D = D.view();
    q.z = z.view();
    q.dt_bias = bias.view();
  }
  q.dt_softplus = true;
  if (indexed) q.state_indices = indices.upload();
  q.validate();
  Array out(q.out);
  q.out = out.view();
  device.run(q);
  std::vector<double> want, after = state.values();
  const int64_t all = h * p;
  for (int64_t i = 0; i < b; i++)
    for (int64_t c = 0; c < all; c++) {
      const int64_t slot = indexed ? static_cast<int64_t>(indices.at({i})) : i;
      if (slot < 0 || slot >= slots) {
        want.push_back(0);
        continue;
      }
      const auto flat = [&](Array& a, int64_t at) { return a.values()[static_cast<size_t>(at)]; };
      const int64_t of = single ? c / p : c;  // its place in what may be one number a head
      const double step = softplus(flat(dt, i * (single ? h : all) + of) + (extras ? flat(bias, of) : 0));
      double y = 0;
      for (int64_t s = 0; s < n; s++) {
        double& v = after[static_cast<size_t>((slot * all + c) * n + s)];
        v = std::exp(step * flat(A, single ? of : c * n + s)) * v +
            step * B.at({i, c * groups / all, s}) * flat(x, i * all + c);
        y += v * C.at({i, c * groups / all, s});
      }
      if (extras) y = (y + flat(D, of) * flat(x, i * all + c)) * silu(flat(z, i * all + c));
      want.push_back(y);
    }
  const std::string what = "selective_state_update (" + std::to_string(b) + ", " + std::to_string(h) + ", " +
                           std::to_string(p) + ") n " + std::to_string(n) + ", A " + name_of(t.A) + ", state " +
                           name_of(t.state);
  expect_close(what, out, want, kBound);
  expect_close(what + ", state", state, after, kBound);
  const uint64_t word = device.backend->take_index_error(device.queue);
  expect(what + ", error word", indexed && groups > 1 ? index_error_op(word) == Op::selective_state_update : word == 0);
}

// A batch's rows have the bits they have alone, whatever the number of rows a thread takes.
void check_rows_alone(int64_t b, int64_t h, int64_t n, const Types& t) {
  Array x = uniform({b, h}, -1, 1, Layout::dense, t.x), dt = uniform({b, h}, -2, 2, Layout::dense, t.x);
  Array A = uniform({h, n}, -4, -0.1, Layout::dense, t.A);
  Array B = uniform({b, n}, -1, 1, Layout::dense, t.x), C = uniform({b, n}, -1, 1, Layout::dense, t.x);
  std::vector<double> start = uniform({b, h, n}, -1, 1, Layout::dense, t.state).values(), alone_out, alone_state;
  const auto run = [&](int64_t first, int64_t count, Array& out, Array& state) {
    const auto part = [&](const Array& whole) {
      View v = whole.view();
      v.data = static_cast<unsigned char*>(v.data) + first * v.stride[0] * size_of(v.dtype);
      v.shape[0] = count;
      return v;
    };
    state = Array(t.state, {count, h, n});
    std::copy_n(start.begin() + first * h * n, count * h * n, state.values().begin());
    SelectiveStateUpdate q;
    q.state = state.upload();
    q.x = part(x);
    q.dt = part(dt);
    q.A = A.view();
    q.B = part(B);
    q.C = part(C);
    q.dt_softplus = true;
    q.validate();
    out = Array(q.out);
    q.out = out.view();
    device.run(q);
    out.download();
    state.download();
  };
  Array out, state;
  for (int64_t i = 0; i < b; i++) {
    run(i, 1, out, state);
    alone_out.insert(alone_out.end(), out.values().begin(), out.values().end());
    alone_state.insert(alone_state.end(), state.values().begin(), state.values().end());
  }
  run(0, b, out, state);
  const std::string what = "selective_state_update, rows alone, n " + std::to_string(n) + ", state " + name_of(t.state);
  expect_equal(what, out, alone_out);
  expect_equal(what + ", state", state, alone_state);
}

}  // namespace

void check_state_update() {
  const std::vector<int64_t> all = {0, 1, 3, 4, 8, 12, 16, 32, 64, 100, 128, 130, 200, 256, 300};
  const std::vector<int64_t> some = {1, 4, 8, 12, 16, 64, 128, 130, 256, 300};
  for (const Form form : {Form::channels, Form::heads, Form::per_head})
    for (const Types& types : kTypes)
      for (const bool extras : {false, true})
        for (const bool indexed : {false, true})
          for (const int64_t n : &types == kTypes ? all : some)
            for (const int64_t groups : {1, 3})
              for (const Layout layout : {Layout::dense, Layout::swapped, Layout::odd})
                check({form, n, groups, layout, extras, indexed, 3, 12, 5, types});
  // Channels enough for two and four rows a thread, the last rows not all there.
  for (const Form form : {Form::channels, Form::per_head})
    for (const Types& types : {kTypes[0], kTypes[3], kTypes[4]}) {
      const int64_t heads = form == Form::channels ? 50 : 1;  // of what the other form has one of
      for (const bool indexed : {false, true}) {
        const auto large = [&](int64_t n, int64_t b, int64_t h) {
          check({form, n, indexed ? 3 : 1, Layout::dense, !indexed, indexed, b, h * heads, 50, types});
        };
        large(8, 7, 720);
        large(16, 7, 360);
        large(16, 3, 360);
        for (const int64_t n : {60, 64, 128, 248}) large(n, 7, 45);
      }
      check({form, 16, 1, Layout::dense, true, true, 61, 120 * heads, 50, types});
    }
  // More sets of rows than a grid takes.
  check({Form::channels, 16, 1, Layout::dense, true, true, 270'001, 1, 1});
  for (const Types& types : {kTypes[0], kTypes[2], kTypes[3], kTypes[4]})
    for (const int64_t b : {3, 6}) {
      check_rows_alone(b, 18000, 16, types);
      check_rows_alone(b, 2250, 128, types);
    }
}

}  // namespace seqmix::test
