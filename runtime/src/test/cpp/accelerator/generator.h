// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once

#include <ATen/core/Generator.h>
#include <c10/core/GeneratorImpl.h>

namespace accelerator {

// A device's random generator. Kernels draw from the CPU's generator in it.
class Generator final : public c10::GeneratorImpl {
 public:
  explicit Generator(c10::DeviceIndex device);
  Generator(c10::DeviceIndex device, at::Generator inner);

  at::Generator& inner() { return inner_; }

  void set_current_seed(uint64_t seed) override;
  void set_offset(uint64_t offset) override;
  uint64_t get_offset() const override;
  uint64_t current_seed() const override;
  uint64_t seed() override;
  void set_state(const c10::TensorImpl& state) override;
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override;

 private:
  Generator* clone_impl() const override;

  at::Generator inner_;
};

// The generator for operators that are given none; a negative device is the current one.
const at::Generator& default_generator(c10::DeviceIndex device);

}  // namespace accelerator
