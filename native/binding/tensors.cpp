// Tensors as JavaScript handles them: making, viewing, copying, reading.
#include <cstdlib>
#include <cstring>

#include "binding/args.h"
#include "core/check.h"
#include "core/layout.h"

namespace seqmix::binding {

namespace {

View described(const Napi::CallbackInfo& info, size_t dtype, size_t shape) {
  const Napi::Array dims = info[shape].As<Napi::Array>();
  const uint32_t rank = dims.Length();
  if (rank > kMaxRank) throw Error(Code::shape, "shape: expected at most 8 dimensions, got " + std::to_string(rank));
  int64_t sizes[kMaxRank];
  for (uint32_t i = 0; i < rank; i++) sizes[i] = Napi::Value(dims[i]).As<Napi::Number>().Int64Value();
  return dense(static_cast<DType>(info[dtype].As<Napi::Number>().Int32Value()), sizes, static_cast<int>(rank));
}

Napi::Array numbers(Napi::Env env, const int64_t* values, int count) {
  Napi::Array list = Napi::Array::New(env, static_cast<size_t>(count));
  for (int i = 0; i < count; i++) list[static_cast<uint32_t>(i)] = static_cast<double>(values[i]);
  return list;
}

// (device, dtype, shape)
Napi::Value empty(const Napi::CallbackInfo& info) {
  Instance& instance = instance_of(info.Env());
  return wrap(info.Env(),
              make_tensor(instance.device(info[0].As<Napi::Number>()), described(info, 1, 2), instance.poison));
}

// (device, dtype, shape)
Napi::Value zeros(const Napi::CallbackInfo& info) {
  DeviceState& device = instance_of(info.Env()).device(info[0].As<Napi::Number>());
  Handle* const h = make_tensor(device, described(info, 1, 2), false);
  const Napi::Value value = wrap(info.Env(), h);
  fill_bytes(device, *h->storage->buffer, 0);
  return value;
}

// (device, dtype, shape, typed array of as many bytes)
Napi::Value from_host(const Napi::CallbackInfo& info) {
  DeviceState& device = instance_of(info.Env()).device(info[0].As<Napi::Number>());
  const View view = described(info, 1, 2);
  const Unrecorded unrecorded(device);  // a capture finds it as a constant
  // Asked of Node-API itself, which knows of arrays in shared memory too. Of an array that was detached it has 0
  // elements.
  napi_typedarray_type type;
  size_t length = 0;
  void* from = nullptr;
  if (napi_get_typedarray_info(info.Env(), info[3], &type, &length, &from, nullptr, nullptr) != napi_ok)
    throw Napi::Error::New(info.Env());
  const int64_t bytes = bytes_of(view), given = static_cast<int64_t>(length) * size_of(view.dtype);
  if (given != bytes)
    fail(Code::shape, "data", std::to_string(bytes) + " bytes for shape " + shape_text(view), std::to_string(given));
  Handle* const h = make_tensor(device, view, false);
  const Napi::Value value = wrap(info.Env(), h);
  if (bytes > 0) {
    Status status;
    device.backend->write(device.queue, h->at().data, from, bytes, &status);
    throw_if(status);
  }
  return value;
}

Napi::Value dispose(const Napi::CallbackInfo& info) {
  void* data = nullptr;
  napi_get_value_external(info.Env(), info[0], &data);
  static_cast<Handle*>(data)->dispose();
  return info.Env().Undefined();
}

Napi::Value disposed(const Napi::CallbackInfo& info) {
  void* data = nullptr;
  napi_get_value_external(info.Env(), info[0], &data);
  return Napi::Boolean::New(info.Env(), static_cast<Handle*>(data)->storage == nullptr);
}

// What does not change, and is known of a disposed tensor too: [shape, strides, dtype, device]
Napi::Value describe(const Napi::CallbackInfo& info) {
  void* data = nullptr;
  napi_get_value_external(info.Env(), info[0], &data);
  const Handle& h = *static_cast<Handle*>(data);
  Napi::Array all = Napi::Array::New(info.Env(), 4);
  all[0u] = numbers(info.Env(), h.view.shape, h.view.rank);
  all[1u] = numbers(info.Env(), h.view.stride, h.view.rank);
  all[2u] = static_cast<int>(h.view.dtype);
  all[3u] = h.device->id;
  return all;
}

// (tensor, shape of as many elements): a view, or undefined when only a copy could have that shape
Napi::Value reshape(const Napi::CallbackInfo& info) {
  const Handle& h = unwrap(info[0], "tensor");
  const Napi::Array dims = info[1].As<Napi::Array>();
  const uint32_t rank = dims.Length();
  if (rank > kMaxRank) throw Error(Code::shape, "shape: expected at most 8 dimensions, got " + std::to_string(rank));
  int64_t shape[kMaxRank];
  for (uint32_t i = 0; i < rank; i++) shape[i] = Napi::Value(dims[i]).As<Napi::Number>().Int64Value();
  if (bytes_of(dense(h.view.dtype, shape, static_cast<int>(rank))) != bytes_of(h.view))
    fail(Code::shape, "shape", "as many elements as " + shape_text(h.view) + " has",
         shape_text(shape, static_cast<int>(rank)));
  View v;
  if (!reshaped(h.view, shape, static_cast<int>(rank), &v)) return info.Env().Undefined();
  return wrap(info.Env(), make_view(h, v, h.offset));
}

// (tensor, dim, from, length), in range
Napi::Value narrow(const Napi::CallbackInfo& info) {
  const Handle& h = unwrap(info[0], "tensor");
  const int dim = info[1].As<Napi::Number>();
  const int64_t from = info[2].As<Napi::Number>().Int64Value(), length = info[3].As<Napi::Number>().Int64Value();
  View v = h.view;
  v.shape[dim] = length;
  return wrap(info.Env(), make_view(h, v, length == 0 ? h.offset : h.offset + from * v.stride[dim] * size_of(v.dtype)));
}

// (tensor, a, b), in range
Napi::Value transpose(const Napi::CallbackInfo& info) {
  const Handle& h = unwrap(info[0], "tensor");
  const int a = info[1].As<Napi::Number>(), b = info[2].As<Napi::Number>();
  View v = h.view;
  std::swap(v.shape[a], v.shape[b]);
  std::swap(v.stride[a], v.stride[b]);
  return wrap(info.Env(), make_view(h, v, h.offset));
}

// (tensor): another handle to the same view
Napi::Value alias(const Napi::CallbackInfo& info) {
  const Handle& h = unwrap(info[0], "tensor");
  return wrap(info.Env(), make_view(h, h.view, h.offset));
}

// (tensor, dtype): a dense copy in that dtype
Napi::Value converted(const Napi::CallbackInfo& info) {
  const Handle& h = unwrap(info[0], "tensor");
  const DType dtype = static_cast<DType>(info[1].As<Napi::Number>().Int32Value());
  Handle* const copy = make_tensor(*h.device, dense(dtype, h.view.shape, h.view.rank), false);
  const Napi::Value value = wrap(info.Env(), copy);
  launch_copy(*h.device, h.at(), copy->at());
  return value;
}

// (tensor): the same memory in row-major order, or undefined when only a copy has that
Napi::Value contiguous_view(const Napi::CallbackInfo& info) {
  const Handle& h = unwrap(info[0], "tensor");
  if (!is_contiguous(h.view)) return info.Env().Undefined();
  return wrap(info.Env(), make_view(h, dense(h.view.dtype, h.view.shape, h.view.rank), h.offset));
}

// (tensor, contiguous; device): a copy on that device. Waits for what is queued on the tensor's own.
Napi::Value to_device(const Napi::CallbackInfo& info) {
  const Handle& h = unwrap(info[0], "tensor");
  DeviceState& to = instance_of(info.Env()).device(info[1].As<Napi::Number>());
  expect_outside_capture(*h.device, "to");
  const Unrecorded unrecorded(to);  // a capture on that device finds it as a constant
  Handle* const copy = make_tensor(to, h.view, false);
  const Napi::Value value = wrap(info.Env(), copy);
  const int64_t bytes = bytes_of(h.view);
  Status status;
  DeviceState& from = *h.device;
  if (from.id != 0 && to.id != 0 && bytes > 0) {
    from.backend->copy_across(from.queue, h.at().data, to.queue, copy->at().data, bytes, &status);
    throw_if(status);
    check_index_error(from);
    return value;
  }
  const bool from_cpu = from.id == 0;
  void* host = from_cpu ? h.at().data : copy->at().data;
  from.backend->read(from.queue, host, from_cpu ? nullptr : h.at().data, from_cpu ? 0 : bytes, nullptr, nullptr,
                     &status);
  if (status.ok() && to.id != 0 && bytes > 0) to.backend->write(to.queue, copy->at().data, host, bytes, &status);
  throw_if(status);
  check_index_error(from);
  return value;
}

// (target, source): target's elements become source's, in place; one dtype, one shape, one device
Napi::Value copy_from(const Napi::CallbackInfo& info) {
  Call call(info);
  View to = call.tensor(0, "target");
  const View from = call.tensor(1, "source");
  expect_dtype("source", from, to.dtype);
  if (!same_shape(to, from))
    fail(Code::shape, "source", "shape " + shape_text(to) + " as the target has", shape_text(from));
  Handle& target = unwrap(info[0], "target");
  own_memory(target, false);
  to = target.at();
  const Handle& other = unwrap(info[1], "source");
  const View source = other.at();         // again, since memory that both share may just have moved
  if (other.storage == target.storage) {  // they may overlap: by way of a copy
    Handle* const apart = make_tensor(*target.device, dense(source.dtype, source.shape, source.rank), false);
    wrap(info.Env(), apart);  // the collector frees the handle
    launch_copy(*target.device, source, apart->at());
    launch_copy(*target.device, apart->at(), to);
    apart->dispose();
    return info.Env().Undefined();
  }
  launch_copy(*target.device, source, to);
  return info.Env().Undefined();
}

// A copy of the bytes of a contiguous tensor as they are in queue order.
Buffer* copied(const Handle& h, int64_t bytes) {
  Buffer* const copy = Buffer::make(*h.device, bytes, false);
  View from = dense(DType::boolean, {bytes}), to = from;
  from.data = h.at().data;
  to.data = copy->data;
  launch_copy(*h.device, from, to);
  return copy;
}

// (tensor, contiguous): a promise of its bytes, an ArrayBuffer
Napi::Value read(const Napi::CallbackInfo& info) {
  Instance& instance = instance_of(info.Env());
  const Handle& h = unwrap(info[0], "tensor");
  expect_outside_capture(*h.device, "data");
  const int64_t bytes = bytes_of(h.view);
  // A graph may run again before the bytes have been fetched, and change them where they are.
  const bool by_copy = h.storage->buffer->stays() && bytes > 0;
  Buffer* const buffer = by_copy ? copied(h, bytes) : h.storage->buffer;
  PendingRead* const r = new PendingRead;
  r->device = h.device;
  r->buffer = buffer;
  if (!by_copy) r->buffer->references++;
  r->offset = by_copy ? 0 : h.offset;
  r->bytes = bytes;
  if (h.device->id != 0 && r->bytes > 0) {
    r->host = std::malloc(static_cast<size_t>(r->bytes));
    if (!r->host) {
      r->buffer->drop();
      delete r;
      throw std::bad_alloc();
    }
    r->copies = true;
  }
  return Napi::Value(info.Env(), instance.promise_of(r));
}

// (tensor, contiguous): its bytes, when they are there
Napi::Value read_sync(const Napi::CallbackInfo& info) {
  const Handle& h = unwrap(info[0], "tensor");
  DeviceState& device = *h.device;
  expect_outside_capture(device, "dataSync");
  const int64_t bytes = bytes_of(h.view);
  Status status;
  if (device.id == 0) {
    device.backend->read(device.queue, nullptr, nullptr, 0, nullptr, nullptr, &status);
    throw_if(status);
    check_index_error(device);
    // What is handed out never changes; the next run of a graph changes its memory where it is.
    if (h.storage->buffer->stays()) return Napi::Value(info.Env(), copied_array(info.Env(), h.at().data, bytes));
    return Napi::Value(info.Env(), array_of(info.Env(), *h.storage->buffer, h.offset, bytes));
  }
  Napi::ArrayBuffer array = Napi::ArrayBuffer::New(info.Env(), static_cast<size_t>(bytes));
  device.backend->read(device.queue, array.Data(), h.at().data, bytes, nullptr, nullptr, &status);
  throw_if(status);
  check_index_error(device);
  return array;
}

}  // namespace

void define_tensors(Napi::Object exports) {
  define<empty>(exports, "empty");
  define<zeros>(exports, "zeros");
  define<from_host>(exports, "fromHost");
  define<dispose>(exports, "dispose");
  define<disposed>(exports, "disposed");
  define<describe>(exports, "describe");
  define<reshape>(exports, "reshape");
  define<narrow>(exports, "narrow");
  define<transpose>(exports, "transpose");
  define<alias>(exports, "alias");
  define<converted>(exports, "converted");
  define<contiguous_view>(exports, "contiguousView");
  define<to_device>(exports, "toDevice");
  define<copy_from>(exports, "copyFrom");
  define<read>(exports, "read");
  define<read_sync>(exports, "readSync");
}

}  // namespace seqmix::binding
