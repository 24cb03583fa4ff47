// Captures: what is recorded between their begin and end, and what of it has to stay as long as they live.
#include "binding/args.h"
#include "core/layout.h"

namespace seqmix::binding {

bool Buffer::stays() const { return captures > 0 || (home && home->graph); }

Capture* Capture::begin(DeviceState& device) {
  expect_outside_capture(device, "capture");
  Status status;
  Graph* const graph = device.backend->make_graph(device.queue, &status);
  throw_if(status);
  Capture* const c = new Capture{&device, graph, ++device.captures};
  device.references++;
  device.capture = c;
  device.backend->record(device.queue, graph);
  return c;
}

void Capture::stop() {
  if (device->capture != this) return;
  device->backend->record(device->queue, nullptr);
  device->capture = nullptr;
}

void Capture::end() {
  stop();
  if (!graph) return;
  device->backend->end_graph(device->queue, graph);
  graph = nullptr;
  for (Buffer* const b : used) {  // released after the graph's last run, in queue order
    b->captures--;
    b->drop();
  }
  used.clear();
}

void Capture::use(Storage& storage) {
  Buffer* b = storage.buffer;
  if (!graph || b->home == this || b->used_in == number) return;
  if (b->handed_out > 0) {  // to a read that is under way, or to an array: the graph must not change what they see
    const Unrecorded now(*device);
    Buffer* const fresh = Buffer::make(*device, b->bytes, false);
    View from = dense(DType::boolean, {b->bytes}), to = from;
    from.data = b->data;
    to.data = fresh->data;
    launch_copy(*device, from, to);
    storage.buffer = fresh;
    b->drop();
    b = fresh;
  }
  used.push_back(b);
  b->used_in = number;
  b->references++;
  b->captures++;
}

void Capture::drop() {
  if (--references > 0) return;
  device->drop();
  delete this;
}

Unrecorded::Unrecorded(DeviceState& device) : device_(device), capture_(device.capture) {
  if (!capture_) return;
  device_.backend->record(device_.queue, nullptr);
  device_.capture = nullptr;
}

Unrecorded::~Unrecorded() {
  if (!capture_) return;
  device_.backend->record(device_.queue, capture_->graph);
  device_.capture = capture_;
}

void expect_outside_capture(const DeviceState& device, const char* what) {
  if (!device.capture) return;
  throw Error(Code::unsupported, std::string(what) +
                                     ": expected a call outside of a captured function, whose ops are only recorded "
                                     "and have no results yet, got one inside");
}

namespace {

void finalize(napi_env, void* data, void*) {
  Capture* const c = static_cast<Capture*>(data);
  c->end();
  c->drop();
}

Capture& unwrap_capture(const Napi::Value& value) {
  void* data = nullptr;
  napi_get_value_external(value.Env(), value, &data);
  return *static_cast<Capture*>(data);
}

// (device): a capture that records what follows
Napi::Value begin_capture(const Napi::CallbackInfo& info) {
  DeviceState& device = instance_of(info.Env()).device(info[0].As<Napi::Number>());
  Capture* const c = Capture::begin(device);
  napi_value external;
  if (napi_create_external(info.Env(), c, finalize, nullptr, &external) != napi_ok) {
    finalize(info.Env(), c, nullptr);
    throw Napi::Error::New(info.Env());
  }
  return Napi::Value(info.Env(), external);
}

// (capture): it records no more
Napi::Value stop_capture(const Napi::CallbackInfo& info) {
  unwrap_capture(info[0]).stop();
  return info.Env().Undefined();
}

// (capture), which has a graph
Napi::Value run_capture(const Napi::CallbackInfo& info) {
  Capture& c = unwrap_capture(info[0]);
  DeviceState& device = *c.device;
  expect_outside_capture(device, "run");
  if (!c.graph) throw Error(Code::disposed, "graph: expected a live one, got one that was disposed");
  Status status;
  device.backend->run_graph(device.queue, c.graph, ++device.sequence, &status);
  throw_if(status);
  return info.Env().Undefined();
}

// (capture)
Napi::Value end_capture(const Napi::CallbackInfo& info) {
  unwrap_capture(info[0]).end();
  return info.Env().Undefined();
}

}  // namespace

void define_captures(Napi::Object exports) {
  define<begin_capture>(exports, "beginCapture");
  define<stop_capture>(exports, "stopCapture");
  define<run_capture>(exports, "runCapture");
  define<end_capture>(exports, "endCapture");
}

}  // namespace seqmix::binding
