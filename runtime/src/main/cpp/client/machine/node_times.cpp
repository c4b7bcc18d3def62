// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/machine/node_times.h"

#include <cstdlib>

namespace remora {

namespace {

// Two computers' clocks may drift apart by this part of the time that passes.
constexpr int64_t kDriftsByOneIn = 10'000;
constexpr uint64_t kMostNanos = uint64_t{1} << 60;

Reader reader_of(const TimedBatch& batch) {
  return {reinterpret_cast<const uint8_t*>(batch.times.data()), batch.times.size()};
}

// On the node's clock.
void read_span(Reader& r, int64_t* begin, int64_t* end) {
  *begin = static_cast<int64_t>(r.bounded(kMostNanos, "a time"));
  *end = *begin + static_cast<int64_t>(r.bounded(kMostNanos, "a time"));
}

}  // namespace

std::optional<NodeClock> NodeClock::of(const TimedBatch& batch) {
  try {
    auto r = reader_of(batch);
    int64_t begin = 0, end = 0;
    read_span(r, &begin, &end);
    NodeClock clock;
    clock.least_ = end - batch.arrived;
    clock.most_ = begin - batch.submitted;
    clock.at_ = batch.arrived;
    return clock;
  } catch (const WireError&) {
    return std::nullopt;
  }
}

bool NodeClock::narrow(const NodeClock& later) {
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

NodeTimes::NodeTimes(const TimedBatch& batch, const NodeClock& clock) : r_(reader_of(batch)) {
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
  at_ = std::min(at_ + static_cast<int64_t>(r_.bounded(kMostNanos, "a time")), end_);
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
