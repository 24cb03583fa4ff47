// The preconditions of every op, in the one grammar of seqmix's errors: what, expected, got.
#pragma once
#include <string>

#include "core/layout.h"
#include "core/status.h"

namespace seqmix {

// `what: expected <expected>, got <got>`
[[noreturn]] void fail(Code code, const char* what, const std::string& expected, const std::string& got);

void expect_rank(const char* what, const View& v, int rank, const char* letters);
// `why` ends the expectation: "as u has", "(b, d, w - 1)".
void expect_shape(const char* what, const View& v, std::initializer_list<int64_t> shape, const char* why);

// One of the three floating-point dtypes.
void expect_float(const char* what, const View& v);
// The dtype of another operand: the activations of one op agree. `why` ends the expectation: "as u has".
void expect_same_dtype(const char* what, const View& v, const View& other, const char* why);
void expect_dtype(const char* what, const View& v, DType dtype);
void expect_index(const char* what, const View& v);  // int32 or int64

}  // namespace seqmix
