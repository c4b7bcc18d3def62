// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Streams are threads that wait a random time before each piece of work, so that a result that is used without being
// waited for is wrong. REMORA_SIMULATED_SEED and REMORA_SIMULATED_DELAY_MICROS (the longest, by default 100) set the times.
#include "streams.h"

#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/util/Exception.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

namespace accelerator {

namespace {

using Clock = std::chrono::steady_clock;

constexpr c10::StreamId kStreams = 5;  // of each device: the default one, and four to share

uint64_t setting(const char* variable, uint64_t otherwise) {
  const char* text = std::getenv(variable);
  return text != nullptr && *text != 0 ? std::strtoull(text, nullptr, 10) : otherwise;
}

class Queue {
 public:
  explicit Queue(uint64_t number) : random_(setting("REMORA_SIMULATED_SEED", 1) * 1000 + number) {
    std::thread([this] { run(); }).detach();  // ends with the process
  }

  void add(std::function<void()> work) {
    std::lock_guard<std::mutex> lock(mutex_);
    waiting_.push_back(std::move(work));
    added_++;
    changed_.notify_all();
  }
  void synchronize() {
    std::unique_lock<std::mutex> lock(mutex_);
    auto until = added_;
    changed_.wait(lock, [&] { return done_ >= until; });
  }
  bool idle() {
    std::lock_guard<std::mutex> lock(mutex_);
    return done_ == added_;
  }

 private:
  void run() {
    auto longest = setting("REMORA_SIMULATED_DELAY_MICROS", 100);
    while (true) {
      std::function<void()> work;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [&] { return !waiting_.empty(); });
        work = std::move(waiting_.front());
        waiting_.pop_front();
      }
      if (longest > 0) std::this_thread::sleep_for(std::chrono::microseconds(random_() % (longest + 1)));
      work();
      work = nullptr;  // what the work holds is let go before it counts as done
      std::lock_guard<std::mutex> lock(mutex_);
      done_++;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> waiting_;
  uint64_t added_ = 0;
  uint64_t done_ = 0;
  std::mt19937_64 random_;
};

Queue& queue(c10::DeviceIndex device, c10::StreamId stream) {
  static auto* queues = [] {
    auto* all = new std::vector<std::unique_ptr<Queue>>;
    for (int i = 0; i < device_count() * kStreams; i++) all->push_back(std::make_unique<Queue>(i));
    return all;
  }();
  TORCH_CHECK(device >= 0 && device < device_count() && stream >= 0 && stream < kStreams, "there is no stream ", stream,
              " on simulated device ", static_cast<int>(device));
  return *(*queues)[device * kStreams + stream];
}

Queue& queue(const c10::Stream& stream) { return queue(stream.device_index(), stream.id()); }

c10::Stream stream_of(c10::DeviceIndex device, c10::StreamId id) {
  return c10::Stream(c10::Stream::UNSAFE, c10::Device(kType, device), id);
}

thread_local c10::DeviceIndex here = 0;
thread_local std::array<c10::StreamId, kMostDevices> streams_here{};

// One recording of an event.
struct Moment {
  std::mutex mutex;
  std::condition_variable changed;
  bool reached = false;
  Clock::time_point time;

  void wait() {
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [&] { return reached; });
  }
  bool is_reached() {
    std::lock_guard<std::mutex> lock(mutex);
    return reached;
  }
};
struct Event {
  std::shared_ptr<Moment> moment;
};

Moment& moment(void* event) {
  TORCH_CHECK(event != nullptr, "the event was not recorded");
  return *static_cast<Event*>(event)->moment;
}

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kType; }
  c10::Device exchangeDevice(c10::Device device) const override {
    auto before = getDevice();
    setDevice(device);
    return before;
  }
  c10::Device getDevice() const override { return {kType, here}; }
  void setDevice(c10::Device device) const override { set_current_device(device.index()); }
  void uncheckedSetDevice(c10::Device device) const noexcept override { here = device.index(); }
  c10::DeviceIndex deviceCount() const noexcept override { return static_cast<c10::DeviceIndex>(device_count()); }

  c10::Stream getStream(c10::Device device) const override {
    return current_stream(device.has_index() ? device.index() : here);
  }
  c10::Stream getDefaultStream(c10::Device device) const override {
    return stream_of(device.has_index() ? device.index() : here, 0);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override { return getNewStream(device, 0); }
  c10::Stream getNewStream(c10::Device device, int) const override {
    static std::atomic<uint64_t> next{0};
    return stream_of(device.has_index() ? device.index() : here,
                     static_cast<c10::StreamId>(1 + next++ % (kStreams - 1)));
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    auto before = current_stream(stream.device_index());
    streams_here[stream.device_index()] = stream.id();
    return before;
  }
  bool queryStream(const c10::Stream& stream) const override { return queue(stream).idle(); }
  void synchronizeStream(const c10::Stream& stream) const override { synchronize(stream); }
  void synchronizeDevice(c10::DeviceIndex device) const override { synchronize_device(device); }
  void recordDataPtrOnStream(const c10::DataPtr& pointer, const c10::Stream& stream) const override {
    device_allocator()->recordStream(pointer, stream);
  }

  void record(void** event, const c10::Stream& stream, c10::DeviceIndex, c10::EventFlag) const override {
    if (*event == nullptr) *event = new Event;
    auto moment = std::make_shared<Moment>();
    static_cast<Event*>(*event)->moment = moment;
    enqueue(stream, [moment] {
      std::lock_guard<std::mutex> lock(moment->mutex);
      moment->time = Clock::now();
      moment->reached = true;
      moment->changed.notify_all();
    });
  }
  void block(void* event, const c10::Stream& stream) const override {
    if (event == nullptr) return;
    enqueue(stream, [moment = static_cast<Event*>(event)->moment] { moment->wait(); });
  }
  bool queryEvent(void* event) const override { return event == nullptr || moment(event).is_reached(); }
  void synchronizeEvent(void* event) const override {
    if (event != nullptr) moment(event).wait();
  }
  void destroyEvent(void* event, c10::DeviceIndex) const noexcept override { delete static_cast<Event*>(event); }
  double elapsedTime(void* first, void* second, c10::DeviceIndex) const override {
    TORCH_CHECK(moment(first).is_reached() && moment(second).is_reached(), "an event was not reached yet");
    return std::chrono::duration<double, std::milli>(moment(second).time - moment(first).time).count();
  }
};

C10_REGISTER_GUARD_IMPL(MTIA, Guard)

}  // namespace

c10::DeviceIndex current_device() { return here; }
void set_current_device(c10::DeviceIndex device) {
  TORCH_CHECK(device >= 0 && device < device_count(), "there is no simulated device ", static_cast<int>(device));
  here = device;
}
c10::Stream current_stream(c10::DeviceIndex device) { return stream_of(device, streams_here.at(device)); }

void enqueue(const c10::Stream& stream, std::function<void()> work) { queue(stream).add(std::move(work)); }
void synchronize(const c10::Stream& stream) { queue(stream).synchronize(); }
void synchronize_device(c10::DeviceIndex device) {
  for (c10::StreamId id = 0; id < kStreams; id++) queue(device, id).synchronize();
}

}  // namespace accelerator
