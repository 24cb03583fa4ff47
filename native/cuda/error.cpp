#include "cuda/error.h"

#include <array>
#include <atomic>
#include <mutex>
#include <string>

namespace seqmix::cuda {

namespace {

constexpr int kDevices = 64;

struct Faults {
  std::mutex mutex;
  std::array<std::atomic<bool>, kDevices> struck{};
  std::array<std::string, kDevices> message;
};

// Never destroyed: threads may still ask while the process ends.
Faults& faults() {
  static Faults* const f = new Faults;
  return *f;
}

bool is_fault(cudaError_t error) {
  switch (error) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorHardwareStackError:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContained:
    case cudaErrorExternalDevice:
    case cudaErrorDevicesUnavailable:
    case cudaErrorUnknown:
      return true;
    default:
      return false;
  }
}

}  // namespace

std::string describe(cudaError_t error) {
  return std::string(cudaGetErrorName(error)) + " (" + cudaGetErrorString(error) + ")";
}

void check(int device, cudaError_t error, const char* doing) {
  if (error == cudaSuccess) return;
  (void)cudaGetLastError();  // an error that is not a fault must not be found again by the next call
  const std::string where = "cuda:" + std::to_string(device) + ": ";
  if (error == cudaErrorMemoryAllocation)
    throw Error(Code::out_of_memory, where + "expected memory for " + doing + ", got " + describe(error));
  if (!is_fault(error) || device < 0 || device >= kDevices)
    throw Error(Code::cuda, where + "expected " + doing + " to succeed, got " + describe(error));
  Faults& f = faults();
  {
    const std::lock_guard lock(f.mutex);
    if (!f.struck[device]) {
      f.message[device] = where + "expected " + doing + ", or the work queued before it, to end well, got " +
                          describe(error) + "; nothing more can run on this device in this process";
      f.struck[device] = true;
    }
  }
  expect_alive(device);
}

void expect_alive(int device) {
  Faults& f = faults();
  if (device < 0 || device >= kDevices || !f.struck[device].load(std::memory_order_relaxed)) return;
  const std::lock_guard lock(f.mutex);
  throw Error(Code::cuda, f.message[device]);
}

void choose(int device) {
  expect_alive(device);
  check(device, cudaSetDevice(device), "choosing the device");
}

}  // namespace seqmix::cuda
