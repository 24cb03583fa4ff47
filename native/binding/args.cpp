#include "binding/args.h"

#include <algorithm>

#include "core/layout.h"

namespace seqmix::binding {

Call::~Call() {
  for (int i = 0; i < copy_count_; i++) copies_[i]->drop();  // in queue order: after the op that reads them
  for (int i = 0; i < output_count_; i++) {                  // an error came between allocation and run
    if (!outputs_[i]) continue;
    outputs_[i]->dispose();
    outputs_[i]->device->drop();
    delete outputs_[i];
  }
}

View Call::tensor(size_t i, const char* name) {
  Handle& h = unwrap(info_[i], name);
  if (!device_) {
    device_ = h.device;
    device_from_ = name;
  } else if (device_ != h.device) {
    throw Error(Code::device, std::string(name) + ": expected a tensor on " + device_->name + " as " + device_from_ +
                                  " is, got one on " + h.device->name);
  }
  storages_[storage_count_++] = h.storage;
  return h.at();
}

View Call::optional(size_t i, const char* name) {
  const napi_valuetype type = info_[i].Type();
  if (type == napi_undefined || type == napi_null) return View();
  return tensor(i, name);
}

View Call::in_place(size_t i, const char* name) {
  View v;
  v.present = true;
  in_place({{i, name, &v}});
  return unwrap(info_[i], name).at();
}

void Call::in_place(std::initializer_list<Changed> all) {
  for (const Changed& c : all) {
    if (!c.view->present) continue;
    Handle& h = unwrap(info_[c.i], c.name);
    const auto shares = [&](const Changed& other) {
      return other.view->present && unwrap(info_[other.i], other.name).storage == h.storage;
    };
    if (std::find_if(all.begin(), &c, shares) != &c) continue;  // done with the one before
    const bool others =
        std::count(storages_, storages_ + storage_count_, h.storage) > std::count_if(all.begin(), all.end(), shares);
    if (others) {
      copies_[copy_count_++] = h.storage->buffer;
      h.storage->buffer->references++;
    }
    own_memory(h, others);
  }
  for (const Changed& c : all)
    if (c.view->present) c.view->data = unwrap(info_[c.i], c.name).at().data;
}

DeviceState& Call::device() { return *device_; }

void Call::dense_copy(View& v) {
  View copy = dense(v.dtype, v.shape, v.rank);
  Buffer* const buffer = Buffer::make(device(), bytes_of(copy), false);
  copies_[copy_count_++] = buffer;
  copy.data = buffer->data;
  launch_copy(device(), v, copy);
  v = copy;
}

void Call::rows(View& v) {
  if (!v.present || as_rows(v, &v)) return;
  dense_copy(v);
  as_rows(v, &v);
}

void Call::vector(View& v) {
  if (!v.present || as_vector(v, &v)) return;
  dense_copy(v);
  as_vector(v, &v);
}

void Call::unit_last_stride(View& v) {
  if (!v.present || v.shape[v.rank - 1] <= 1 || v.stride[v.rank - 1] == 1) return;
  dense_copy(v);
}

void Call::allocate(View& out) {
  if (!out.present) return;
  Handle* const h = make_tensor(device(), out, instance_of(info_.Env()).poison);
  outputs_[output_count_++] = h;
  out = h->at();
}

void Call::present_as(const int64_t* shape, int rank) {
  Handle& h = *outputs_[output_count_ - 1];
  h.view = dense(h.view.dtype, shape, rank);
}

Napi::Value Call::run(Problem& problem) {
  // With no element to write there is nothing to do; and the sizes beside a dimension of 0 may be too large to loop
  // over. An op without outputs changes an operand.
  bool any = output_count_ == 0;
  for (int i = 0; i < output_count_; i++) any = any || bytes_of(outputs_[i]->view) > 0;
  if (any) launch(device(), problem);
  const Napi::Env env = info_.Env();
  if (output_count_ == 0) return env.Undefined();
  if (output_count_ == 1) {
    Handle* const h = outputs_[0];
    outputs_[0] = nullptr;
    return wrap(env, h);
  }
  Napi::Array list = Napi::Array::New(env, static_cast<size_t>(output_count_));
  for (int i = 0; i < output_count_; i++) {
    Handle* const h = outputs_[i];
    outputs_[i] = nullptr;
    list[static_cast<uint32_t>(i)] = wrap(env, h);
  }
  return list;
}

}  // namespace seqmix::binding
