// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Device memory is a file in memory that is mapped twice: where tensors have their addresses without any access, so that
// the host's access is a segmentation fault, and elsewhere for kernels.
#include "memory.h"

#include <c10/util/Exception.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "streams.h"

namespace accelerator {

namespace {

constexpr size_t kAlignment = 512;

size_t number_from(const char* variable, size_t otherwise) {
  const char* text = std::getenv(variable);
  return text != nullptr && *text != 0 ? std::strtoull(text, nullptr, 10) : otherwise;
}

struct Block {
  c10::DeviceIndex device;
  size_t offset;
  size_t bytes;
  c10::StreamId stream;                      // of the allocation
  std::unordered_set<c10::StreamId> others;  // that use it as well
};

class Arena {
 public:
  explicit Arena(c10::DeviceIndex device) : device_(device), limit_(number_from("REMORA_SIMULATED_MIB", 2048) << 20) {
    int file = memfd_create("remora-simulated-device", MFD_CLOEXEC);
    TORCH_CHECK(file >= 0 && ftruncate(file, static_cast<off_t>(limit_)) == 0, "no memory for a simulated device");
    outside_ = map(file, PROT_NONE);
    inside_ = map(file, PROT_READ | PROT_WRITE);
    close(file);
    stats_bytes(stats_.reserved_bytes);
  }

  bool has(const void* pointer) const { return pointer >= outside_ && pointer < outside_ + limit_; }
  void* kernel_view(const void* pointer) const { return inside_ + (static_cast<const uint8_t*>(pointer) - outside_); }
  size_t limit() const { return limit_; }
  size_t reserved() const { return end_; }

  Block* allocate(size_t wanted, c10::StreamId stream) {
    auto bytes = std::max(kAlignment, (wanted + kAlignment - 1) / kAlignment * kAlignment);
    std::unique_lock<std::mutex> lock(mutex_);
    auto block = take(bytes, stream);
    if (!block) {
      lock.unlock();
      synchronize_device(device_);
      lock.lock();
      merge();
      block = take(bytes, stream);
    }
    TORCH_CHECK_WITH(OutOfMemoryError, block, "the simulated device ", static_cast<int>(device_),
                     " is out of memory: ", bytes, " bytes wanted, ", stats_.allocated_bytes[0].current, " of ", limit_,
                     " in use");
    for (auto* stat : {&stats_.allocated_bytes, &stats_.active_bytes, &stats_.requested_bytes}) {
      (*stat)[0].increase(block->bytes);
    }
    stats_.allocation[0].increase(1);
    return block.release();
  }

  void free(Block* block) {
    std::lock_guard<std::mutex> lock(mutex_);
    for (auto* stat : {&stats_.allocated_bytes, &stats_.active_bytes, &stats_.requested_bytes}) {
      (*stat)[0].decrease(block->bytes);
    }
    stats_.allocation[0].decrease(1);
    // A block that several streams use is free for all when the device is next synchronized.
    auto owner = block->others.empty() ? block->stream : kShared;
    free_[owner].insert({block->bytes, block->offset});
    delete block;
  }

  void empty_cache() {
    synchronize_device(device_);
    std::lock_guard<std::mutex> lock(mutex_);
    merge();
    auto& common = free_[kCommon];
    for (auto it = common.begin(); it != common.end(); ++it) {
      if (it->second + it->first == end_) {
        end_ = it->second;
        common.erase(it);
        break;
      }
    }
    stats_bytes(stats_.reserved_bytes);
  }

  c10::CachingDeviceAllocator::DeviceStats stats() {
    std::lock_guard<std::mutex> lock(mutex_);
    return stats_;
  }
  void reset_peak() {
    std::lock_guard<std::mutex> lock(mutex_);
    for (auto* stat : {&stats_.allocated_bytes, &stats_.reserved_bytes, &stats_.active_bytes}) (*stat)[0].reset_peak();
  }

 private:
  static constexpr c10::StreamId kCommon = -1;  // free for every stream
  static constexpr c10::StreamId kShared = -2;  // free for none until the device is synchronized

  uint8_t* map(int file, int access) const {
    void* address = mmap(nullptr, limit_, access, MAP_SHARED | MAP_NORESERVE, file, 0);
    TORCH_CHECK(address != MAP_FAILED, "the memory of a simulated device cannot be mapped");
    return static_cast<uint8_t*>(address);
  }

  std::unique_ptr<Block> take(size_t bytes, c10::StreamId stream) {
    for (auto owner : {stream, kCommon}) {
      auto& list = free_[owner];
      auto it = list.lower_bound({bytes, 0});
      if (it == list.end()) continue;
      auto [size, offset] = *it;
      list.erase(it);
      if (size > bytes) list.insert({size - bytes, offset + bytes});
      return std::make_unique<Block>(Block{device_, offset, bytes, stream, {}});
    }
    if (end_ + bytes > limit_) return nullptr;
    auto block = std::make_unique<Block>(Block{device_, end_, bytes, stream, {}});
    end_ += bytes;
    stats_bytes(stats_.reserved_bytes);
    return block;
  }

  // Makes all free memory one list of the largest pieces.
  void merge() {
    std::map<size_t, size_t> pieces;  // offset to size
    for (auto& [owner, list] : free_) {
      for (auto [size, offset] : list) pieces[offset] = size;
    }
    free_.clear();
    auto& common = free_[kCommon];
    for (auto it = pieces.begin(); it != pieces.end();) {
      auto [offset, size] = *it;
      for (++it; it != pieces.end() && it->first == offset + size; ++it) size += it->second;
      common.insert({size, offset});
    }
  }

  void stats_bytes(c10::CachingAllocator::StatArray& reserved) {
    auto change = static_cast<int64_t>(end_) - reserved[0].current;
    if (change > 0) reserved[0].increase(static_cast<size_t>(change));
    if (change < 0) reserved[0].decrease(static_cast<size_t>(-change));
  }

  c10::DeviceIndex device_;
  size_t limit_;
  uint8_t* outside_ = nullptr;
  uint8_t* inside_ = nullptr;
  std::mutex mutex_;
  size_t end_ = 0;  // of the memory that was ever handed out
  std::unordered_map<c10::StreamId, std::set<std::pair<size_t, size_t>>> free_;  // size, offset
  c10::CachingDeviceAllocator::DeviceStats stats_;

 public:
  void* address(const Block& block) const { return outside_ + block.offset; }
};

Arena& arena(c10::DeviceIndex device) {
  static std::vector<std::unique_ptr<Arena>>* arenas = [] {
    auto* list = new std::vector<std::unique_ptr<Arena>>;
    for (int i = 0; i < device_count(); i++) list->push_back(std::make_unique<Arena>(static_cast<c10::DeviceIndex>(i)));
    return list;
  }();
  TORCH_CHECK(device >= 0 && device < device_count(), "there is no simulated device ", static_cast<int>(device));
  return *(*arenas)[device];
}

void free_block(void* context) {
  auto* block = static_cast<Block*>(context);
  arena(block->device).free(block);
}

class Allocator final : public c10::DeviceAllocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    auto device = current_device();
    c10::Device on(kType, device);
    if (bytes == 0) return {nullptr, nullptr, &c10::detail::deleteNothing, on};
    auto& memory = arena(device);
    auto* block = memory.allocate(bytes, current_stream(device).id());
    void* address = memory.address(*block);
    void* view = memory.kernel_view(address);
    enqueue(current_stream(device), [view, size = block->bytes] { std::memset(view, 0xB5, size); });
    return {address, block, &free_block, on};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    enqueue(current_stream(current_device()), [to = accelerator::kernel_view(to), from = accelerator::kernel_view(from),
                                               bytes] { std::memcpy(to, from, bytes); });
  }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {
    for (int i = 0; i < device_count(); i++) arena(static_cast<c10::DeviceIndex>(i)).empty_cache();
  }
  void recordStream(const c10::DataPtr& pointer, c10::Stream stream) override {
    if (pointer.get_deleter() != &free_block) return;
    auto* block = static_cast<Block*>(pointer.get_context());
    if (block->stream != stream.id()) block->others.insert(stream.id());
  }
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex device) override {
    return arena(device).stats();
  }
  void resetAccumulatedStats(c10::DeviceIndex) override {}
  void resetPeakStats(c10::DeviceIndex device) override { arena(device).reset_peak(); }
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex device) override {
    auto& memory = arena(device);
    return {memory.limit() - memory.reserved(), memory.limit()};
  }
};

// Host memory of pinned tensors, by address.
std::mutex pinned_mutex;
std::map<uintptr_t, size_t>& pinned() {
  static auto* ranges = new std::map<uintptr_t, size_t>;
  return *ranges;
}

void free_pinned(void* pointer) {
  {
    std::lock_guard<std::mutex> lock(pinned_mutex);
    pinned().erase(reinterpret_cast<uintptr_t>(pointer));
  }
  std::free(pointer);
}

class PinnedAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &c10::detail::deleteNothing, c10::kCPU};
    void* pointer = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    TORCH_CHECK_WITH(OutOfMemoryError, pointer != nullptr, "no pinned memory for ", bytes, " bytes");
    std::lock_guard<std::mutex> lock(pinned_mutex);
    pinned()[reinterpret_cast<uintptr_t>(pointer)] = bytes;
    return {pointer, pointer, &free_pinned, c10::kCPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_pinned; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
};

Allocator allocator;
PinnedAllocator pinned_memory;
REGISTER_ALLOCATOR(kType, &allocator)

}  // namespace

int device_count() {
  static const int count = static_cast<int>(
      std::clamp<size_t>(number_from("REMORA_SIMULATED_DEVICES", kMostDevices), 1, kMostDevices));
  return count;
}

void* kernel_view(const void* pointer) {
  if (pointer == nullptr) return nullptr;
  for (int i = 0; i < device_count(); i++) {
    auto& memory = arena(static_cast<c10::DeviceIndex>(i));
    if (memory.has(pointer)) return memory.kernel_view(pointer);
  }
  TORCH_CHECK(false, "a kernel got an address that is not device memory");
}

c10::DeviceAllocator* device_allocator() { return &allocator; }
c10::Allocator* pinned_allocator() { return &pinned_memory; }

bool is_pinned(const void* pointer) {
  auto address = reinterpret_cast<uintptr_t>(pointer);
  std::lock_guard<std::mutex> lock(pinned_mutex);
  auto it = pinned().upper_bound(address);
  return it != pinned().begin() && address < std::prev(it)->first + std::prev(it)->second;
}

}  // namespace accelerator
