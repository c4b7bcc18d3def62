// SPDX-License-Identifier: AGPL-3.0-or-later
//
// A session of the node as a stream of sections (enum Section), with integers as in wire.h, and back. Pausing a machine
// writes the stream to a file at once. A checkpoint first copies the session, so that it can continue while another
// thread takes the stream in parts and keeps them in its own files, in pieces (CheckpointFile.java).
//
// The file of a pause starts with the magic, the format's version and a checksum of both. Then come chunks: length,
// CRC-32C, bytes. A chunk of length 0 ends the file; its checksum is that of the whole file before it. The bytes of all
// chunks form the stream. The reader does not trust the file: it verifies checksums first, and allocates nothing that
// the rest of the file could not fill. Pieces were verified before by their SHA-256.
#include <c10/core/DefaultDtype.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/GradMode.h>
#include <c10/core/ScalarTypeToTypeMeta.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <unordered_map>

#include "common/crc32c.h"
#include "node/executor.h"
#include "node/file_descriptor.h"

namespace remora {

namespace {

constexpr char kStateMagic[8] = {'R', 'M', 'R', 'S', 'T', 'A', 'T', 'E'};
constexpr uint32_t kStateVersion = 3;
constexpr size_t kChunkBytes = size_t{4} << 20;

enum class Section : uint8_t {
  kEnd = 0,
  kSession = 1,     // device count, default dtype, last batch, calls, failures, peak bytes of each device
  kOperators = 2,   // count, then (name, overload name, schema hash)
  kFailures = 3,    // count, then (number, call, operation, message, input count, inputs)
  kStorages = 4,    // count, then (id, bytes, device, StorageBits, failure + 1 if any; the values if it has any)
  kAsked = 5,       // count, then (request, count, then (device, bytes, the values)): outputs not bound yet
  kGenerators = 6,  // count, then (generator, device, byte count, state)
  kEvents = 7,      // count, then (event, nanoseconds since it happened)
  kForms = 8,       // count, then forms as in wire.h
  // newest storage, records from the end to what the next reference expects, count, then (form + 1 or 0 for a free,
  // newest storage before it, count, then (mode, operand))
  kHistory = 9,
};

enum StorageBits : uint8_t {
  kValues = 1,     // it has memory; the bytes follow
  kReported = 2,   // the program knows that it is realized
  kFailed = 4,     // its values are missing; the failure's number follows
  kHadValues = 8,  // it had values before the failure
};

// ---------------------------------------------------------------- the file

std::string system_error(const std::string& what, const std::string& path) {
  return "cannot " + what + " " + path + ": " + std::strerror(errno);
}

// Makes changes to a folder's entries durable.
void sync_folder_of(const std::string& path) {
  auto slash = path.rfind('/');
  auto folder = slash == std::string::npos ? std::string(".") : slash == 0 ? std::string("/") : path.substr(0, slash);
  FileDescriptor directory(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // Some file systems do not support this, and do not need it.
  TORCH_CHECK(directory.valid(), system_error("open", folder));
  TORCH_CHECK(::fsync(directory.number()) == 0 || errno == EINVAL || errno == ENOTSUP || errno == EBADF,
              system_error("make durable", folder));
}

}  // namespace

// Takes the bytes of a session.
class StateSink {
 public:
  virtual ~StateSink() = default;
  virtual void raw(const void* data, size_t bytes) = 0;
  virtual void values(const c10::Storage& storage) = 0;

  void u8(uint8_t value) { raw(&value, 1); }
  template <class E>
  void code(E value) {
    u8(static_cast<uint8_t>(value));
  }
  void varint(uint64_t value) {
    small_.clear();
    small_.varint(value);
    raw(small_.data(), small_.size());
  }
  void string(std::string_view text) {
    auto bytes = std::min<size_t>(text.size(), kMaxStringBytes);
    varint(bytes);
    raw(text.data(), bytes);
  }

 private:
  Writer small_;
};

namespace {

at::Tensor bytes_of(const c10::Storage& storage, uint64_t offset, uint64_t bytes) {
  return at::empty({0}, at::TensorOptions().dtype(at::kByte).device(storage.device()))
      .set_(storage, static_cast<int64_t>(offset), {static_cast<int64_t>(bytes)}, {1});
}

// A file that appears under its name only when it is complete.
class StateWriter final : public StateSink {
 public:
  explicit StateWriter(const std::string& path)
      : path_(path),
        part_(path + ".part"),
        file_(::open(part_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600)) {
    TORCH_CHECK(file_.valid(), system_error("write", part_));
    chunk_.reserve(kChunkBytes);
    Writer header;
    header.raw(kStateMagic, sizeof kStateMagic);
    u32(header, kStateVersion);
    u32(header, Crc32c::of(header.data(), header.size()));
    write(header.data(), header.size());
  }
  ~StateWriter() {
    if (!finished_) ::unlink(part_.c_str());
  }

  void raw(const void* data, size_t bytes) override {
    auto* p = static_cast<const uint8_t*>(data);
    while (bytes > 0) {
      auto n = std::min(bytes, kChunkBytes - chunk_.size());
      chunk_.raw(p, n);
      p += n;
      bytes -= n;
      if (chunk_.size() == kChunkBytes) end_chunk();
    }
  }
  void values(const c10::Storage& storage) override {
    if (storage.device().is_cpu()) {
      raw(storage.data(), storage.nbytes());
      return;
    }
    c10::DeviceGuard guard(storage.device());
    for (uint64_t offset = 0; offset < storage.nbytes(); offset += kChunkBytes) {
      auto n = std::min<uint64_t>(kChunkBytes, storage.nbytes() - offset);
      auto here = bytes_of(storage, offset, n).cpu();
      raw(here.const_data_ptr(), n);
    }
  }

  void finish() {
    if (!chunk_.empty()) end_chunk();
    Writer end;
    u32(end, 0);
    u32(end, all_.value());
    write(end.data(), end.size());
    TORCH_CHECK(::fsync(file_.number()) == 0, system_error("make durable", part_));
    TORCH_CHECK(::rename(part_.c_str(), path_.c_str()) == 0, system_error("rename", part_));
    finished_ = true;
    try {
      sync_folder_of(path_);
    } catch (...) {
      ::unlink(path_.c_str());
      throw;
    }
  }
  uint64_t bytes() const { return bytes_; }
  uint32_t checksum() const { return all_.value(); }

 private:
  static void u32(Writer& w, uint32_t value) { w.raw(&value, sizeof value); }

  void end_chunk() {
    Writer header;
    u32(header, static_cast<uint32_t>(chunk_.size()));
    u32(header, Crc32c::of(chunk_.data(), chunk_.size()));
    write(header.data(), header.size());
    write(chunk_.data(), chunk_.size());
    chunk_.clear();
  }

  void write(const uint8_t* data, size_t bytes) {
    all_.add(data, bytes);
    bytes_ += bytes;
    while (bytes > 0) {
      auto n = ::write(file_.number(), data, bytes);
      if (n < 0 && errno == EINTR) continue;
      TORCH_CHECK(n > 0, system_error("write", part_));
      data += n;
      bytes -= static_cast<size_t>(n);
    }
  }

  const std::string path_;
  const std::string part_;
  FileDescriptor file_;
  Writer chunk_;
  Crc32c all_;
  uint64_t bytes_ = 0;
  bool finished_ = false;
};

}  // namespace

// Copies of the values, and the bytes between them.
class SessionImage final : public StateSink {
 public:
  void raw(const void* data, size_t bytes) override {
    if (parts_.empty() || parts_.back().values.defined()) parts_.emplace_back();
    parts_.back().bytes.raw(data, bytes);
  }
  void values(const c10::Storage& storage) override {
    c10::DeviceGuard guard(storage.device());
    auto there = bytes_of(storage, 0, storage.nbytes());
    parts_.emplace_back();
    parts_.back().values = storage.device().is_cpu() ? there.clone() : there.cpu();
  }
  bool next(CapturedSession::Part& to) {
    if (next_ > 0) parts_[next_ - 1] = Part();
    if (next_ == parts_.size()) return false;
    const auto& part = parts_[next_++];
    to.values = part.values.defined();
    to.data = to.values ? part.values.const_data_ptr() : part.bytes.data();
    to.bytes = to.values ? part.values.nbytes() : part.bytes.size();
    return true;
  }

  uint64_t storages = 0;

 private:
  struct Part {
    Writer bytes;
    at::Tensor values;
  };
  std::vector<Part> parts_;
  size_t next_ = 0;
};

CapturedSession::CapturedSession(std::unique_ptr<SessionImage> image) : image_(std::move(image)) {}
CapturedSession::~CapturedSession() = default;

uint64_t CapturedSession::storages() const { return image_->storages; }
bool CapturedSession::next(Part& part) { return image_->next(part); }

// Gives the bytes of a session.
class StateReader {
 public:
  explicit StateReader(std::string name) : name_(std::move(name)), chunk_(kChunkBytes) {}
  virtual ~StateReader() = default;

  uint8_t u8() {
    uint8_t value;
    raw(&value, 1);
    return value;
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      uint8_t byte = u8();
      if (shift == 63 && byte > 1) break;
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    fail("an integer of more than 64 bits");
  }
  uint64_t bounded(uint64_t most, const char* what) {
    auto value = varint();
    if (value > most)
      fail(std::string(what) + " is " + std::to_string(value) + ", the limit is " + std::to_string(most));
    return value;
  }
  // A count of items that take at least one byte each.
  uint64_t count(const char* what) { return bounded(remaining(), what); }
  uint64_t u64() {
    uint64_t value;
    raw(&value, sizeof value);
    return value;
  }
  std::string string() {
    auto bytes = bounded(std::min(kMaxStringBytes, remaining()), "a text's length");
    std::string text(bytes, '\0');
    raw(text.data(), bytes);
    return text;
  }
  void raw(void* destination, uint64_t bytes) {
    auto* p = static_cast<uint8_t*>(destination);
    while (bytes > 0) {
      if (next_ == end_) next_chunk();
      auto n = std::min<uint64_t>(bytes, end_ - next_);
      std::memcpy(p, chunk_.data() + next_, n);
      next_ += n;
      p += n;
      bytes -= n;
    }
  }
  // Fails if bytes follow the end.
  void finish() {
    if (next_ == end_ && !ended_) read_chunk();
    if (!ended_ || next_ != end_ || bytes_ != size_) fail("bytes follow the end");
  }
  // At most this many bytes can still follow.
  uint64_t remaining() const { return end_ - next_ + (size_ - bytes_); }
  uint64_t bytes() const { return bytes_; }

  [[noreturn]] void fail(const std::string& what) const {
    throw WireError(name_ + " cannot be read: at byte " + std::to_string(bytes_) + ": " + what);
  }

 protected:
  // Reads the next bytes into chunk_, or notes the end.
  virtual void read_chunk() = 0;

  const std::string name_;
  std::vector<uint8_t> chunk_;
  size_t next_ = 0;
  size_t end_ = 0;
  bool ended_ = false;
  uint64_t size_ = 0;
  uint64_t bytes_ = 0;  // read so far

 private:
  void next_chunk() {
    if (!ended_) read_chunk();
    if (ended_) fail("the file ends too early");
  }
};

namespace {

FileDescriptor open_to_read(const std::string& path) {
  FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  TORCH_CHECK(file.valid(), system_error("read", path));
  return file;
}

// Reads a file that StateWriter has written.
class FileReader final : public StateReader {
 public:
  explicit FileReader(const std::string& path)
      : StateReader("the state file " + path), path_(path), file_(open_to_read(path)) {
    struct stat status{};
    TORCH_CHECK(::fstat(file_.number(), &status) == 0, system_error("read", path));
    if (!S_ISREG(status.st_mode)) fail("not a regular file");
    size_ = static_cast<uint64_t>(status.st_size);
    uint8_t header[16];
    read(header, sizeof header);
    if (std::memcmp(header, kStateMagic, sizeof kStateMagic) != 0) fail("not a state file");
    if (Crc32c::of(header, 12) != u32(header + 12)) fail("the header's checksum is wrong");
    auto version = u32(header + 8);
    if (version != kStateVersion) {
      fail("the file has format version " + std::to_string(version) + ", this node reads " +
           std::to_string(kStateVersion));
    }
  }
  uint32_t checksum() const { return all_.value(); }

 private:
  static uint32_t u32(const uint8_t* p) {
    uint32_t value;
    std::memcpy(&value, p, sizeof value);
    return value;
  }

  void read_chunk() override {
    auto before = all_.value();
    uint8_t header[8];
    read(header, sizeof header);
    auto length = u32(header);
    auto checksum = u32(header + 4);
    if (length > kChunkBytes)
      fail("a chunk has " + std::to_string(length) + " bytes, the limit is " + std::to_string(kChunkBytes));
    next_ = 0;
    end_ = length;
    if (length == 0) {
      if (checksum != before) fail("the checksum of the whole file is wrong");
      ended_ = true;
      return;
    }
    read(chunk_.data(), length);
    if (Crc32c::of(chunk_.data(), length) != checksum) fail("the checksum of a chunk is wrong");
  }

  void read(uint8_t* destination, size_t bytes) {
    if (bytes > size_ - bytes_) fail("the file ends " + std::to_string(bytes - (size_ - bytes_)) + " bytes too early");
    auto* p = destination;
    for (auto left = bytes; left > 0;) {
      auto n = ::read(file_.number(), p, left);
      if (n < 0 && errno == EINTR) continue;
      TORCH_CHECK(n >= 0, system_error("read", path_));
      if (n == 0) fail("the file became shorter while it was read");
      p += n;
      left -= static_cast<size_t>(n);
    }
    bytes_ += bytes;
    all_.add(destination, bytes);
  }

  const std::string path_;
  FileDescriptor file_;
  Crc32c all_;
};

// Reads a stream that lies in pieces of files.
class PieceReader final : public StateReader {
 public:
  PieceReader(const std::vector<std::string>& paths, const std::vector<StatePiece>& pieces)
      : StateReader("the checkpoint"), paths_(paths), pieces_(pieces) {
    for (const auto& path : paths) files_.push_back(open_to_read(path));
    for (const auto& piece : pieces) {
      if (piece.file >= paths.size()) fail("there is no file " + std::to_string(piece.file));
      size_ += piece.bytes;
    }
  }

 private:
  void read_chunk() override {
    while (piece_ < pieces_.size() && done_ == pieces_[piece_].bytes) {
      piece_++;
      done_ = 0;
    }
    next_ = 0;
    end_ = 0;
    if (piece_ == pieces_.size()) {
      ended_ = true;
      return;
    }
    const auto& piece = pieces_[piece_];
    const auto& path = paths_[piece.file];
    auto bytes = std::min<uint64_t>(kChunkBytes, piece.bytes - done_);
    while (end_ < bytes) {
      auto n = ::pread(files_[piece.file].number(), chunk_.data() + end_, bytes - end_,
                       static_cast<off_t>(piece.offset + done_ + end_));
      if (n < 0 && errno == EINTR) continue;
      TORCH_CHECK(n >= 0, system_error("read", path));
      if (n == 0) fail(path + " is shorter than it was");
      end_ += static_cast<size_t>(n);
    }
    done_ += bytes;
    bytes_ += bytes;
  }

  const std::vector<std::string>& paths_;
  const std::vector<StatePiece>& pieces_;
  std::vector<FileDescriptor> files_;
  size_t piece_ = 0;
  uint64_t done_ = 0;  // of the piece
};

// ---------------------------------------------------------------- values

void read_values(StateReader& r, const c10::Storage& storage) {
  if (storage.device().is_cpu()) {
    r.raw(storage.mutable_data(), storage.nbytes());
    return;
  }
  c10::DeviceGuard guard(storage.device());
  auto here = at::empty({static_cast<int64_t>(std::min<uint64_t>(kChunkBytes, storage.nbytes()))},
                        at::TensorOptions().dtype(at::kByte));
  for (uint64_t offset = 0; offset < storage.nbytes(); offset += kChunkBytes) {
    auto n = std::min<uint64_t>(kChunkBytes, storage.nbytes() - offset);
    r.raw(here.mutable_data_ptr(), n);
    bytes_of(storage, offset, n).copy_(here.narrow(0, 0, static_cast<int64_t>(n)));
  }
}

}  // namespace

// ---------------------------------------------------------------- saving

Executor::Snapshot Executor::save(const std::string& path, uint64_t sequence) {
  StateWriter w(path);
  auto summary = write_to(w, sequence);
  w.finish();
  summary.bytes = w.bytes();
  summary.checksum = w.checksum();
  return summary;
}

std::unique_ptr<CapturedSession> Executor::capture(uint64_t sequence) {
  auto image = std::make_unique<SessionImage>();
  image->storages = write_to(*image, sequence).storages;
  return std::make_unique<CapturedSession>(std::move(image));
}

Executor::Snapshot Executor::write_to(StateSink& w, uint64_t sequence) {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  at::NoGradGuard no_grad;
  auto device_number = [&](c10::Device device) -> uint64_t {
    auto it = std::find_if(devices_.begin(), devices_.end(), [&](c10::Device each) {
      return each.type() == device.type() && (device.is_cpu() || each.index() == device.index());
    });
    TORCH_CHECK(it != devices_.end(), "the session has no device ", device);
    return static_cast<uint64_t>(it - devices_.begin());
  };

  w.code(Section::kSession);
  w.varint(devices_.size());
  w.u8(static_cast<uint8_t>(settings_.default_dtype));
  w.varint(settings_.flags);
  w.varint(sequence);
  w.varint(calls_);
  w.varint(failures_);
  for (const auto& memory : memory_) w.varint(memory.peak);

  w.code(Section::kOperators);
  w.varint(operators_.size());
  for (const auto& op : operators_) {
    w.string(op.definition);
  }

  std::vector<int64_t> ids;
  ids.reserve(storages_.size());
  std::vector<const Failure*> failures;
  std::unordered_map<const Failure*, uint64_t> numbers;
  storages_.each([&](int64_t id, const Storage& storage) {
    ids.push_back(id);
    if (storage.failure && numbers.emplace(storage.failure.get(), failures.size()).second) {
      failures.push_back(storage.failure.get());
    }
  });
  std::sort(ids.begin(), ids.end());
  w.code(Section::kFailures);
  w.varint(failures.size());
  for (const auto* failure : failures) {
    w.varint(failure->number);
    w.varint(failure->call);
    w.string(failure->operation);
    w.string(failure->error);
    w.string(failure->message);
    w.varint(failure->inputs.size());
    for (const auto& input : failure->inputs) w.string(input);
    w.u8(failure->told || failure->number <= told_ ? 1 : 0);
  }

  w.code(Section::kStorages);
  w.varint(ids.size());
  for (auto id : ids) {
    const auto& storage = *storages_.find(id);
    // Nobody can read what a failed operation left in memory that had no values before.
    bool values = storage.memory && (!storage.failure || storage.has_values);
    w.varint(static_cast<uint64_t>(id));
    w.varint(storage.memory ? storage.memory.nbytes() : storage.bytes);
    w.varint(storage.device);
    w.u8((values ? kValues : 0) | (storage.reported ? kReported : 0) | (storage.failure ? kFailed : 0) |
         (storage.has_values ? kHadValues : 0));
    if (storage.failure) w.varint(numbers[storage.failure.get()]);
    if (values) w.values(storage.memory);
  }

  w.code(Section::kAsked);
  w.varint(asked_.size());
  for (const auto& [request, outputs] : asked_) {
    w.varint(static_cast<uint64_t>(request));
    w.varint(outputs.size());
    for (const auto& output : outputs) {
      w.varint(device_number(output.device()));
      w.varint(output.storage().nbytes());
      w.values(output.storage());
    }
  }

  w.code(Section::kGenerators);
  w.varint(generators_.size());
  for (const auto& [id, generator] : generators_) {
    auto state = generator.get_state().contiguous();
    w.varint(id);
    w.varint(device_number(generator.device()));
    w.varint(state.nbytes());
    w.raw(state.const_data_ptr(), state.nbytes());
  }

  w.code(Section::kEvents);
  w.varint(events_.size());
  auto now = std::chrono::steady_clock::now();
  for (const auto& [id, event] : events_) {
    auto since = std::chrono::duration_cast<std::chrono::nanoseconds>(now - event.time).count();
    w.varint(id);
    w.varint(static_cast<uint64_t>(std::max<int64_t>(since, 0)));
  }

  w.code(Section::kForms);
  w.varint(forms_.size());
  std::unordered_map<const PreparedCall*, uint64_t> form_numbers;
  for (const auto& form : forms_) {
    w.string(form->bytes);
    form_numbers.emplace(form.get(), form_numbers.size() + 1);
  }

  w.code(Section::kHistory);
  w.varint(static_cast<uint64_t>(newest_));
  w.varint(history_.end() - std::max(cursor_, history_.begin()));
  w.varint(history_.end() - history_.begin());
  for (auto position = history_.begin(); position != history_.end(); position++) {
    const auto& record = history_.at(position);
    w.varint(record.form == nullptr ? 0 : form_numbers[record.form]);
    w.varint(static_cast<uint64_t>(record.newest));
    w.varint(record.operands);
    for (uint32_t i = 0; i < record.operands; i++) {
      w.code(history_.modes(record)[i]);
      w.varint(static_cast<uint64_t>(history_.operands(record)[i]));
    }
  }

  w.code(Section::kEnd);
  return {0, 0, ids.size(), sequence};
}

// ---------------------------------------------------------------- loading

void Executor::load_history(StateReader& r) {
  auto newest = static_cast<int64_t>(r.bounded(INT64_MAX, "a storage"));
  auto back = r.varint();
  for (auto n = r.bounded(History<PreparedCall>::kMostRecords, "a count of records"); n > 0; n--) {
    auto number = r.bounded(forms_.size(), "a form's number");
    auto* form = number == 0 ? nullptr : forms_[number - 1].get();
    newest_ = static_cast<int64_t>(r.bounded(static_cast<uint64_t>(newest), "a storage"));
    operands_.resize(r.count("a count of operands"));
    modes_.resize(operands_.size());
    if (operands_.size() != (form == nullptr ? 1 : form->operands.size()) ||
        operands_.size() > History<PreparedCall>::kMostOperandsOfOne) {
      r.fail("a record has " + std::to_string(operands_.size()) + " operands");
    }
    for (size_t i = 0; i < operands_.size(); i++) {
      auto kind = form == nullptr ? Operand::kStorage : form->operands[i];
      auto mode = r.bounded(1, "a mode");
      modes_[i] = static_cast<Mode>(mode);
      auto value = r.varint();
      auto most = kind == Operand::kStorage  ? static_cast<uint64_t>(INT64_MAX)
                  : kind == Operand::kOffset ? kMaxStorageBytes
                                             : UINT64_MAX;
      if (value > most || (kind == Operand::kStorage ? value == 0 : modes_[i] != Mode::kSame)) {
        r.fail("an operand is not valid");
      }
      operands_[i] = static_cast<int64_t>(value);
    }
    keep(form, modes_.data(), operands_);
  }
  if (newest < newest_) r.fail("a storage is newer than the newest one");
  newest_ = newest;
  cursor_ = history_.end() - std::min(back, history_.end() - history_.begin());
}

Executor::Snapshot Executor::load(const std::string& path) {
  FileReader r(path);
  auto snapshot = read_from(r);
  snapshot.checksum = r.checksum();
  return snapshot;
}

Executor::Snapshot Executor::load(const std::vector<std::string>& files, const std::vector<StatePiece>& pieces) {
  PieceReader r(files, pieces);
  return read_from(r);
}

Executor::Snapshot Executor::read_from(StateReader& r) {
  TORCH_CHECK(operators_.empty() && storages_.size() == 0 && calls_ == 0,
              "a saved state can be loaded only into a new executor");
  Snapshot snapshot;
  std::vector<std::shared_ptr<Failure>> failures;
  auto device = [&] { return static_cast<uint32_t>(r.bounded(devices_.size() - 1, "a device")); };
  auto memory_of = [&](uint32_t device, uint64_t bytes) {
    if (bytes > r.remaining())
      r.fail("a storage has " + std::to_string(bytes) + " bytes, more than are left in the file");
    c10::DeviceGuard guard(devices_[device]);
    return c10::Storage(c10::Storage::use_byte_size_t(), static_cast<int64_t>(bytes), allocator(device), true);
  };

  std::vector<uint64_t> peaks;
  Section previous = Section::kEnd;
  for (bool more = true; more;) {
    auto section = static_cast<Section>(r.u8());
    if (section != Section::kEnd && section <= previous) r.fail("the sections are out of order");
    if (section != Section::kSession && previous == Section::kEnd) r.fail("the first section is missing");
    previous = section;
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    at::NoGradGuard no_grad;
    switch (section) {
      case Section::kSession: {
        auto devices = r.varint();
        if (devices != devices_.size()) {
          r.fail("the state is from a node with " + std::to_string(devices) + " devices, this node has " +
                 std::to_string(devices_.size()));
        }
        auto dtype = static_cast<c10::ScalarType>(r.u8());
        try {
          settings_ = Settings::checked(dtype, r.varint());
        } catch (const std::invalid_argument& e) {
          r.fail(e.what());
        }
        snapshot.sequence = r.varint();
        calls_ = r.varint();
        failures_ = r.varint();
        for (uint64_t i = 0; i < devices; i++) peaks.push_back(r.varint());
        break;
      }
      case Section::kOperators: {
        // Builds a batch that defines the operators, so that the same checks apply.
        Writer batch;
        batch.u8(kBatchMagic);
        batch.u8(kWireVersion);
        auto n = r.bounded(kMaxOperators, "a count of operators");
        for (uint64_t i = 0; i < n; i++) {
          batch.code(Record::kDefineOperator);
          batch.varint(i);
          auto definition = r.string();
          batch.raw(definition.data(), definition.size());
        }
        execute(batch.data(), batch.size());
        break;
      }
      case Section::kFailures:
        for (auto n = r.count("a count of failures"); n > 0; n--) {
          auto failure = std::make_shared<Failure>();
          failure->number = r.varint();
          failure->call = r.varint();
          failure->operation = r.string();
          failure->error = r.string();
          failure->message = r.string();
          for (auto inputs = r.count("a count of inputs"); inputs > 0; inputs--) failure->inputs.push_back(r.string());
          failure->told = r.u8() != 0;
          failures.push_back(std::move(failure));
        }
        break;
      case Section::kStorages: {
        int64_t last = 0;
        for (auto n = snapshot.storages = r.count("a count of storages"); n > 0; n--) {
          auto id = static_cast<int64_t>(r.bounded(INT64_MAX, "a storage"));
          if (id <= last) r.fail("the storages are out of order");
          last = id;
          auto& storage = storages_.at(id, nullptr);
          storage.bytes = r.bounded(kMaxStorageBytes, "a storage's size");
          storage.device = device();
          auto bits = r.u8();
          storage.reported = bits & kReported;
          storage.has_values = bits & kHadValues;
          if (bits & kFailed) {
            auto which = r.varint();
            if (which >= failures.size()) r.fail("there is no failure " + std::to_string(which));
            storage.failure = failures[which];
          }
          if (bits & kValues) {
            storage.memory = memory_of(storage.device, storage.bytes);
            read_values(r, storage.memory);
            account(storage);
          }
        }
        break;
      }
      case Section::kAsked:
        for (auto n = r.count("a count of requests"); n > 0; n--) {
          auto& outputs = asked_[static_cast<int64_t>(r.varint())];
          for (auto m = r.count("a count of outputs"); m > 0; m--) {
            auto where = device();
            auto memory = memory_of(where, r.bounded(kMaxStorageBytes, "a storage's size"));
            read_values(r, memory);
            outputs.push_back(bytes_of(memory, 0, memory.nbytes()));
          }
        }
        break;
      case Section::kGenerators:
        for (auto n = r.count("a count of generators"); n > 0; n--) {
          auto id = r.varint();
          auto where = device();
          auto bytes = r.count("a generator state's size");
          auto state = at::empty({static_cast<int64_t>(bytes)}, at::TensorOptions().dtype(at::kByte));
          r.raw(state.mutable_data_ptr(), bytes);
          generator(id, where).set_state(state);
        }
        break;
      case Section::kEvents: {
        auto now = std::chrono::steady_clock::now();
        for (auto n = r.count("a count of events"); n > 0; n--) {
          event(r.varint()).time = now - std::chrono::nanoseconds(r.bounded(INT64_MAX / 2, "an event's age"));
        }
        break;
      }
      case Section::kForms:
        for (auto n = r.bounded(kMaxForms, "a count of forms"); n > 0; n--) {
          auto bytes = r.string();
          Reader form(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
          forms_.push_back(prepare(form, false));
          forms_bytes_ += bytes.size();
          if (!form.done()) r.fail("bytes follow a form");
        }
        break;
      case Section::kHistory: load_history(r); break;
      case Section::kEnd: more = false; break;
      default: r.fail("unknown section " + std::to_string(static_cast<int>(section)));
    }
  }
  r.finish();
  for (size_t i = 0; i < peaks.size() && i < memory_.size(); i++) {
    memory_[i].peak = std::max(memory_[i].peak, peaks[i]);
  }
  snapshot.bytes = r.bytes();
  return snapshot;
}

}  // namespace remora
