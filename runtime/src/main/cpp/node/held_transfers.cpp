// SPDX-License-Identifier: AGPL-3.0-or-later
#include "node/held_transfers.h"

#include <ATen/ATen.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

namespace remora {

using Clock = std::chrono::steady_clock;

namespace {

// The tickets of all nodes in this process; usually there is only one node.
class Tickets {
 public:
  void configure(int64_t most_tickets, int64_t most_bytes, int64_t lifetime_millis, remora_fetch_callback fetch) {
    std::lock_guard<std::mutex> guard(mutex_);
    most_tickets_ = most_tickets;
    most_bytes_ = most_bytes;
    lifetime_ = std::chrono::milliseconds(lifetime_millis);
    fetch_ = fetch;
  }
  remora_fetch_callback fetch() {
    std::lock_guard<std::mutex> guard(mutex_);
    return fetch_;
  }

  // Reserves room for `bytes` bytes, which release() returns. Otherwise returns the reason for the refusal.
  std::string reserve(int64_t bytes) {
    expire();
    std::lock_guard<std::mutex> guard(mutex_);
    if (static_cast<int64_t>(held_.size()) >= most_tickets_) {
      return "the node already holds " + std::to_string(held_.size()) +
             " tensors for other nodes (remora.node.transfer.max-tickets)";
    }
    if (bytes > most_bytes_ - bytes_) {
      return "the node already holds " + std::to_string(bytes_) +
             " bytes for other nodes (remora.node.transfer.max-bytes)";
    }
    bytes_ += bytes;
    return "";
  }
  void release(int64_t bytes) {
    std::lock_guard<std::mutex> guard(mutex_);
    bytes_ -= bytes;
  }

  bool add(const std::string& ticket, const void* owner, std::unique_ptr<HeldTransfer> transfer) {
    std::lock_guard<std::mutex> guard(mutex_);
    if (find(ticket) != held_.size()) {
      return false;
    }
    held_.push_back({ticket, owner, Clock::now() + lifetime_, std::move(transfer)});
    return true;
  }

  std::unique_ptr<HeldTransfer> take(std::string_view ticket) {
    std::lock_guard<std::mutex> guard(mutex_);
    auto index = find(ticket);
    if (index == held_.size() || Clock::now() >= held_[index].until) {
      return nullptr;
    }
    auto transfer = std::move(held_[index].transfer);
    held_.erase(held_.begin() + static_cast<std::ptrdiff_t>(index));
    return transfer;
  }

  template <class Condition>
  int drop(Condition&& condition) {
    std::vector<std::unique_ptr<HeldTransfer>> dropped;  // freed after the lock is released
    std::lock_guard<std::mutex> guard(mutex_);
    auto kept = held_.begin();
    for (auto& each : held_) {
      if (condition(each.ticket, each.owner, each.until)) {
        dropped.push_back(std::move(each.transfer));
      } else {
        if (&*kept != &each) *kept = std::move(each);
        ++kept;
      }
    }
    held_.erase(kept, held_.end());
    return static_cast<int>(dropped.size());
  }
  int expire() {
    auto now = Clock::now();
    return drop([now](const auto&, const auto*, auto until) { return now >= until; });
  }

 private:
  struct Held {
    std::string ticket;
    const void* owner;
    Clock::time_point until;
    std::unique_ptr<HeldTransfer> transfer;
  };

  // Compares every byte of every ticket, so that the time it takes reveals nothing about a guess.
  size_t find(std::string_view ticket) const {
    size_t found = held_.size();
    for (size_t i = 0; i < held_.size(); i++) {
      uint8_t differs = ticket.size() == held_[i].ticket.size() ? 0 : 1;
      for (size_t c = 0; c < held_[i].ticket.size(); c++) {
        differs |= static_cast<uint8_t>(held_[i].ticket[c] ^ (c < ticket.size() ? ticket[c] : 0));
      }
      found = differs == 0 ? i : found;
    }
    return found;
  }

  std::mutex mutex_;
  std::vector<Held> held_;
  int64_t bytes_ = 0;  // held, or being sent
  int64_t most_tickets_ = 64;
  int64_t most_bytes_ = int64_t{2} << 30;
  Clock::duration lifetime_ = std::chrono::seconds(60);
  remora_fetch_callback fetch_ = nullptr;
};

Tickets& tickets() {
  static auto* all = new Tickets();  // never destroyed: threads that use it outlive static destructors
  return *all;
}

}  // namespace

HeldTransfer::~HeldTransfer() { tickets().release(reserved); }

Transferred hold_for_transfer(const std::string& ticket, const at::Tensor& source, bool temporary, const void* owner) {
  auto bytes = static_cast<int64_t>(source.nbytes());
  auto full = tickets().reserve(bytes);
  if (!full.empty()) {
    return {TransferResult::kRefused, full};
  }
  auto held = std::make_unique<HeldTransfer>();
  held->reserved = bytes;
  // Later batches may write to the source while its bytes are being sent.
  held->bytes = !source.device().is_cpu() ? source.cpu() : temporary ? source : source.clone();
  if (!tickets().add(ticket, owner, std::move(held))) {
    return {TransferResult::kRefused, "the ticket is already in use"};
  }
  return {};
}

void drop_transfer(std::string_view ticket, const void* owner) {
  tickets().drop([&](const auto& each, const void* its, auto) { return its == owner && each == ticket; });
}
void drop_transfers(const void* owner) {
  tickets().drop([&](const auto&, const void* its, auto) { return its == owner; });
}

HeldTransfer* take_transfer(std::string_view ticket) { return tickets().take(ticket).release(); }
int expire_transfers() { return tickets().expire(); }
void configure_transfers(int64_t most_tickets, int64_t most_bytes, int64_t lifetime_millis,
                         remora_fetch_callback fetch) {
  tickets().configure(most_tickets, most_bytes, lifetime_millis, fetch);
}

Transferred fetch_transfer(const std::string& ticket, const std::string& address, const at::Tensor& target) {
  auto bytes = static_cast<int64_t>(target.nbytes());
  auto received = target.device().is_cpu() ? target : at::empty(target.sizes(), target.options().device(c10::kCPU));
  if (auto here = tickets().take(ticket)) {  // the other node is in this process
    if (static_cast<int64_t>(here->bytes.nbytes()) != bytes) {
      return {TransferResult::kBroken, "the tensors differ in size"};
    }
    std::memcpy(received.mutable_data_ptr(), here->bytes.const_data_ptr(), static_cast<size_t>(bytes));
  } else {
    auto fetch = tickets().fetch();
    if (fetch == nullptr) {
      return {TransferResult::kRefused, "this node cannot fetch tensors from others"};
    }
    char error[4096] = "";
    auto result = fetch(address.c_str(), ticket.c_str(), reinterpret_cast<int64_t>(received.mutable_data_ptr()), bytes,
                        error, sizeof error);
    if (result != 0) {
      return {result > 0 ? TransferResult::kRefused : TransferResult::kBroken, error};
    }
  }
  if (received.unsafeGetTensorImpl() != target.unsafeGetTensorImpl()) {
    target.copy_(received);
  }
  return {};
}

}  // namespace remora
