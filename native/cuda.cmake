# The CUDA library: a module of its own, so that a machine without an NVIDIA driver loads the addon all the same.
# Machine code for compute capability 8.0 (it runs on 8.6 and 8.9 as well) and 9.0; files under kernels/sm90 use what only 9.0a has and
# are compiled for that alone; PTX of 8.0 serves what comes later.
set(CMAKE_CUDA_ARCHITECTURES OFF)
enable_language(CUDA)
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # older versions of CMake do not know how to say C++20 to nvcc
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
set(CMAKE_CUDA_FLAGS_RELEASE "-O3 -DNDEBUG")

set(cuda_any "-gencode=arch=compute_80,code=[compute_80,sm_80]" -gencode=arch=compute_90,code=sm_90)
set(cuda_sm90 -gencode=arch=compute_90a,code=sm_90a)
list(FILTER cuda_sources EXCLUDE REGEX "/native/cuda/test/")
foreach(file IN LISTS cuda_sources)
  if(file MATCHES "\\.cu$")
    if(file MATCHES "/kernels/sm90/")
      set_source_files_properties(${file} PROPERTIES COMPILE_OPTIONS "${cuda_sm90}")
    else()
      set_source_files_properties(${file} PROPERTIES COMPILE_OPTIONS "${cuda_any}")
    endif()
  endif()
endforeach()

add_library(seqmix_cuda MODULE ${cuda_sources})
set_target_properties(seqmix_cuda PROPERTIES SUFFIX .so CUDA_RUNTIME_LIBRARY Static CUDA_SEPARABLE_COMPILATION OFF
  CUDA_ARCHITECTURES OFF)
target_include_directories(seqmix_cuda SYSTEM PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
target_compile_options(seqmix_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-Wno-psabi,-ffp-contract=off>)
if(SEQMIX_WERROR)
  target_compile_options(seqmix_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings;-Xcompiler=-Werror>)
endif()
target_link_libraries(seqmix_cuda PRIVATE seqmix_core ${CMAKE_DL_LIBS})
seqmix_module(seqmix_cuda cuda.map)
if(NOT APPLE)
  target_link_options(seqmix_cuda PRIVATE -Wl,-z,defs)  # nothing is left for the loader to find: the addon's symbols are hidden
endif()

# A program of its own that opens the CUDA library through its table and holds every op against a plain loop: for a
# machine with a GPU, under compute-sanitizer too. Built on demand: cmake --build <tree> --target seqmix_cuda_tests
file(GLOB cuda_test_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/native/cuda/test/*.cpp)
add_executable(seqmix_cuda_tests EXCLUDE_FROM_ALL ${cuda_test_sources})
set_target_properties(seqmix_cuda_tests PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_SOURCE_DIR}/build/Release)
target_link_libraries(seqmix_cuda_tests PRIVATE seqmix_core ${CMAKE_DL_LIBS})
target_link_options(seqmix_cuda_tests PRIVATE -static-libstdc++ -static-libgcc)

# Times what is bound by bytes against a copy. Built on demand: cmake --build <tree> --target seqmix_cuda_time_mem
set(cuda_time_mem_sources native/cuda/test/time_mem.cu native/cuda/launch/causal_conv1d.cu
  native/cuda/launch/selective_state_update.cu native/cuda/launch/rows.cu)
set_source_files_properties(native/cuda/test/time_mem.cu PROPERTIES COMPILE_OPTIONS "${cuda_any}")
add_executable(seqmix_cuda_time_mem EXCLUDE_FROM_ALL ${cuda_time_mem_sources})
set_target_properties(seqmix_cuda_time_mem PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_SOURCE_DIR}/build/Release
  CUDA_RUNTIME_LIBRARY Static CUDA_ARCHITECTURES OFF)
target_include_directories(seqmix_cuda_time_mem SYSTEM PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
target_link_libraries(seqmix_cuda_time_mem PRIVATE seqmix_core ${CMAKE_DL_LIBS})
