// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The settings of a program's libtorch that change what operators compute. libtorch keeps them per process, but they
// belong to a program. Batches carry them, in order with the operations, and the node installs them around each
// operation.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>

#include "common/wire.h"

namespace remora {

struct Settings {
  c10::ScalarType default_dtype = c10::ScalarType::Float;
  uint32_t flags = 0;  // a bit for each entry of the table in settings.cpp

  // The settings of this process; while a session has other settings installed, the settings that the process had
  // before. Without the precision of float32 products, which takes longer to read than all other settings together.
  static Settings of_program();
  // Adds that precision. For operators that do not depend on it, the recorder keeps the precision that it sent last.
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

// One session's use of the process's settings. Sessions with equal settings run concurrently. A session with other
// settings waits for its turn, first come, first served; it waits for at most one operation of each other session. The
// process gets its own settings back when no session uses other ones. Not thread-safe: each session has its own lease.
class SettingsLease {
 public:
  SettingsLease() = default;
  ~SettingsLease() { release(); }
  SettingsLease(const SettingsLease&) = delete;
  SettingsLease& operator=(const SettingsLease&) = delete;

  // Installs these settings in the process until release().
  void acquire(const Settings& settings);
  void release();
  // To be called after each operation: lets waiting sessions have their turn, and restores the process's own settings
  // for them.
  void yield();

 private:
  bool held_ = false;
  Settings settings_;
};

}  // namespace remora
