// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Storages from the bytes of files, and files from the values of tensors.
#pragma once

#include <ATen/ATen.h>
#include <fcntl.h>

#include <memory>
#include <string>

#include "node/file_descriptor.h"

namespace remora {

class File {
 public:
  File(std::string name, int flags);  // the flags of open(2)

  // Throws unless the file has all of the bytes.
  void require(uint64_t offset, uint64_t bytes) const;
  void read(void* to, uint64_t offset, uint64_t bytes) const;
  void write(const void* from, uint64_t offset, uint64_t bytes) const;

  const FileDescriptor descriptor;
  const std::string path;
};

// The part of a file that a storage gets.
struct FileBytes {
  std::string path;
  uint64_t offset = 0;
  uint64_t bytes = 0;
  bool map = false;
  size_t element = 1;  // the largest element size of the tensors over the storage, for alignment
};

// Makes storages from the bytes of files. Storages of the same file must be made one after the other.
class FileStorages {
 public:
  at::Tensor make(const FileBytes& from, c10::Device device);

 private:
  std::unique_ptr<File> file_;
  at::Tensor staging_;
};

// Writes a tensor's values in order, starting at `offset`, in parts of a bounded size. Returns the offset of the end.
uint64_t write_values(const File& file, const at::Tensor& t, uint64_t offset);

}  // namespace remora
