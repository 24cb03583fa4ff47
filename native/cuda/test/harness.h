// What the checks of the CUDA library share: a queue reached through the table, arrays that lie on both sides in any
// layout, and comparison with a plain loop in double precision.
#pragma once
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <random>
#include <string>
#include <vector>

#include "backend.h"
#include "core/layout.h"

namespace seqmix::test {

struct Device {
  const Backend* backend;
  Queue* queue;

  void* allocate(int64_t bytes) const;
  void write(void* to, const void* from, int64_t bytes) const;
  void read(void* to, const void* from, int64_t bytes) const;
  void run(Problem& p) const;
};
extern Device device;

using Shape = std::vector<int64_t>;

// How an array's elements lie: dense in row-major order; dense with its last two dimensions exchanged; or every stride
// longer than need be and the first element not aligned.
enum class Layout { dense, swapped, odd };

// The values are kept as doubles; what upload() sends is rounded to the dtype.
class Array {
 public:
  Array() = default;
  Array(DType dtype, const Shape& shape, Layout layout = Layout::dense);
  // A described output: memory is allocated and poisoned, and more after it; download() checks that what is no element
  // still holds the poison.
  explicit Array(const View& described);
  ~Array();
  Array(Array&&) noexcept;
  Array& operator=(Array&&) noexcept;

  using Index = std::initializer_list<int64_t>;
  double& at(Index i) { return values_[static_cast<size_t>(linear(i.begin(), i.size()))]; }
  double at(Index i) const { return values_[static_cast<size_t>(linear(i.begin(), i.size()))]; }
  double at(const Shape& i) const { return values_[static_cast<size_t>(linear(i.data(), i.size()))]; }
  std::vector<double>& values() { return values_; }
  const View& view() const { return view_; }
  const View& upload();  // what is not an element is NaN
  void download();

 private:
  int64_t linear(const int64_t* index, size_t rank) const;
  int64_t offset_of(int64_t linear) const;

  View view_;
  std::vector<double> values_;  // in row-major order of the shape
  std::vector<unsigned char> bytes_;
  int64_t offset_ = 0;  // of the first element, in elements
  void* memory_ = nullptr;
  bool described_ = false;
};

// Values the dtype holds.
Array uniform(const Shape& shape, double from, double to, Layout layout = Layout::dense, DType dtype = DType::float32);
Array integers(DType dtype, const Shape& shape, int64_t from, int64_t to, Layout layout = Layout::dense);
std::mt19937& random();

constexpr DType kFloats[] = {DType::float32, DType::float16, DType::bfloat16};

// To nearest even.
double rounded(DType dtype, double value);

// ‖got - want‖ / ‖want‖ ≤ bound, every row (the last dimension) within eight times that, relative to the larger of its
// own and the whole array's root mean square, and all finite where the other is. `bound` is what the arithmetic, in
// float32, may lose; where `got` is of 16 bits, one rounding comes on top: half a unit of the last place of each
// element, and 4e-4 (float16) or 3e-3 (bfloat16) of the norm.
void expect_close(const std::string& what, Array& got, const std::vector<double>& want, double bound);
void expect_equal(const std::string& what, Array& got, const std::vector<double>& want);
void expect(const std::string& what, bool condition);
int failures();
int checks();

double silu(double x);
double softplus(double x);

void check_backend();
void check_elementwise();
void check_rows();
void check_linear();
void check_conv();
void check_scan();
void check_ssd();
void check_attention();
void check_state_update();
void check_graph();

}  // namespace seqmix::test
