#include "core/problem/increment.h"

#include "core/check.h"

namespace seqmix {

void Increment::validate() {
  expect_index("t", out);
  work = 1.0 * out.size();
}

}  // namespace seqmix
