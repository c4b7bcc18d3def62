// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Bytes of files that become storages, and tensors whose values go to files.
#pragma once

#include <ATen/ATen.h>
#include <fcntl.h>
#include <unistd.h>

#include <memory>
#include <string>

namespace remora {

class File {
 public:
  File(std::string name, int flags);  // as open(2) has them
  ~File() { close(descriptor); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  // Fails where the bytes are not all there.
  void require(uint64_t offset, uint64_t bytes) const;
  void read(void* to, uint64_t offset, uint64_t bytes) const;
  void write(const void* from, uint64_t offset, uint64_t bytes) const;

  const int descriptor;
  const std::string path;
};

// What a storage is to hold.
struct FileBytes {
  std::string path;
  uint64_t offset = 0;
  uint64_t bytes = 0;
  bool map = false;
  size_t element = 1;  // the largest of the tensors over it: these want their elements aligned
};

// Makes storages of files' bytes, those of one file one after the other.
class FileStorages {
 public:
  at::Tensor make(const FileBytes& from, c10::Device device);

 private:
  std::unique_ptr<File> file_;
  at::Tensor staging_;
};

// Writes a tensor's values in order, from `offset` on, in parts of a bounded size; answers where they end.
uint64_t write_values(const File& file, const at::Tensor& t, uint64_t offset);

}  // namespace remora
