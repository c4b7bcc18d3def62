// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The program's end of a session for bindings that cannot be called back cheaply (Python): batches wait here until a
// sending thread takes them, reports are read here, and whoever waits for a value waits here.
#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <unordered_map>

#include "functions.h"
#include "machine.h"

// libtorch's Python library turns exceptions of this class into Python ones of the class that python_type() names. The
// core links no Python; the definition is torch/csrc/Exceptions.h's, so that the exception is caught there.
struct _object;
namespace torch {
struct __attribute__((visibility("default"))) PyTorchError : public std::exception {
  explicit PyTorchError(std::string text) : msg(std::move(text)) {}
  virtual _object* python_type() = 0;
  const char* what() const noexcept override { return msg.c_str(); }
  std::string msg;
};
}  // namespace torch

namespace remora {

namespace {

constexpr auto kInterruptCheck = std::chrono::milliseconds(100);
constexpr size_t kMostFailures = 100;  // kept for whoever synchronizes

struct PythonError final : torch::PyTorchError {
  PythonError(std::string full_text, size_t message, _object* type)
      : PyTorchError(full_text.substr(message)), full_text(std::move(full_text)), type(type) {}
  _object* python_type() override { return type; }
  std::string full_text;  // with the class's name
  _object* type;
};

std::mutex python_mutex;
std::map<std::string, _object*, std::less<>> python_types;

struct PythonLock {
  int (*check)() = nullptr;
  void* (*save)() = nullptr;
  void (*restore)(void*) = nullptr;
};
PythonLock python_lock;

remora_interrupt_callback interrupted = nullptr;
remora_call_site_callback call_site = nullptr;

std::string seconds(int64_t millis) {
  return millis % 1000 == 0 ? std::to_string(millis / 1000) + " s" : std::to_string(millis) + " ms";
}

class Session {
 public:
  explicit Session(Machine& machine) : machine_(machine) {}

  void configure(int64_t max_in_flight_bytes, int64_t read_timeout_millis) {
    std::lock_guard<std::mutex> guard(mutex_);
    max_in_flight_ = max_in_flight_bytes;
    read_timeout_millis_ = read_timeout_millis;
  }

  // Takes a batch over; blocks while too much is under way.
  void submit(std::unique_ptr<Batch> batch) {
    PythonUnlocked unlocked;
    std::unique_lock<std::mutex> lock(mutex_);
    if (batch->request != 0) {
      requests_[batch->request].batch = batch.get();
    }
    in_flight_ += static_cast<int64_t>(batch->bytes.size());
    batches_.push_back(std::move(batch));
    to_send_.notify_one();
    wait(lock, "its node to take more work", [&] { return in_flight_ <= max_in_flight_; });
  }

  void await(int64_t request) {
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
    if (!error.empty()) {
      throw_error(std::move(error));
    }
  }

  Batch* take(int64_t timeout_micros) {
    std::unique_lock<std::mutex> lock(mutex_);
    to_send_.wait_for(lock, std::chrono::microseconds(timeout_micros),
                      [&] { return taken_ < batches_.size() || !machine_.open_for_work(); });
    if (taken_ < batches_.size()) {
      return batches_[taken_++].get();
    }
    machine_.check_usable();
    return nullptr;
  }

  void rewind(uint64_t sequence) {
    std::lock_guard<std::mutex> guard(mutex_);
    taken_ = 0;
    while (taken_ < batches_.size() && batches_[taken_]->sequence <= sequence) taken_++;
    to_send_.notify_one();
  }

  void value(int64_t request, int64_t offset, const uint8_t* data, int64_t bytes) {
    std::lock_guard<std::mutex> guard(mutex_);
    auto it = requests_.find(request);
    if (it == requests_.end() || it->second.batch == nullptr) {
      return;  // nobody waits for it any more
    }
    const auto& destination = it->second.batch->destination;
    TORCH_CHECK(destination.defined() && offset >= 0 && bytes >= 0 &&
                    offset + bytes <= static_cast<int64_t>(destination.nbytes()),
                "ProtocolException: bytes ", offset, " to ", offset + bytes, " of the value of request ", request,
                " do not fit where it goes");
    std::memcpy(static_cast<uint8_t*>(destination.mutable_data_ptr()) + offset, data, static_cast<size_t>(bytes));
    it->second.received += bytes;
  }

  void executed(uint64_t sequence, const uint8_t* report, size_t bytes) {
    machine_.note_executed(sequence);  // first, so that whoever the report wakes sees the batch as done
    std::lock_guard<std::mutex> guard(mutex_);
    Reader r(report, bytes);
    if (r.u8() != kReportMagic) r.fail("this is not a report");
    auto version = r.u8();
    if (version != kWireVersion) {
      r.fail("the report has wire version " + std::to_string(version) + ", this program speaks " +
             std::to_string(kWireVersion));
    }
    while (!r.done()) event(r);
    while (!batches_.empty() && batches_.front()->sequence <= sequence) {
      in_flight_ -= static_cast<int64_t>(batches_.front()->bytes.size());
      auto request = requests_.find(batches_.front()->request);
      if (request != requests_.end()) {
        request->second.batch = nullptr;
      }
      batches_.pop_front();
      if (taken_ > 0) taken_--;
    }
    wake_.notify_all();
  }

  void lost() {
    std::lock_guard<std::mutex> guard(mutex_);
    to_send_.notify_all();
    wake_.notify_all();
  }

  std::string next_failure() {
    std::lock_guard<std::mutex> guard(mutex_);
    if (to_log_.empty()) {
      return "";
    }
    auto text = std::move(to_log_.front());
    to_log_.pop_front();
    return text;
  }

  std::string unread_failure() {
    std::lock_guard<std::mutex> guard(mutex_);
    if (unread_.empty()) {
      return "";
    }
    auto text = std::move(unread_.begin()->second);
    auto others = unread_.size() - 1;
    unread_.clear();
    return others == 0 ? text : text + "\n  and " + std::to_string(others) + " more, see the log";
  }

 private:
  struct Request {
    Batch* batch = nullptr;  // that ends with it, until it was executed
    int64_t received = 0;
    bool done = false;
    std::string error;
  };

  // Waits for `ready`; gives up when the machine is gone, the user interrupts, or nothing is finished for too long.
  template <class F>
  void wait(std::unique_lock<std::mutex>& lock, const char* what, F&& ready) {
    using namespace std::chrono;
    auto seen = machine_.executed.load(std::memory_order_acquire);
    auto since = steady_clock::now();
    auto check = since + kInterruptCheck;
    while (!ready()) {
      machine_.check_usable();
      wake_.wait_until(lock, check);
      if (steady_clock::now() < check) {
        continue;
      }
      check += kInterruptCheck;
      if (interrupted != nullptr) {
        lock.unlock();
        bool stop = interrupted() != 0;
        lock.lock();
        if (stop && !ready()) {
          raise("KeyboardInterrupt", "the wait for machine '" + machine_.name + "' was interrupted; its work goes on");
        }
      }
      auto now = steady_clock::now();
      auto executed = machine_.executed.load(std::memory_order_acquire);
      if (executed != seen) {
        seen = executed;
        since = now;
      } else if (now - since > milliseconds(read_timeout_millis_ + longest_run(machine_.handle))) {
        raise("ReadTimeoutException",
              "machine '" + machine_.name + "' has finished nothing for " + seconds(read_timeout_millis_) +
                  " while this program waited for " + what + " (batch " + std::to_string(seen) + " of " +
                  std::to_string(machine_.sequence.load()) +
                  "); raise the read timeout if one operation takes that long");
      }
    }
  }

  void event(Reader& r) {
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
        auto text = failure(r, &number);
        if (to_log_.size() < kMostFailures) to_log_.push_back(text);
        if (unread_.size() < kMostFailures) unread_.emplace(number, std::move(text));
        break;
      }
      case Event::kValue: {
        auto* request = wanted(r);
        auto n = r.count("a value's size");
        auto* data = r.raw(n);
        if (request != nullptr && request->batch != nullptr) {
          const auto& destination = request->batch->destination;
          if (!destination.defined() || destination.nbytes() != n) {
            r.fail("a value of " + std::to_string(n) + " bytes was not asked for");
          }
          std::memcpy(destination.mutable_data_ptr(), data, n);
        }
        finish(request, "");
        break;
      }
      case Event::kLargeValue: {
        auto* request = wanted(r);
        auto n = static_cast<int64_t>(r.bounded(kMaxStorageBytes, "a value's size"));
        if (request != nullptr && request->received != n) {
          r.fail("of a value of " + std::to_string(n) + " bytes " + std::to_string(request->received) + " came");
        }
        finish(request, "");
        break;
      }
      case Event::kAnswer: {
        auto number = static_cast<int64_t>(r.varint());
        auto n = r.count("an answer's size");
        machine_.answer(number, std::string(reinterpret_cast<const char*>(r.raw(n)), n));
        auto it = requests_.find(number);
        finish(it == requests_.end() ? nullptr : &it->second, "");
        break;
      }
      case Event::kRequestFailed: {
        auto* request = wanted(r);
        uint64_t number = 0;
        auto text = failure(r, &number);
        unread_.erase(number);
        finish(request, std::move(text));
        break;
      }
      default:
        r.fail("unknown event");
    }
  }

  Request* wanted(Reader& r) {
    auto it = requests_.find(static_cast<int64_t>(r.varint()));
    return it == requests_.end() ? nullptr : &it->second;
  }

  static void finish(Request* request, std::string error) {
    if (request != nullptr) {
      request->error = std::move(error);
      request->done = true;
    }
  }

  std::string failure(Reader& r, uint64_t* number) {
    *number = r.varint();
    auto call = static_cast<int64_t>(r.varint());
    std::string text = "RemoteOperationException: " + std::string(r.string()) + " failed on the node: ";
    text += r.string();
    while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.pop_back();
    auto inputs = r.count("a count of inputs");
    for (uint64_t i = 0; i < inputs; i++) {
      text += i == 0 ? "\n  inputs: " : ", ";
      text += r.string();
    }
    char site[1024] = "";
    if (call_site != nullptr && call != 0 && call_site(machine_.handle, call, site, sizeof site) > 0) {
      text += "\n  called at ";
      text += site;
    }
    return text;
  }

  Machine& machine_;
  std::mutex mutex_;
  std::condition_variable wake_;     // of who waits for values or for room
  std::condition_variable to_send_;  // of the sending thread
  std::deque<std::unique_ptr<Batch>> batches_;  // not executed yet
  size_t taken_ = 0;                            // how many of them were taken
  std::unordered_map<int64_t, Request> requests_;
  std::deque<std::string> to_log_;
  std::map<uint64_t, std::string> unread_;
  int64_t in_flight_ = 0;
  int64_t max_in_flight_ = 64 * 1024 * 1024;
  int64_t read_timeout_millis_ = 600'000;
};

std::mutex sessions_mutex;

// Sessions stay for the life of the process, as machines do: whoever waits in one may leave late.
Session& session_of(int64_t machine) {
  static auto* all = new std::unordered_map<int64_t, std::unique_ptr<Session>>();
  std::lock_guard<std::mutex> guard(sessions_mutex);
  auto& session = (*all)[machine];
  if (!session) {
    auto* found = find_machine(machine);
    TORCH_CHECK(found != nullptr, "there is no machine ", machine);
    session = std::make_unique<Session>(*found);
  }
  return *session;
}

}  // namespace

PythonUnlocked::PythonUnlocked()
    : saved_(python_lock.check != nullptr && python_lock.check() != 0 ? python_lock.save() : nullptr) {}
PythonUnlocked::~PythonUnlocked() {
  if (saved_ != nullptr) {
    python_lock.restore(saved_);
  }
}
void set_python_lock(int64_t check, int64_t save, int64_t restore) {
  python_lock.save = reinterpret_cast<void* (*)()>(save);
  python_lock.restore = reinterpret_cast<void (*)(void*)>(restore);
  python_lock.check = reinterpret_cast<int (*)()>(check);
}

void throw_error(std::string text) {
  auto colon = text.find(": ");
  if (colon != std::string::npos) {
    std::lock_guard<std::mutex> guard(python_mutex);
    auto it = python_types.find(std::string_view(text).substr(0, colon));
    if (it != python_types.end()) {
      throw PythonError(text, colon + 2, it->second);
    }
  }
  throw c10::Error(std::move(text), nullptr);  // without a C++ backtrace: a user reads the line that helps
}

std::string error_text(const std::exception& error) {
  if (auto* ours = dynamic_cast<const PythonError*>(&error)) {
    return ours->full_text;
  }
  auto* torchs = dynamic_cast<const c10::Error*>(&error);
  return torchs != nullptr ? torchs->what_without_backtrace() : error.what();
}

void set_python_exception(const char* name, int64_t type) {
  std::lock_guard<std::mutex> guard(python_mutex);
  python_types[name] = reinterpret_cast<_object*>(type);
}

void install_sessions(remora_interrupt_callback interrupt, remora_trace_callback trace,
                      remora_call_site_callback site) {
  interrupted = interrupt;
  call_site = site;
  Callbacks own;
  own.submit = [](int64_t machine, Batch* batch) {
    session_of(machine).submit(std::unique_ptr<Batch>(batch));
  };
  own.await = [](int64_t machine, int64_t request) { session_of(machine).await(request); };
  own.lost = [](int64_t machine) { session_of(machine).lost(); };
  own.trace = trace;
  callbacks() = own;
}

void session_configure(int64_t machine, int64_t max_in_flight_bytes, int64_t read_timeout_millis) {
  session_of(machine).configure(max_in_flight_bytes, read_timeout_millis);
}
Batch* session_take(int64_t machine, int64_t timeout_micros) { return session_of(machine).take(timeout_micros); }
void session_rewind(int64_t machine, int64_t sequence) {
  session_of(machine).rewind(static_cast<uint64_t>(sequence));
}
void session_executed(int64_t machine, int64_t sequence, const uint8_t* report, int64_t bytes) {
  session_of(machine).executed(static_cast<uint64_t>(sequence), report, static_cast<size_t>(bytes));
}
void session_value(int64_t machine, int64_t request, int64_t offset, const uint8_t* data, int64_t bytes) {
  session_of(machine).value(request, offset, data, bytes);
}
std::string session_next_failure(int64_t machine) { return session_of(machine).next_failure(); }
std::string session_unread_failure(int64_t machine) { return session_of(machine).unread_failure(); }

}  // namespace remora
