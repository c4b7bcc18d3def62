// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The settings of a program's libtorch that change what operators compute. libtorch keeps them once for a process, but
// they belong to a program: they travel in the batches, in order with the operations, and the node installs them
// around each operation.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>

#include "common/wire.h"

namespace remora {

struct Settings {
  c10::ScalarType default_dtype = c10::ScalarType::Float;
  uint32_t flags = 0;  // a bit for each entry of the table in settings.cpp

  // What this process has set, or, while a session in it has others installed, had set before; without the precision
  // of float32 products, which costs more to read than the rest together.
  static Settings of_program();
  // Adds that precision: where an operator does not depend on it, the one that was sent before.
  void add_precision();
  void add_precision(const Settings& before);
  void install() const;
  void write(Writer& w) const;
  static Settings read(Reader& r);
  static Settings checked(c10::ScalarType dtype, uint64_t flags);  // throws std::invalid_argument
  uint64_t key() const { return static_cast<uint64_t>(default_dtype) << 32 | flags; }

  bool operator==(const Settings& other) const { return key() == other.key(); }
  bool operator!=(const Settings& other) const { return !(*this == other); }
};

// One session's use of the process's settings. Sessions with equal settings run side by side; one with other settings
// waits for its turn, first come, first served, at most for an operation of each of the others. The process has its own
// settings back when nobody uses others. Not thread-safe: each session has its own.
class SettingsLease {
 public:
  SettingsLease() = default;
  ~SettingsLease() { release(); }
  SettingsLease(const SettingsLease&) = delete;
  SettingsLease& operator=(const SettingsLease&) = delete;

  // The process has these settings when this returns, and until release().
  void acquire(const Settings& settings);
  void release();
  // After each operation: lets others have their turn, and gives the process its own settings back.
  void yield();

 private:
  bool held_ = false;
  Settings settings_;
};

}  // namespace remora
