// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The CUDA driver's own C interface. It is stable since CUDA 4 and present wherever a CUDA device is.
#pragma once

#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace remora {

// Functions of the driver. A pointer is null if there is no driver or the driver lacks the function.
struct CudaDriver {
  struct MemoryHandle {
    char bytes[64];
  };
  int (*device_get)(int*, int) = nullptr;
  int (*device_name)(char*, int, int) = nullptr;
  int (*device_memory)(size_t*, int) = nullptr;
  int (*memory_range)(uint64_t*, size_t*, uint64_t) = nullptr;
  int (*memory_handle)(MemoryHandle*, uint64_t) = nullptr;
  int (*open_memory)(uint64_t*, MemoryHandle, unsigned) = nullptr;
  int (*close_memory)(uint64_t) = nullptr;

  bool can_share_memory() const { return memory_range && memory_handle && open_memory && close_memory; }

  // Loads the driver, once. Thread-safe.
  static const CudaDriver& get() {
    static const CudaDriver driver = [] {
      CudaDriver d;
      void* library = dlopen("libcuda.so.1", RTLD_NOW);
      auto find = [library](auto& function, const char* name) {
        function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
      };
      int (*init)(unsigned) = nullptr;
      if (library != nullptr) find(init, "cuInit");
      if (init != nullptr && init(0) == 0) {
        find(d.device_get, "cuDeviceGet");
        find(d.device_name, "cuDeviceGetName");
        find(d.device_memory, "cuDeviceTotalMem_v2");
        find(d.memory_range, "cuMemGetAddressRange_v2");
        find(d.memory_handle, "cuIpcGetMemHandle");
        find(d.open_memory, "cuIpcOpenMemHandle_v2");
        find(d.close_memory, "cuIpcCloseMemHandle");
      }
      return d;
    }();
    return driver;
  }
};

}  // namespace remora
