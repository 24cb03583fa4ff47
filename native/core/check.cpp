#include "core/check.h"

#include <algorithm>

namespace seqmix {

void fail(Code code, const char* what, const std::string& expected, const std::string& got) {
  throw Error(code, std::string(what) + ": expected " + expected + ", got " + got);
}

void expect_rank(const char* what, const View& v, int rank, const char* letters) {
  if (v.rank != rank) fail(Code::shape, what, std::string("shape ") + letters, shape_text(v));
}

void expect_shape(const char* what, const View& v, std::initializer_list<int64_t> shape, const char* why) {
  if (v.rank == shape.size() && std::equal(shape.begin(), shape.end(), v.shape)) return;
  fail(Code::shape, what, "shape " + shape_text(shape.begin(), static_cast<int>(shape.size())) + " " + why,
       shape_text(v));
}

void expect_float(const char* what, const View& v) {
  if (!is_float(v.dtype)) fail(Code::dtype, what, "float32, float16 or bfloat16", name_of(v.dtype));
}

void expect_same_dtype(const char* what, const View& v, const View& other, const char* why) {
  if (v.dtype != other.dtype) fail(Code::dtype, what, std::string(name_of(other.dtype)) + " " + why, name_of(v.dtype));
}

void expect_dtype(const char* what, const View& v, DType dtype) {
  if (v.dtype != dtype) fail(Code::dtype, what, name_of(dtype), name_of(v.dtype));
}

void expect_index(const char* what, const View& v) {
  if (v.dtype != DType::int32 && v.dtype != DType::int64) fail(Code::dtype, what, "int32 or int64", name_of(v.dtype));
}

}  // namespace seqmix
