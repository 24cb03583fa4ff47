// The driver's function that describes a tensor to the copy engine; null where the driver has none.
#pragma once
#include <cuda.h>
#include <cuda_runtime.h>

namespace seqmix::cuda {

using EncodeTensorMap = decltype(&cuTensorMapEncodeTiled);

inline EncodeTensorMap tensor_map_encoder() {
  static const EncodeTensorMap encode = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
    const bool there = error == cudaSuccess && result == cudaDriverEntryPointSuccess;
    return there ? reinterpret_cast<EncodeTensorMap>(found) : nullptr;
  }();
  return encode;
}

}  // namespace seqmix::cuda
