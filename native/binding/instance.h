// What one JavaScript environment (the main thread, or a worker) has: its devices' queues, its pending reads, and the
// gate through which other threads reach it. Nothing here is shared between environments.
#pragma once
#include <napi.h>

#include <memory>
#include <mutex>
#include <string>
#include <unordered_set>
#include <vector>

#include "binding/tensor.h"

namespace seqmix::binding {

// A read that a device will report from a thread of its own.
struct PendingRead {
  Instance* instance = nullptr;
  DeviceState* device = nullptr;
  napi_deferred deferred = nullptr;
  Buffer* buffer = nullptr;  // the tensor's memory, which stays until the read has ended; null for a mere fence
  int64_t offset = 0, bytes = 0;
  bool copies = false;    // to the host, as CUDA does; else the memory is handed out as it is
  void* host = nullptr;   // where it is copied to
  uint64_t sequence = 0;  // of the last op before it
  Status status;
};

class Instance {
 public:
  explicit Instance(Napi::Env env);
  ~Instance();

  // Device 0 is the CPU; device 1 + i is CUDA device i. Opens its queue at the first call. Throws ERR_DEVICE.
  DeviceState& device(int id);

  // A promise that settles when everything queued before has ended, and `fill` has made its value.
  napi_value promise_of(PendingRead* read);

  Napi::FunctionReference seqmix_error;
  bool poison = false;  // new memory is filled with NaN, so that tests see what a kernel did not write

 private:
  static void at_exit(void* instance);
  static void reported(void* read, const Status* status);
  void settle(PendingRead* read);
  static void discard(PendingRead* read);  // that nobody waits for
  static void called(napi_env env, napi_value, void* instance, void* read);

  Napi::Env env_;
  std::vector<DeviceState*> devices_;
  std::unordered_set<PendingRead*> reads_;
  std::mutex gate_;
  bool open_ = true;
  napi_threadsafe_function function_ = nullptr;
};

// The CUDA library, opened on first use; null when there is none, with why.
const Backend* cuda_backend(std::string* why);
void set_cuda_library(const std::string& path);

// An ArrayBuffer with a copy of host memory.
napi_value copied_array(Napi::Env env, const void* from, int64_t bytes);
// An ArrayBuffer over a tensor's memory on the CPU; of few bytes, a copy.
napi_value array_of(Napi::Env env, Buffer& buffer, int64_t offset, int64_t bytes);

// Throws the JavaScript error that stands for `error`.
[[noreturn]] void throw_js(Napi::Env env, const Error& error);
napi_value js_error(Napi::Env env, Code code, const char* message);

// Wraps a function so that an Error inside becomes a JavaScript error.
template <Napi::Value (*F)(const Napi::CallbackInfo&)>
Napi::Value guarded(const Napi::CallbackInfo& info) {
  try {
    return F(info);
  } catch (const Error& e) {
    throw_js(info.Env(), e);
  } catch (const std::bad_alloc&) {
    throw_js(info.Env(), Error(Code::out_of_memory, "seqmix: expected memory from the system, got none"));
  }
}

template <Napi::Value (*F)(const Napi::CallbackInfo&)>
void define(Napi::Object exports, const char* name) {
  exports.Set(name, Napi::Function::New<guarded<F>>(exports.Env(), name));
}

void define_devices(Napi::Object exports);
void define_tensors(Napi::Object exports);
void define_captures(Napi::Object exports);

}  // namespace seqmix::binding
