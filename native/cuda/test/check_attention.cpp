// flash_attention in its three forms: every dtype, kernel and option against the formula; what is in a cache before and
// after; bad indices; NaN where it is seen and nowhere else.
#include <algorithm>
#include <cmath>

#include "core/problem/flash_attention.h"
#include "cuda/test/harness.h"

namespace seqmix::test {

namespace {

// How rows lie: dense, or as parts of longer rows that begin on 16 bytes or do not, or with their elements apart.
enum class Rows { dense, aligned_parts, parts, apart };

struct Case {
  int64_t b, sq, sk, hq, hk, d, dv;
  DType dtype = DType::float32;
  Rows rows = Rows::dense;
  int64_t left = -1, right = -1;
  double softcap = 0, scale = NAN;
  bool alibi = false, sinks = false, nans = false;
  int64_t splits = 0;
  bool ragged = false;  // sequences of any length, up to sq and sk
  // Of a cache:
  bool cached = false;
  int64_t page = 0, fresh = 0;  // fresh: new keys; −1: one a query, packed
  bool packed = false, pads = false, slots = false, turned = false, interleaved = false, int8 = false;
};

// Sequence r: queries are q0 … in row q_row, keys are kept in order in `k` and `v`.
struct Sequence {
  int64_t q_row, q0, queries, used, keys, pad = 0, slot = 0;
  std::vector<int64_t> pages;
};

// An operand whose rows lie as said.
class Operand {
 public:
  Operand(const Shape& shape, DType dtype, Rows rows, double size) {
    Shape wide = shape;
    const bool part = rows == Rows::parts || rows == Rows::aligned_parts;
    first_ = !part ? 0 : rows == Rows::parts ? 3 : 16;
    if (part) wide.back() += rows == Rows::parts ? 5 : 32;
    array_ = uniform(wide, -size, size, rows == Rows::apart ? Layout::odd : Layout::dense, dtype);
    view_ = array_.view();
    view_.shape[view_.rank - 1] = shape.back();
    view_.data = static_cast<char*>(view_.data) + first_ * view_.stride[view_.rank - 1] * size_of(dtype);
  }
  double& at(Shape i) {
    i.back() += first_;
    return *(&array_.values()[0] + place(i));
  }
  void upload() { array_.upload(); }
  void download() { array_.download(); }
  const View& view() const { return view_; }

 private:
  size_t place(const Shape& i) const {
    size_t at = 0;
    for (size_t k = 0; k < i.size(); k++)
      at = at * static_cast<size_t>(array_.view().shape[k]) + static_cast<size_t>(i[k]);
    return at;
  }
  Array array_;
  View view_;
  int64_t first_ = 0;
};

int64_t length(int64_t most, bool ragged) {
  return ragged ? static_cast<int64_t>(random()() % static_cast<uint64_t>(most + 1)) : most;
}

bool on_hopper() {
  DeviceInfo info;
  Status status;
  device.backend->device_info(0, &info, &status);
  return std::string(info.target).starts_with("sm_90");
}

std::string expected_kernel(const Case& k) {
  const int64_t columns = std::max(k.d, k.dv), longest = k.packed ? (k.b * k.sq + k.b - 1) / k.b : k.sq;
  if (k.sq == 0 || k.dtype == DType::float32 || columns > 256) return "cuda.any.flash_attention.plain";
  if (k.int8 && (k.d % 16 != 0 || k.dv % 16 != 0)) return "cuda.any.flash_attention.plain";
  if ((k.cached || k.page) && (k.rows == Rows::parts || k.rows == Rows::apart)) return "cuda.any.flash_attention.plain";
  if (!k.int8 && longest * (k.hq / k.hk) > 32) return "cuda.sm80.flash_attention.tile";
  const bool tensor_copies =
      on_hopper() && !k.int8 && k.sk > 0 && k.d == k.dv && (k.d == 64 || k.d == 128 || k.d == 256);
  return tensor_copies ? "cuda.sm90.flash_attention.decode" : "cuda.sm80.flash_attention.decode";
}

class Check {
 public:
  explicit Check(const Case& k) : k_(k) {
    // The rows of packed queries are all there are; where each sequence is follows from the lengths.
    int64_t packed_at = 0, packed_keys = 0;
    for (int64_t r = 0; r < k.b; r++) {
      Sequence s{};
      s.queries = k.packed ? length(k.sq, k.ragged) : k.sq;
      s.q_row = k.packed ? 0 : r;
      s.q0 = k.packed ? packed_at : 0;
      packed_at += s.queries;
      s.used = length(k.sk, k.ragged && (k.packed || k.cached));
      s.keys = s.used + fresh_of(s);
      s.slot = k.slots ? (r * 2 + 1) % (2 * k.b) : r;
      if (k.pads) s.pad = s.used / 3;
      if (k.page)
        for (int64_t j = 0; j < (k.sk + most_fresh()) / k.page + 1; j++)
          s.pages.push_back((j * k.b + r) * 5 % page_count());
      if (!k.cached && k.packed) s.slot = packed_keys;
      packed_keys += s.used;
      sequences_.push_back(s);
    }
    total_q_ = k.packed ? k.b * k.sq : k.sq;  // packed: some in no sequence
    const bool varlen_rows = k.packed && !k.cached && !k.page;
    key_rows_ = k.page ? page_count() : varlen_rows ? 1 : k.slots ? 2 * k.b : k.b;
    key_length_ = k.page ? k.page : varlen_rows ? k.b * k.sk : k.sk + most_fresh();
  }
  void run();

 private:
  int64_t fresh_of(const Sequence& s) const { return k_.fresh < 0 ? s.queries : k_.fresh; }
  int64_t most_fresh() const { return k_.fresh < 0 ? k_.sq : k_.fresh; }
  int64_t page_count() const { return ((k_.sk + most_fresh()) / k_.page + 1) * k_.b * 5 + 1; }
  // Where key j of a sequence is: row of k and key there.
  std::pair<int64_t, int64_t> place(const Sequence& s, int64_t j) const {
    if (k_.page) return {s.pages[static_cast<size_t>(j / k_.page)], j % k_.page};
    if (k_.packed && !k_.cached) return {0, s.slot + j};
    return {s.slot, j};
  }

  Case k_;
  std::vector<Sequence> sequences_;
  int64_t total_q_, key_rows_, key_length_;
};

void Check::run() {
  const Case& k = k_;
  const bool three = k.packed;
  const DType key_type = k.int8 ? DType::int8 : k.dtype;
  Operand q(three ? Shape{total_q_, k.hq, k.d} : Shape{k.b, k.sq, k.hq, k.d}, k.dtype, k.rows, 3);
  const bool rank3 = three && !k.cached && !k.page;
  const auto cache_shape = [&](int64_t d) {
    return rank3 ? Shape{key_length_, k.hk, d} : Shape{key_rows_, key_length_, k.hk, d};
  };
  const Rows cache_rows = k.int8 ? Rows::dense : k.cached && k.rows == Rows::apart ? Rows::parts : k.rows;
  Operand kc(cache_shape(k.d), k.int8 ? DType::float32 : key_type, cache_rows, 1.5);
  Operand vc(cache_shape(k.dv), k.int8 ? DType::float32 : key_type, cache_rows, 1);
  Array k8, v8, k_scale, v_scale;
  if (k.int8) {
    k8 = integers(DType::int8, cache_shape(k.d), -127, 127);
    v8 = integers(DType::int8, cache_shape(k.dv), -127, 127);
    k_scale = uniform({key_rows_, key_length_, k.hk}, 0.002, 0.015);
    v_scale = uniform({key_rows_, key_length_, k.hk}, 0.002, 0.015);
  }
  const auto key_index = [&](const Sequence& s, int64_t j, int64_t h, int64_t c) {
    const auto [row, at] = place(s, j);
    return rank3 ? Shape{at, h, c} : Shape{row, at, h, c};
  };
  if (k.nans && !k.int8) {
    const Sequence& s = sequences_[0];
    if (s.used > 2) vc.at(key_index(s, s.used - 1, 0, 1)) = NAN;
    if (s.used > 2) kc.at(key_index(s, s.used / 2, k.hk - 1, 0)) = NAN;
    kc.upload();
    vc.upload();
  }
  Array slopes = uniform({k.hq}, 0.01, 0.3), sinks = uniform({k.hq}, -1, 3);
  const int64_t n = k.b;
  Array cu_q(DType::int32, {n + 1}), cu_k(DType::int32, {n + 1}), used(DType::int32, {n}), slots(DType::int32, {n});
  Array pads(DType::int32, {n}),
      table(DType::int32, {n, k.page ? static_cast<int64_t>(sequences_[0].pages.size()) : 1});
  for (int64_t r = 0; r < n; r++) {
    const Sequence& s = sequences_[static_cast<size_t>(r)];
    cu_q.at({r + 1}) = cu_q.at({r}) + static_cast<double>(s.queries);
    cu_k.at({r + 1}) = cu_k.at({r}) + static_cast<double>(s.used);
    used.at({r}) = static_cast<double>(s.used);
    slots.at({r}) = static_cast<double>(s.slot);
    pads.at({r}) = static_cast<double>(s.pad);
    for (size_t j = 0; j < s.pages.size(); j++)
      table.at({r, static_cast<int64_t>(j)}) = static_cast<double>(s.pages[j]);
  }
  for (Array* a : {&cu_q, &cu_k, &used, &slots, &pads, &table}) a->upload();
  const int64_t places = k.sk + k.sq + most_fresh() + 1, half = k.d / 2;
  Array cos = uniform({places, half}, -1, 1), sin(DType::float32, {places, half});
  for (int64_t i = 0; i < places; i++)
    for (int64_t c = 0; c < half; c++)
      sin.at({i, c}) = rounded(DType::float32, std::sqrt(1 - cos.at({i, c}) * cos.at({i, c})));
  sin.upload();
  const int64_t fresh = most_fresh();
  const auto new_shape = [&](int64_t d) { return three ? Shape{total_q_, k.hk, d} : Shape{k.b, fresh, k.hk, d}; };
  Operand new_k(new_shape(k.d), k.dtype, k.rows, 1.5), new_v(new_shape(k.dv), k.dtype, k.rows, 1);

  FlashAttention p(k.cached   ? Op::flash_attention_with_kv_cache
                   : k.packed ? Op::flash_attention_varlen
                              : Op::flash_attention);
  p.q = q.view();
  p.k = k.int8 ? k8.view() : kc.view();
  p.v = k.int8 ? v8.view() : vc.view();
  if (k.int8) {
    p.k_scale = k_scale.view();
    p.v_scale = v_scale.view();
  }
  if (k.packed) p.cu_seqlens_q = cu_q.view();
  if (k.packed && !k.cached && !k.page) p.cu_seqlens_k = cu_k.view();
  if (k.cached || k.page) p.used_k = used.view();
  if (k.page) p.block_table = table.view();
  if (k.slots) p.batch_idx = slots.view();
  if (k.pads) p.left_pad = pads.view();
  if (k.fresh) {
    p.new_k = new_k.view();
    p.new_v = new_v.view();
  }
  if (k.turned) {
    p.rotary_cos = cos.view();
    p.rotary_sin = sin.view();
    p.rotary_interleaved = k.interleaved;
  }
  if (k.alibi) p.alibi_slopes = slopes.view();
  if (k.sinks) p.sinks = sinks.view();
  p.scale = k.scale;
  p.softcap = k.softcap;
  p.window_left = k.left;
  p.window_right = k.right;
  p.num_splits = k.splits;
  p.return_lse = true;
  p.validate();
  Array out(p.out), lse(p.lse);
  p.out = out.view();
  p.lse = lse.view();

  // What the op shall have put into the cache, and what lies there.
  const auto turn = [&](std::vector<double>& x, int64_t at) {
    for (int64_t c = 0; k.turned && c < half; c++) {
      double& a = x[static_cast<size_t>(k.interleaved ? 2 * c : c)];
      double& b = x[static_cast<size_t>(k.interleaved ? 2 * c + 1 : c + half)];
      const double u = a * cos.at({at, c}) - b * sin.at({at, c}), w = a * sin.at({at, c}) + b * cos.at({at, c});
      a = u;
      b = w;
    }
  };
  device.run(p);
  device.read(nullptr, nullptr, 0);
  const std::string kernel = device.backend->last_kernel(device.queue);
  std::vector<Array*> written;
  if (k.int8)
    for (Array* a : {&k8, &v8, &k_scale, &v_scale}) written.push_back(a);
  if (k.fresh) {
    double error = 0, size = 0;
    if (k.int8) {
      for (Array* a : written) a->download();
    } else {
      kc.download();
      vc.download();
    }
    for (const Sequence& s : sequences_)
      for (int64_t t = 0; t < fresh_of(s); t++)
        for (int64_t h = 0; h < k.hk; h++)
          for (const bool value : {false, true}) {
            std::vector<double> x;
            for (int64_t c = 0; c < (value ? k.dv : k.d); c++) {
              Operand& from = value ? new_v : new_k;
              x.push_back(three ? from.at({s.q0 + t, h, c}) : from.at({s.q_row, t, h, c}));
            }
            if (!value) turn(x, s.used + t);
            for (size_t c = 0; c < x.size(); c++) {
              const Shape i = key_index(s, s.used + t, h, static_cast<int64_t>(c));
              const double got = k.int8 ? (value ? v8 : k8).at(i) * (value ? v_scale : k_scale).at({i[0], i[1], i[2]})
                                        : (value ? vc : kc).at(i);
              error += (got - x[c]) * (got - x[c]);
              size += x[c] * x[c];
            }
          }
    expect("flash_attention, new keys in the cache",
           std::sqrt(error) <= std::sqrt(size) * (k.int8                      ? 8e-3
                                                  : k.dtype == DType::float32 ? 1e-6
                                                  : k.dtype == DType::float16 ? 4e-4
                                                                              : 3e-3));
  }
  const auto key = [&](const Sequence& s, int64_t j, int64_t h, int64_t c) {
    const Shape i = key_index(s, j, h, c);
    return k.int8 ? k8.at(i) * k_scale.at({i[0], i[1], i[2]}) : kc.at(i);
  };
  const auto value = [&](const Sequence& s, int64_t j, int64_t h, int64_t c) {
    const Shape i = key_index(s, j, h, c);
    return k.int8 ? v8.at(i) * v_scale.at({i[0], i[1], i[2]}) : vc.at(i);
  };

  const double scale = std::isnan(k.scale) ? 1 / std::sqrt(static_cast<double>(k.d)) : k.scale;
  std::vector<double> want(static_cast<size_t>(p.out.size()), 0.0),
      want_lse(static_cast<size_t>(p.lse.size()), -INFINITY);
  for (const Sequence& s : sequences_) {
    std::vector<double> keys, values;  // (head of k, key, element)
    for (int64_t h = 0; h < k.hk; h++)
      for (int64_t j = 0; j < s.keys; j++) {
        for (int64_t c = 0; c < k.d; c++) keys.push_back(key(s, j, h, c));
        for (int64_t c = 0; c < k.dv; c++) values.push_back(value(s, j, h, c));
      }
    for (int64_t i = 0; i < s.queries; i++)
      for (int64_t h = 0; h < k.hq; h++) {
        const int64_t at = i + s.keys - s.queries, head = h * k.hk / k.hq, b = s.q_row, token = s.q0 + i;
        std::vector<double> x;
        for (int64_t c = 0; c < k.d; c++) x.push_back(three ? q.at({token, h, c}) : q.at({b, token, h, c}));
        turn(x, s.used + (k.left >= 0 || k.right >= 0 ? i : 0));
        const int64_t from = std::max(s.pad, k.left < 0 ? 0 : at - k.left);
        const int64_t to = k.right < 0 ? s.keys : std::min(s.keys, at + k.right + 1);
        std::vector<double> scores;
        double most = k.sinks ? sinks.at({h}) : -INFINITY, sum = 0;
        for (int64_t j = from; j < to; j++) {
          const double* const y = keys.data() + (head * s.keys + j) * k.d;
          double t = 0;
          for (int64_t c = 0; c < k.d; c++) t += x[static_cast<size_t>(c)] * y[c];
          t *= scale;
          if (k.softcap > 0) t = k.softcap * std::tanh(t / k.softcap);
          if (k.alibi) t -= slopes.at({h}) * std::fabs(static_cast<double>(at - j));
          scores.push_back(t);
          if (!(t <= most)) most = t;
        }
        std::vector<double> sums(static_cast<size_t>(k.dv), 0.0);
        for (int64_t j = from; j < to; j++) {
          const double* const y = values.data() + (head * s.keys + j) * k.dv;
          const double w = std::exp(scores[static_cast<size_t>(j - from)] - most);
          sum += w;
          for (int64_t c = 0; c < k.dv; c++) sums[static_cast<size_t>(c)] += w * y[c];
        }
        if (k.sinks) sum += std::exp(sinks.at({h}) - most);
        const int64_t rows = three ? total_q_ : k.sq;
        want_lse[static_cast<size_t>((b * k.hq + h) * rows + token)] = sum == 0 ? -INFINITY : most + std::log(sum);
        double* const to_row = want.data() + ((b * rows + token) * k.hq + h) * k.dv;
        for (int64_t c = 0; c < k.dv; c++) to_row[c] = sum == 0 ? 0 : sums[static_cast<size_t>(c)] / sum;
      }
  }
  const std::string what =
      std::string(name_of(p.op)) + " (" + std::to_string(k.b) + ", " + std::to_string(k.sq) + ", " +
      std::to_string(k.sk) + "), " + std::to_string(k.hq) + " heads of " + std::to_string(k.hk) + ", " +
      std::to_string(k.d) + " and " + std::to_string(k.dv) + ", rows " + std::to_string(static_cast<int>(k.rows)) +
      ", window " + std::to_string(k.left) + " " + std::to_string(k.right) + ", page " + std::to_string(k.page) +
      ", new " + std::to_string(k.fresh) + ", splits " + std::to_string(k.splits) + (k.softcap > 0 ? " softcap" : "") +
      (k.alibi ? " alibi" : "") + (k.sinks ? " sinks" : "") + (k.nans ? " nans" : "") + (k.ragged ? " ragged" : "") +
      (k.packed ? " packed" : "") + (k.pads ? " pads" : "") + (k.slots ? " slots" : "") + (k.turned ? " turned" : "") +
      (k.int8 ? " int8" : "") + ", " + name_of(k.dtype) + ", " + kernel;
  // Weights are rounded to 16 bits on the tensor cores, as the result is.
  expect_close(what, out, want, k.dtype == DType::float32 ? 1e-5 : k.dtype == DType::float16 ? 4e-4 : 3e-3);
  expect_close(what + ", lse", lse, want_lse, 1e-5);
  expect(what + ", the kernel", kernel == expected_kernel(k));
}

void check(const Case& k) { Check(k).run(); }

void check_sizes(DType dtype) {
  for (const int64_t d : {8, 40, 64, 80, 96, 128, 160, 192, 256, 264, 512}) {
    check({2, 70, 100, 4, 2, d, d, dtype});
    Case k{1, 33, 150, 2, 1, d, std::max<int64_t>(8, d / 16 * 8), dtype};
    k.right = 0;
    check(k);
    k.sq = 1;
    k.hq = 6;
    check(k);
  }
  for (const int64_t sq : {1, 2, 63, 64, 65, 129, 200})
    for (const int64_t sk : {1, 15, 64, 65, 130, 257})
      for (const int64_t right : {-1, 0}) {
        Case k{1, sq, sk, 2, 2, 64, 64, dtype};
        k.right = right;
        check(k);
      }
  // Rows of 256 elements and so many keys that two warps share the rows, with each option.
  for (const int option : {0, 1, 2, 3, 4, 5, 6}) {
    Case k{2, 200, 700, 2, 1, 256, 256, dtype};
    if (option == 1) k.right = 0, k.nans = true;
    if (option == 2) k.left = 600, k.right = 10, k.sinks = true;
    if (option == 3) k.softcap = 5, k.splits = 3;
    if (option == 4) k.packed = true, k.page = 48, k.ragged = true;
    if (option == 5) k.d = 208, k.dv = 240, k.alibi = true;
    if (option == 6) k.cached = k.turned = true, k.fresh = 200, k.right = 0;
    check(k);
  }
  // And more tasks than most devices have multiprocessors, so that a block does several: parts of keys, and heads.
  Case parts{1, 200, 4200, 1, 1, 256, 256, dtype};
  parts.splits = 67;
  parts.nans = true;
  check(parts);
  Case heads{19, 65, 513, 7, 7, 256, 256, dtype};
  heads.nans = true;
  if (dtype == DType::bfloat16) check(heads);
  check({2, 0, 5, 2, 1, 64, 64, dtype});
  check({2, 5, 0, 2, 1, 64, 64, dtype});
}

void check_options(DType dtype) {
  for (const Rows rows : {Rows::dense, Rows::aligned_parts, Rows::parts, Rows::apart})
    for (const int64_t sq : {3, 140})
      for (const int option : {0, 1, 2, 3, 4, 5, 6}) {
        Case k{2, sq, 200, 6, 2, 64, 72, dtype, rows};
        if (option == 1) k.left = 30;
        if (option == 2) k.left = 20, k.right = 10, k.sinks = true;
        if (option == 3) k.softcap = 5, k.right = 0, k.splits = 3;
        if (option == 4) k.alibi = true, k.sk = 90, k.right = 0;
        if (option == 5) k.scale = -0.2, k.sinks = true, k.splits = 5;
        if (option == 6) k.nans = true, k.right = 0, k.left = 60;
        check(k);
      }
}

void check_packed(DType dtype) {
  for (const int64_t page : {0, 16, 48})
    for (const int64_t sq : {2, 150})
      for (const bool ragged : {false, true})
        for (const int64_t right : {-1, 0}) {
          Case k{5, sq, 160, 4, 2, 64, 64, dtype};
          k.packed = true;
          k.page = page;
          k.ragged = ragged;
          k.right = right;
          k.sinks = ragged;
          k.splits = sq == 2 ? 4 : 0;
          check(k);
        }
}

void check_caches(DType dtype) {
  for (const int64_t page : {0, 16, 64})
    for (const int64_t sq : {1, 4, 40})
      for (const int option : {0, 1, 2, 3, 4, 5, 6, 7}) {
        Case k{3, sq, 300, 8, 2, 64, 64, dtype};
        k.cached = true;
        k.page = page;
        k.ragged = true;
        if (option == 1) k.fresh = sq, k.right = 0;
        if (option == 2) k.fresh = 3, k.turned = true;
        if (option == 3) k.fresh = sq, k.turned = k.interleaved = true, k.right = 0, k.left = 100;
        if (option == 4) k.fresh = -1, k.packed = true, k.right = 0, k.turned = true;
        if (option == 5) k.int8 = true, k.fresh = sq, k.right = 0, k.d = k.dv = 128;
        if (option == 6) k.pads = true, k.slots = page == 0, k.splits = 6, k.d = 128, k.dv = 96;
        if (option == 7) k.rows = Rows::parts, k.right = 0, k.nans = true;
        check(k);
      }
  Case wide{2, 1, 100, 4, 1, 256, 256, dtype};
  wide.cached = wide.turned = true;
  wide.fresh = 1;
  wide.right = 0;
  check(wide);
  wide.int8 = true;
  check(wide);
  wide.d = wide.dv = 40;  // rows of int8 that do not begin on 16 bytes
  check(wide);
}

// Indices that point nowhere: 0 comes out, the cache stays as it was, and the queue says so.
void check_indices(DType dtype) {
  Array q = uniform({2, 1, 4, 64}, -1, 1, Layout::dense, dtype),
        kc = uniform({4, 16, 2, 64}, -1, 1, Layout::dense, dtype);
  Array vc = uniform({4, 16, 2, 64}, -1, 1, Layout::dense, dtype),
        fresh = uniform({2, 1, 2, 64}, -1, 1, Layout::dense, dtype);
  Array used(DType::int32, {2}), slots(DType::int32, {2}), table(DType::int32, {2, 2});
  for (const int which : {0, 1, 2, 3}) {
    used.values() = {5, which == 0 ? 16.0 : 7.0};
    slots.values() = {1, which == 1 ? 9.0 : which == 3 ? -1.0 : 2.0};
    table.values() = {0, 1, which == 2 ? 77.0 : 2.0, 3};
    for (Array* a : {&used, &slots, &table}) a->upload();
    const std::vector<double> before = kc.values();
    FlashAttention p(Op::flash_attention_with_kv_cache);
    p.q = q.view();
    p.k = kc.view();
    p.v = vc.view();
    p.used_k = used.view();
    if (which == 2) {
      p.block_table = table.view();
    } else {
      p.batch_idx = slots.view();
    }
    p.new_k = p.new_v = fresh.view();
    p.return_lse = true;
    p.scale = NAN;
    p.validate();
    Array out(p.out), lse(p.lse);
    p.out = out.view();
    p.lse = lse.view();
    device.run(p);
    device.read(nullptr, nullptr, 0);
    expect("flash_attention: a bad index is reported",
           (device.backend->take_index_error(device.queue) != 0) == (which != 3));
    out.download();
    lse.download();
    kc.download();
    bool zero = true, some = false, kept = true;
    for (int64_t h = 0; h < 4; h++)
      for (int64_t c = 0; c < 64; c++) {
        zero = zero && out.at({1, 0, h, c}) == 0 && lse.at({1, h, 0}) == -INFINITY;
        some = some || out.at({0, 0, h, c}) != 0;
      }
    for (int64_t s = which == 2 ? 1 : 2; s < 4; s++)
      for (int64_t i = 0; i < 16 * 128; i++) {
        const size_t at = static_cast<size_t>(s * 16 * 128 + i);
        kept = kept && kc.values()[at] == before[at];
      }
    expect("flash_attention: a bad index gives 0", zero && some);
    expect("flash_attention: a bad index touches nothing", kept);
  }
}

}  // namespace

void check_attention() {
  for (const DType dtype : kFloats) {
    check_sizes(dtype);
    check_options(dtype);
    check_packed(dtype);
    check_caches(dtype);
    check_indices(dtype);
  }
}

}  // namespace seqmix::test
