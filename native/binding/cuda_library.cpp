// Opens the CUDA library: a shared object of its own, so that the addon loads as fast on a machine with no NVIDIA
// driver and can say why CUDA is off. Once open it stays: its kernels may run until the process ends.
#include <dlfcn.h>
#include <sys/stat.h>

#include <cstdlib>
#include <mutex>

#include "binding/instance.h"

namespace seqmix::binding {

namespace {
struct Library {
  std::mutex mutex;
  std::string path;
  bool tried = false;
  const Backend* backend = nullptr;
  std::string why;
};

Library& library() {
  static Library* const l = new Library;  // never destroyed: other threads may be using it at exit
  return *l;
}

void open(Library& l) {
  const char* const off = std::getenv("SEQMIX_CUDA");
  if (off && (std::string(off) == "off" || std::string(off) == "0")) {
    l.why = "SEQMIX_CUDA=off leaves it out";
    return;
  }
  struct stat file;
  if (l.path.empty() || stat(l.path.c_str(), &file) != 0) {
    l.why = "this build has no CUDA library (expected " +
            (l.path.empty() ? "seqmix_cuda.so beside the addon" : l.path) +
            "): install a prebuilt package that has one, or build with nvcc on the PATH";
    return;
  }
  void* const handle = dlopen(l.path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (!handle) {
    l.why = std::string("the CUDA library does not load: ") + dlerror();
    return;
  }
  const auto table = reinterpret_cast<CudaBackend>(dlsym(handle, kCudaBackendSymbol));
  const Backend* const backend = table ? table() : nullptr;
  if (!backend || backend->abi != kBackendAbi) {
    l.why = "the CUDA library is not of this addon's build: build or install both again (" + l.path + ")";
    return;
  }
  Status status;
  if (backend->device_count(&status) == 0) {
    l.why = status.ok() ? "no NVIDIA GPU was found" : status.message;
    return;
  }
  l.backend = backend;
}
}  // namespace

void set_cuda_library(const std::string& path) {
  Library& l = library();
  std::lock_guard lock(l.mutex);
  if (!l.tried) l.path = path;
}

const Backend* cuda_backend(std::string* why) {
  Library& l = library();
  std::lock_guard lock(l.mutex);
  if (!l.tried) {
    open(l);
    l.tried = true;
  }
  *why = l.why;
  return l.backend;
}

}  // namespace seqmix::binding
