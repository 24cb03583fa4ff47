#include "binding/instance.h"

#include <cstdlib>
#include <cstring>

namespace seqmix::binding {

namespace {

struct ErrorForm {
  Code code;
  const char* name;
  enum { type, range, seqmix } kind;
};

const ErrorForm kForms[] = {
    {Code::shape, "ERR_SHAPE", ErrorForm::range},
    {Code::dtype, "ERR_DTYPE", ErrorForm::type},
    {Code::device, "ERR_DEVICE", ErrorForm::type},
    {Code::disposed, "ERR_DISPOSED", ErrorForm::type},
    {Code::option, "ERR_OPTION", ErrorForm::type},
    {Code::option_range, "ERR_OPTION", ErrorForm::range},
    {Code::out_of_memory, "ERR_OUT_OF_MEMORY", ErrorForm::seqmix},
    {Code::cuda, "ERR_CUDA", ErrorForm::seqmix},
    {Code::unsupported, "ERR_UNSUPPORTED", ErrorForm::seqmix},
    {Code::index, "ERR_INDEX", ErrorForm::seqmix},
};

const ErrorForm& form_of(Code code) {
  for (const ErrorForm& f : kForms)
    if (f.code == code) return f;
  return kForms[6];
}

// Up to this many bytes a copy costs less than an array that shares memory, and leaves the tensor free to change in
// place.
constexpr int64_t kCopied = 4096;
// An array that shares memory gives it back only when the event loop turns, after the collector found it: a loop of
// reads that never lets it turn would hold on to all of them. While arrays share more than this, results are copied,
// and the copies are the collector's alone.
constexpr int64_t kMostShared = int64_t{128} << 20;

void release_array(napi_env, void*, void* hint) {
  Buffer* const buffer = static_cast<Buffer*>(hint);
  buffer->handed_out--;
  buffer->device->shared_bytes -= buffer->bytes;
  buffer->drop();
}

void free_array(napi_env, void* data, void*) { std::free(data); }

}  // namespace

napi_value copied_array(Napi::Env env, const void* from, int64_t bytes) {
  napi_value value;
  void* to = nullptr;
  if (napi_create_arraybuffer(env, static_cast<size_t>(bytes), &to, &value) != napi_ok) throw Napi::Error::New(env);
  if (bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
  return value;
}

namespace {
// An array over memory of ours, which `release` gives back; where the engine allows none (Electron), a copy.
napi_value external_array(Napi::Env env, void* data, int64_t bytes, napi_finalize release, void* hint) {
  napi_value value;
  const napi_status status =
      napi_create_external_arraybuffer(env, data, static_cast<size_t>(bytes), release, hint, &value);
  if (status == napi_ok) return value;
  if (status == napi_no_external_buffers_allowed) {
    value = copied_array(env, data, bytes);
    release(env, data, hint);
    return value;
  }
  // After a generic failure the engine knows of the memory and gives it back; before it got there, we do.
  if (status != napi_generic_failure) release(env, data, hint);
  throw Napi::Error::New(env);
}
}  // namespace

napi_value array_of(Napi::Env env, Buffer& buffer, int64_t offset, int64_t bytes) {
  char* const from = static_cast<char*>(buffer.data) + offset;
  if (bytes <= kCopied || buffer.device->shared_bytes > kMostShared) return copied_array(env, from, bytes);
  buffer.references++;
  buffer.handed_out++;
  buffer.device->shared_bytes += buffer.bytes;
  return external_array(env, from, bytes, release_array, &buffer);
}

napi_value js_error(Napi::Env env, Code code, const char* message) {
  const ErrorForm& form = form_of(code);
  Napi::String name = Napi::String::New(env, form.name), text = Napi::String::New(env, message);
  napi_value error = nullptr;  // stays so in an environment that is being terminated
  if (form.kind == ErrorForm::range) {
    napi_create_range_error(env, name, text, &error);
  } else if (form.kind == ErrorForm::type) {
    napi_create_type_error(env, name, text, &error);
  } else {
    Instance* const instance = env.GetInstanceData<Instance>();
    if (instance && !instance->seqmix_error.IsEmpty()) return instance->seqmix_error.New({name, text});
    napi_create_error(env, name, text, &error);
  }
  return error;
}

void throw_js(Napi::Env env, const Error& error) { throw Napi::Error(env, js_error(env, error.code(), error.what())); }

Instance::Instance(Napi::Env env) : env_(env) {
  napi_value name = Napi::String::New(env, "seqmix");
  if (napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, this, called, &function_) !=
      napi_ok)
    throw Napi::Error::New(env);
  napi_unref_threadsafe_function(env, function_);  // a pending read keeps the event loop alive, an idle addon does not
  // After the function was made, so that the gate closes before the function goes.
  napi_add_env_cleanup_hook(env, at_exit, this);
}

Instance::~Instance() = default;

void Instance::discard(PendingRead* read) {
  if (read->buffer) read->buffer->drop();
  std::free(read->host);
  delete read;
}

void Instance::at_exit(void* data) {
  Instance& self = *static_cast<Instance*>(data);
  {
    std::lock_guard lock(self.gate_);
    self.open_ = false;
  }
  for (DeviceState* device : self.devices_)
    if (device) {
      device->closed = true;
      device->backend->close(device->queue);
    }
  // Nothing reports any more, so the reads are ours alone.
  for (PendingRead* read : self.reads_) discard(read);
  self.reads_.clear();
  for (DeviceState* device : self.devices_)
    if (device) device->drop();
  self.devices_.clear();
}

DeviceState& Instance::device(int id) {
  if (id < 0) throw Error(Code::device, "device: expected a number from 0 on, got " + std::to_string(id));
  if (id < static_cast<int>(devices_.size()) && devices_[static_cast<size_t>(id)])
    return *devices_[static_cast<size_t>(id)];
  if (!open_) throw Error(Code::device, "device: expected a live environment, got one that is closing");
  const Backend* backend = &cpu_backend();
  std::string name = "cpu", why;
  if (id > 0) {
    name = "cuda:" + std::to_string(id - 1);
    backend = cuda_backend(&why);
    if (!backend) throw Error(Code::device, "device: expected one that is there, got " + name + ": " + why);
  }
  Status status;
  const int count = backend->device_count(&status);
  throw_if(status);
  if (id > 0 && id > count)
    throw Error(Code::device, "device: expected cuda:0 to cuda:" + std::to_string(count - 1) + ", got " + name);
  Queue* const queue = backend->open(id > 0 ? id - 1 : 0, &status);
  throw_if(status);
  if (devices_.size() <= static_cast<size_t>(id)) devices_.resize(static_cast<size_t>(id) + 1);
  devices_[static_cast<size_t>(id)] = new DeviceState{backend, queue, id, name, env_};
  return *devices_[static_cast<size_t>(id)];
}

napi_value Instance::promise_of(PendingRead* read) {
  const Backend& backend = *read->device->backend;
  Queue* const queue = read->device->queue;
  napi_value promise;
  if (napi_create_promise(env_, &read->deferred, &promise) != napi_ok) {
    discard(read);
    throw Napi::Error::New(env_);
  }
  read->instance = this;
  read->sequence = read->device->sequence;
  if (read->buffer) read->buffer->handed_out++;  // an in-place op that comes before the promise settles must not show
  if (!read->copies && backend.idle(queue)) {
    backend.read(queue, nullptr, nullptr, 0, nullptr, nullptr, &read->status);
    settle(read);
    return promise;
  }
  if (reads_.empty()) napi_ref_threadsafe_function(env_, function_);
  reads_.insert(read);
  Status status;
  const char* const from = read->copies ? static_cast<const char*>(read->buffer->data) + read->offset : nullptr;
  backend.read(queue, read->host, from, read->copies ? read->bytes : 0, reported, read, &status);
  if (!status.ok()) {  // it could not even be queued, and nothing will be reported
    read->status = status;
    settle(read);
  }
  return promise;
}

void Instance::reported(void* data, const Status* status) {
  PendingRead* const read = static_cast<PendingRead*>(data);
  Instance& self = *read->instance;
  std::lock_guard lock(self.gate_);
  if (!self.open_) return;
  read->status = *status;
  napi_call_threadsafe_function(self.function_, read, napi_tsfn_nonblocking);
}

// On the JavaScript thread. Nothing may be thrown from here: it would have nowhere to go.
void Instance::called(napi_env env, napi_value, void* data, void* read) {
  if (!env) return;  // the environment is closing, and at_exit has the read
  try {
    static_cast<Instance*>(data)->settle(static_cast<PendingRead*>(read));
  } catch (...) {  // the worker is being terminated: no JavaScript can run, so nobody waits
  }
}

void Instance::settle(PendingRead* read) {
  const Napi::HandleScope scope(env_);
  const std::unique_ptr<PendingRead> owned(read);
  if (reads_.erase(read) && reads_.empty()) napi_unref_threadsafe_function(env_, function_);
  struct Ended {  // however this function is left
    PendingRead* read;
    ~Ended() {
      if (read->buffer) {
        read->buffer->handed_out--;
        read->buffer->drop();
      }
      std::free(read->host);
    }
  } const ended{read};
  const uint64_t word = read->status.ok() ? read->device->take_index_error(read->sequence) : 0;
  if (word) read->status.set(Code::index, index_error_message(word).c_str());
  if (!read->status.ok()) {
    napi_reject_deferred(env_, read->deferred, js_error(env_, read->status.code, read->status.message));
    return;
  }
  napi_value value;
  if (read->copies) {
    void* const host = read->host;
    read->host = nullptr;  // the array's from here on
    value = external_array(env_, host, read->bytes, free_array, nullptr);
  } else if (read->buffer) {
    value = array_of(env_, *read->buffer, read->offset, read->bytes);
  } else {
    napi_get_undefined(env_, &value);
  }
  napi_resolve_deferred(env_, read->deferred, value);
}

}  // namespace seqmix::binding
