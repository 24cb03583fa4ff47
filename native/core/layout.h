// Arithmetic on shapes and strides: dense layouts, collapsing, broadcasting. No memory is touched here.
#pragma once
#include <initializer_list>
#include <string>

#include "core/view.h"

namespace seqmix {

// The view of a new, dense array in row-major order; its data is still to be allocated.
View dense(DType dtype, std::initializer_list<int64_t> shape);
View dense(DType dtype, const int64_t* shape, int rank);

// A new, dense array of `like`'s shape whose dimensions lie in memory in the order of `like`'s strides: the output of
// an op on a channels-last view is channels-last too.
View dense_like(const View& like, DType dtype);

// Bytes that a dense array of this view's shape takes. Throws ERR_SHAPE when they do not fit 2^63.
int64_t bytes_of(const View& v);

bool is_contiguous(const View& v);  // row-major and dense; dimensions of size 1 do not count

// (…, n) seen as (rows, n), if the leading dimensions collapse into one stride and the last stride is 1.
bool as_rows(const View& v, View* rows);
// Any view seen as one dimension, if one stride reaches every element.
bool as_vector(const View& v, View* vector);

// v's elements, in row-major order, under another shape of as many; false when its strides do not allow it.
bool reshaped(const View& v, const int64_t* shape, int rank, View* result);

bool same_shape(const View& a, const View& b);
// The shape a and b broadcast to, by NumPy's rule; false when they do not.
bool broadcast_shape(const View& a, const View& b, int64_t* shape, int* rank);
// v with stride 0 wherever it is repeated to fill the shape.
View broadcast_to(const View& v, const int64_t* shape, int rank);

// Merges neighbouring dimensions that all of the views step through evenly, drops those of size 1, and so gives a
// loop nest as shallow as can be. All views have one shape.
void collapse(View* const* views, int count);

std::string shape_text(const View& v);  // (2, 8, 37)
std::string shape_text(const int64_t* shape, int rank);

}  // namespace seqmix
