// SPDX-License-Identifier: AGPL-3.0-or-later
//
// How often and how long the program has waited for its node, why, and at which of its lines. Thread-safe.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

namespace remora {

class Timeline;
class Waiting;

class Waits {
 public:
  enum Cause {
    kValue,     // a tensor's elements were read
    kShape,     // a result's shape depends on values
    kMetadata,  // only the node could tell a result's shape, dtype or strides
    kRoom,      // the node, or the way to it, took no more batches
    kOther,     // questions: memory, events, calls of functions
    // What kept the node from answering. The time of such a state counts for it, and not for the wait's own cause.
    kPaused,
    kReconnecting,
    kRecovering,
    kCauses,
    kUnhindered = kCauses
  };

  using Clock = std::chrono::steady_clock;
  // How long each state has lasted, in nanoseconds. Only those of kPaused and the following are used.
  using Times = std::array<int64_t, kCauses>;

  // The waits are told to the timeline too.
  explicit Waits(Timeline& timeline) : timeline_(timeline) {}

  // From now on waits are hindered by a state of remora_hindrance (remora.h), or by none.
  void hinder(int32_t hindrance);
  int64_t of(Cause cause) const { return counts_[cause].load(std::memory_order_relaxed); }
  // By cause, in nanoseconds. The waits that threads are in count as far as they have lasted.
  Times nanos() const;
  int64_t nanos_of(Cause cause) const { return nanos()[cause]; }
  // Times the program waited for an answer: all causes but the wait for room.
  int64_t for_answers() const;
  // The operators that metadata waits were for: a line "name count" for each, in the order of the names.
  std::string operators() const;
  // The waits by cause, subject and line of the program, the longest first. A text line for each has, between tabs: the
  // cause's name, a count, nanoseconds, the subject, and the program's line, which may be empty.
  std::string places() const;
  // The first of these lines.
  struct Line {
    Cause cause;
    std::string what, place;
    int64_t count, nanos;
  };
  std::vector<Line> longest(size_t most) const;
  static const char* name_of(Cause cause);
  // Notes a wait for room, in a binding that waits itself.
  void waited_for_room(int64_t nanos);

 private:
  friend class Waiting;

  struct Sum {
    int64_t count = 0;
    int64_t nanos = 0;
    void add(int64_t more, int64_t time) { count += more, nanos += time; }
  };
  using Subject = std::pair<Cause, std::string>;
  using Place = std::tuple<Cause, std::string, std::string>;
  struct Sample {
    Sum* last = nullptr;  // of the place that was seen last
    int64_t until_next = 0;
  };

  void begin(Cause cause);
  void begin(Waiting& waiting);
  // `waiting` is null if the wait was not told before its end.
  void end(Waiting* waiting, Cause cause, std::string_view what, int64_t nanos, const Times& hindered_before);
  Times hindered() const;
  Times hindered_with_lock() const;
  // Divides a wait's time among its own cause and the states that there were meanwhile.
  static Times divided(Cause cause, int64_t nanos, const Times& hindered_before, const Times& hindered_now);
  void close(Waiting* waiting);                                                 // with the lock
  Sum& sum_of(Cause cause, const std::string& what, const std::string& place);  // with the lock
  int64_t next_gap();                                                           // with the lock

  Timeline& timeline_;
  std::array<std::atomic<int64_t>, kCauses> counts_{};
  std::array<std::atomic<int64_t>, kCauses> nanos_{};
  std::atomic<bool> ever_hindered_{false};
  mutable std::mutex mutex_;
  Cause state_ = kUnhindered;
  Clock::time_point state_since_;
  Times hindered_{};
  std::map<std::string, int64_t> operators_;  // as many as libtorch has operators
  std::map<Subject, Sample> samples_;
  std::map<Place, Sum> places_;
  std::vector<Waiting*> open_;
  uint32_t random_ = 1;
};

// One wait, from its construction to its destruction. `what` must live as long.
class Waiting {
 public:
  Waiting(Waits& waits, Waits::Cause cause, std::string_view what)
      : waits_(waits), cause_(cause), what_(what), hindered_(waits.hindered()), since_(Waits::Clock::now()) {
    waits.begin(*this);
    current_ = this;
  }
  ~Waiting() {
    current_ = outer_;
    waits_.end(this, cause_, what_, nanos(), hindered_);
  }
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;
  // The wait that the calling thread is in: its cause's name, a tab and its subject; "" if it is in none.
  static std::string of_this_thread();

 private:
  friend class Waits;

  int64_t nanos() const {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(Waits::Clock::now() - since_).count();
  }

  static thread_local const Waiting* current_;

  int64_t ended_ = -1;  // its time; -1: it lasts. Guarded by the lock of `waits_`.
  const Waiting* const outer_ = current_;
  Waits& waits_;
  const Waits::Cause cause_;
  const std::string_view what_;
  const Waits::Times hindered_;
  const Waits::Clock::time_point since_;
};

}  // namespace remora
