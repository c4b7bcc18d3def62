// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/machine/profile.h"

#include <algorithm>
#include <atomic>
#include <utility>

namespace remora {

namespace {

std::atomic<uint64_t> runs{0};  // of the profiler

struct Correlations {
  uint64_t run = 0;
  std::vector<uint64_t> ids;
};

std::vector<uint64_t>& correlations() {
  static thread_local Correlations own;
  auto run = runs.load(std::memory_order_relaxed);
  if (std::exchange(own.run, run) != run) own.ids.clear();
  return own.ids;
}

}  // namespace

void push_correlation(uint64_t id) { correlations().push_back(id); }
void pop_correlation() {
  auto& ids = correlations();
  if (!ids.empty()) ids.pop_back();
}
void forget_correlations() { runs++; }

void Profile::begin() {
  noted_ = {};
  under_way_.clear();
  on_ = true;
}

void Profile::operation(int64_t call, const std::string& name, int slot) {
  const auto& ids = correlations();
  if (!full()) noted_.operations[call] = {name.c_str(), slot, ids.empty() ? 0 : ids.back()};
}

void Profile::submitted(uint64_t batch, int64_t now) { under_way_[batch] = {batch, 0, 0, now, 0, "", ""}; }

void Profile::executed(uint64_t batch, int64_t now, std::string_view times) {
  auto found = under_way_.find(batch);
  if (found == under_way_.end()) {
    return;
  }
  found->second.arrived = now;
  found->second.times = times;
  noted_.batches.push_back(std::move(found->second));
  under_way_.erase(found);
}

size_t Profile::unanswered(int64_t submitted) const {
  return static_cast<size_t>(std::count_if(under_way_.begin(), under_way_.end(),
                                           [&](const auto& each) { return each.second.submitted <= submitted; }));
}

Profile::Noted Profile::end() {
  on_ = false;
  under_way_.clear();
  return std::exchange(noted_, {});
}

std::vector<NodeSlice> Profile::Noted::slices(int first_slot) {
  std::vector<NodeSlice> slices;
  std::optional<PeerClock> clock;
  by_clock(std::move(batches), &clock, [&](const std::vector<TimedBatch>& alike, const PeerClock& clock, bool) {
    for (const auto& batch : alike) {
      try {
        NodeTimes times(batch, clock);
        while (auto run = times.next()) {
          NodeSlice slice{name_of_run(run->record), first_slot, 0, false, run->begin, run->end};
          slice.copies = run->record == Record::kWrite || run->record == Record::kRead;
          if (run->call != 0) {
            auto found = operations.find(run->call);
            if (found == operations.end()) continue;  // recorded before the profile began
            slice.name = found->second.name;
            slice.slot = found->second.slot;
            slice.correlation = found->second.correlation;
          }
          slices.push_back(slice);
        }
      } catch (const WireError&) {
        // What the node has told up to there is true as far as anyone knows.
      }
    }
  });
  return slices;
}

}  // namespace remora
