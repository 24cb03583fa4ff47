#include "core/problem/rows.h"
#include "cuda/test/harness.h"

namespace seqmix::test {

namespace {

void check(int64_t rows, int64_t in, int64_t features, Layout layout, bool extras) {
  Array x = uniform({rows, in}, -1, 1, layout), weight = uniform({features, in}, -1, 1, layout);
  Array bias = uniform({features}, -1, 1, layout), residual = uniform({rows, features}, -1, 1, layout);
  Linear p;
  p.x = x.view();
  p.weight = weight.view();
  if (extras) {
    p.bias = bias.view();
    p.residual = residual.view();
    p.activation = Activation::silu;
  }
  p.validate();
  Array out(p.out);
  p.out = out.view();
  device.run(p);
  std::vector<double> want;
  for (int64_t i = 0; i < rows; i++)
    for (int64_t f = 0; f < features; f++) {
      double y = extras ? bias.at({f}) : 0;
      for (int64_t k = 0; k < in; k++) y += x.at({i, k}) * weight.at({f, k});
      want.push_back(extras ? silu(y) + residual.at({i, f}) : y);
    }
  expect_close("linear " + std::to_string(rows) + " x " + std::to_string(in) + " x " + std::to_string(features), out,
               want, 2e-6);
}

}  // namespace

void check_linear() {
  for (const Layout layout : {Layout::dense, Layout::odd})
    for (const bool extras : {false, true}) {
      for (const int64_t rows : {1, 2, 3, 5, 8}) {
        check(rows, 48, 33, layout, extras);
        check(rows, 131, 7, layout, extras);
        check(rows, 768, 500, layout, extras);
      }
      check(9, 1, 1, layout, extras);
      check(9, 17, 130, layout, extras);
      check(65, 1030, 80, layout, extras);  // in parts
      check(70, 64, 64, layout, extras);
      check(200, 100, 300, layout, extras);
      if (extras) check(1500, 36, 1700, layout, extras);  // large tiles
    }
  check(0, 5, 5, Layout::dense, true);
  check(5, 0, 5, Layout::dense, true);
  check(20, 0, 5, Layout::dense, true);
}

}  // namespace seqmix::test
