// SPDX-License-Identifier: AGPL-3.0-or-later
//
// From the bytes of a form to a prepared call.
#include <ATen/ATen.h>

#include <algorithm>
#include <optional>

#include "common/torch_version.h"
#include "node/call.h"

namespace remora {

// Reads one form, or one tensor. `devices`: the executor's count of them.
class FormReader {
 public:
  FormReader(Reader& r, PreparedCall& call, size_t devices) : r_(r), call_(call), devices_(devices) {}

  void tensor(uint8_t bits) {
    PreparedTensor t;
    t.storage = operand(Operand::kStorage);
    if (bits & kNew) {
      auto code = r_.bounded(2 * devices_ - 1, "a device");
      t.is_new = true;
      t.device = static_cast<uint32_t>(code / 2);
      t.exact = code & 1;
      if (!t.exact) t.new_bytes = r_.bounded(kMaxStorageBytes, "a storage's size");
    }
    if (bits & kSameMeta) {
      if (call_.tensors.empty()) r_.fail("a record's first tensor cannot be like the one before it");
      const auto& previous = call_.tensors.back();
      t.meta = previous.meta;
      t.offset = previous.offset;
      t.end = previous.end;
    } else {
      auto& meta = t.meta;
      meta.dtype = r_.dtype();
      auto dims = r_.count("a tensor's dimensions");
      meta.sizes.resize(dims);
      meta.strides.resize(dims);
      for (auto& size : meta.sizes) size = static_cast<int64_t>(r_.bounded(INT64_MAX, "a size"));
      if (bits & kStrided) {
        for (auto& stride : meta.strides) {
          stride = r_.zigzag();
          if (stride < 0) r_.fail("a stride is negative");
        }
      } else {
        uint64_t stride = 1;
        for (size_t i = dims; i-- > 0;) {
          meta.strides[i] = static_cast<int64_t>(stride);
          stride *= static_cast<uint64_t>(std::max<int64_t>(meta.sizes[i], 1));
        }
      }
      if (bits & kOffset) t.offset = static_cast<int32_t>(operand(Operand::kOffset));
      t.end = meta.end();
    }
    t.meta.conj = bits & kConj;
    t.meta.neg = bits & kNeg;
    t.dense = t.meta.is_dense();
    call_.tensors.push_back(std::move(t));
  }

  PreparedArgument argument(const c10::TypePtr& type, int depth = 0) {
    PreparedArgument result;
    auto tag = r_.u8();
    if (tag & kTensor) {
      input(result, tag);
      return result;
    }
    if (depth > kMaxNesting) {
      r_.fail("the arguments are nested too deeply");
    }
    switch (static_cast<Tag>(tag)) {
      case Tag::kNone: break;
      case Tag::kUndefined: result.value = at::Tensor(); break;
      case Tag::kWrapped: {
        auto bits = r_.u8();
        if (!(bits & kTensor)) r_.fail("expected a tensor");
        input(result, bits);
        call_.tensors.back().wrapped = true;
        break;
      }
      case Tag::kSameTensor: {
        // Some operators check whether their output is their input, and resizing one must resize the other.
        auto number = r_.varint();
        if (number >= call_.inputs.size()) r_.fail("a call has no tensor " + std::to_string(number) + " yet");
        result.kind = PreparedArgument::kSame;
        result.number = static_cast<uint32_t>(number);
        call_.inputs.push_back(call_.inputs[number]);
        break;
      }
      case Tag::kScalarTensor: {
        result.dtype = r_.dtype();
        result.wrapped = r_.u8() != 0;
        if (c10::isQIntType(result.dtype)) r_.fail("a scalar has a quantized dtype");
        auto kind = Operand::kEightBytes;
        if (scalar_operand(result.dtype, &kind)) {
          result.kind = PreparedArgument::kScalarTensor;
          result.number = operand(kind);
        } else {
          auto t = at::empty({}, at::TensorOptions().dtype(result.dtype));
          std::memcpy(t.mutable_data_ptr(), r_.raw(t.element_size()), t.element_size());
          if (result.wrapped) t.unsafeGetTensorImpl()->set_wrapped_number(true);
          result.value = t;
        }
        break;
      }
      case Tag::kInt: result.value = r_.zigzag(); break;
      case Tag::kUnsigned: result.value = c10::Scalar(r_.varint()); break;
      case Tag::kDouble:
        result.kind = PreparedArgument::kDouble;
        result.number = operand(Operand::kEightBytes);
        break;
      case Tag::kTrue: result.value = true; break;
      case Tag::kFalse: result.value = false; break;
      case Tag::kComplex: {
        double real = r_.f64();
        result.value = c10::complex<double>(real, r_.f64());
        break;
      }
      case Tag::kString: result.value = std::string(r_.text()); break;
      case Tag::kDevice: {
        auto device = r_.bounded(devices_, "a device");
        if (device == 0) {
          result.value = c10::Device(c10::kCPU);
        } else {
          result.kind = PreparedArgument::kDevice;
          result.number = static_cast<uint32_t>(device - 1);
        }
        break;
      }
      case Tag::kTensorList:
      case Tag::kOptionalTensorList: {
        result.kind = static_cast<Tag>(tag) == Tag::kTensorList ? PreparedArgument::kTensorList
                                                                : PreparedArgument::kOptionalTensorList;
        for (auto n = r_.count("a list's length"); n > 0; n--) {
          result.elements.push_back(argument(c10::TensorType::get(), depth + 1));
          if (!is_tensor(result.elements.back())) r_.fail("expected a tensor");
        }
        break;
      }
      case Tag::kIntList: {
        std::vector<int64_t> list;
        for (auto n = r_.count("a list's length"); n > 0; n--) list.push_back(r_.zigzag());
        result.value = list;
        break;
      }
      case Tag::kDoubleList: {
        std::vector<double> list;
        for (auto n = r_.count("a list's length"); n > 0; n--) list.push_back(r_.f64());
        result.value = list;
        break;
      }
      case Tag::kBoolList: {
        c10::List<bool> list;
        for (auto n = r_.count("a list's length"); n > 0; n--) list.push_back(r_.u8() != 0);
        result.value = list;
        break;
      }
      case Tag::kList: {
        auto list_type = type->cast<c10::ListType>();
        if (auto optional = type->cast<c10::OptionalType>()) {
          list_type = optional->getElementType()->cast<c10::ListType>();
        }
        result.kind = list_type ? PreparedArgument::kList : PreparedArgument::kListOfUnknown;
        result.type = list_type ? list_type->getElementType() : c10::TypePtr(c10::AnyType::get());
        for (auto n = r_.count("a list's length"); n > 0; n--) {
          result.elements.push_back(argument(result.type, depth + 1));
        }
        break;
      }
      case Tag::kGenerator: {
        result.kind = PreparedArgument::kGenerator;
        result.value = static_cast<int64_t>(r_.varint());
        result.number = static_cast<uint32_t>(r_.bounded(devices_ - 1, "a device"));
        break;
      }
      default: r_.fail("unknown argument " + std::to_string(tag));
    }
    return result;
  }

  PreparedOutput output(int depth = 0) {
    PreparedOutput result;
    auto code = r_.u8();
    if (code & kTensor) {
      if (!(code & kNew)) r_.fail("an output's storage must be new");
      result.kind = Output::kTensor;
      tensor(code);
      result.tensor = static_cast<uint32_t>(call_.tensors.size() - 1);
      return result;
    }
    result.kind = static_cast<Output>(code);
    switch (result.kind) {
      case Output::kAlias:
      case Output::kUndefined: break;
      case Output::kList:
        if (depth > 2) r_.fail("the outputs are nested too deeply");
        for (auto n = r_.count("a list's length"); n > 0; n--) result.list.push_back(output(depth + 1));
        break;
      default: r_.fail("unknown output " + std::to_string(code));
    }
    return result;
  }

  // The tensors of a written argument.
  void written(const PreparedArgument& argument, size_t& next_input) {
    switch (argument.kind) {
      case PreparedArgument::kTensor:
      case PreparedArgument::kSame: call_.written.push_back(static_cast<int32_t>(next_input++)); break;
      case PreparedArgument::kScalarTensor: call_.written.push_back(-1); break;
      case PreparedArgument::kValue:
        if (argument.value.isTensor()) call_.written.push_back(-1);
        break;
      case PreparedArgument::kTensorList:
      case PreparedArgument::kOptionalTensorList:
        for (const auto& element : argument.elements) {
          // An optional list has no undefined tensors.
          bool none = argument.kind == PreparedArgument::kOptionalTensorList &&
                      element.kind == PreparedArgument::kValue && !element.value.toTensor().defined();
          if (!none) written(element, next_input);
        }
        break;
      default: break;
    }
  }

 private:
  uint32_t operand(Operand kind) {
    auto number = static_cast<uint32_t>(call_.operands.size());
    if (kind == Operand::kStorage) call_.storages.push_back(number);
    call_.operands.push_back(kind);
    return number;
  }

  void input(PreparedArgument& argument, uint8_t bits) {
    tensor(bits);
    argument.kind = PreparedArgument::kTensor;
    argument.number = static_cast<uint32_t>(call_.tensors.size() - 1);
    call_.inputs.push_back(argument.number);
  }

  static bool is_tensor(const PreparedArgument& argument) {
    return argument.kind == PreparedArgument::kTensor || argument.kind == PreparedArgument::kSame ||
           argument.kind == PreparedArgument::kScalarTensor ||
           (argument.kind == PreparedArgument::kValue && argument.value.isTensor());
  }

  Reader& r_;
  PreparedCall& call_;
  const size_t devices_;
};

static bool contains(const std::vector<uint32_t>& list, size_t number) {
  return std::find(list.begin(), list.end(), number) != list.end();
}

std::unique_ptr<PreparedCall> Executor::prepare(Reader& r, bool asked) {
  auto start = r.position();
  auto index = r.varint();
  if (index >= operators_.size()) {
    r.fail("operator " + std::to_string(index) + " is not defined");
  }
  const auto& op = operators_[index];
  auto prepared = std::make_unique<PreparedCall>();
  auto& call = *prepared;
  call.operation = static_cast<uint32_t>(index);
  FormReader reader(r, call, devices_.size());
  static const c10::TypePtr kUnknown = c10::AnyType::get();
  bool known = op.info != nullptr && !op.info->gone.load(std::memory_order_acquire);
  const auto* schema = known ? &op.info->handle.schema().arguments() : nullptr;
  for (size_t i = 0; i < op.arguments; i++) {
    auto first = call.inputs.size();
    call.arguments.push_back(reader.argument(schema ? (*schema)[i].type() : kUnknown));
    auto& argument = call.arguments.back();
    argument.is_written = contains(op.written, i);
    argument.overwrites = known && contains(op.info->overwritten, i);
    if (argument.is_written) reader.written(argument, first);
  }
  if (!asked) {
    for (size_t i = 0; i < op.returns; i++) call.outputs.push_back(reader.output());
    for (auto n = r.count("a count of resized arguments"); n > 0; n--) {
      auto which = r.varint();
      auto meta = TensorMeta::read(r);
      if (which < call.written.size()) call.resized.emplace_back(static_cast<uint32_t>(which), std::move(meta));
    }
  }
  call.bytes = r.since(start);
  return prepared;
}

// A tensor outside of a call, and its operands.
at::Tensor Executor::tensor(Reader& r, uint8_t bits, Call& call) {
  PreparedCall alone;
  FormReader(r, alone, devices_.size()).tensor(bits);
  int64_t operands[2] = {};
  for (size_t i = 0; i < alone.operands.size(); i++) operands[i] = read_operand(r, alone.operands[i], newest_);
  newest_ = std::max(newest_, operands[0]);
  call.prepared = &alone;
  auto t = tensor(alone.tensors[0], operands, call);
  call.prepared = nullptr;
  return t;
}

}  // namespace remora
