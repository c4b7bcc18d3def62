// SPDX-License-Identifier: AGPL-3.0-or-later
//
// What recorder and executor know of an operator, read once from its schema.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <atomic>
#include <string>
#include <vector>

#include "common/wire.h"

namespace remora {

// Throws where a call cannot be; see checks.cpp.
using Check = void (*)(c10::ArrayRef<c10::IValue> arguments);
Check check_of(const std::string& full_name);  // nullptr where there is nothing to check

struct OperatorInfo {
  explicit OperatorInfo(const c10::OperatorHandle& handle);
  // What Record::kDefineOperator says of it.
  void write_definition(Writer& w) const;

  c10::OperatorHandle handle;     // not to be used once it is gone
  std::atomic<bool> gone{false};  // its library has been taken away; an operator of the same name is another one
  uint32_t index = 0;             // dense, in the order of first use in this process
  std::string name;               // "aten::add"
  std::string overload;           // "out"
  std::string full_name;          // "aten::add.out"
  uint64_t schema_hash;           // FNV-1a of the schema's text
  size_t arguments;
  std::vector<uint32_t> written;      // arguments the operator writes to
  std::vector<uint32_t> overwritten;  // those of them whose old values do not matter
  std::vector<int32_t> returns;       // for each return: the written argument it is, or kNew, kView, kValue
  std::vector<int32_t> view_of;       // for each return of kind kView: the argument it views
  int32_t generator_argument = -1;    // argument of type Generator?
  bool values_matter = false;         // the values of Scalar arguments decide output sizes (factories)
  bool always_ask = false;            // output metadata depends on values: the node must be asked on each call
  bool masks_matter = false;          // the same, but only where an index is a boolean mask
  bool has_meta_kernel = false;
  // What the node has answered of a call's outputs holds for every call with equal metadata. Not so for operators of
  // other libraries, of which nothing says whether values decide: they ask each time.
  bool answers_hold = false;
  bool mixes_devices = false;         // its tensors may be on several devices of one machine
  bool draws_random_numbers = false;  // without a generator argument
  bool multiplies = false;            // may compute float32 products in less precision, where the program allows it
  bool needs_grad_mode = false;       // its kernel prepares for backward only where gradients are on
  bool makes_views = false;           // a result is a view of an argument
  bool only_views = false;            // no data is touched: metadata alone
  Check check = nullptr;
  bool warns_at_call = false;

  static constexpr int32_t kNew = -1;
  static constexpr int32_t kView = -2;
  static constexpr int32_t kValue = -3;
};

// The info of an operator; the reference stays valid for the life of the process. Thread-safe.
OperatorInfo& operator_info(const c10::OperatorHandle& handle);
// Whether what an operator warns of shows in a call's metadata, so that a Python program is told at the call, by the check or
// by what of libtorch runs there, and not once more when the node's warning comes. For "library::name" or that with ".overload".
bool warns_at_call(const std::string& full_name);
// Says that values never decide the output sizes of an operator, whatever its overload; for "library::name". Thread-safe.
void declare_fixed_shapes(const std::string& name);
// nullptr when this libtorch has no such operator.
OperatorInfo* find_operator(const std::string& name, const std::string& overload);

}  // namespace remora
