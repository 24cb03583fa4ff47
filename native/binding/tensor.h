// What stands behind a JavaScript tensor. A Handle is one tensor: a view of a Storage, which views share; a Storage
// holds the Buffer it has now. An in-place op on memory that was handed out to JavaScript gives the Storage a new
// Buffer, so that what was handed out never changes. All of this belongs to one JavaScript thread; counts need no
// atomics.
//
// A captured graph knows memory by its address. What it uses therefore stays where it is, and alive, until the graph
// ends: an in-place op changes it there, and a read that takes its time (Instance::promise_of) is of a copy.
#pragma once
#include <napi.h>

#include <string>
#include <utility>
#include <vector>

#include "backend.h"

namespace seqmix::binding {

class Instance;
struct Capture;
struct Storage;

// One environment's queue on one device. Lives until the last of its buffers is gone, which may be after the
// environment closed it.
struct DeviceState {
  const Backend* backend;
  Queue* queue;
  int id;
  std::string name;
  napi_env env;
  bool closed = false;
  int64_t references = 1;
  int64_t tensors = 0, bytes = 0;  // alive
  int64_t shared_bytes = 0;        // of buffers that arrays in JavaScript share, once for each array
  uint64_t sequence = 0;
  Capture* capture = nullptr;  // what its ops are being recorded into
  uint64_t captures = 0;       // begun so far
  uint64_t index_error = 0;    // taken from the queue, of an op after the read that took it

  // The bad index that an op up to `last` met. A later op may have met one already: the next read reports that.
  uint64_t take_index_error(uint64_t last) {
    if (!index_error) index_error = backend->take_index_error(queue);
    if (!index_error || index_error_sequence(index_error) > last) return 0;
    // One that came after the word was taken, of an op that this read follows as well, is told with it.
    const uint64_t word = std::exchange(index_error, backend->take_index_error(queue));
    if (index_error && index_error_sequence(index_error) <= last) index_error = 0;
    return word;
  }

  void drop() {
    if (--references > 0) return;
    backend->destroy(queue);
    delete this;
  }
};

struct Buffer {
  DeviceState* device;
  void* data;
  int64_t bytes;
  int64_t references = 1;
  int64_t handed_out = 0;   // array buffers in JavaScript, and reads under way, that must not see a change
  Capture* home = nullptr;  // whose memory it is part of
  int64_t captures = 0;     // live ones that use it, from outside
  uint64_t used_in = 0;     // the number of the last of them

  bool stays() const;  // a live capture has its address
  static Buffer* make(DeviceState& device, int64_t bytes, bool poison);
  void drop();
};

struct Storage {
  Buffer* buffer;
  int64_t references = 1;

  void drop() {
    if (--references > 0) return;
    buffer->drop();
    delete this;
  }
};

// A graph, from the beginning of its recording to its end.
struct Capture {
  DeviceState* device;
  Graph* graph;     // null once it has ended
  uint64_t number;  // of this capture on its device, from 1
  int64_t references = 1;
  std::vector<Buffer*> used{};  // from outside

  static Capture* begin(DeviceState& device);
  void stop();  // recording
  void end();
  void use(Storage& storage);  // an op has its address
  void drop();
};

// What is done while one lives is done at once, whether or not a capture is being recorded.
class Unrecorded {
 public:
  explicit Unrecorded(DeviceState& device);
  ~Unrecorded();
  Unrecorded(const Unrecorded&) = delete;
  Unrecorded& operator=(const Unrecorded&) = delete;

 private:
  DeviceState& device_;
  Capture* const capture_;
};

// Throws where `what` would have to wait for ops that are only being recorded.
void expect_outside_capture(const DeviceState& device, const char* what);

struct Handle {
  DeviceState* device;
  Storage* storage;  // null once disposed
  int64_t offset;    // of the first element, in bytes
  View view;         // its data pointer is not kept: see at()

  // The view with its address as it is now.
  View at() const {
    if (device->capture) device->capture->use(*storage);
    View v = view;
    v.data = static_cast<char*>(storage->buffer->data) + offset;
    return v;
  }
  void dispose();
};

// A new dense tensor of the shape and strides of `like`.
Handle* make_tensor(DeviceState& device, const View& like, bool poison);
// Another tensor over the same memory.
Handle* make_view(const Handle& of, const View& view, int64_t offset);

Napi::Value wrap(Napi::Env env, Handle* handle);
Handle& unwrap(const Napi::Value& value, const char* name);  // throws ERR_DISPOSED, naming the argument

// Before an in-place op: memory that JavaScript can see, or that `others` read, is left alone, and the tensor gets a
// copy of its own. Memory that a live capture uses cannot be left: with `others` that throws.
void own_memory(Handle& handle, bool others);

// Puts a problem on the device's queue.
void launch(DeviceState& device, Problem& problem);
// Sets every byte, in queue order.
void fill_bytes(DeviceState& device, const Buffer& buffer, uint8_t byte);
// Copies (and converts) between views on one device, in queue order.
void launch_copy(DeviceState& device, const View& from, const View& to);
// Throws when a kernel met a bad index since the last read.
void check_index_error(DeviceState& device);
std::string index_error_message(uint64_t word);

}  // namespace seqmix::binding
