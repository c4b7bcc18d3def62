// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The wire format of batches (program -> node) and reports (node -> program). Little-endian; integers are
// LEB128 varints, signed ones zigzag-encoded. This file and history.h contain everything that both sides must agree on.
//
// A batch is a header and records up to its end. A report is a header and events up to its end.
//
// A call is a form and operands. The form is what repeats: the operator, the structure of the arguments, their dtypes,
// sizes, strides and integers, and the metadata of the outputs and of the resized arguments. The operands are what
// differs: storages, offsets, and numbers that are no integers, in the order in which the form names them. A form
// travels whole once and gets the next number; later calls name the number. Both sides also keep the last calls and
// frees (history.h), so that a stretch of them that was sent before travels as a reference (kRepeat), and a call of
// which few operands differ as these (kLike). Forms and history last from batch to batch.
//
// A storage is written as the signed distance of its number from the newest, which is the largest number in the records
// before. In a call, all its storages are written relative to the newest before the call.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>

namespace remora {

// Like memcpy, which must not be given null even for zero bytes: an empty tensor's memory is null.
inline void copy_bytes(void* to, const void* from, size_t size) {
  if (size != 0) std::memcpy(to, from, size);
}

constexpr uint8_t kBatchMagic = 0xB7;
constexpr uint8_t kReportMagic = 0xB8;
constexpr uint8_t kWireVersion = 4;

// Limits that the decoder enforces. The program refuses a call that exceeds one of them, because a batch that does so
// ends the session.
constexpr uint64_t kMaxStringBytes = 64 * 1024;
constexpr uint64_t kMaxOperators = 16 * 1024;
constexpr uint64_t kMaxStorageBytes = uint64_t{1} << 46;
constexpr uint64_t kMaxDevices = 64;
constexpr uint64_t kMaxGenerators = 64 * 1024;  // alive at one time
constexpr uint64_t kMaxEvents = 1024 * 1024;    // alive at one time
constexpr uint64_t kMaxArguments = 1024;
constexpr int kMaxNesting = 16;  // of lists in an argument
// Both sides forget all forms and the history before they would exceed one of these. A longer form gets no number.
constexpr size_t kMaxForms = 8 * 1024;
constexpr size_t kMaxFormsBytes = 4 * 1024 * 1024;
constexpr size_t kMaxFormBytes = 64 * 1024;
constexpr uint64_t kMaxRepeats = 16 * 1024;  // in one record
constexpr uint64_t kMaxRunMillis = uint64_t{366} * 24 * 3600 * 1000;
// A value of up to this size travels inside the report, a larger one next to it.
constexpr uint64_t kInlineValueBytes = 16 * 1024;
// A report has at most this many warnings.
constexpr size_t kMaxWarnings = 16;
constexpr size_t kMaxWarningBytes = 2048;
// A batch with its envelope fits into a frame of a link (remora.link.max-frame-bytes, 16 MiB by default).
constexpr size_t kMaxBatchBytes = 16 * 1024 * 1024 - 4096;
// The limit of one kRead. The program reads a larger tensor in pieces.
constexpr uint64_t kMaxValueBytes = uint64_t{1} << 30;
// The limit of one piece of a tensor that goes from node to node, and the length of its ticket in hexadecimal digits.
constexpr uint64_t kMaxTransferBytes = uint64_t{1} << 30;
constexpr size_t kTicketCharacters = 32;

enum class Record : uint8_t {
  // index, name, overload name, schema hash (8 bytes), count of arguments, count of returns, count of written arguments,
  // their numbers: enough to find the end of its calls where the node has no such operator
  kDefineOperator = 1,
  kCall = 2,               // FormReference, the form if it is whole, operands
  kAsk = 3,                // request, a form without outputs, operands: the node answers with the outputs' metadata
  kBind = 4,               // request, count, storage ids: names the outputs of an asked call; without ids, drops them
  kFree = 5,               // storage id
  kWrite = 6,              // storage (1 = new, 0; number [, device * 2, bytes]), byte offset, byte count, bytes
  kRead = 7,               // request, tensor
  kResize = 8,             // storage, bytes
  kSeed = 9,               // generator, device, seed
  kQuestion = 10,          // request, Question, its arguments: the node answers with bytes
  kWriteRandomState = 11,  // generator, device, byte count, bytes
  kFreeGenerator = 12,     // generator
  kSettings = 13,          // Settings of the records that follow
  kRecordEvent = 14,       // event, device
  kFreeEvent = 15,         // event
  kDropTransfer = 16,      // ticket
  kRun = 17,  // request, device, time limit in milliseconds, name, byte count, bytes, count, tensors: a Python function
  kCallNode = 18,  // the same fields: a call that the executor's own process answers
  kTold = 19,      // failure number: the program has thrown all failures up to it
  kFreeMany = 20,  // count, storage ids: frees that the history does not keep
  // start, count: the records of the history from the start on, again. The start is a count of records back from the
  // history's end, or 0: behind the record that the last kRepeat or kLike ended with.
  kRepeat = 21,
  kLike = 22,    // start, count, changes: a call of the history with changed operands; see Change
  kForget = 23,  // all forms and the history
  kMark = 24,    // step: the program's step is complete. It ends its batch
  // epoch, newest storage, calls so far, reason, count, (distance from the storage before, device, bytes) of each storage
  // that the program has, in order. It is the first record of its batch. The node has restored an earlier state of the
  // session: it forgets all operators, forms, settings and the history, and frees the storages that are not named. The
  // named ones that it does not have are lost, for this reason.
  kRestart = 25,
  kTimed = 26,  // detail: the report says in kTimes when the following was executed; detail 2: and each record
};

// What a kCall begins with.
enum FormReference : uint8_t {
  kWhole = 0,            // the form follows and gets the next number
  kWholeUnnumbered = 1,  // the form follows; neither it nor the call is kept
  kNumbered = 2,         // plus the form's number
};

// A form: operator index, arguments (Tag), outputs (Output), count of resized arguments, (number of the written tensor,
// TensorMeta) of each.

// What one operand of a form is, and so how its value is written.
enum class Operand : uint8_t {
  kStorage = 0,  // signed distance from the newest
  kOffset = 1,   // in elements
  kInteger = 2,  // signed
  kByte = 3,     // bits of these many bytes
  kTwoBytes = 4,
  kFourBytes = 5,
  kEightBytes = 6,
};

// A change in kLike: the count of operands that are left out since the last change, times 4, plus one of these.
enum class Change : uint8_t {
  kRelative = 0,  // the storage at the same distance from the newest
  kSame = 1,      // the same storage
  kValue = 2,     // the value follows
};

enum class Question : uint8_t {
  kRandomState = 1,       // generator, device -> the state's bytes
  kSynchronize = 2,       // device -> nothing, after all work on it is done
  kSynchronizeEvent = 3,  // event -> nothing, after it has happened
  kElapsed = 4,           // event, event -> milliseconds between them, as a double
  kMemory = 5,            // device -> varints: allocated, peak allocated, reserved, peak reserved, total (0: unknown)
  kEmptyCache = 6,        // device -> nothing
  kResetPeakMemory = 7,   // device -> nothing
  kHoldTransfer = 8,      // ticket, temporary? (no later writes), contiguous tensor -> TransferResult, reason
  kFetchTransfer = 9,     // ticket, address of the node that holds it, contiguous tensor -> TransferResult, reason
};

enum class TransferResult : uint8_t {
  kDone = 0,
  kRefused = 1,  // nothing was transferred: no room, unreachable, or no such ticket
  kBroken = 2,   // the transfer ended before it was complete
};

// First byte of an argument. Values from 0x80 on are tensors: 0x80 | TensorBits. A tensor's storage is an operand, and so
// is its offset, if it has one. A tensor outside of a call is written with its operands right behind it.
enum class Tag : uint8_t {
  kNone = 0,
  kUndefined = 1,     // an undefined tensor
  kScalarTensor = 2,  // 0-dim CPU tensor by value, an operand: dtype, wrapped number? [, bytes if it is no operand]
  kInt = 3,
  kDouble = 4,  // an operand
  kTrue = 5,
  kFalse = 6,
  kComplex = 7,
  kString = 8,
  kDevice = 9,  // device number on the machine, plus one; 0 = the CPU
  kTensorList = 10,
  kOptionalTensorList = 11,
  kIntList = 12,
  kDoubleList = 13,
  kBoolList = 14,
  kList = 15,        // of any other type: the operator's schema has the element type
  kGenerator = 16,   // generator, device
  kWrapped = 17,     // followed by a tensor that is flagged as a wrapped number
  kSameTensor = 18,  // a tensor that the call has named before: its number among the call's tensors
  kUnsigned = 19,    // an integer above the largest signed one
};

enum TensorBits : uint8_t {
  kTensor = 0x80,
  kSameMeta = 0x01,  // dtype, sizes, strides and offset of the previous tensor in this record
  kStrided = 0x02,   // strides follow; otherwise contiguous
  kOffset = 0x04,    // the storage offset is an operand
  kConj = 0x08,
  kNeg = 0x10,
  kNew = 0x20,  // the storage is new: device * 2 + (the tensor covers it exactly ? 1 : 0) [, bytes]
};

// What follows an output in kCall.
enum class Output : uint8_t {
  kAlias = 0,  // the returned tensor is one of the arguments: nothing to bind
  kUndefined = 1,
  kList = 2,       // count, then outputs
  kTensor = 0x80,  // | TensorBits: a tensor whose storage is new
};

enum class Event : uint8_t {
  kRealized = 1,       // count, then (storage id, bytes, device)
  kFreed = 2,          // count, then storage ids
  kFailure = 3,        // Failure
  kValue = 4,          // request, byte count, bytes
  kLargeValue = 5,     // request, byte count; the bytes come next to the report
  kAnswer = 6,         // request, byte count, answer
  kRequestFailed = 7,  // request, Failure
  kWarning = 8,        // number of the call, operator name, WarningKind, text
  kOutputs = 9,        // like kAnswer, for an asked call: executed again, the batch gives the same bytes
  kUnrepeatable = 10,  // name: the batch did what it cannot do again on another node
  kTimes = 11,         // byte count, Times
  kPassage = 12,       // byte count, Passage: from a gateway, before all others, if the batch begins with a kTimed
};
// Failure: failure number, number of the call in the session (0 = none), operator name, class of the error, message,
// input count, inputs as text. The class is PyTorch's, such as IndexError; it is empty if the error is not libtorch's.

// Times, in nanoseconds: the node's steady clock when the batch began (at its kTimed), how long it took, the number of
// its first call, and for each of certain records, if asked for: a byte (kCall for calls of all kinds) and how long it
// took, counted from the end of the one before. Records that are not listed belong to the next one. Two executions of a
// batch differ in it.

// Passage, in nanoseconds: the gateway's steady clock when it had received the batch, how long until it sent it to the
// node, from then until it had the report, and from then until it sent that to the program.

enum class WarningKind : uint8_t {
  kUser = 0,
  kDeprecation = 1,
};

// The contents of an answer to kAsk: the metadata of each written tensor argument after the call, then the outputs.
enum class Answer : uint8_t {
  kTensor = 1,  // TensorMeta, bytes of the storage
  kUndefined = 2,
  kList = 3,  // count, then answers
  kInt = 4,
  kDouble = 5,
  kBool = 6,
  kComplex = 7,
  kAlias = 8,  // the output is written argument n
  kNone = 9,
  kString = 10,
};

inline uint64_t fnv1a(const void* data, size_t bytes, uint64_t hash = 0xCBF29CE484222325ULL) {
  auto* p = static_cast<const uint8_t*>(data);
  for (size_t i = 0; i < bytes; i++) {
    hash = (hash ^ p[i]) * 0x100000001B3ULL;
  }
  return hash;
}

// A growing buffer with writes at its end.
class Writer {
 public:
  Writer() = default;
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
  Writer(Writer&& other) noexcept { swap(other); }
  Writer& operator=(Writer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Writer() { std::free(data_); }

  void swap(Writer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(capacity_, other.capacity_);
  }
  const uint8_t* data() const { return data_; }
  uint8_t* mutable_data() { return data_; }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  void clear() { size_ = 0; }
  // Drops everything written after the first `size` bytes.
  void truncate(size_t size) { size_ = size; }

  void reserve(size_t more) {
    if (size_ + more > capacity_) {
      grow(more);
    }
  }
  void u8(uint8_t value) {
    reserve(1);
    data_[size_++] = value;
  }
  template <class E>
  void code(E value) {
    u8(static_cast<uint8_t>(value));
  }
  void varint(uint64_t value) {
    reserve(10);
    if (__builtin_expect(value < 0x80, 1)) {
      data_[size_++] = static_cast<uint8_t>(value);
      return;
    }
    while (value >= 0x80) {
      data_[size_++] = static_cast<uint8_t>(value) | 0x80;
      value >>= 7;
    }
    data_[size_++] = static_cast<uint8_t>(value);
  }
  void zigzag(int64_t value) { varint((static_cast<uint64_t>(value) << 1) ^ static_cast<uint64_t>(value >> 63)); }
  void raw(const void* source, size_t bytes) {
    if (bytes == 0) {
      return;
    }
    reserve(bytes);
    std::memcpy(data_ + size_, source, bytes);
    size_ += bytes;
  }
  void f64(double value) { raw(&value, sizeof value); }
  void u64(uint64_t value) { raw(&value, sizeof value); }
  // Cuts the text at the limit of a string.
  void string(std::string_view text) { this->text(text.substr(0, kMaxStringBytes)); }
  void text(std::string_view text) {
    varint(text.size());
    raw(text.data(), text.size());
  }

 private:
  // Apart from its callers, so that these are small enough to be inlined.
  __attribute__((noinline)) void grow(size_t more) {
    size_t capacity = std::max(size_ + more, capacity_ * 2);
    auto* data = static_cast<uint8_t*>(std::realloc(data_, capacity));
    if (data == nullptr) {
      throw std::bad_alloc();
    }
    data_ = data;
    capacity_ = capacity;
  }

  uint8_t* data_ = nullptr;
  size_t size_ = 0;
  size_t capacity_ = 0;
};

// How the value of a CPU scalar tensor is written as an operand.
inline bool scalar_operand(c10::ScalarType dtype, Operand* operand) {
  switch (c10::elementSize(dtype)) {
    case 1: *operand = Operand::kByte; return true;
    case 2: *operand = Operand::kTwoBytes; return true;
    case 4: *operand = Operand::kFourBytes; return true;
    case 8: *operand = dtype == c10::ScalarType::Long ? Operand::kInteger : Operand::kEightBytes; return true;
    default: return false;
  }
}

inline void write_operand(Writer& w, Operand kind, int64_t value, int64_t newest) {
  switch (kind) {
    case Operand::kStorage: w.zigzag(value - newest); break;
    case Operand::kOffset: w.varint(static_cast<uint64_t>(value)); break;
    case Operand::kInteger: w.zigzag(value); break;
    case Operand::kByte: w.raw(&value, 1); break;
    case Operand::kTwoBytes: w.raw(&value, 2); break;
    case Operand::kFourBytes: w.raw(&value, 4); break;
    case Operand::kEightBytes: w.raw(&value, 8); break;
  }
}

// Thrown if the input does not follow the format in this file.
class WireError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Reads from an untrusted buffer: never past its end, and no values beyond the limits above.
class Reader {
 public:
  Reader(const uint8_t* data, size_t bytes) : start_(data), p_(data), end_(data + bytes) {}

  bool done() const { return p_ == end_; }
  size_t position() const { return static_cast<size_t>(p_ - start_); }
  std::string_view since(size_t start) const {
    return {reinterpret_cast<const char*>(start_ + start), position() - start};
  }
  size_t remaining() const { return static_cast<size_t>(end_ - p_); }

  uint8_t u8() {
    need(1);
    return *p_++;
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      uint8_t byte = u8();
      if (shift == 63 && byte > 1) {
        break;
      }
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) {
        return value;
      }
    }
    fail("an integer of more than 64 bits");
  }
  int64_t zigzag() {
    uint64_t value = varint();
    return static_cast<int64_t>(value >> 1) ^ -static_cast<int64_t>(value & 1);
  }
  // An integer of at most `most`.
  uint64_t bounded(uint64_t most, const char* what) {
    uint64_t value = varint();
    if (value > most) {
      fail(std::string(what) + " is " + std::to_string(value) + ", the limit is " + std::to_string(most));
    }
    return value;
  }
  // A count of items that take at least one byte each.
  uint64_t count(const char* what) { return bounded(remaining(), what); }
  const uint8_t* raw(uint64_t bytes) {
    need(bytes);
    auto* result = p_;
    p_ += bytes;
    return result;
  }
  double f64() {
    double value;
    std::memcpy(&value, raw(sizeof value), sizeof value);
    return value;
  }
  uint64_t u64() {
    uint64_t value;
    std::memcpy(&value, raw(sizeof value), sizeof value);
    return value;
  }
  std::string_view string() {
    auto bytes = bounded(kMaxStringBytes, "a string's length");
    return {reinterpret_cast<const char*>(raw(bytes)), bytes};
  }
  // A string of any length.
  std::string_view text() {
    auto bytes = count("a text's length");
    return {reinterpret_cast<const char*>(raw(bytes)), bytes};
  }
  c10::ScalarType dtype() {
    uint8_t value = u8();
    if (value >= static_cast<uint8_t>(c10::ScalarType::NumOptions) ||
        value == static_cast<uint8_t>(c10::ScalarType::Undefined)) {
      fail("unknown dtype " + std::to_string(value));
    }
    return static_cast<c10::ScalarType>(value);
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw WireError("at byte " + std::to_string(position()) + ": " + what);
  }

 private:
  void need(uint64_t bytes) const {
    if (bytes > remaining()) {
      fail("the input ends " + std::to_string(bytes - remaining()) + " bytes too early");
    }
  }

  const uint8_t* start_;
  const uint8_t* p_;
  const uint8_t* end_;
};

// A storage's number: positive.
inline int64_t read_storage(Reader& r, int64_t newest) {
  int64_t id = 0;
  if (__builtin_add_overflow(newest, r.zigzag(), &id) || id <= 0) {
    r.fail("storage number " + std::to_string(id) + " is not valid");
  }
  return id;
}

inline int64_t read_operand(Reader& r, Operand kind, int64_t newest) {
  int64_t value = 0;
  auto bits = [&](size_t bytes) {
    std::memcpy(&value, r.raw(bytes), bytes);
    return value;
  };
  switch (kind) {
    case Operand::kStorage: return read_storage(r, newest);
    case Operand::kOffset: return static_cast<int64_t>(r.bounded(kMaxStorageBytes, "an offset"));
    case Operand::kInteger: return r.zigzag();
    case Operand::kByte: return bits(1);
    case Operand::kTwoBytes: return bits(2);
    case Operand::kFourBytes: return bits(4);
    case Operand::kEightBytes: return bits(8);
  }
  r.fail("unknown operand");
}

}  // namespace remora
