#include "binding/tensor.h"

#include "core/layout.h"
#include "core/problem/elementwise.h"

namespace seqmix::binding {

namespace {
// The collector is told of memory from this size on.
constexpr int64_t kWorthTelling = 16384;

void tell_collector(DeviceState& device, int64_t change) {
  if (device.id != 0 || device.closed || (change < kWorthTelling && change > -kWorthTelling)) return;
  int64_t now;
  napi_adjust_external_memory(device.env, change, &now);
}
}  // namespace

Buffer* Buffer::make(DeviceState& device, int64_t bytes, bool poison) {
  void* data = nullptr;
  if (bytes > 0) {
    Status status;
    data = device.backend->allocate(device.queue, bytes, &status);
    throw_if(status);
  }
  Buffer* const b = new Buffer{&device, data, bytes};
  if (device.capture && device.capture->graph) {
    b->home = device.capture;
    b->home->references++;
  }
  device.references++;
  device.bytes += bytes;
  tell_collector(device, bytes);
  if (poison) fill_bytes(device, *b, 0xff);
  return b;
}

void fill_bytes(DeviceState& device, const Buffer& buffer, uint8_t byte) {
  if (buffer.bytes == 0) return;
  Fill fill;
  fill.out = dense(DType::boolean, {buffer.bytes});
  fill.out.data = buffer.data;
  fill.byte = byte;
  fill.work = static_cast<double>(buffer.bytes) / 8;
  launch(device, fill);
}

void Buffer::drop() {
  if (--references > 0) return;
  if (data) {
    if (home && home->graph)
      device->backend->release_to(device->queue, home->graph, data, bytes);
    else
      device->backend->release(device->queue, data, bytes);
  }
  if (home) home->drop();
  device->bytes -= bytes;
  tell_collector(*device, -bytes);
  device->drop();
  delete this;
}

void Handle::dispose() {
  if (!storage) return;
  storage->drop();
  storage = nullptr;
  device->tensors--;
}

namespace {
Handle* make_handle(DeviceState& device, Storage* storage, const View& view, int64_t offset) {
  Handle* const h = new Handle{&device, storage, offset, view};
  h->view.data = nullptr;
  h->view.present = true;
  device.tensors++;
  device.references++;
  return h;
}

void finalize(napi_env, void* data, void*) {
  Handle* const h = static_cast<Handle*>(data);
  h->dispose();
  h->device->drop();
  delete h;
}
}  // namespace

Handle* make_tensor(DeviceState& device, const View& like, bool poison) {
  Buffer* const buffer = Buffer::make(device, bytes_of(like), poison);
  return make_handle(device, new Storage{buffer}, like, 0);
}

Handle* make_view(const Handle& of, const View& view, int64_t offset) {
  of.storage->references++;
  return make_handle(*of.device, of.storage, view, offset);
}

Napi::Value wrap(Napi::Env env, Handle* handle) {
  napi_value external;
  if (napi_create_external(env, handle, finalize, nullptr, &external) != napi_ok) {
    finalize(env, handle, nullptr);
    throw Napi::Error::New(env);
  }
  return Napi::Value(env, external);
}

Handle& unwrap(const Napi::Value& value, const char* name) {
  void* data = nullptr;
  if (napi_get_value_external(value.Env(), value, &data) != napi_ok)
    throw Error(Code::dtype, std::string(name) + ": expected a Tensor, got something else");
  Handle& h = *static_cast<Handle*>(data);
  if (!h.storage)
    throw Error(Code::disposed, std::string(name) + ": expected a live Tensor, got one that was disposed");
  return h;
}

void own_memory(Handle& handle, bool others) {
  Buffer* const old = handle.storage->buffer;
  if ((old->handed_out == 0 && !others) || old->bytes == 0) return;
  // Memory of the capture that is being recorded may move: that is recorded with the rest.
  const bool recorded = old->home && old->home == handle.device->capture;
  if (old->stays() && !recorded)
    throw Error(Code::unsupported,
                "capture: expected a tensor that a captured graph uses to share no memory with other arguments of an "
                "op that changes it, got one that does; clone() the other");
  Buffer* const fresh = Buffer::make(*handle.device, old->bytes, false);
  View from = dense(DType::boolean, {old->bytes}), to = from;
  from.data = old->data;
  to.data = fresh->data;
  launch_copy(*handle.device, from, to);
  handle.storage->buffer = fresh;
  old->drop();
}

void launch(DeviceState& device, Problem& problem) {
  problem.sequence = ++device.sequence;
  Status status;
  device.backend->run(device.queue, &problem, &status);
  throw_if(status);
}

void launch_copy(DeviceState& device, const View& from, const View& to) {
  Copy copy;
  copy.src = from;
  copy.dst = to;
  copy.validate();
  if (bytes_of(to) == 0) return;
  View* const both[] = {&copy.dst, &copy.src};
  collapse(both, 2);
  launch(device, copy);
}

std::string index_error_message(uint64_t word) {
  const Op op = index_error_op(word);
  const char* what = "an index inside its table";
  if (op == Op::embedding) what = "every id inside the table";
  if (op == Op::selective_state_update || op == Op::causal_conv1d_update)
    what = "every stateIndices entry below the number of states";
  if (op == Op::flash_attention_varlen)
    what = "cuSeqlens that ascend from 0 to the tokens there are, and seqUsedK and blockTable entries inside the keys";
  if (op == Op::flash_attention_with_kv_cache)
    what = "cacheSeqlens, leftPad, cacheBatchIdx, blockTable, cuSeqlensQ and rotary positions inside what they index";
  return std::string(name_of(op)) + " (op " + std::to_string(index_error_sequence(word)) +
         " of this device's queue): expected " + what + ", got one outside; what it would have made is 0";
}

void check_index_error(DeviceState& device) {
  const uint64_t word = device.take_index_error(device.sequence);
  if (word) throw Error(Code::index, index_error_message(word));
}

}  // namespace seqmix::binding
