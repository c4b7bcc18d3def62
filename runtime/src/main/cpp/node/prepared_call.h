// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The form of a call as the node keeps it: decoded once, and executed with the operands of each call of the form. See
// wire.h for forms and operands.
#pragma once

#include <ATen/core/ivalue.h>
#include <ATen/core/jit_type.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "common/tensor_meta.h"
#include "common/wire.h"

namespace remora {

struct PreparedTensor {
  TensorMeta meta;         // at offset 0
  uint64_t end = 0;        // in bytes at offset 0, exclusive; 0 if it has no elements
  uint64_t new_bytes = 0;  // of the storage, if it is new
  uint32_t storage = 0;    // operand
  int32_t offset = -1;     // operand; -1: no offset
  uint32_t device = 0;     // of the storage, if it is new
  bool is_new = false;
  bool exact = false;  // it covers its new storage exactly
  bool wrapped = false;
  bool dense = false;

  int64_t offset_in(const int64_t* operands) const { return offset < 0 ? 0 : operands[offset]; }
  // The end in bytes, or the largest number if it is beyond that.
  uint64_t end_in(const int64_t* operands) const {
    uint64_t result = end;
    if (offset >= 0 && end != 0 &&
        __builtin_add_overflow(end, static_cast<uint64_t>(operands[offset]) * c10::elementSize(meta.dtype), &result)) {
      return UINT64_MAX;
    }
    return result;
  }
};

struct PreparedArgument {
  enum Kind : uint8_t {
    kValue,         // value
    kTensor,        // number: among the call's tensors
    kSame,          // number: among the call's inputs
    kScalarTensor,  // number: operand
    kDouble,        // number: operand
    kDevice,        // number: on the machine
    kGenerator,     // value: its number; number: device
    kTensorList,    // elements
    kOptionalTensorList,
    kList,           // elements of the type
    kListOfUnknown,  // the operator takes no list here, or the node lacks the operator
  } kind = kValue;
  bool wrapped = false;
  bool is_written = false;
  bool overwrites = false;  // the operator ignores the argument's old values
  c10::ScalarType dtype = c10::ScalarType::Undefined;
  uint32_t number = 0;
  c10::IValue value;  // of a kScalarTensor: the tensor of the last call, for the next one
  c10::TypePtr type;
  std::vector<PreparedArgument> elements;
};

struct PreparedOutput {
  Output kind = Output::kAlias;
  uint32_t tensor = 0;  // among the call's tensors
  std::vector<PreparedOutput> list;
};

struct PreparedCall {
  std::string bytes;       // the form
  uint32_t operation = 0;  // the operator's number
  std::vector<Operand> operands;
  std::vector<uint32_t> storages;  // the operands that are storages
  std::vector<PreparedTensor> tensors;
  std::vector<PreparedArgument> arguments;
  // For each input, in order: its tensor. An input is a tensor argument with a storage, and counts again where the call
  // names it again.
  std::vector<uint32_t> inputs;
  // For each tensor of each written argument: its input, or -1 if it has no storage.
  std::vector<int32_t> written;
  std::vector<PreparedOutput> outputs;
  std::vector<std::pair<uint32_t, TensorMeta>> resized;  // by their positions in `written`
  bool checked = false;                                  // the types of the arguments
  std::string refusal;                                   // if they do not fit the schema
};

}  // namespace remora
