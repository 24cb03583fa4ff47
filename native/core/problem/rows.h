// The ops that work on each row, the last dimension, by itself. The caller's shapes come in; where a field's comment
// says (rows, n), the caller collapses the view to two dimensions after validate() (core/layout.h: as_rows).
#pragma once
#include "core/problem/problem.h"

namespace seqmix {

// softmax over the last dimension; a row of all −∞ gives 0.
struct Softmax : Problem {
  View x, out;  // (rows, n)
  Softmax() : Problem(Op::softmax, sizeof(Softmax)) {}
  void validate();
};

// The index of the largest element; NaN counts as the largest, ties go to the lower index.
struct ArgMax : Problem {
  View x;    // (rows, n), n ≥ 1
  View out;  // (rows) int32
  ArgMax() : Problem(Op::argmax, sizeof(ArgMax)) {}
  void validate();
};

// The k largest elements, largest first, ordered as argmax orders them.
struct TopK : Problem {
  View x;                // (rows, n)
  int64_t k = 0;         // 0 ≤ k ≤ n
  View values, indices;  // (rows, k), int32 indices
  TopK() : Problem(Op::topk, sizeof(TopK)) {}
  void validate();
};

// One token drawn from softmax(logits / temperature), cut to the topK likeliest and then to the shortest prefix of
// them with topP of the mass. core/sample_math.h defines the draw to the bit.
struct Sample : Problem {
  View logits;  // (rows, n), n ≥ 1
  double temperature = 1;
  int64_t top_k = 0;  // 0: all
  double top_p = 1;
  uint64_t seed = 0, step = 0;
  View counter;  // one int32 or int64, the step when it is present: what a captured graph draws by
  View out;      // (rows) int32
  Sample() : Problem(Op::sample, sizeof(Sample)) {}
  void validate();
};

// out = x / sqrt(mean(x²) + eps) · weight over groups of the last dimension, of x + residual where there is one; that
// sum is the second output, in float32 where the residual is or where that is asked for. With a gate z, what is normed
// is multiplied by silu(z) before the norm, or the norm is, after it.
struct RmsNorm : Problem {
  View x, residual, z;  // (rows, n); residual and z may be absent
  View weight;          // (n), stride 1; may be absent: 1
  int64_t group = 0;    // elements that are normed together, a divisor of n; 0: all of them, which validate() fills in
  float eps = 1e-5f;
  bool sum_in_float32 = false;
  bool norm_before_gate = false;
  View out, sum;  // (rows, n); sum is absent without a residual
  RmsNorm() : Problem(Op::rms_norm, sizeof(RmsNorm)) {}
  void validate();
};

// out = act(x Wᵀ + bias) + residual
struct Linear : Problem {
  View x;         // (rows, in)
  View weight;    // (out, in), last stride 1
  View bias;      // (out), may be absent
  View residual;  // (rows, out), may be absent
  Activation activation = Activation::none;
  View out;  // (rows, out)
  Linear() : Problem(Op::linear, sizeof(Linear)) {}
  void validate();
};

// out[i] = table[ids[i]]; an id outside the table gives a row of 0 and sets the queue's error word.
struct Embedding : Problem {
  View ids;                      // (count) int32 or int64
  View table;                    // (vocabulary, n), last stride 1
  DType dtype = DType::float32;  // of out
  View out;                      // (count, n)
  Embedding() : Problem(Op::embedding, sizeof(Embedding)) {}
  void validate();
};

}  // namespace seqmix
