// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/machine/waits.h"

#include <algorithm>
#include <vector>

#include "client/machine/timeline.h"
#include "client/program_line.h"

namespace remora {

namespace {

// A wait that takes this long costs so much more than a look at the program's stack that each one is looked at.
constexpr int64_t kLong = 1'000'000;
// Of the shorter ones, after the first of a subject, one in this many on average. The gaps are random: with equal gaps a
// loop that waits at two lines would always be seen at the same one.
constexpr int64_t kMeanGap = 16;
constexpr int64_t kFirst = 64;
constexpr size_t kMostPlaces = 1000;  // beyond, the program's line is not kept

constexpr const char* kNames[Waits::kCauses] = {"value",    "shape",  "metadata",     "room",
                                                "question", "paused", "reconnecting", "recovering"};

}  // namespace

thread_local const Waiting* Waiting::current_ = nullptr;

std::string Waiting::of_this_thread() {
  return current_ == nullptr ? "" : std::string(kNames[current_->cause_]) + "\t" + std::string(current_->what_);
}

void Waits::begin(Cause cause) { counts_[cause].fetch_add(1, std::memory_order_relaxed); }

void Waits::begin(Waiting& waiting) {
  begin(waiting.cause_);
  std::lock_guard<std::mutex> guard(mutex_);
  open_.push_back(&waiting);
}

void Waits::close(Waiting* waiting) { open_.erase(std::remove(open_.begin(), open_.end(), waiting), open_.end()); }

const char* Waits::name_of(Cause cause) { return kNames[cause]; }

void Waits::hinder(int32_t hindrance) {
  constexpr Cause kStates[] = {kUnhindered, kPaused, kReconnecting, kRecovering};
  auto state = hindrance > 0 && hindrance < 4 ? kStates[hindrance] : kUnhindered;
  std::lock_guard<std::mutex> guard(mutex_);
  auto now = Clock::now();
  if (state_ != kUnhindered) {
    hindered_[state_] += std::chrono::duration_cast<std::chrono::nanoseconds>(now - state_since_).count();
  }
  state_ = state;
  state_since_ = now;
  timeline_.hindered(state == kUnhindered ? nullptr : kNames[state]);
  if (state != kUnhindered) {
    ever_hindered_.store(true);
  }
}

Waits::Times Waits::hindered() const {
  if (!ever_hindered_.load(std::memory_order_relaxed)) {
    return {};
  }
  std::lock_guard<std::mutex> guard(mutex_);
  return hindered_with_lock();
}

Waits::Times Waits::hindered_with_lock() const {
  auto times = hindered_;
  if (state_ != kUnhindered) {
    times[state_] += std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - state_since_).count();
  }
  return times;
}

Waits::Times Waits::divided(Cause cause, int64_t nanos, const Times& hindered_before, const Times& hindered_now) {
  Times times{};
  int64_t own = nanos;
  for (int state = kPaused; state < kCauses; state++) {
    times[state] = std::min(hindered_now[state] - hindered_before[state], own);
    own -= times[state];
  }
  times[cause] += own;
  return times;
}

Waits::Times Waits::nanos() const {
  std::lock_guard<std::mutex> guard(mutex_);
  Times sums;
  for (size_t cause = 0; cause < kCauses; cause++) sums[cause] = nanos_[cause].load(std::memory_order_relaxed);
  auto hindered_now = hindered_with_lock();
  for (auto* each : open_) {
    auto lasted = each->ended_ < 0 ? each->nanos() : each->ended_;
    auto times = divided(each->cause_, lasted, each->hindered_, hindered_now);
    for (size_t cause = 0; cause < kCauses; cause++) sums[cause] += times[cause];
  }
  return sums;
}

void Waits::waited_for_room(int64_t nanos) {
  begin(kRoom);
  end(nullptr, kRoom, "room to send more", nanos, hindered());
}

void Waits::end(Waiting* waiting, Cause cause, std::string_view what, int64_t nanos, const Times& hindered_before) {
  bool traced = timeline_.in_file();
  auto now = traced ? Timeline::now() : 0;
  auto times = divided(cause, nanos, hindered_before, hindered());
  auto own = times[cause];
  std::string subject(what);
  {
    std::lock_guard<std::mutex> guard(mutex_);
    if (waiting != nullptr) waiting->ended_ = nanos;
    if (cause == kMetadata) operators_[subject]++;
    auto& sample = samples_[{cause, subject}];
    if (!traced && nanos < kLong && sample.last != nullptr && sample.until_next > 0) {
      sample.until_next--;
      sample.last->add(1, own);
      nanos_[cause].fetch_add(own, std::memory_order_relaxed);
      close(waiting);
      return;
    }
  }
  auto place = program_line();  // without the lock: it may have to wait for Python's
  if (traced) timeline_.waited(kNames[cause], what, place, now - nanos, now);
  std::lock_guard<std::mutex> guard(mutex_);
  close(waiting);
  auto& sum = sum_of(cause, subject, place);
  sum.add(1, own);
  nanos_[cause].fetch_add(own, std::memory_order_relaxed);
  auto& sample = samples_[{cause, subject}];
  sample.last = &sum;
  sample.until_next = of(cause) < kFirst ? 0 : next_gap();
  for (int state = kPaused; state < kCauses; state++) {
    if (times[state] > 0) {
      counts_[state].fetch_add(1, std::memory_order_relaxed);
      nanos_[state].fetch_add(times[state], std::memory_order_relaxed);
      sum_of(static_cast<Cause>(state), subject, place).add(1, times[state]);
    }
  }
}

int64_t Waits::next_gap() {
  random_ = random_ * 1664525U + 1013904223U;
  return static_cast<int64_t>(random_ >> 8) % (2 * kMeanGap - 1);
}

Waits::Sum& Waits::sum_of(Cause cause, const std::string& what, const std::string& place) {
  auto found = places_.find({cause, what, place});
  if (found != places_.end()) {
    return found->second;
  }
  return places_[{cause, what, places_.size() < kMostPlaces ? place : ""}];
}

int64_t Waits::for_answers() const { return of(kValue) + of(kShape) + of(kMetadata) + of(kOther); }

std::string Waits::operators() const {
  std::lock_guard<std::mutex> guard(mutex_);
  std::string lines;
  for (const auto& [name, count] : operators_) lines += name + " " + std::to_string(count) + "\n";
  return lines;
}

std::vector<Waits::Line> Waits::longest(size_t most) const {
  std::lock_guard<std::mutex> guard(mutex_);
  std::vector<const std::pair<const Place, Sum>*> sorted;
  for (const auto& each : places_) sorted.push_back(&each);
  auto longer = [](auto* a, auto* b) {
    return std::tie(b->second.nanos, a->first) < std::tie(a->second.nanos, b->first);  // equal ones as in the map
  };
  most = std::min(most, sorted.size());
  std::partial_sort(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(most), sorted.end(), longer);
  std::vector<Line> lines;
  for (size_t i = 0; i < most; i++) {
    const auto& [cause, what, place] = sorted[i]->first;
    lines.push_back({cause, what, place, sorted[i]->second.count, sorted[i]->second.nanos});
  }
  return lines;
}

std::string Waits::places() const {
  std::string lines;
  for (const auto& each : longest(SIZE_MAX)) {
    lines += std::string(kNames[each.cause]) + "\t" + std::to_string(each.count) + "\t" + std::to_string(each.nanos) +
             "\t" + each.what + "\t" + each.place + "\n";
  }
  return lines;
}

}  // namespace remora
