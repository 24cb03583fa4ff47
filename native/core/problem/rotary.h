// rotary: turns pairs of a head's elements by an angle that grows with the token's position (Su et al., RoFormer,
// 2021).
//   half = cos's columns; pair c of a head is (c, c + half), or with `interleaved` (2c, 2c + 1)
//   out_i = x_i cos[p][c] - x_j sin[p][c],  out_j = x_i sin[p][c] + x_j cos[p][c],  p the token's position
// Elements from 2 half on are copied. Positions live on the device, so kernels check them: a token whose position is
// not a row of the tables gives 0, and sets the queue's error word.
#pragma once
#include "core/problem/problem.h"

namespace seqmix {

struct Rotary : Problem {
  View x;          // (b, L, h, d), any strides
  View cos, sin;   // (positions, half), 2 half <= d
  View positions;  // (b, L) int32 or int64 after validate(), stride 0 along b where (L) was given; absent: token t is
                   // at t
  bool interleaved = false;
  View out;  // (b, L, h, d), dense
  Rotary() : Problem(Op::rotary, sizeof(Rotary)) {}
  void validate();
};

}  // namespace seqmix
