// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Prints where the members of torch::serialize::OutputArchive are. Archive.java relies on it. Compile it with the headers
// of the libtorch that bytedeco's binding has.

#include <torch/serialize/output-archive.h>

#include <cstdio>
#include <cstring>
#include <memory>

using torch::serialize::OutputArchive;
using Unit = std::shared_ptr<torch::jit::CompilationUnit>;

// Explicit instantiations may name private members. The types of the parameters are those of the members.
template <Unit OutputArchive::* Member>
struct RevealUnit {
  friend Unit OutputArchive::* unit() { return Member; }
};
template <torch::jit::Module OutputArchive::* Member>
struct RevealModule {
  friend torch::jit::Module OutputArchive::* module() { return Member; }
};
Unit OutputArchive::* unit();
torch::jit::Module OutputArchive::* module();
template struct RevealUnit<&OutputArchive::cu_>;
template struct RevealModule<&OutputArchive::module_>;

template <typename Member>
static std::ptrdiff_t offset(Member member) {
  std::ptrdiff_t bytes;  // what a pointer to a data member is in the ABI of these platforms
  static_assert(sizeof(member) == sizeof(bytes));
  std::memcpy(&bytes, &member, sizeof(bytes));
  return bytes;
}

int main() {
  std::printf("archive %zu\n", sizeof(OutputArchive));
  std::printf("unit at %td of %zu\n", offset(unit()), sizeof(Unit));
  std::printf("module at %td of %zu\n", offset(module()), sizeof(torch::jit::Module));
}
