// Opens the CUDA library beside this program as the addon does, and checks every op.
// usage: seqmix_cuda_tests [backend] [elementwise] [rows] [linear] [conv] [scan] [ssd] [attention] [update] [graph]
// (all, when none is named)
#include <dlfcn.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>

#include "cuda/test/harness.h"

using namespace seqmix;

int main(int argc, char** argv) {
  const std::string beside = (std::filesystem::canonical("/proc/self/exe").parent_path() / "seqmix_cuda.so").string();
  const char* const path = beside.c_str();
  void* const library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 2;
  }
  const auto table = reinterpret_cast<CudaBackend>(dlsym(library, kCudaBackendSymbol));
  if (!table || table()->abi != kBackendAbi) {
    std::fprintf(stderr, "%s: expected a table of version %u\n", path, kBackendAbi);
    return 2;
  }
  const Backend* const backend = table();
  Status status;
  const int count = backend->device_count(&status);
  if (count == 0) {
    std::printf("no device: %s\n", status.message);
    return status.ok() ? 2 : 3;
  }
  DeviceInfo info;
  backend->device_info(0, &info, &status);
  test::device = {backend, backend->open(0, &status)};
  if (!test::device.queue) {
    std::printf("cannot open: %s\n", status.message);
    return 2;
  }
  std::printf("%s, %s, %d multiprocessors, %.1f GB\n", info.name, info.target, info.threads,
              static_cast<double>(info.memory_bytes) / 1e9);
  const struct {
    const char* name;
    void (*check)();
  } sections[] = {{"backend", test::check_backend},
                  {"elementwise", test::check_elementwise},
                  {"rows", test::check_rows},
                  {"linear", test::check_linear},
                  {"conv", test::check_conv},
                  {"scan", test::check_scan},
                  {"ssd", test::check_ssd},
                  {"update", test::check_state_update},
                  {"attention", test::check_attention},
                  {"graph", test::check_graph}};
  try {
    for (const auto& section : sections) {
      bool wanted = argc == 1;
      for (int i = 1; i < argc; i++) wanted = wanted || std::strcmp(argv[i], section.name) == 0;
      if (!wanted) continue;
      const auto begin = std::chrono::steady_clock::now();
      section.check();
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
      std::printf("%s: %.1f s\n", section.name, took.count());
    }
  } catch (const std::exception& e) {
    std::printf("stopped: %s\n", e.what());
    return 1;
  }
  backend->close(test::device.queue);
  backend->destroy(test::device.queue);
  std::printf("%d checks, %d failed\n", test::checks(), test::failures());
  return test::failures() ? 1 : 0;
}
