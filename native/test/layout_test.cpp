// core/layout.h against brute force: what a view reaches is listed element by element, for many random views.
#include "core/layout.h"

#include <algorithm>
#include <random>
#include <vector>

#include "core/status.h"
#include "test/test.h"

namespace seqmix::test {
namespace {

using Offsets = std::vector<int64_t>;

std::mt19937_64 generator(7);
int64_t pick(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(generator); }

// Offsets of a view's elements, in row-major order.
Offsets offsets(const View& v) {
  Offsets all;
  const int64_t n = v.size();
  for (int64_t i = 0; i < n; i++) {
    int64_t rest = i, at = 0;
    for (int d = v.rank - 1; d >= 0; d--) {
      at += rest % v.shape[d] * v.stride[d];
      rest /= v.shape[d];
    }
    all.push_back(at);
  }
  return all;
}

// A view as callers can make one: dense, then narrowed and transposed, sometimes with a dimension of 0 or 1.
View random_view(int rank) {
  int64_t shape[kMaxRank] = {};
  for (int i = 0; i < rank; i++) shape[i] = pick(0, 9) == 0 ? 0 : pick(1, 4);
  View v = dense(DType::float32, shape, rank);
  for (int i = 0; i < rank; i++) {
    if (pick(0, 3) == 0) v.shape[i] = pick(0, v.shape[i]);
    const int64_t other = pick(0, rank - 1);
    if (pick(0, 2) > 0) continue;
    std::swap(v.shape[i], v.shape[other]);
    std::swap(v.stride[i], v.stride[other]);
  }
  return v;
}

std::string text(const View& v) { return shape_text(v) + " strides " + shape_text(v.stride, v.rank); }

template <class F>
void for_many(F test) {
  for (int i = 0; i < 4000; i++) test(random_view(static_cast<int>(pick(0, 5))));
}

TEST(layout_contiguous_says_whether_elements_follow_each_other) {
  for_many([](const View& v) {
    const Offsets all = offsets(v);
    bool follow = true;
    for (size_t i = 0; i < all.size(); i++) follow = follow && all[i] == static_cast<int64_t>(i);
    EXPECT(is_contiguous(v) == follow, text(v));
  });
}

TEST(layout_dense_like_is_dense_and_keeps_the_order) {
  for_many([](const View& v) {
    const View d = dense_like(v, DType::int64);
    EXPECT(same_shape(v, d) && d.dtype == DType::int64, text(v));
    Offsets all = offsets(d);
    const Offsets order = offsets(v);
    if (std::is_sorted(order.begin(), order.end())) EXPECT(std::is_sorted(all.begin(), all.end()), text(v));
    std::sort(all.begin(), all.end());
    for (size_t i = 0; i < all.size(); i++) EXPECT(all[i] == static_cast<int64_t>(i), text(v));
  });
}

TEST(layout_rows_reach_the_same_elements) {
  for_many([](const View& v) {
    View rows;
    if (!as_rows(v, &rows)) {
      EXPECT(v.rank == 0 || v.size() == 0 || !is_contiguous(v), text(v) + " has rows");
      return;
    }
    EXPECT(rows.rank == 2 && rows.shape[1] == v.shape[v.rank - 1] && rows.stride[1] == 1, text(v));
    EXPECT(offsets(rows) == offsets(v), text(v) + " as rows " + text(rows));
  });
}

TEST(layout_vector_reaches_the_same_elements) {
  for_many([](const View& v) {
    View line;
    if (!as_vector(v, &line)) {
      EXPECT(!is_contiguous(v), text(v) + " is a line");
      return;
    }
    EXPECT(line.rank == 1 && offsets(line) == offsets(v), text(v) + " as a line " + text(line));
  });
}

// A shape of as many elements as v has, at random.
int other_shape(const View& v, int64_t* shape) {
  const int rank = static_cast<int>(pick(1, 5));
  int64_t left = v.size();
  for (int i = 0; i < rank - 1; i++) {
    std::vector<int64_t> divisors;
    for (int64_t d = 1; d <= std::max<int64_t>(left, 1); d++)
      if (left % d == 0) divisors.push_back(d);
    shape[i] =
        left == 0 ? pick(0, 3) : divisors[static_cast<size_t>(pick(0, static_cast<int64_t>(divisors.size()) - 1))];
    if (left > 0) left /= shape[i];
  }
  shape[rank - 1] = left;
  return rank;
}

TEST(layout_reshaped_reaches_the_same_elements) {
  int views = 0, copies = 0;
  for_many([&](const View& v) {
    int64_t shape[kMaxRank];
    const int rank = other_shape(v, shape);
    View r;
    if (!reshaped(v, shape, rank, &r)) {
      copies++;
      EXPECT(!is_contiguous(v), text(v) + " to " + shape_text(shape, rank));
      return;
    }
    views++;
    EXPECT(std::equal(shape, shape + rank, r.shape) && r.rank == rank, text(v));
    EXPECT(offsets(r) == offsets(v), text(v) + " to " + text(r));
  });
  EXPECT(views > 1000 && copies > 100, "the views tried are of both kinds");
}

TEST(layout_reshaped_finds_every_view) {  // by trying all strides that could be one
  for (int i = 0; i < 1500; i++) {
    const View v = random_view(static_cast<int>(pick(1, 3)));
    if (v.size() < 2) continue;
    int64_t shape[kMaxRank];
    const int rank = other_shape(v, shape);
    View r;
    if (reshaped(v, shape, rank, &r)) continue;
    // A view exists exactly when each element's offset is the sum of what its indices add on their own.
    const Offsets want = offsets(v);
    View guess = dense(DType::float32, shape, rank);
    for (int d = 0; d < rank; d++) {
      const int64_t one = guess.stride[d];
      if (shape[d] > 1) guess.stride[d] = want[static_cast<size_t>(one)] - want[0];
    }
    EXPECT(offsets(guess) != want, text(v) + " could be seen as " + text(guess));
  }
}

TEST(layout_broadcast_repeats_as_numpy_does) {
  for (int i = 0; i < 4000; i++) {
    const View a = random_view(static_cast<int>(pick(0, 4))), b = random_view(static_cast<int>(pick(0, 4)));
    int64_t shape[kMaxRank];
    int rank;
    bool fits = true;
    for (int d = 1; d <= std::min(a.rank, b.rank); d++) {
      const int64_t m = a.shape[a.rank - d], n = b.shape[b.rank - d];
      fits = fits && (m == n || m == 1 || n == 1);
    }
    const bool did = broadcast_shape(a, b, shape, &rank);
    EXPECT(did == fits, text(a) + " with " + text(b));
    if (!did) continue;
    const View wide = broadcast_to(a, shape, rank);
    const int64_t n = wide.size();
    const Offsets got = offsets(wide);
    for (int64_t e = 0; e < n; e++) {
      int64_t rest = e, at = 0;
      for (int d = 1; d <= rank; d++) {
        const int64_t index = rest % shape[rank - d];
        rest /= shape[rank - d];
        if (d <= a.rank && a.shape[a.rank - d] != 1) at += index * a.stride[a.rank - d];
      }
      EXPECT(got[static_cast<size_t>(e)] == at, text(a) + " broadcast to " + text(wide));
    }
  }
}

TEST(layout_collapse_keeps_elements_and_their_order) {
  for_many([](const View& v) {
    View a = v, b = dense_like(v, v.dtype), c = v;
    for (int d = 0; d < c.rank; d++)
      if (pick(0, 2) == 0) c.stride[d] = 0;
    const Offsets wa = offsets(a), wb = offsets(b), wc = offsets(c);
    const std::string was = text(v);
    View* const all[] = {&a, &b, &c};
    collapse(all, 3);
    EXPECT(same_shape(a, b) && same_shape(a, c) && a.rank >= 1, was);
    EXPECT(a.rank <= std::max<int>(v.rank, 1), was);
    EXPECT(offsets(a) == wa && offsets(b) == wb && offsets(c) == wc, was + " collapsed to " + text(a));
  });
}

TEST(layout_collapse_makes_a_dense_pair_one_line) {
  View a = dense(DType::float32, {2, 3, 4}), b = a;
  View* const both[] = {&a, &b};
  collapse(both, 2);
  EXPECT(a.rank == 1 && a.shape[0] == 24 && a.stride[0] == 1, text(a));
}

TEST(layout_without_elements_any_other_size_is_harmless) {
  const int64_t huge = int64_t{1} << 53;
  const int64_t shapes[][4] = {{huge, huge, huge, 0}, {0, huge, huge, huge}, {huge, 0, huge, huge}};
  for (const auto& shape : shapes) {
    View v = dense(DType::float32, shape, 4);
    EXPECT(v.size() == 0 && bytes_of(v) == 0 && is_contiguous(v), text(v));
    std::swap(v.shape[0], v.shape[1]);
    std::swap(v.stride[0], v.stride[1]);
    EXPECT(is_contiguous(v), text(v));
    View other;
    as_rows(v, &other);
    as_vector(v, &other);
    dense_like(v, v.dtype);
    const int64_t none[] = {0, 3};
    EXPECT(reshaped(v, none, 2, &other) && other.size() == 0, text(other));
    View b = v;
    View* const both[] = {&v, &b};
    collapse(both, 2);
    EXPECT(v.size() == 0 && v.rank == 1, text(v));
  }
}

TEST(layout_refuses_sizes_that_no_memory_has) {
  const int64_t huge = int64_t{1} << 31;
  for (const auto& shape : {std::vector<int64_t>{huge, huge}, {huge, huge, 2}, {-1}, {-2, -2}, {0, -1}}) {
    bool refused = false;
    try {
      dense(DType::int64, shape.data(), static_cast<int>(shape.size()));
    } catch (const Error& e) {
      refused = e.code() == Code::shape && std::string(e.what()).find("expected") != std::string::npos;
    }
    EXPECT(refused, shape_text(shape.data(), static_cast<int>(shape.size())));
  }
}

}  // namespace
}  // namespace seqmix::test
