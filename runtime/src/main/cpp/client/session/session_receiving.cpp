// SPDX-License-Identifier: AGPL-3.0-or-later
//
// What a session receives: the gateway's frames, and the node's reports in them or past them.
#include <algorithm>
#include <cctype>

#include "client/machine/callbacks.h"
#include "client/session/session.h"
#include "client/session/stream.h"
#include "common/error.h"

namespace remora {

namespace {

constexpr size_t kMostPending = 100;  // warnings kept for the next thread that waits

// Field numbers of ServerFrame.
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

// Field 1 of a message.
std::string text_of(ProtoBytes message) {
  std::string text;
  for (ProtoReader in(message); in.next();) {
    if (in.is_bytes(1)) text = in.bytes.text();
  }
  return text;
}

}  // namespace

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
      log("Notice: " + text_of(body));
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
      log(text);
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
    case Event::kPassage: {
      auto n = r.count("the size of a passage");
      machine_.timeline.passed(sequence, {reinterpret_cast<const char*>(r.raw(n)), n});
      break;
    }
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
  if (auto call_site = callbacks().call_site; call_site != nullptr && call != 0) {
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

}  // namespace remora
