// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The times that a node tells of the batches it has executed (Times in wire.h), and a gateway of those that it has passed
// on (Passage in wire.h), on this process's clock.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/wire.h"

namespace remora {

// A batch that was submitted, and what the node told of it. Times are nanoseconds of this process's steady clock.
struct TimedBatch {
  uint64_t number = 0;
  size_t bytes = 0;
  int64_t operations = 0;
  int64_t submitted = 0, arrived = 0;
  std::string times;    // as the node has told them
  std::string passage;  // as a gateway has told it; empty if there was none
};

// How far the clock of a node, or a gateway, is ahead of this process's: between `least` and `most`. What it did with a
// batch began after the batch's submission and ended before the report's arrival. What many batches say together is
// narrow. If two contradict each other, the clock is another one: of another node, or another gateway.
class PeerClock {
 public:
  // What a batch alone says. `begin` and `end` are on the peer's clock.
  static PeerClock of(const TimedBatch& batch, int64_t begin, int64_t end);
  // Takes what a later batch says. False if the two contradict each other.
  bool narrow(const PeerClock& later);

  int64_t offset() const { return least_ + (most_ - least_) / 2; }
  int64_t error() const { return std::max<int64_t>(0, (most_ - least_) / 2); }

 private:
  int64_t least_ = 0, most_ = 0;
  int64_t at_ = 0;
};

// How a gateway has passed a batch on, on its clock.
struct Passage {
  static std::optional<Passage> of(const TimedBatch& batch);

  uint64_t batch = 0;
  int64_t received = 0, sent = 0;         // the batch
  int64_t answered = 0, sent_answer = 0;  // its report
  PeerClock clock;
};

// What a batch alone says of the clock; nothing if the node has told no times.
std::optional<PeerClock> clock_of(const TimedBatch& batch);
inline std::optional<PeerClock> clock_of(const Passage& passage) { return passage.clock; }

// Calls `each` for those of one clock at a time, in order, and leaves the clock of the last ones in `clock`. `Timed` is a
// TimedBatch or a Passage.
template <typename Timed, typename Each>
void by_clock(std::vector<Timed> all, std::optional<PeerClock>* clock, Each each) {
  std::vector<Timed> alike;
  for (auto& one : all) {
    auto own = clock_of(one);
    if (!own) continue;
    if (!*clock) {
      *clock = own;
    } else if (!(*clock)->narrow(*own)) {
      each(alike, **clock, true);
      alike.clear();
      *clock = own;
    }
    alike.push_back(std::move(one));
  }
  if (!alike.empty()) each(alike, **clock, false);
}

// Reads a batch's times.
class NodeTimes {
 public:
  // Throws a WireError if they cannot be read.
  NodeTimes(const TimedBatch& batch, const PeerClock& clock);

  int64_t begin() const { return begin_; }
  int64_t end() const { return end_; }

  struct Run {
    Record record;
    int64_t call;  // its number if it is a call, else 0
    int64_t begin, end;
  };
  // The next record that the node has executed. Throws a WireError if it cannot be read.
  std::optional<Run> next();

 private:
  Reader r_;
  int64_t begin_ = 0, end_ = 0, at_ = 0, call_ = 0;
};

// Of what the node does beside calls.
const char* name_of_run(Record record);

}  // namespace remora
