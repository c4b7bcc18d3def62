// SPDX-License-Identifier: AGPL-3.0-or-later
#include "node/shared_memory.h"

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>
#include <sys/stat.h>

#include <cstdio>
#include <utility>

#include "common/cuda_driver.h"
#include "common/platform.h"
#include "node/device.h"
#include "node/errno_error.h"
#include "node/file_descriptor.h"

namespace remora {

// ---------------------------------------------------------------- on the CPU

namespace {

// An anonymous memory file. The system frees it when its last user closes it or dies. It is sealed, so that neither
// side can shrink it while the other uses it.
struct SharedMemory {
  void* address;
  size_t bytes;
  FileDescriptor file;
};

void unmap(void* context) {
  auto* memory = static_cast<SharedMemory*>(context);
  munmap(memory->address, memory->bytes);
  delete memory;
}

SharedMemory* shared_memory(const c10::DataPtr& data) {
  return data.get_deleter() == &unmap ? static_cast<SharedMemory*>(data.get_context()) : nullptr;
}

c10::DataPtr map(FileDescriptor file, size_t bytes) {
  if (!seal_size(file.number()) && errno != EPERM) {
    fail_with_errno("memory to share with a Python function cannot be sealed");
  }
  struct stat status{};
  if (!cannot_shrink(file.number()) || fstat(file.number(), &status) != 0 ||
      static_cast<uint64_t>(status.st_size) < bytes) {
    TORCH_CHECK(false, "the memory that a Python function's worker shares is not a sealed file of ", bytes, " bytes");
  }
  void* address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.number(), 0);
  if (address == MAP_FAILED) {
    fail_with_errno(std::to_string(bytes) + " bytes cannot be shared with a Python function");
  }
  return {address, new SharedMemory{address, bytes, std::move(file)}, &unmap, c10::Device(c10::kCPU)};
}

std::string path_of(const SharedMemory& memory) { return path_for_others(memory.file.number()); }

}  // namespace

std::string share(c10::StorageImpl* storage) {
  if (auto* memory = shared_memory(storage->data_ptr())) {
    return path_of(*memory);
  }
  auto bytes = storage->nbytes();
  FileDescriptor file(make_memory_file());
  if (!file.valid()) {
    fail_with_errno("memory to share with a Python function cannot be created");
  }
  if (ftruncate(file.number(), static_cast<off_t>(bytes)) != 0) {
    fail_with_errno(std::to_string(bytes) + " bytes to share with a Python function cannot be allocated");
  }
  auto data = map(std::move(file), bytes);
  std::memcpy(data.mutable_get(), storage->data(), bytes);
  auto* memory = shared_memory(data);
  storage->set_data_ptr_noswap(std::move(data));
  return path_of(*memory);
}

c10::DataPtr open_shared(std::string_view path, size_t bytes) {
  // Opens only memory that another process has open: no file of the node's, and nothing whose opening could block.
  int pid = 0, number = 0, end = 0;
  std::string text(path);
  TORCH_CHECK(std::sscanf(text.c_str(), "/proc/%9d/fd/%9d%n", &pid, &number, &end) == 2 &&
                  static_cast<size_t>(end) == text.size(),
              "'", text, "' is not memory of a worker");
  FileDescriptor file(open(text.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (!file.valid()) {
    fail_with_errno("the memory of a Python function's result cannot be opened");
  }
  return map(std::move(file), bytes);
}

// ---------------------------------------------------------------- on CUDA

namespace {

const CudaDriver& cuda_driver() {
  const auto& driver = CudaDriver::get();
  TORCH_CHECK(driver.can_share_memory(), "the CUDA driver cannot share memory");
  return driver;
}

void check_cuda(int code, const char* what) {
  TORCH_CHECK(code == 0, "CUDA memory cannot be shared with a Python function: ", what, " returned ", code);
}

}  // namespace

void write_cuda(Writer& w, const c10::StorageImpl* storage) {
  const auto& cuda = cuda_driver();
  c10::DeviceGuard guard(storage->device());
  auto address = reinterpret_cast<uint64_t>(storage->data());
  uint64_t base = 0;
  size_t size = 0;
  CudaDriver::MemoryHandle handle{};
  check_cuda(cuda.memory_range(&base, &size, address), "cuMemGetAddressRange");
  check_cuda(cuda.memory_handle(&handle, base), "cuIpcGetMemHandle");
  w.raw(handle.bytes, sizeof handle.bytes);
  w.varint(address - base);
}

at::Tensor read_cuda(Reader& r, c10::Device device, size_t bytes) {
  const auto& cuda = cuda_driver();
  CudaDriver::MemoryHandle handle{};
  std::memcpy(handle.bytes, r.raw(sizeof handle.bytes), sizeof handle.bytes);
  auto offset = r.bounded(kMaxStorageBytes, "an offset");
  c10::DeviceGuard guard(device);
  auto copy = at::empty({static_cast<int64_t>(bytes)}, at::TensorOptions().dtype(at::kByte).device(device));
  uint64_t base = 0;
  check_cuda(cuda.open_memory(&base, handle, 1), "cuIpcOpenMemHandle");
  try {
    uint64_t start = 0;
    size_t size = 0;
    check_cuda(cuda.memory_range(&start, &size, base), "cuMemGetAddressRange");
    TORCH_CHECK(offset <= size && bytes <= size - offset, "a result ends outside its memory");
    copy.copy_(at::from_blob(reinterpret_cast<void*>(base + offset), {static_cast<int64_t>(bytes)},
                             at::TensorOptions().dtype(at::kByte).device(device)));
    synchronize(device);
  } catch (...) {
    cuda.close_memory(base);
    throw;
  }
  check_cuda(cuda.close_memory(base), "cuIpcCloseMemHandle");
  return copy;
}

}  // namespace remora
