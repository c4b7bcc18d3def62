// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Whose call it is: the machine and the device slot on which an operator runs.
#pragma once

#include <string>
#include <vector>

#include "common/operators.h"
#include "common/settings.h"

namespace remora {

class Machine;

struct Caller {
  const OperatorInfo& info;
  const Settings settings = Settings::of_program();
  Machine* machine = nullptr;
  int slot = -1;
  bool named = false;        // a tensor has named dimensions
  mutable int64_t call = 0;  // its number among the machine's calls
  mutable std::string text;  // the line for the log, if any
  // If the machine has a timeline: when recording began, and the program's line.
  mutable int64_t since = 0;
  mutable std::string line;

  explicit Caller(const OperatorInfo& info) : info(info) {}

  std::string argument_name(size_t index) const { return info.handle.schema().arguments()[index].name(); }

  // An argument is there. Throws if another one is on another machine.
  void on(Machine& other, int other_slot);
};

// Finds the machine, refuses tensors of other devices, and replaces arguments in the stack that cannot be recorded as
// they are.
void locate(Caller& caller, std::vector<c10::IValue>& stack, size_t base);

}  // namespace remora
