// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/session/session.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "client/machine/callbacks.h"
#include "client/machine/slots.h"
#include "client/node_calls.h"
#include "common/error.h"
#include "common/python_lock.h"

namespace remora {

namespace {

constexpr auto kInterruptCheck = std::chrono::milliseconds(100);
constexpr size_t kMostFailures = 100;                       // kept for the next synchronization
constexpr size_t kMostPending = 100;                        // warnings kept for the next thread that waits
constexpr auto kLongestSilence = std::chrono::seconds(10);  // then the gateway gets a sign of life
constexpr auto kAcknowledgeAfter = std::chrono::milliseconds(50);
constexpr int64_t kAcknowledgeBytes = 4 * 1024 * 1024;
// The node keeps results until they are confirmed.
constexpr uint64_t kConfirmReports = 64;
constexpr int64_t kConfirmBytes = 1024 * 1024;
// How long the gateway, or the node, may take to answer before batches go through the gateway.
constexpr auto kDirectAnswer = std::chrono::seconds(5);
constexpr auto kFirstAskPause = std::chrono::milliseconds(1000);
constexpr auto kLongestAskPause = std::chrono::milliseconds(64'000);

// The warning handler of threads outside the functions of libtorch's Python binding.
c10::WarningHandler* plain_warnings = nullptr;

c10::Warning::warning_variant_t category(WarningKind kind) {
  if (kind == WarningKind::kDeprecation) {
    return c10::DeprecationWarning();
  }
  return c10::UserWarning();
}

remora_interrupt_callback interrupted = nullptr;
remora_call_site_callback call_site = nullptr;

std::string seconds(int64_t millis) {
  return millis % 1000 == 0 ? std::to_string(millis / 1000) + " s" : std::to_string(millis) + " ms";
}

// Field numbers of gateway.proto.
enum ClientField : uint32_t { kReceived = 1, kBatches = 3, kGoodbye = 4, kPing = 5, kOpenDirect = 6, kCloseDirect = 7 };
enum BatchField : uint32_t { kSequence = 1, kData = 2, kBorn = 3, kFreed = 4, kOperations = 5 };
enum ServerField : uint32_t {
  kIndex = 1,
  kWelcome = 2,
  kExecuted = 3,
  kValue = 4,
  kLost = 5,
  kHeld = 7,
  kNotice = 8,
  kDirect = 9,
  kDirectClosed = 10,
  kRestored = 11,
  kHindered = 12
};
// Field numbers of DirectNotes in link.proto.
enum NotesField : uint32_t { kNotedBorn = 1, kNotedFreed = 2, kNotedOperations = 3 };

void write_packed(Writer& out, uint32_t field, const std::vector<int64_t>& numbers) {
  if (!numbers.empty()) {
    Writer packed;
    for (auto number : numbers) packed.varint(static_cast<uint64_t>(number));
    begin_bytes(out, field, packed.size());
    out.raw(packed.data(), packed.size());
  }
}

// Field 1 of a message.
std::string text_of(ProtoBytes message) {
  std::string text;
  for (ProtoReader in(message); in.next();) {
    if (in.is_bytes(1)) text = in.bytes.text();
  }
  return text;
}

size_t varint_size(uint64_t value) {
  size_t size = 1;
  while (value >>= 7) size++;
  return size;
}

// Begins a frame that acknowledges what was received and has one more field of `size` bytes, which the caller writes.
void begin_frame(Writer& out, uint64_t received, ClientField field, size_t size) {
  size_t first = received == 0 ? 0 : 1 + varint_size(received);
  write_grpc_prefix(out, first + 1 + varint_size(size) + size);
  write_number(out, kReceived, received);
  begin_bytes(out, field, size);
}

void write_batch(Writer& out, uint64_t received, const Batch& batch) {
  Writer head;
  write_number(head, kSequence, batch.sequence);
  write_packed(head, kBorn, batch.born);
  write_packed(head, kFreed, batch.freed);
  write_number(head, kOperations, static_cast<uint64_t>(batch.operations));
  begin_bytes(head, kData, batch.bytes.size());  // last, so that the bytes need not be copied
  auto size = head.size() + batch.bytes.size();
  begin_frame(out, received, kBatches, 1 + varint_size(size) + size);
  begin_bytes(out, 1, size);
  out.raw(head.data(), head.size());
}

}  // namespace

std::string Message::frame() const {
  std::string bytes(reinterpret_cast<const char*>(head.data()) + kPrefixBytes, head.size() - kPrefixBytes);
  if (batch) {
    bytes.append(reinterpret_cast<const char*>(batch->bytes.data()), batch->bytes.size());
  }
  return bytes;
}

// ---------------------------------------------------------------- recording and waiting

void Session::configure(int64_t max_in_flight_bytes, int64_t max_unreceived_bytes, int64_t read_timeout_millis,
                        int64_t ping_millis) {
  std::lock_guard<std::mutex> guard(mutex_);
  max_in_flight_ = max_in_flight_bytes;
  max_unacknowledged_bytes_ = std::min(kAcknowledgeBytes, max_unreceived_bytes / 4);
  read_timeout_millis_ = read_timeout_millis;
  ping_millis_ = ping_millis;
}

void Session::set_held(std::string reason) {
  std::lock_guard<std::mutex> guard(mutex_);
  held_ = std::move(reason);
  wake_waiters();
}

void Session::submit(std::unique_ptr<Batch> batch) {
  auto lock = locked(mutex_);
  auto request = batch->request;
  bool is_waited_for = request != 0;
  if (is_waited_for) {
    auto& state = requests_[request];
    state.batch = batch.get();
    state.sequence = batch->sequence;
    if (state.sequence < void_before_) finish(&state, void_reason_);
  }
  in_flight_ += static_cast<int64_t>(batch->weight);
  batches_.push_back(std::move(batch));
  auto stream = stream_;
  if (stream != nullptr) {
    auto line = this->line();
    lock.unlock();
    line->write();
    if (!is_waited_for) {
      stream->expect_nobody_reads();
    }
    lock = locked(mutex_);
  } else {
    to_send_.notify_one();
  }
  auto is_room = [&] { return in_flight_ <= max_in_flight_; };
  if (!is_room()) {
    Waiting waiting(machine_.waits, Waits::kRoom, "room to send more");
    lock.unlock();
    PythonUnlocked unlocked;
    lock.lock();
    try {
      wait(lock, "its node to take more work", is_room);
    } catch (...) {
      requests_.erase(request);  // nothing will wait for it; 0 means no request
      lock.unlock();
      throw;
    }
    lock.unlock();
  }
}

void Session::await(int64_t request) {
  PythonUnlocked unlocked;
  std::unique_lock<std::mutex> lock(mutex_);
  auto& state = requests_[request];
  try {
    wait(lock, "a value", [&] { return state.done; });
  } catch (...) {
    requests_.erase(request);
    throw;
  }
  auto error = std::move(state.error);
  requests_.erase(request);
  if (!warnings_.empty() && c10::WarningUtils::get_warning_handler() != plain_warnings) {
    auto warnings = std::exchange(warnings_, {});
    lock.unlock();
    // libtorch passes the warnings to Python when its waiting function returns: that adds the program's line to them.
    for (auto& [kind, text] : warnings) c10::warn({category(kind), {"", "the node", 0}, std::move(text), false});
  }
  if (!error.empty()) {
    throw_error(std::move(error));
  }
}

void Session::read_meanwhile() {
  std::shared_ptr<Stream> stream;
  {
    std::lock_guard<std::mutex> guard(mutex_);
    stream = stream_;
  }
  if (stream != nullptr) {
    stream->expect_nobody_reads();
  }
}

void Session::forget(int64_t first, int64_t count) {
  std::lock_guard<std::mutex> guard(mutex_);
  for (auto request = first; request < first + count; request++) requests_.erase(request);
}

std::string Session::next_warning() {
  std::lock_guard<std::mutex> guard(mutex_);
  if (warnings_.empty()) {
    return "";
  }
  auto [kind, text] = std::move(warnings_.front());
  warnings_.pop_front();
  return (kind == WarningKind::kDeprecation ? "DeprecationWarning: " : "UserWarning: ") + text;
}

// Waits for `ready`. Throws if the machine is gone, the user interrupts, or nothing is finished for too long. One of
// the waiting threads reads from the stream and wakes the others.
template <class F>
void Session::wait(std::unique_lock<std::mutex>& lock, const char* what, F&& ready) {
  using namespace std::chrono;
  struct Waiting {
    Session& session;
    explicit Waiting(Session& session) : session(session) { session.waiting_++; }
    ~Waiting() {
      if (--session.waiting_ > 0) session.wake_.notify_all();  // another waiting thread takes over reading
    }
  } waiting(*this);
  auto seen = machine_.progress.executed();
  auto since = steady_clock::now();
  auto check = since + kInterruptCheck;
  while (!ready()) {
    machine_.check_usable();
    if (!held_.empty()) {
      raise("MachineStateException", held_);
    }
    auto line = this->line();
    if (line != nullptr && waiter_reads_ == nullptr) {
      waiter_reads_ = line.get();
      lock.unlock();
      auto left = duration_cast<milliseconds>(check - steady_clock::now()) + milliseconds(1);
      bool input = line->await_input(std::max(left, milliseconds(0)));
      lock.lock();
      waiter_reads_ = nullptr;
      if (input) {
        lock.unlock();
        line->read();
        lock.lock();
      }
    } else {
      wake_.wait_until(lock, check);
    }
    auto now = steady_clock::now();
    if (now < check) {
      continue;
    }
    check = now + kInterruptCheck;
    if (interrupted != nullptr) {
      lock.unlock();
      bool stop = interrupted() != 0;
      lock.lock();
      if (stop && !ready()) {
        raise("KeyboardInterrupt",
              "the wait for machine '" + machine_.name + "' was interrupted; the machine continues its work");
      }
    }
    auto executed = machine_.progress.executed();
    if (executed != seen) {
      seen = executed;
      since = now;
    } else if (now - since > milliseconds(read_timeout_millis_ + longest_run(machine_.handle))) {
      raise("ReadTimeoutException",
            "machine '" + machine_.name + "' has finished nothing for " + seconds(read_timeout_millis_) +
                " while this program waited for " + what + " (batch " + std::to_string(seen) + " of " +
                std::to_string(machine_.progress.submitted()) +
                "); raise the read timeout (REMORA_READ_TIMEOUT) if one operation takes that long");
    }
  }
}

// With the lock.
void Session::wake_waiters() {
  wake_.notify_all();
  if (waiter_reads_ != nullptr) {
    if (stream_ != nullptr) stream_->nudge_reader();
    if (direct_ != nullptr) direct_->nudge_reader();
  }
}

// With the lock. The line that carries batches at present; may be null.
std::shared_ptr<Line> Session::line() {
  if (direct_ != nullptr && !direct_->ended()) {
    return direct_;
  }
  return stream_;
}

void Session::lost() {
  std::lock_guard<std::mutex> guard(mutex_);
  to_send_.notify_all();
  wake_waiters();
  if (stream_ != nullptr) {
    stream_->nudge_carrier();
  }
}

bool Session::has_failures() {
  std::lock_guard<std::mutex> guard(mutex_);
  return !to_log_.empty() || !restored_.empty();
}

bool Session::next_restored(int64_t* step, std::string* message) {
  Restored next;
  {
    std::lock_guard<std::mutex> guard(mutex_);
    if (restored_.empty()) {
      return false;
    }
    next = std::move(restored_.front());
    restored_.pop_front();
  }
  auto first = machine_.restored(next.epoch, next.text);
  *step = next.step;
  *message = next.text;
  std::lock_guard<std::mutex> guard(mutex_);
  void_before_ = first;
  void_reason_ = next.text;
  for (auto& [number, request] : requests_) {
    if (!request.done && request.sequence < first) finish(&request, next.text);
  }
  wake_waiters();
  return true;
}

std::string Session::next_failure() {
  std::lock_guard<std::mutex> guard(mutex_);
  if (to_log_.empty()) {
    return "";
  }
  auto text = std::move(to_log_.front());
  to_log_.pop_front();
  return text;
}

std::string Session::unread_failure() {
  decltype(unread_) failures;
  {
    std::lock_guard<std::mutex> guard(mutex_);
    failures.swap(unread_);
  }
  if (failures.empty()) {
    return "";
  }
  machine_.told(failures.rbegin()->first);
  auto text = std::move(failures.begin()->second);
  auto others = failures.size() - 1;
  return others == 0 ? text : text + "\n  and " + std::to_string(others) + " more, see the log";
}

// ---------------------------------------------------------------- sending

Batch* Session::take(int64_t timeout_micros) {
  std::unique_lock<std::mutex> lock(mutex_);
  to_send_.wait_for(lock, std::chrono::microseconds(timeout_micros),
                    [&] { return taken_ < batches_.size() || !machine_.open_for_work(); });
  if (taken_ < batches_.size()) {
    return batches_[taken_++].get();
  }
  machine_.check_carries();
  return nullptr;
}

void Session::set_stream(std::shared_ptr<Stream> stream) {
  std::lock_guard<std::mutex> guard(mutex_);
  wake_waiters();  // including the thread that reads from the old stream
  stream_ = std::move(stream);
  sending_ = false;
  told_closing_ = false;
  leave_direct("");
}

std::shared_ptr<Stream> Session::stream() {
  std::lock_guard<std::mutex> guard(mutex_);
  return stream_;
}

void Session::resume(uint64_t last_batch) {
  std::shared_ptr<Stream> stream;
  machine_.waits.hinder(hindrance_);
  {
    std::lock_guard<std::mutex> guard(mutex_);
    take_after(last_batch);
    sending_ = true;
    acknowledged_ = received_;  // the Hello has acknowledged it
    unacknowledged_bytes_ = 0;
    said_ = Clock::now();
    to_send_.notify_one();
    stream = stream_;
  }
  if (stream != nullptr) {
    stream->write();
  }
}

// With the lock.
void Session::take_after(uint64_t last_batch) {
  taken_ = 0;
  while (taken_ < batches_.size() && batches_[taken_]->sequence <= last_batch) taken_++;
}

bool Session::next_message(const Stream* by, Message& message) {
  std::lock_guard<std::mutex> guard(mutex_);
  return stream_.get() == by && next_message(message);
}

bool Session::await_message(int64_t timeout_micros, Message& message) {
  std::unique_lock<std::mutex> lock(mutex_);
  to_send_.wait_for(lock, std::chrono::microseconds(timeout_micros), [&] {
    return taken_ < batches_.size() || !machine_.open_for_work() || unacknowledged_bytes_ > max_unacknowledged_bytes_;
  });
  if (next_message(message)) {
    return true;
  }
  machine_.check_carries();
  return false;
}

// With the lock.
bool Session::next_message(Message& message) {
  if (!sending_ || said_goodbye_) {
    return false;
  }
  message = {};
  auto now = Clock::now();
  bool over_gateway = way_ == Way::kGateway;
  if (over_gateway && taken_ < batches_.size()) {
    message.batch = batches_[taken_++];
    write_batch(message.head, received_, *message.batch);
  } else if (over_gateway && machine_.closed()) {
    begin_frame(message.head, received_, kGoodbye, 0);
    message.last = said_goodbye_ = true;
  } else if (over_gateway && may_ask_for_direct()) {
    begin_frame(message.head, received_, kOpenDirect, 0);
    way_ = Way::kAsking;
    way_since_ = now;
  } else if (way_ == Way::kClosing && !told_closing_) {
    begin_frame(message.head, received_, kCloseDirect, 1 + varint_size(closings_));
    write_number(message.head, 1, closings_);
    told_closing_ = true;
  } else if (machine_.open_for_work() &&
             (unacknowledged_bytes_ > max_unacknowledged_bytes_ ||
              (received_ != acknowledged_ && now - said_ > kAcknowledgeAfter) || now - said_ > kLongestSilence)) {
    begin_frame(message.head, received_, kPing, 2);
    write_number(message.head, 1, 1);
  } else {
    return false;
  }
  acknowledged_ = received_;
  unacknowledged_bytes_ = 0;
  said_ = now;
  return true;
}

uint64_t Session::received() {
  std::lock_guard<std::mutex> guard(mutex_);
  return received_;
}

bool Session::waiter_reads(const Line* line) {
  std::lock_guard<std::mutex> guard(mutex_);
  return waiter_reads_ != nullptr && (line == nullptr || waiter_reads_ == line);
}

void Session::nudge_carrier() {
  if (auto stream = this->stream()) {
    stream->nudge_carrier();
  }
}

// ---------------------------------------------------------------- directly to the node

void Session::use_direct(uint64_t session_number) {
  std::shared_ptr<Stream> stream;
  {
    std::lock_guard<std::mutex> guard(mutex_);
    uses_direct_ = true;
    number_ = session_number;
    stream = stream_;
  }
  if (stream != nullptr) {
    stream->write();
  }
}

std::shared_ptr<Direct> Session::direct() {
  std::lock_guard<std::mutex> guard(mutex_);
  return direct_;
}

// With the lock. A direct connection begins when nothing is under way.
bool Session::may_ask_for_direct() const {
  return uses_direct_ && stream_ != nullptr && batches_.empty() && held_.empty() && machine_.open_for_work() &&
         Clock::now() >= ask_after_;
}

// With the lock.
void Session::log_once(const std::string& reason) {
  if (!reason.empty() && reason != logged_ && machine_.open_for_work() && to_log_.size() < kMostFailures) {
    logged_ = reason;
    to_log_.push_back("Info: data goes through the gateway, not straight to the node: " + reason);
  }
}

// With the lock. Batches wait until the gateway has told which of them the node has.
void Session::leave_direct(const std::string& reason) {
  if (way_ == Way::kGateway || way_ == Way::kClosing) {
    return;
  }
  if (way_ == Way::kDirect) ask_pause_ = kFirstAskPause;
  ask_after_ = Clock::now() + ask_pause_;
  ask_pause_ = std::min(ask_pause_ * 2, kLongestAskPause);
  way_ = Way::kClosing;
  closings_++;
  told_closing_ = false;
  if (direct_ != nullptr) {
    direct_->end("the session has left it");
    wake_waiters();
    direct_ = nullptr;
  }
  log_once(reason);
}

void Session::attend_direct() {
  DirectOffer offer;
  {
    std::lock_guard<std::mutex> guard(mutex_);
    if (way_ == Way::kGateway || way_ == Way::kClosing) {
      return;
    }
    if (machine_.closed()) {
      leave_direct("");
    } else if (direct_ != nullptr && direct_->ended()) {
      leave_direct(direct_->reason());
    } else if ((way_ == Way::kAsking || way_ == Way::kDialled) && Clock::now() - way_since_ > kDirectAnswer) {
      leave_direct(way_ == Way::kAsking ? "the gateway has not answered in time" : "the node has not answered in time");
    }
    if (way_ != Way::kOffered) {
      return;
    }
    offer = offer_;
  }
  std::shared_ptr<Direct> made;
  std::string reason;
  try {
    made = std::make_shared<Direct>(*this, number_, std::move(offer), machine_.progress.executed());
  } catch (const std::exception& e) {
    reason = e.what();
  }
  {
    std::lock_guard<std::mutex> guard(mutex_);
    if (way_ != Way::kOffered) {
      return;
    }
    if (made == nullptr) {
      leave_direct(reason);
      return;
    }
    way_ = Way::kDialled;
    way_since_ = Clock::now();
    direct_ = made;
    wake_waiters();  // the thread that reads from the stream is to read from this
  }
  made->write();
}

bool Session::next_frame(const Direct& by, DirectFrame& frame) {
  std::lock_guard<std::mutex> guard(mutex_);
  if (direct_.get() != &by || way_ != Way::kDirect) {
    return false;
  }
  frame = {};
  auto now = Clock::now();
  auto unconfirmed = direct_executed_ - direct_confirmed_;
  if (unconfirmed >= kConfirmReports || unconfirmed_bytes_ >= kConfirmBytes ||
      (unconfirmed > 0 && now - confirmed_at_ > kAcknowledgeAfter)) {
    frame.type = FrameType::kReceived;
    frame.sequence = direct_confirmed_ = direct_executed_;
    unconfirmed_bytes_ = 0;
    confirmed_at_ = now;
  } else if (taken_ < batches_.size()) {
    frame.type = FrameType::kDirectBatch;
    frame.batch = batches_[taken_++];
    frame.sequence = frame.batch->sequence;
    Writer notes;
    write_packed(notes, kNotedBorn, frame.batch->born);
    write_packed(notes, kNotedFreed, frame.batch->freed);
    write_number(notes, kNotedOperations, static_cast<uint64_t>(frame.batch->operations));
    auto append_length = [&](size_t length) {
      for (int shift = 0; shift < 32; shift += 8) frame.head.push_back(static_cast<char>(length >> shift));
    };
    append_length(notes.size());
    frame.head.append(reinterpret_cast<const char*>(notes.data()), notes.size());
    append_length(frame.batch->bytes.size());
  } else if (now - direct_said_ > by.heartbeat_interval()) {
    frame.type = FrameType::kHeartbeat;
  } else {
    return false;
  }
  direct_said_ = now;
  return true;
}

void Session::on_direct_welcome(const Direct& by, uint64_t last_received) {
  std::lock_guard<std::mutex> guard(mutex_);
  if (direct_.get() != &by || way_ != Way::kDialled) {
    return;
  }
  auto executed = machine_.progress.executed();
  if (last_received != executed) {
    direct_->end("the node has batch " + std::to_string(last_received) + ", and this program the reports up to " +
                 std::to_string(executed));
    return;
  }
  way_ = Way::kDirect;
  taken_ = 0;
  direct_executed_ = direct_confirmed_ = executed;
  unconfirmed_bytes_ = 0;
  logged_.clear();
}

void Session::on_report(const Direct& by, uint64_t sequence, ProtoBytes report) {
  std::lock_guard<std::mutex> receiving(receiving_);
  {
    std::lock_guard<std::mutex> guard(mutex_);
    if (direct_.get() != &by || way_ != Way::kDirect) {
      return;
    }
    if (sequence != direct_executed_ + 1 || sequence > machine_.progress.submitted()) {
      raise("ProtocolException", "the report of batch " + std::to_string(sequence) + " arrived after that of batch " +
                                     std::to_string(direct_executed_));
    }
  }
  try {
    executed(sequence, report.data, report.size);
  } catch (const WireError& e) {
    raise("ProtocolException", std::string("cannot parse a report from the node: ") + e.what());
  }
  std::lock_guard<std::mutex> guard(mutex_);
  if (direct_.get() == &by) {
    direct_executed_ = sequence;
    unconfirmed_bytes_ += static_cast<int64_t>(report.size);
  }
}

void Session::on_value_chunk(const Direct& by, int64_t request, int64_t offset, ProtoBytes data) {
  std::lock_guard<std::mutex> receiving(receiving_);
  {
    std::lock_guard<std::mutex> guard(mutex_);
    if (direct_.get() != &by || way_ != Way::kDirect) {
      return;
    }
    unconfirmed_bytes_ += static_cast<int64_t>(data.size);
  }
  value(request, offset, data.data, static_cast<int64_t>(data.size));
}

// With receiving_ held.
void Session::on_direct(ProtoBytes message) {
  DirectOffer offer;
  std::string refusal;
  for (ProtoReader in(message); in.next();) {
    if (in.is_bytes(1)) refusal = in.bytes.text();
    if (in.is_bytes(2)) offer.address = in.bytes.text();
    if (in.is_bytes(3)) offer.token = in.bytes.text();
    if (in.is_number(4)) offer.heartbeat_interval = std::chrono::milliseconds(in.number);
    if (in.is_number(5)) offer.heartbeat_timeout = std::chrono::milliseconds(in.number);
    if (in.is_number(6)) offer.max_frame_bytes = in.number;
  }
  std::lock_guard<std::mutex> guard(mutex_);
  if (way_ != Way::kAsking) {
    return;
  }
  if (refusal.empty()) {
    offer_ = std::move(offer);
    way_ = Way::kOffered;
  } else {
    way_ = Way::kGateway;
    ask_after_ = Clock::now() + ask_pause_;
    ask_pause_ = std::min(ask_pause_ * 2, kLongestAskPause);
    log_once(refusal);
  }
  if (stream_ != nullptr) stream_->nudge_carrier();
}

// With receiving_ held.
void Session::on_direct_closed(ProtoBytes message) {
  uint64_t last_batch = 0, number = 0;
  for (ProtoReader in(message); in.next();) {
    if (in.is_number(1)) last_batch = in.number;
    if (in.is_number(2)) number = in.number;
  }
  std::lock_guard<std::mutex> guard(mutex_);
  if (way_ == Way::kClosing && number == closings_) {
    way_ = Way::kGateway;
    take_after(last_batch);
  }
}

// ---------------------------------------------------------------- receiving

bool Session::on_message(ProtoBytes message) {
  std::lock_guard<std::mutex> receiving(receiving_);
  try {
    return read_message(message);
  } catch (const WireError& e) {
    raise("ProtocolException", std::string("cannot parse a frame from the gateway: ") + e.what());
  }
}

bool Session::read_message(ProtoBytes message) {
  uint64_t index = 0;
  uint64_t kind = 0;
  ProtoBytes body;
  for (ProtoReader in(message); in.next();) {
    if (in.is_number(kIndex)) {
      index = in.number;
    } else if (in.field > kIndex && in.is_bytes(in.field)) {
      kind = in.field;
      body = in.bytes;
    }
  }
  if (index != 0) {
    std::lock_guard<std::mutex> guard(mutex_);
    if (index <= received_) {
      return false;  // the gateway has sent it again
    }
    if (index != received_ + 1) {
      raise("ProtocolException",
            "frame " + std::to_string(index) + " arrived after frame " + std::to_string(received_));
    }
    received_ = index;
    unacknowledged_bytes_ += static_cast<int64_t>(message.size);
    if (unacknowledged_bytes_ > max_unacknowledged_bytes_) {
      to_send_.notify_one();
    }
  }
  switch (kind) {
    case kWelcome: return true;
    case kExecuted: on_executed(body); break;
    case kValue: on_value(body); break;
    case kLost: {
      std::string error, text;
      for (ProtoReader in(body); in.next();) {
        if (in.is_bytes(1)) error = in.bytes.text();
        if (in.is_bytes(2)) text = in.bytes.text();
      }
      throw_error(error + ": " + text);
    }
    case kHeld: set_held(text_of(body)); break;
    case kRestored: on_restored(body); break;
    case kDirect: on_direct(body); break;
    case kDirectClosed: on_direct_closed(body); break;
    case kHindered: {
      hindrance_ = 0;
      for (ProtoReader in(body); in.next();) {
        if (in.is_number(1)) hindrance_ = static_cast<int32_t>(std::min<uint64_t>(in.number, INT32_MAX));
      }
      machine_.waits.hinder(hindrance_);
      break;
    }
    case kNotice: {
      std::lock_guard<std::mutex> guard(mutex_);
      if (to_log_.size() < kMostFailures) to_log_.push_back("Notice: " + text_of(body));
      break;
    }
    default: break;  // a Pong, or a message of a later version
  }
  return false;
}

void Session::on_restored(ProtoBytes message) {
  Restored restored;
  for (ProtoReader in(message); in.next();) {
    if (in.is_number(1)) restored.epoch = in.number;
    if (in.is_number(2)) restored.step = static_cast<int64_t>(in.number);
    if (in.is_bytes(3)) restored.text = "RestoredException: " + in.bytes.text();
  }
  std::lock_guard<std::mutex> guard(mutex_);
  restored_.push_back(std::move(restored));
  if (stream_ != nullptr) stream_->nudge_carrier();
}

void Session::on_executed(ProtoBytes message) {
  uint64_t sequence = 0;
  uint64_t reports = 0;
  for (ProtoReader in(message); in.next();) {
    if (in.is_number(1)) sequence = in.number;
    reports += in.is_bytes(2) ? 1 : 0;
  }
  if (reports > sequence || sequence > machine_.progress.submitted()) {
    raise("ProtocolException", std::to_string(reports) + " reports arrived, up to batch " + std::to_string(sequence) +
                                   " of " + std::to_string(machine_.progress.submitted()));
  }
  sequence -= reports;
  for (ProtoReader in(message); in.next();) {
    if (in.is_bytes(2)) executed(++sequence, in.bytes.data, in.bytes.size);
  }
}

void Session::on_value(ProtoBytes message) {
  uint64_t request = 0, offset = 0;
  ProtoBytes data;
  for (ProtoReader in(message); in.next();) {
    if (in.is_number(1)) request = in.number;
    if (in.is_number(2)) offset = in.number;
    if (in.is_bytes(3)) data = in.bytes;
  }
  value(static_cast<int64_t>(request), static_cast<int64_t>(offset), data.data, static_cast<int64_t>(data.size));
}

void Session::value(int64_t request, int64_t offset, const uint8_t* data, int64_t bytes) {
  std::lock_guard<std::mutex> guard(mutex_);
  auto it = requests_.find(request);
  if (it == requests_.end() || it->second.batch == nullptr) {
    return;  // nothing waits for it any more
  }
  const auto& destination = it->second.batch->destination;
  auto room = destination.defined() ? static_cast<int64_t>(destination.nbytes()) : 0;
  TORCH_CHECK(bytes >= 0 && offset >= 0 && offset <= room && bytes <= room - offset, "ProtocolException: ", bytes,
              " bytes at offset ", offset, " of the value of request ", request, " do not fit into its destination");
  copy_bytes(static_cast<uint8_t*>(destination.mutable_data_ptr()) + offset, data, static_cast<size_t>(bytes));
  // Another connection may bring the value again, from its start.
  if (offset > it->second.received) {
    raise("ProtocolException", "bytes at offset " + std::to_string(offset) + " of the value of request " +
                                   std::to_string(request) + " arrived after the first " +
                                   std::to_string(it->second.received));
  }
  it->second.received = std::max(it->second.received, offset + bytes);
}

void Session::executed(uint64_t sequence, const uint8_t* report, size_t bytes) {
  if (sequence <= machine_.progress.executed()) {
    return;  // the report came over another connection already
  }
  machine_.progress.note_executed(sequence);  // first, so that threads woken by the report see the batch as executed
  std::unique_lock<std::mutex> lock(mutex_);
  Reader r(report, bytes);
  if (r.u8() != kReportMagic) r.fail("this is not a report");
  auto version = r.u8();
  if (version != kWireVersion) {
    r.fail("the report has wire version " + std::to_string(version) + ", this program uses " +
           std::to_string(kWireVersion));
  }
  while (!r.done()) event(sequence, r, lock);
  while (!batches_.empty() && batches_.front()->sequence <= sequence) {
    in_flight_ -= static_cast<int64_t>(batches_.front()->weight);
    auto request = requests_.find(batches_.front()->request);
    if (request != requests_.end()) {
      request->second.batch = nullptr;
    }
    batches_.pop_front();
    if (taken_ > 0) taken_--;
  }
  wake_waiters();
}

void Session::event(uint64_t sequence, Reader& r, std::unique_lock<std::mutex>& lock) {
  switch (static_cast<Event>(r.u8())) {
    case Event::kRealized:
      for (auto n = r.count("a count of storages"); n > 0; n--) {
        for (int i = 0; i < 3; i++) r.varint();
      }
      break;
    case Event::kFreed:
      for (auto n = r.count("a count of storages"); n > 0; n--) r.varint();
      break;
    case Event::kFailure: {
      uint64_t number = 0;
      auto text = failure(r, &number, lock);
      if (to_log_.size() < kMostFailures) to_log_.push_back(text);
      if (unread_.size() < kMostFailures) unread_.emplace(number, std::move(text));
      break;
    }
    case Event::kValue: {
      auto* request = find(static_cast<int64_t>(r.varint()));
      auto n = r.count("a value's size");
      auto* data = r.raw(n);
      if (request != nullptr && request->batch != nullptr) {
        const auto& destination = request->batch->destination;
        if (!destination.defined() || destination.nbytes() != n) {
          r.fail("a value of " + std::to_string(n) + " bytes was not requested");
        }
        copy_bytes(destination.mutable_data_ptr(), data, n);
      }
      finish(request, "");
      break;
    }
    case Event::kLargeValue: {
      auto* request = find(static_cast<int64_t>(r.varint()));
      auto n = static_cast<int64_t>(r.bounded(kMaxStorageBytes, "a value's size"));
      if (request != nullptr && request->received != n) {
        r.fail(std::to_string(request->received) + " bytes arrived of a value of " + std::to_string(n));
      }
      finish(request, "");
      break;
    }
    case Event::kAnswer:
    case Event::kOutputs: {
      auto number = static_cast<int64_t>(r.varint());
      auto n = r.count("an answer's size");
      auto* data = reinterpret_cast<const char*>(r.raw(n));
      if (auto* request = find(number)) {  // otherwise its wait has ended
        machine_.answer(number, std::string(data, n));
        finish(request, "");
      }
      break;
    }
    case Event::kRequestFailed: {
      auto request = static_cast<int64_t>(r.varint());
      uint64_t number = 0;
      auto text = failure(r, &number, lock);
      unread_.erase(number);
      finish(find(request), std::move(text));
      break;
    }
    case Event::kWarning: warning(r, lock); break;
    case Event::kUnrepeatable: r.string(); break;
    case Event::kTimes: {
      auto n = r.count("the size of times");
      machine_.timeline.executed(sequence, {reinterpret_cast<const char*>(r.raw(n)), n});
      break;
    }
    default: r.fail("unknown event");
  }
}

Session::Request* Session::find(int64_t request) {
  auto it = requests_.find(request);
  return it == requests_.end() ? nullptr : &it->second;
}

void Session::finish(Request* request, std::string error) {
  if (request != nullptr) {
    request->error = std::move(error);
    request->done = true;
  }
}

// The line of the program that made a call, if known. Releases the lock meanwhile, because the callback takes Python's
// lock.
std::string Session::called_at(int64_t call, std::unique_lock<std::mutex>& lock) {
  char site[1024] = "";
  bool known = false;
  if (call_site != nullptr && call != 0) {
    lock.unlock();
    known = call_site(machine_.handle, call, site, sizeof site) > 0;
    lock.lock();
  }
  return known ? std::string("\n  called at ") + site : "";
}

// The text of a failure, with PyTorch's message first. If the binding has a remote version of PyTorch's exception
// class, the exception is of that class.
std::string Session::failure(Reader& r, uint64_t* number, std::unique_lock<std::mutex>& lock) {
  *number = r.varint();
  auto call = static_cast<int64_t>(r.varint());
  std::string operation(r.string());
  std::string error(r.string());
  std::string text(r.string());
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.pop_back();
  bool ours = error == "StaleReferenceException";
  text = (ours                                    ? error
          : is_python_exception("Remote" + error) ? "Remote" + error
                                                  : "RemoteOperationException") +
         ": " + text;
  if (!ours) text += "\n  " + (error.empty() ? "in " : error + " in ") + operation + " on the node";
  auto inputs = r.count("a count of inputs");
  for (uint64_t i = 0; i < inputs; i++) {
    text += i == 0 ? "\n  inputs: " : ", ";
    text += r.string();
  }
  return text + called_at(call, lock);
}

void Session::warning(Reader& r, std::unique_lock<std::mutex>& lock) {
  auto call = static_cast<int64_t>(r.varint());
  std::string operation(r.string());
  auto kind = static_cast<WarningKind>(r.u8());
  std::string text(r.string());
  if (warns_at_call(operation)) {
    return;  // the program has given this warning at the call
  }
  text += " (" + operation + " on machine '" + machine_.name + "')";
  text += called_at(call, lock);
  std::pair<WarningKind, std::string> warning(kind, std::move(text));
  if (warnings_.size() < kMostPending && std::find(warnings_.begin(), warnings_.end(), warning) == warnings_.end()) {
    warnings_.push_back(std::move(warning));
  }
}

// ---------------------------------------------------------------- all sessions

namespace {

std::mutex sessions_mutex;

std::map<int64_t, std::unique_ptr<Session>>& sessions() {
  static auto* all = new std::map<int64_t, std::unique_ptr<Session>>();
  return *all;
}

}  // namespace

// After a fork, the child marks all sessions as its parent's. This takes locks, which therefore no other thread may
// hold when the child is created.
void lock_sessions() {
  sessions_mutex.lock();
  for (auto& each : sessions()) each.second->mutex_.lock();
  lock_machines();
  lock_errors();
}
void unlock_sessions() {
  unlock_errors();
  unlock_machines();
  for (auto& each : sessions()) each.second->mutex_.unlock();
  sessions_mutex.unlock();
}

Session& session_of(int64_t machine) {
  static const int at_fork = pthread_atfork(&lock_sessions, &unlock_sessions, &unlock_sessions);
  TORCH_CHECK(at_fork == 0, "cannot register the fork handlers");
  std::lock_guard<std::mutex> guard(sessions_mutex);
  auto& session = sessions()[machine];
  if (!session) {
    auto* found = find_machine(machine);
    TORCH_CHECK(found != nullptr, "there is no machine ", machine);
    session = std::make_unique<Session>(*found);
  }
  return *session;
}

void install_sessions(remora_interrupt_callback interrupt, remora_trace_callback trace,
                      remora_call_site_callback site) {
  interrupted = interrupt;
  call_site = site;
  std::thread([] { plain_warnings = c10::WarningUtils::get_warning_handler(); }).join();
  Callbacks own;
  own.submit = [](int64_t machine, Batch* batch) { session_of(machine).submit(std::unique_ptr<Batch>(batch)); };
  own.await = [](int64_t machine, int64_t request) { session_of(machine).await(request); };
  own.lost = [](int64_t machine) { session_of(machine).lost(); };
  own.trace = trace;
  own.warns = true;
  callbacks() = own;
}

}  // namespace remora
