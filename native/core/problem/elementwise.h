// Ops on each element by itself. After validate() all views of a problem have one shape, as shallow as their strides
// allow (core/layout.h: collapse); `shape` keeps what the caller sees.
#pragma once
#include "core/problem/problem.h"

namespace seqmix {

// dst = src, converted to dst's dtype: to float16 and bfloat16 by round to nearest even, NaN staying NaN; from a float
// to an integer by truncation, saturating, NaN to 0; to bool by ≠ 0. Neither view need be dense.
struct Copy : Problem {
  View src, dst;
  Copy() : Problem(Op::copy, sizeof(Copy)) {}
  void validate();  // with dst described by the caller
};

// Sets every byte of a dense range.
struct Fill : Problem {
  View out;  // (bytes) bool
  uint8_t byte = 0;
  Fill() : Problem(Op::fill, sizeof(Fill)) {}
};

struct Silu : Problem {
  View x, out;
  Silu() : Problem(Op::silu, sizeof(Silu)) {}
  void validate();
};

// x Φ(x), Φ the normal distribution's (Hendrycks and Gimpel, 2016); or with `tanh`, as many models were trained with
// it, x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2.
struct Gelu : Problem {
  View x, out;
  bool tanh = false;
  Gelu() : Problem(Op::gelu, sizeof(Gelu)) {}
  void validate();
};

// cap · tanh(x / cap), cap > 0: x where it is small, and never beyond ±cap (Gemma 2).
struct Softcap : Problem {
  View x, out;
  double cap = 1;
  Softcap() : Problem(Op::softcap, sizeof(Softcap)) {}
  void validate();
};

// add and mul, with NumPy's broadcasting: a repeated operand has stride 0. mul may take an activation of a first.
struct Binary : Problem {
  View a, b, out;
  Activation activation = Activation::none;  // mul's only
  explicit Binary(Op o) : Problem(o, sizeof(Binary)) {}
  void validate();
};

}  // namespace seqmix
