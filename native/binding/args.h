// Reading a call's arguments. lib checks kinds and option names before it calls, so what arrives here has the right
// JavaScript type; shapes and dtypes are checked by core/problem.
#pragma once
#include <initializer_list>

#include "binding/instance.h"

namespace seqmix::binding {

inline Instance& instance_of(Napi::Env env) { return *env.GetInstanceData<Instance>(); }

// One call of an op: collects its tensors, which must be on one device; allocates its results; puts it on the queue.
class Call {
 public:
  explicit Call(const Napi::CallbackInfo& info) : info_(info) {}
  ~Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  View tensor(size_t i, const char* name);
  View optional(size_t i, const char* name);  // absent when undefined or null
  // Its memory is the tensor's own afterwards. Views of other arguments that share it, got before, stay on the old one,
  // which lives until the op has run: the op sees them as they were.
  View in_place(size_t i, const char* name);
  // The same of several that may share memory among themselves, such as both halves of a cache: they go on sharing it.
  // Absent views are passed over; of the others the address is brought up to date.
  struct Changed {
    size_t i;
    const char* name;
    View* view;
  };
  void in_place(std::initializer_list<Changed> all);
  double number(size_t i) const { return info_[i].As<Napi::Number>().DoubleValue(); }
  int64_t whole(size_t i) const { return info_[i].As<Napi::Number>().Int64Value(); }
  bool flag(size_t i) const { return info_[i].As<Napi::Boolean>(); }

  // Sees v as (rows, n), or as one dimension; where strides do not allow it, a dense copy is made in queue order.
  void rows(View& v);
  void vector(View& v);
  // A dense copy unless the last stride is 1.
  void unit_last_stride(View& v);

  // Memory for an output that validate() described. An absent output gets none.
  void allocate(View& out);
  // The result's shape in JavaScript, where the kernel's view of it differs. For the output allocated last.
  void present_as(const int64_t* shape, int rank);

  // Runs it and wraps the outputs: one tensor, or an array of them.
  Napi::Value run(Problem& problem);

 private:
  DeviceState& device();
  void dense_copy(View& v);

  const Napi::CallbackInfo& info_;
  DeviceState* device_ = nullptr;
  const char* device_from_ = "";
  const Storage* storages_[20] = {};  // of its tensors
  int storage_count_ = 0;
  Handle* outputs_[4] = {};
  int output_count_ = 0;
  Buffer* copies_[10] = {};
  int copy_count_ = 0;
};

}  // namespace seqmix::binding
