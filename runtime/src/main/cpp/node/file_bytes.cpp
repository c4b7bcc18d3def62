// SPDX-License-Identifier: AGPL-3.0-or-later
#include "node/file_bytes.h"

#include <c10/core/DeviceGuard.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "node/device.h"
#include "node/errno_error.h"

namespace remora {

File::File(std::string name, int flags) : descriptor(open(name.c_str(), flags | O_CLOEXEC)), path(std::move(name)) {
  if (!descriptor.valid()) {
    fail_with_errno(path + " cannot be opened");
  }
}

void File::require(uint64_t offset, uint64_t bytes) const {
  struct stat status{};
  TORCH_CHECK(fstat(descriptor.number(), &status) == 0 && S_ISREG(status.st_mode), path, " is not a regular file");
  TORCH_CHECK(static_cast<uint64_t>(status.st_size) >= offset + bytes, path, " has ", status.st_size,
              " bytes, and a tensor ends at byte ", offset + bytes, ": the file changed since its header was read");
}

void File::read(void* to, uint64_t offset, uint64_t bytes) const {
  for (uint64_t done = 0; done < bytes;) {
    auto n = pread(descriptor.number(), static_cast<char*>(to) + done, bytes - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_with_errno(path + " cannot be read");
    TORCH_CHECK(n > 0, path, " ends too early: the file changed while it was read");
    done += static_cast<uint64_t>(n);
  }
}

void File::write(const void* from, uint64_t offset, uint64_t bytes) const {
  for (uint64_t done = 0; done < bytes;) {
    auto n = pwrite(descriptor.number(), static_cast<const char*>(from) + done, bytes - done,
                    static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_with_errno(path + " cannot be written");
    done += static_cast<uint64_t>(n);
  }
}

namespace {

constexpr size_t kStagingBytes = 64 * 1024 * 1024;
// Smaller parts are read instead: a mapping of their own costs more than it saves.
constexpr uint64_t kLeastMappedBytes = 64 * 1024;

struct FileMapping {
  void* address;
  size_t bytes;
};

void unmap_file(void* context) {
  auto* mapping = static_cast<FileMapping*>(context);
  munmap(mapping->address, mapping->bytes);
  delete mapping;
}

// Maps privately: pages are read when first used, and the first write to a page copies it for the tensor.
c10::DataPtr map_file(const File& file, uint64_t offset, uint64_t bytes) {
  auto before = offset % static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  auto size = before + bytes;
  void* address = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file.descriptor.number(),
                       static_cast<off_t>(offset - before));
  if (address == MAP_FAILED) {
    fail_with_errno(file.path + " cannot be mapped");
  }
  return {static_cast<char*>(address) + before, new FileMapping{address, size}, &unmap_file, c10::Device(c10::kCPU)};
}

}  // namespace

at::Tensor FileStorages::make(const FileBytes& from, c10::Device device) {
  if (!file_ || file_->path != from.path) {
    file_ = std::make_unique<File>(from.path, O_RDONLY);
  }
  file_->require(from.offset, from.bytes);
  auto size = static_cast<int64_t>(from.bytes);
  auto options = at::TensorOptions().dtype(at::kByte);
  if (device.is_cpu() && from.map && from.bytes >= kLeastMappedBytes && from.offset % from.element == 0) {
    c10::Storage storage(c10::Storage::use_byte_size_t(), size, map_file(*file_, from.offset, from.bytes),
                         c10::GetAllocator(c10::kCPU), true);
    return at::empty({0}, options).set_(storage, 0, {size}, {1});
  }
  c10::DeviceGuard guard(device);
  auto memory = at::empty({size}, options.device(device));
  if (device.is_cpu()) {
    file_->read(memory.mutable_data_ptr(), from.offset, from.bytes);
    return memory;
  }
  if (!staging_.defined()) {
    staging_ = pinned_bytes(device, static_cast<int64_t>(kStagingBytes));
  }
  for (int64_t done = 0; done < size;) {
    auto part = std::min<int64_t>(kStagingBytes, size - done);
    file_->read(staging_.mutable_data_ptr(), from.offset + static_cast<uint64_t>(done), static_cast<uint64_t>(part));
    memory.narrow(0, done, part).copy_(staging_.narrow(0, 0, part));  // waits, because the staging memory is reused
    done += part;
  }
  return memory;
}

uint64_t write_values(const File& file, const at::Tensor& t, uint64_t offset) {
  auto bytes = static_cast<uint64_t>(t.nbytes());
  if (bytes <= kStagingBytes || t.dim() == 0 || (t.is_contiguous() && t.is_cpu())) {
    auto plain = t.contiguous().cpu();
    file.write(plain.const_data_ptr(), offset, bytes);
    return offset + bytes;
  }
  auto rows = std::max<int64_t>(1, static_cast<int64_t>(kStagingBytes / (bytes / static_cast<uint64_t>(t.size(0)))));
  for (int64_t row = 0; row < t.size(0); row += rows) {
    auto part = t.narrow(0, row, std::min(rows, t.size(0) - row));
    offset = write_values(file, part.size(0) == 1 ? part.squeeze(0) : part, offset);
  }
  return offset;
}

}  // namespace remora
