#include "core/layout.h"

#include <algorithm>

#include "core/status.h"

namespace seqmix {

const char* name_of(DType t) {
  static const char* const names[] = {"float32", "float16", "bfloat16", "int32", "int64", "bool", "int8"};
  return names[static_cast<int>(t)];
}

namespace {
// A view without elements may have other dimensions of any size, whose products overflow: it is looked for first.
bool has_no_elements(const View& v, int count) { return std::find(v.shape, v.shape + count, 0) != v.shape + count; }

void dense_strides(View& v) {
  uint64_t step = 1;  // unsigned: it may wrap where another dimension is 0, and is not used there
  for (int i = v.rank - 1; i >= 0; i--) {
    v.stride[i] = static_cast<int64_t>(step);
    step *= static_cast<uint64_t>(std::max<int64_t>(v.shape[i], 1));
  }
}
}  // namespace

View dense(DType dtype, const int64_t* shape, int rank) {
  View v;
  v.dtype = dtype;
  v.rank = static_cast<uint8_t>(rank);
  v.present = true;
  for (int i = 0; i < rank; i++) v.shape[i] = shape[i];
  bytes_of(v);
  dense_strides(v);
  return v;
}

View dense(DType dtype, std::initializer_list<int64_t> shape) {
  return dense(dtype, shape.begin(), static_cast<int>(shape.size()));
}

View dense_like(const View& like, DType dtype) {
  View v = like;
  v.data = nullptr;
  v.dtype = dtype;
  int order[kMaxRank];
  for (int i = 0; i < v.rank; i++) order[i] = i;
  std::stable_sort(order, order + v.rank, [&](int a, int b) { return like.stride[a] > like.stride[b]; });
  uint64_t step = 1;
  for (int i = v.rank - 1; i >= 0; i--) {
    v.stride[order[i]] = static_cast<int64_t>(step);
    step *= static_cast<uint64_t>(std::max<int64_t>(v.shape[order[i]], 1));
  }
  return v;
}

int64_t bytes_of(const View& v) {
  int64_t n = size_of(v.dtype);
  for (int i = 0; i < v.rank; i++)
    if (v.shape[i] < 0) throw Error(Code::shape, "shape: expected sizes from 0 on, got " + shape_text(v));
  if (has_no_elements(v, v.rank)) return 0;
  for (int i = 0; i < v.rank; i++)
    if (__builtin_mul_overflow(n, v.shape[i], &n))
      throw Error(Code::shape, "shape: expected fewer than 2^63 bytes in all, got " + shape_text(v));
  return n;
}

bool is_contiguous(const View& v) {
  if (has_no_elements(v, v.rank)) return true;
  int64_t step = 1;
  for (int i = v.rank - 1; i >= 0; i--) {
    if (v.shape[i] != 1 && v.stride[i] != step) return false;
    step *= v.shape[i];
  }
  return true;
}

namespace {
// Sizes that do not matter, beside a dimension of 0, may be too large to multiply.
int64_t product(int64_t a, int64_t b) {
  return static_cast<int64_t>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
}

// The leading `count` dimensions of v as one: its size and stride.
bool merge(const View& v, int count, int64_t* size, int64_t* stride) {
  int64_t n = 1, step = 0;
  bool first = true;
  if (has_no_elements(v, count)) {
    *size = 0;
    *stride = 0;
    return true;
  }
  for (int i = count - 1; i >= 0; i--) {
    if (v.shape[i] == 1) continue;
    if (first) {
      step = v.stride[i];
      first = false;
    } else if (v.stride[i] != product(step, n)) {
      return false;
    }
    n = product(n, v.shape[i]);
  }
  *size = n;
  *stride = step;
  return true;
}
}  // namespace

bool as_rows(const View& v, View* rows) {
  if (v.rank == 0) return false;
  const int last = v.rank - 1;
  if (v.shape[last] > 1 && v.stride[last] != 1) return false;
  int64_t n, step;
  if (!merge(v, last, &n, &step)) return false;
  View r = v;
  r.rank = 2;
  r.shape[0] = n;
  r.stride[0] = n > 1 ? step : v.shape[last];
  r.shape[1] = v.shape[last];
  r.stride[1] = 1;
  *rows = r;
  return true;
}

bool as_vector(const View& v, View* vector) {
  int64_t n, step;
  if (!merge(v, v.rank, &n, &step)) return false;
  View r = v;
  r.rank = 1;
  r.shape[0] = n;
  r.stride[0] = n > 1 ? step : 1;
  *vector = r;
  return true;
}

bool reshaped(const View& v, const int64_t* shape, int rank, View* result) {
  View r = dense(v.dtype, shape, rank);
  *result = r;
  if (is_contiguous(v)) return true;
  // Give out v's runs of evenly stepped dimensions, merged, to the new dimensions; each must lie within one run.
  View merged = v;
  View* const one[] = {&merged};
  collapse(one, 1);
  int from = merged.rank - 1;
  int64_t left = merged.shape[from], step = merged.stride[from];
  for (int i = rank - 1; i >= 0; i--) {
    if (shape[i] == 1) continue;
    if (left == 1 && from > 0) {
      from--;
      left = merged.shape[from];
      step = merged.stride[from];
    }
    if (left % shape[i] != 0) return false;
    r.stride[i] = step;
    step *= shape[i];
    left /= shape[i];
  }
  *result = r;
  return true;
}

bool same_shape(const View& a, const View& b) {
  return a.rank == b.rank && std::equal(a.shape, a.shape + a.rank, b.shape);
}

bool broadcast_shape(const View& a, const View& b, int64_t* shape, int* rank) {
  *rank = std::max(a.rank, b.rank);
  for (int i = 1; i <= *rank; i++) {
    const int64_t m = i <= a.rank ? a.shape[a.rank - i] : 1;
    const int64_t n = i <= b.rank ? b.shape[b.rank - i] : 1;
    if (m != n && m != 1 && n != 1) return false;
    shape[*rank - i] = m == 1 ? n : m;
  }
  return true;
}

View broadcast_to(const View& v, const int64_t* shape, int rank) {
  View r = v;
  r.rank = static_cast<uint8_t>(rank);
  for (int i = 1; i <= rank; i++) {
    const bool repeated = i > v.rank || (v.shape[v.rank - i] == 1 && shape[rank - i] != 1);
    r.shape[rank - i] = shape[rank - i];
    r.stride[rank - i] = repeated ? 0 : v.stride[v.rank - i];
  }
  return r;
}

void collapse(View* const* views, int count) {
  const View first = *views[0];
  if (has_no_elements(first, first.rank)) {
    for (int v = 0; v < count; v++) {
      views[v]->rank = 1;
      views[v]->shape[0] = 0;
      views[v]->stride[0] = 1;
    }
    return;
  }
  int kept = 0;  // dimensions of the result so far, outermost first
  int64_t shape[kMaxRank];
  int64_t stride[4][kMaxRank];
  for (int i = 0; i < first.rank; i++) {
    if (first.shape[i] == 1) continue;
    bool joins = kept > 0;
    for (int v = 0; v < count && joins; v++) joins = stride[v][kept - 1] == views[v]->stride[i] * first.shape[i];
    if (!joins) {
      shape[kept] = 1;
      kept++;
    }
    shape[kept - 1] *= first.shape[i];
    for (int v = 0; v < count; v++) stride[v][kept - 1] = views[v]->stride[i];
  }
  if (kept == 0) {
    kept = 1;
    shape[0] = 1;
    for (int v = 0; v < count; v++) stride[v][0] = 1;
  }
  for (int v = 0; v < count; v++) {
    views[v]->rank = static_cast<uint8_t>(kept);
    for (int i = 0; i < kept; i++) {
      views[v]->shape[i] = shape[i];
      views[v]->stride[i] = stride[v][i];
    }
  }
}

std::string shape_text(const int64_t* shape, int rank) {
  std::string s = "(";
  for (int i = 0; i < rank; i++) {
    if (i) s += ", ";
    s += std::to_string(shape[i]);
  }
  if (rank == 1) s += ",";
  return s + ")";
}

std::string shape_text(const View& v) { return shape_text(v.shape, v.rank); }

}  // namespace seqmix
