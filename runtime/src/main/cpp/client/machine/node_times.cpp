// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/machine/node_times.h"

#include <cstdlib>

namespace remora {

namespace {

// Two computers' clocks may drift apart by this part of the time that passes.
constexpr int64_t kDriftsByOneIn = 10'000;
constexpr uint64_t kMostNanos = uint64_t{1} << 60;

Reader reader_of(const std::string& bytes) { return {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}; }

int64_t read_nanos(Reader& r) { return static_cast<int64_t>(r.bounded(kMostNanos, "a time")); }

// On the node's clock.
void read_span(Reader& r, int64_t* begin, int64_t* end) {
  *begin = read_nanos(r);
  *end = *begin + read_nanos(r);
}

}  // namespace

PeerClock PeerClock::of(const TimedBatch& batch, int64_t begin, int64_t end) {
  PeerClock clock;
  clock.least_ = end - batch.arrived;
  clock.most_ = begin - batch.submitted;
  clock.at_ = batch.arrived;
  return clock;
}

std::optional<PeerClock> clock_of(const TimedBatch& batch) {
  try {
    auto r = reader_of(batch.times);
    int64_t begin = 0, end = 0;
    read_span(r, &begin, &end);
    return PeerClock::of(batch, begin, end);
  } catch (const WireError&) {
    return std::nullopt;
  }
}

std::optional<Passage> Passage::of(const TimedBatch& batch) {
  if (batch.passage.empty()) {
    return std::nullopt;
  }
  try {
    auto r = reader_of(batch.passage);
    Passage passage;
    passage.batch = batch.number;
    passage.received = read_nanos(r);
    passage.sent = passage.received + read_nanos(r);
    passage.answered = passage.sent + read_nanos(r);
    passage.sent_answer = passage.answered + read_nanos(r);
    passage.clock = PeerClock::of(batch, passage.received, passage.sent_answer);
    return passage;
  } catch (const WireError&) {
    return std::nullopt;
  }
}

bool PeerClock::narrow(const PeerClock& later) {
  auto drift = std::abs(later.at_ - at_) / kDriftsByOneIn;
  auto least = std::max(least_ - drift, later.least_);
  auto most = std::min(most_ + drift, later.most_);
  if (least > most) {
    return false;
  }
  least_ = least;
  most_ = most;
  at_ = later.at_;
  return true;
}

NodeTimes::NodeTimes(const TimedBatch& batch, const PeerClock& clock) : r_(reader_of(batch.times)) {
  read_span(r_, &begin_, &end_);
  begin_ -= clock.offset();
  end_ -= clock.offset();
  at_ = begin_;
  call_ = static_cast<int64_t>(r_.bounded(kMostNanos, "a call's number"));
}

std::optional<NodeTimes::Run> NodeTimes::next() {
  if (r_.done()) {
    return std::nullopt;
  }
  auto record = static_cast<Record>(r_.u8());
  auto begin = at_;
  at_ = std::min(at_ + read_nanos(r_), end_);
  return Run{record, record == Record::kCall ? call_++ : 0, begin, at_};
}

const char* name_of_run(Record record) {
  switch (record) {
    case Record::kWrite: return "write";
    case Record::kRead: return "read";
    case Record::kQuestion: return "question";
    case Record::kRun: return "function";
    case Record::kCallNode: return "call of the node";
    default: return "operation";
  }
}

}  // namespace remora
