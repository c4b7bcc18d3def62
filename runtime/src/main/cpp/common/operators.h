// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Facts about an operator that recorder and executor need, read once from its schema.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <atomic>
#include <string>
#include <vector>

#include "common/wire.h"

namespace remora {

// Throws if the call's arguments are invalid; see checks.cpp.
using Check = void (*)(c10::ArrayRef<c10::IValue> arguments);
Check check_of(const std::string& full_name);  // nullptr if there is nothing to check

struct OperatorInfo {
  explicit OperatorInfo(const c10::OperatorHandle& handle);
  // Writes the fields of Record::kDefineOperator.
  void write_definition(Writer& w) const;

  c10::OperatorHandle handle;     // must not be used once `gone` is set
  std::atomic<bool> gone{false};  // its library was unloaded; a later operator of the same name is a new one
  uint32_t index = 0;             // dense, in the order of first use in this process
  std::string name;               // "aten::add"
  std::string overload;           // "out"
  std::string full_name;          // "aten::add.out"
  uint64_t schema_hash;           // FNV-1a of the schema's text
  size_t arguments;
  std::vector<uint32_t> written;      // arguments the operator writes to
  std::vector<uint32_t> overwritten;  // the written arguments whose old values do not matter
  std::vector<int32_t> returns;       // per return: the written argument that it is, or kNew, kView, kValue
  std::vector<int32_t> view_of;       // for each return of kind kView: the argument it views
  int32_t generator_argument = -1;    // argument of type Generator?
  bool values_matter = false;         // the values of Scalar arguments decide output sizes (factories) or errors
  bool always_ask = false;            // output metadata depends on values: the node must be asked on each call
  bool masks_matter = false;          // the same, but only if an index is a boolean mask
  bool of_pytorch = false;            // in the namespace aten
  bool has_meta_kernel = false;
  // Whether the node's answer about a call's outputs holds for every call with equal metadata. Nothing says whether the
  // outputs of other libraries' operators depend on values, so each call of these asks the node.
  bool answers_hold = false;
  bool mixes_devices = false;         // its tensors may be on several devices of one machine
  bool draws_random_numbers = false;  // without a generator argument
  bool multiplies = false;            // may compute float32 products at lower precision if the program allows it
  bool needs_grad_mode = false;       // its kernel prepares for backward only if gradients are enabled
  bool makes_views = false;           // a result is a view of an argument
  bool only_views = false;            // touches no data, only metadata
  Check check = nullptr;
  bool warns_at_call = false;

  static constexpr int32_t kNew = -1;
  static constexpr int32_t kView = -2;
  static constexpr int32_t kValue = -3;
};

// The info of an operator; the reference stays valid for the life of the process. Thread-safe.
OperatorInfo& operator_info(const c10::OperatorHandle& handle);
// Whether a call's metadata shows what the operator warns about. If so, a Python program gets the warning at the call,
// from the check or from the parts of libtorch that run there, and does not get the node's warning again. For
// "library::name" or "library::name.overload".
bool warns_at_call(const std::string& full_name);
// Declares that values never decide the output sizes of an operator, for all its overloads. The name is
// "library::name". Thread-safe.
void declare_fixed_shapes(const std::string& name);
// nullptr if this libtorch has no such operator.
OperatorInfo* find_operator(const std::string& name, const std::string& overload);

}  // namespace remora
