// Devices as JavaScript sees them: numbers, 0 for the CPU and 1 + i for cuda:i.
#include <cstdlib>

#include "binding/args.h"
#include "binding/instance.h"

namespace seqmix::binding {

namespace {

Napi::Value init(const Napi::CallbackInfo& info) {
  Instance& instance = instance_of(info.Env());
  instance.seqmix_error = Napi::Persistent(info[0].As<Napi::Function>());
  set_cuda_library(info[1].As<Napi::String>());
  return info.Env().Undefined();
}

Napi::Object describe(Napi::Env env, const std::string& name, const Backend& backend, int index) {
  Napi::Object o = Napi::Object::New(env);
  DeviceInfo d = {};
  Status status;
  backend.device_info(index, &d, &status);
  o.Set("name", name);
  if (!status.ok()) {
    o.Set("available", false);
    o.Set("reason", std::string(status.message));
    return o;
  }
  o.Set("available", true);
  o.Set("processor", std::string(d.name));
  o.Set("target", std::string(d.target));
  o.Set("memory", static_cast<double>(d.memory_bytes));
  o.Set("threads", d.threads);
  return o;
}

Napi::Object refused(Napi::Env env, const char* name, const std::string& why) {
  Napi::Object o = Napi::Object::New(env);
  o.Set("name", name);
  o.Set("available", false);
  o.Set("reason", why);
  return o;
}

Napi::Value devices(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Array list = Napi::Array::New(env);
  Status status;
  uint32_t n = 0;
  if (cpu_backend().device_count(&status) > 0) {
    list[n++] = describe(env, "cpu", cpu_backend(), 0);
  } else {
    list[n++] = refused(env, "cpu", status.message);
  }
  std::string why;
  const Backend* const cuda = cuda_backend(&why);
  if (!cuda) {
    list[n++] = refused(env, "cuda", why);
    return list;
  }
  const int count = cuda->device_count(&status);
  for (int i = 0; i < count; i++) list[n++] = describe(env, "cuda:" + std::to_string(i), *cuda, i);
  return list;
}

// Opens the device's queue, so that a device which is not there is an error at once.
Napi::Value open_device(const Napi::CallbackInfo& info) {
  instance_of(info.Env()).device(info[0].As<Napi::Number>());
  return info.Env().Undefined();
}

Napi::Value synchronize(const Napi::CallbackInfo& info) {
  Instance& instance = instance_of(info.Env());
  DeviceState& device = instance.device(info[0].As<Napi::Number>());
  expect_outside_capture(device, "synchronize");
  PendingRead* const read = new PendingRead;
  read->device = &device;
  return Napi::Value(info.Env(), instance.promise_of(read));
}

Napi::Value synchronize_sync(const Napi::CallbackInfo& info) {
  DeviceState& device = instance_of(info.Env()).device(info[0].As<Napi::Number>());
  expect_outside_capture(device, "synchronizeSync");
  Status status;
  device.backend->read(device.queue, nullptr, nullptr, 0, nullptr, nullptr, &status);
  throw_if(status);
  check_index_error(device);
  return info.Env().Undefined();
}

Napi::Value memory(const Napi::CallbackInfo& info) {
  DeviceState& device = instance_of(info.Env()).device(info[0].As<Napi::Number>());
  Napi::Array pair = Napi::Array::New(info.Env(), 2);
  pair[0u] = static_cast<double>(device.tensors);
  pair[1u] = static_cast<double>(device.bytes);
  return pair;
}

Napi::Value set_threads(const Napi::CallbackInfo& info) {
  cpu_backend().set_threads(info[0].As<Napi::Number>());
  return info.Env().Undefined();
}

Napi::Value last_kernel(const Napi::CallbackInfo& info) {
  DeviceState& device = instance_of(info.Env()).device(info[0].As<Napi::Number>());
  expect_outside_capture(device, "lastKernel");
  Status status;  // a queue that is still at work has not chosen its last kernel
  device.backend->read(device.queue, nullptr, nullptr, 0, nullptr, nullptr, &status);
  throw_if(status);
  return Napi::String::New(info.Env(), device.backend->last_kernel(device.queue));
}

Napi::Value poison(const Napi::CallbackInfo& info) {
  instance_of(info.Env()).poison = info[0].As<Napi::Boolean>();
  return info.Env().Undefined();
}

// (device, name): units a second
Napi::Value ceiling(const Napi::CallbackInfo& info) {
  const DeviceState& device = instance_of(info.Env()).device(info[0].As<Napi::Number>());
  const std::string name = info[1].As<Napi::String>();
  expect_outside_capture(device, "ceiling");
  if (!device.backend->ceiling)
    throw Error(Code::unsupported, "ceiling: expected a device that measures itself, got " + device.name);
  Status status;
  device.backend->read(device.queue, nullptr, nullptr, 0, nullptr, nullptr, &status);  // nothing else may run
  throw_if(status);
  const double rate = device.backend->ceiling(device.id > 0 ? device.id - 1 : 0, name.c_str(), &status);
  throw_if(status);
  return Napi::Number::New(info.Env(), rate);
}

}  // namespace

void define_devices(Napi::Object exports) {
  define<init>(exports, "init");
  define<devices>(exports, "devices");
  define<open_device>(exports, "openDevice");
  define<synchronize>(exports, "synchronize");
  define<synchronize_sync>(exports, "synchronizeSync");
  define<memory>(exports, "memory");
  define<set_threads>(exports, "setThreads");
  define<last_kernel>(exports, "lastKernel");
  define<poison>(exports, "poison");
  define<ceiling>(exports, "ceiling");
}

}  // namespace seqmix::binding
