// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/session/session.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "client/machine/callbacks.h"
#include "client/machine/slots.h"
#include "client/node_calls.h"
#include "client/session/stream.h"
#include "common/error.h"
#include "common/python_lock.h"

namespace remora {

namespace {

constexpr auto kInterruptCheck = std::chrono::milliseconds(100);
constexpr auto kLongestSilence = std::chrono::seconds(10);  // then the gateway gets a sign of life
constexpr int64_t kAcknowledgeBytes = 4 * 1024 * 1024;

// The warning handler of threads outside the functions of libtorch's Python binding.
c10::WarningHandler* plain_warnings = nullptr;

c10::Warning::warning_variant_t category(WarningKind kind) {
  if (kind == WarningKind::kDeprecation) {
    return c10::DeprecationWarning();
  }
  return c10::UserWarning();
}

remora_interrupt_callback interrupted = nullptr;

std::string seconds(int64_t millis) {
  return millis % 1000 == 0 ? std::to_string(millis / 1000) + " s" : std::to_string(millis) + " ms";
}

}  // namespace

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

// With the lock.
void Session::log(std::string text) {
  if (to_log_.size() < kMostFailures) to_log_.push_back(std::move(text));
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
    reported_waits_.repeat();
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
  if (reported_waits_.make(machine_.waits, now, machine_.closed())) {
    auto& waits = reported_waits_.message();
    begin_frame(message.head, received_, kWaits, waits.size());
    message.head.raw(waits.data(), waits.size());
  } else if (over_gateway && taken_ < batches_.size()) {
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
    write_numbered(message.head, received_, kCloseDirect, closings_);
    told_closing_ = true;
  } else if (machine_.open_for_work() &&
             (unacknowledged_bytes_ > max_unacknowledged_bytes_ ||
              (received_ != acknowledged_ && now - said_ > kAcknowledgeAfter) || now - said_ > kLongestSilence)) {
    write_numbered(message.head, received_, kPing, 1);
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
  std::thread([] { plain_warnings = c10::WarningUtils::get_warning_handler(); }).join();
  Callbacks own;
  own.submit = [](int64_t machine, Batch* batch) { session_of(machine).submit(std::unique_ptr<Batch>(batch)); };
  own.await = [](int64_t machine, int64_t request) { session_of(machine).await(request); };
  own.lost = [](int64_t machine) { session_of(machine).lost(); };
  own.trace = trace;
  own.call_site = site;
  own.warns = true;
  callbacks() = own;
}

}  // namespace remora
