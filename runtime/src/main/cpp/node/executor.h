// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The node's side: decodes batches and runs them through libtorch's dispatcher on the node's devices.
#pragma once

#include <ATen/ATen.h>
#include <ATen/core/stack.h>
#include <c10/core/Event.h>
#include <c10/util/Exception.h>

#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "common/history.h"
#include "common/operators.h"
#include "common/settings.h"
#include "common/tensor_meta.h"
#include "common/wire.h"
#include "node/node_calls.h"
#include "node/prepared_call.h"
#include "node/storage_table.h"

namespace remora {

struct LargeValue {
  int64_t request;
  at::Tensor bytes;  // contiguous, on the CPU
};

struct ExecutionResult {
  Writer report;
  std::optional<int64_t> mark;  // the batch ends where the program's step of this number is complete
  std::vector<LargeValue> values;
};

class CapturedSession;
class StateReader;
class StateSink;

// Bytes of one of several files.
struct StatePiece {
  uint64_t file;  // its place in the list of files
  uint64_t offset;
  uint64_t bytes;
};

class Executor {
 public:
  Executor(std::vector<c10::Device> devices, std::unordered_set<std::string> denied);
  ~Executor();

  // Throws WireError if the bytes are not a batch.
  std::unique_ptr<ExecutionResult> execute(const uint8_t* data, size_t bytes);
  int64_t storage_count() const { return static_cast<int64_t>(storages_.size()); }
  int64_t storage_bytes() const;

  // The summary of a saved session.
  struct Snapshot {
    uint64_t bytes = 0;     // of the file, or of all pieces
    uint32_t checksum = 0;  // CRC-32C of the file; 0 for pieces
    uint64_t storages = 0;
    uint64_t sequence = 0;  // the last batch executed
  };
  // Writes the whole session to a file; see snapshot.cpp. Changes nothing in the session. On failure it throws and
  // leaves no file.
  Snapshot save(const std::string& path, uint64_t sequence);
  // Copies the whole session, with the values of its storages, to be written while the session continues. The copies
  // take as much memory of the host as the storages take on their devices.
  std::unique_ptr<CapturedSession> capture(uint64_t sequence);
  // Loads a saved session into a new executor. If this throws, the executor must not be used any more.
  Snapshot load(const std::string& path);
  // Likewise, from the parts of a captured session that lie in pieces of files.
  Snapshot load(const std::vector<std::string>& files, const std::vector<StatePiece>& pieces);

 private:
  using Storage = NodeStorage;
  struct WireOperator {
    OperatorInfo* info = nullptr;  // null if this libtorch does not have the operator
    std::string definition;        // as the program sent it
    std::string name;
    std::string refusal;  // if not empty, the reason why calls fail
    size_t arguments = 0;
    size_t returns = 0;
    std::vector<uint32_t> written;  // arguments
  };
  struct Event {
    std::chrono::steady_clock::time_point time;  // on the CPU
    std::optional<c10::Event> device;            // unless it is the CPU's
  };
  struct Call;  // one call being decoded and run

  static Settings first_settings();
  void define_operator(Reader& r);
  // Calls and references to earlier ones; see repeating.cpp.
  void call(Reader& r);
  void ask(Reader& r);
  void repeat(Reader& r);
  void like(Reader& r);
  void forget();
  Snapshot write_to(StateSink& w, uint64_t sequence);
  Snapshot read_from(StateReader& r);
  void load_history(StateReader& r);
  uint64_t start(Reader& r);
  int64_t* keep(PreparedCall* form, const Mode* modes, const std::vector<int64_t>& operands);
  void read_operands(Reader& r, const PreparedCall& form);
  void note_newest(const PreparedCall& form, const int64_t* operands);
  std::unique_ptr<PreparedCall> prepare(Reader& r, bool asked);
  void execute(PreparedCall& form, const int64_t* operands);
  bool run_prepared(Call& call);
  void finish(Call& call);
  void bind(Reader& r);
  void free(int64_t id);
  void free_many(Reader& r);
  void restart(Reader& r);
  void write(Reader& r);
  void read(Reader& r);
  void resize(Reader& r);
  void question(Reader& r);
  void transfer(Reader& r, int64_t request, Question kind);
  void record_event(Reader& r);
  // When the batch is executed, if the program wants to know; see wire.h.
  void begin_times(Reader& r);
  void note_time(Record record);
  void write_times();
  void run(Reader& r, Callee callee);

  Storage& storage_record(Reader& r, int64_t* id);
  at::Tensor tensor(Reader& r, uint8_t bits, Call& call);
  at::Tensor tensor(const PreparedTensor& form, const int64_t* operands, Call& call);
  c10::IValue argument(PreparedArgument& form, Call& call);
  void output(const PreparedOutput& form, Call& call, const c10::IValue& value);
  bool run(Call& call);
  void check_places(const Call& call);
  void check_written(Call& call);
  void adopt(Call& call, const PreparedTensor& predicted, const at::Tensor& actual);
  at::Tensor own(Call& call, const at::Tensor& actual, const TensorMeta* layout);
  void answer_output(Call& call, Writer& w, const c10::IValue& value, int32_t kind, std::vector<at::Tensor>& bound);
  void realize(Storage& storage);
  bool lacks_values(Storage& storage);
  void spoil(Storage& storage, std::shared_ptr<Failure> failure);
  void account(Storage& storage, bool gone = false);
  double elapsed(uint64_t first, uint64_t second);
  std::shared_ptr<Failure> fail(Call& call, const std::string& message, const std::string& error = "");
  std::shared_ptr<Failure> fail(Call& call, const std::exception& error);
  std::shared_ptr<Failure> fail_refused(Call& call);
  std::shared_ptr<Failure> lost_at_restore(std::string message);
  void write_failure(const Failure& failure);
  void write_warning(const Call& call, const c10::Warning& warning);
  void request_failed(int64_t request, Failure& failure);
  void answered(int64_t request, const void* data, size_t bytes, remora::Event kind = remora::Event::kAnswer);
  void cannot_be_repeated(std::string_view what);
  void refuse(int64_t request, Call& call);
  void value(int64_t request, const at::Tensor& value);
  Storage& born(int64_t id, uint64_t bytes, uint32_t device);
  at::Generator& generator(uint64_t id, uint32_t device);
  Event& event(uint64_t id);
  c10::Allocator* allocator(uint32_t device) const;
  int64_t next_id(Reader& r);

  const std::vector<c10::Device> devices_;
  std::vector<c10::DispatchKey> dispatch_keys_;  // of each device's tensors
  const std::unordered_set<std::string> denied_;
  StorageTable storages_;
  std::vector<WireOperator> operators_;
  Settings settings_;                                 // of the session
  SettingsLease lease_;                               // held only while a batch is executed
  std::map<int64_t, std::vector<at::Tensor>> asked_;  // outputs whose storage ids the program has not sent yet
  std::map<uint64_t, at::Generator> generators_;
  struct Memory {
    uint64_t allocated = 0;
    uint64_t peak = 0;
  };
  std::map<uint64_t, Event> events_;
  std::vector<Memory> memory_;  // by device
  uint64_t calls_ = 0;
  uint64_t failures_ = 0;
  uint64_t told_ = 0;  // the program has thrown the failures up to this number
  // Failures after a restart have numbers that no failure before it had, on whichever node.
  static constexpr int kEpochShift = 32;
  bool restarted() const { return failures_ >> kEpochShift != 0; }
  // ---- what the program may refer to; see wire.h
  int64_t newest_ = 0;  // the largest storage number in the records so far
  std::vector<std::unique_ptr<PreparedCall>> forms_;
  size_t forms_bytes_ = 0;
  History<PreparedCall> history_;
  uint64_t cursor_ = 0;  // behind the record that the last reference ended with
  std::vector<int64_t> operands_;
  std::vector<Mode> modes_;
  const Reader* reader_ = nullptr;  // of the batch
  // ---- the batch's times
  uint64_t detail_ = 0;
  int64_t began_ = 0;
  int64_t noted_ = 0;  // the end of the last record that is listed
  uint64_t first_call_ = 0;
  Writer times_;

  std::vector<int64_t> born_;           // storages first named in this batch
  std::vector<int64_t> freed_;          // storages freed in this batch that the program knows as realized
  std::vector<c10::Warning> warnings_;  // of the operator that runs
  std::vector<std::string> warned_;     // operators and texts of this batch's warnings
  ExecutionResult* result_ = nullptr;
  torch::jit::Stack stack_;  // empty between calls; keeps its memory
};

class SessionImage;

// What Executor::capture has copied. It does not depend on the executor.
class CapturedSession {
 public:
  explicit CapturedSession(std::unique_ptr<SessionImage> image);
  ~CapturedSession();
  uint64_t storages() const;

  struct Part {
    const void* data;
    uint64_t bytes;
    bool values;  // of one storage
  };
  // Takes the next part of the session's bytes, on any thread, and frees the part before. Returns false at the end.
  bool next(Part& part);

 private:
  const std::unique_ptr<SessionImage> image_;
};

}  // namespace remora
