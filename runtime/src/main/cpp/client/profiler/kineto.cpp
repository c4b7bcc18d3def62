// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/profiler/kineto.h"

// The wheels of some versions lack headers that Kineto's own include.
#if __has_include(<kineto/libkineto.h>) && __has_include(<kineto/output_base.h>) && __has_include(<fmt/format.h>)
#define REMORA_KINETO 1
#endif

#ifdef REMORA_KINETO

#define KINETO_NAMESPACE libkineto
#ifndef FMT_HEADER_ONLY
#define FMT_HEADER_ONLY 1
#endif
#include <kineto/libkineto.h>
#include <kineto/output_base.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "client/machine/machine.h"
#include "client/machine/timeline.h"
#include "client/profiler/profiling.h"

namespace remora {

namespace {

using libkineto::ActivityType;

// What Kineto's clock, the time of day, is ahead of the steady clock.
int64_t unix_offset() {
  int64_t offset = 0;
  auto closest = INT64_MAX;
  for (int i = 0; i < 5; i++) {
    auto before = Timeline::now();
    auto day = std::chrono::system_clock::now().time_since_epoch();
    auto after = Timeline::now();
    if (after - before < closest) {
      closest = after - before;
      offset = std::chrono::duration_cast<std::chrono::nanoseconds>(day).count() - before - closest / 2;
    }
  }
  return offset;
}

// Kineto writes names into JSON as they are.
std::string plain(std::string name) {
  std::replace_if(
      name.begin(), name.end(), [](char c) { return c == '"' || c == '\\' || static_cast<unsigned char>(c) < 0x20; },
      '_');
  return name;
}

// The order of the fields differs: in some versions they are those of a constructor.
template <typename Info>
Info row_of(int64_t device) {
  if constexpr (std::is_aggregate_v<Info>) {
    return {0, 0, device, "executor"};
  } else {
    return {device, 0, 0, "executor"};
  }
}

// One run of torch.profiler, or one cycle of its schedule.
class Session : public libkineto::IActivityProfilerSession {
 public:
  ~Session() override {
    if (status_ == libkineto::TraceStatus::RECORDING) stop_profiling();  // the profiler has given up
  }

  void start() override {
    start_profiling();
    status_ = libkineto::TraceStatus::RECORDING;
  }
  void stop() override {
    machines_ = stop_profiling();
    status_ = libkineto::TraceStatus::PROCESSING;
  }
  std::vector<std::string> errors() override { return {}; }

  void processTrace(libkineto::ActivityLogger& logger) override {
    processTrace(logger, [](int32_t) { return nullptr; }, 0, 0);
  }
  void processTrace(libkineto::ActivityLogger& logger, libkineto::getLinkedActivityCallback linked, int64_t begin,
                    int64_t end) override {
    auto offset = unix_offset();
    buffer_->span = libkineto::TraceSpan(begin, end, "Remora");
    for (const auto& [machine, slices] : machines_) {
      auto name = plain(machine->name);
      for (const auto& slice : slices) {
        auto& track = tracks_[slice.slot];
        if (track.empty()) track = "remora:" + std::to_string(slice.slot) + " (machine '" + name + "')";
        buffer_->emplace_activity(buffer_->span,
                                  slice.copies ? ActivityType::GPU_MEMCPY : ActivityType::CONCURRENT_KERNEL,
                                  std::string(slice.name));
        auto& activity = libkineto::CpuTraceBuffer::toRef(buffer_->activities.back());
        activity.startTime = slice.begin + offset;
        activity.endTime = slice.end + offset;
        activity.device = slice.slot;
        activity.id = static_cast<int32_t>(slice.correlation);
        activity.linked = slice.correlation == 0 ? nullptr : linked(activity.id);
        activity.log(logger);
      }
    }
    machines_.clear();
    // Kineto asks for one device alone.
    for (const auto& track : tracks_) {
      if (track.first != tracks_.begin()->first) logger.handleDeviceInfo(info(track), begin);
    }
  }

  std::unique_ptr<libkineto::DeviceInfo> getDeviceInfo() override {
    return tracks_.empty() ? nullptr : std::make_unique<libkineto::DeviceInfo>(info(*tracks_.begin()));
  }
  std::vector<libkineto::ResourceInfo> getResourceInfos() override {
    std::vector<libkineto::ResourceInfo> rows;
    for (const auto& track : tracks_) rows.push_back(row_of<libkineto::ResourceInfo>(track.first));
    return rows;
  }
  std::unique_ptr<libkineto::CpuTraceBuffer> getTraceBuffer() override { return std::move(buffer_); }

  // On the thread that begins and ends an operation.
  void pushCorrelationId(uint64_t id) override { push_correlation(id); }
  void popCorrelationId() override { pop_correlation(); }

 private:
  static libkineto::DeviceInfo info(const std::pair<const int, std::string>& track) {
    return {track.first, libkineto::kExceedMaxPid + track.first, track.second, "node"};
  }

  std::vector<MachineSlices> machines_;
  std::map<int, std::string> tracks_;  // by the device's slot
  std::unique_ptr<libkineto::CpuTraceBuffer> buffer_ = std::make_unique<libkineto::CpuTraceBuffer>();
};

class Profiler : public libkineto::IActivityProfiler {
 public:
  const std::string& name() const override { return name_; }
  const std::set<ActivityType>& availableActivities() const override { return types_; }
  std::unique_ptr<libkineto::IActivityProfilerSession> configure(const std::set<ActivityType>& wanted,
                                                                 const libkineto::Config&) override {
    // ProfilerActivity.PrivateUse1 has it, and ProfilerActivity.CPU does not.
    return wanted.count(ActivityType::CONCURRENT_KERNEL) != 0 ? std::make_unique<Session>() : nullptr;
  }
  std::unique_ptr<libkineto::IActivityProfilerSession> configure(int64_t, int64_t, const std::set<ActivityType>& wanted,
                                                                 const libkineto::Config& config) override {
    return configure(wanted, config);
  }

 private:
  const std::string name_ = "remora";
  const std::set<ActivityType> types_{ActivityType::CONCURRENT_KERNEL, ActivityType::GPU_MEMCPY};
};

}  // namespace

bool register_with_kineto() {
  libkineto::api().registerProfilerFactory([] { return std::make_unique<Profiler>(); });
  return true;
}

}  // namespace remora

#else

namespace remora {

bool register_with_kineto() { return false; }

}  // namespace remora

#endif
