// SPDX-License-Identifier: AGPL-3.0-or-later
//
// A session's choice between the two ways to its node: through the gateway, or straight over a connection of its own.
#include <algorithm>

#include "client/session/session.h"
#include "client/session/stream.h"
#include "common/error.h"

namespace remora {

namespace {

// The node keeps results until they are confirmed.
constexpr uint64_t kConfirmReports = 64;
constexpr int64_t kConfirmBytes = 1024 * 1024;
// How long the gateway, or the node, may take to answer before batches go through the gateway.
constexpr auto kDirectAnswer = std::chrono::seconds(5);
constexpr auto kFirstAskPause = std::chrono::milliseconds(1000);
constexpr auto kLongestAskPause = std::chrono::milliseconds(64'000);

// Field numbers of DirectNotes in link.proto.
enum NotesField : uint32_t { kNotedBorn = 1, kNotedFreed = 2, kNotedOperations = 3 };

}  // namespace

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
  if (!reason.empty() && reason != logged_ && machine_.open_for_work()) {
    logged_ = reason;
    log("Info: data goes through the gateway, not straight to the node: " + reason);
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

}  // namespace remora
