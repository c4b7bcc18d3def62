// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/transfer.h"

#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <tuple>

#include "client/machine/batch_writer.h"
#include "client/machine/machine.h"
#include "client/storage.h"
#include "common/error.h"
#include "common/platform.h"

namespace remora {

using Clock = std::chrono::steady_clock;

namespace {

// Tensors are sent in pieces. So neither node holds another whole copy of a large tensor, and other operations can run
// between the pieces.
constexpr int64_t kPieceBytes = int64_t{256} << 20;
static_assert(kPieceBytes <= static_cast<int64_t>(kMaxTransferBytes));
// For fewer bytes, the requests and the connection cost more than a copy through this process.
constexpr int64_t kLeastBytes = 64 * 1024;
// For how long a node that could not be reached is not tried again.
constexpr auto kAvoid = std::chrono::seconds(60);
constexpr size_t kMostPairs = 1024;  // of machines, that are remembered

std::atomic<remora_notice_callback> notice_callback{nullptr};

// Which nodes could not reach which, and for which pairs the program was notified.
class Routes {
 public:
  using Route = std::tuple<int64_t, int64_t, std::string>;  // from, to, the address of the former

  bool is_avoided(const Route& route) {
    std::lock_guard<std::mutex> guard(mutex_);
    auto it = avoided_.find(route);
    return it != avoided_.end() && Clock::now() < it->second;
  }
  void avoid(const Route& route) {
    std::lock_guard<std::mutex> guard(mutex_);
    if (avoided_.size() >= kMostPairs) avoided_.clear();
    avoided_[route] = Clock::now() + kAvoid;
  }
  // Whether this is the first notice for this pair of machines.
  bool first_notice(int64_t from, int64_t to) {
    std::lock_guard<std::mutex> guard(mutex_);
    if (noticed_.size() >= kMostPairs) noticed_.clear();
    return noticed_.emplace(from, to).second;
  }

 private:
  std::mutex mutex_;
  std::map<Route, Clock::time_point> avoided_;
  std::set<std::pair<int64_t, int64_t>> noticed_;
};
Routes& routes() {
  static auto* all = new Routes();
  return *all;
}

std::string new_ticket() {
  uint8_t random[kTicketCharacters / 2];
  if (!fill_with_random(random, sizeof random)) {
    raise("RemoraException", "the operating system returned no random numbers");
  }
  std::string ticket;
  for (auto byte : random) {
    ticket += "0123456789abcdef"[byte >> 4];
    ticket += "0123456789abcdef"[byte & 15];
  }
  return ticket;
}

void notice(Machine& from, Machine& to, const std::string& why) {
  auto callback = notice_callback.load();
  if (callback != nullptr && routes().first_notice(from.handle, to.handle)) {
    auto text = "tensors for machine '" + to.name +
                "' are copied through this process, not directly from node to node: " + why;
    callback(from.handle, text.c_str());
  }
}

// A node's answer about its part.
struct Reply {
  TransferResult result = TransferResult::kDone;
  std::string reason;
};

Reply read_reply(const std::string& answer) {
  Reader r(reinterpret_cast<const uint8_t*>(answer.data()), answer.size());
  auto result = static_cast<TransferResult>(r.u8());
  return {result, std::string(r.string())};
}

// A ticket. The node drops it if no other node has fetched it.
class Ticket {
 public:
  explicit Ticket(Machine& machine) : text(new_ticket()), machine_(machine) {}
  ~Ticket() {
    if (fetched) {
      return;
    }
    try {
      Machine::Lock lock(machine_);
      machine_.begin_record(false);
      machine_.open.code(Record::kDropTransfer);
      machine_.open.string(text);
      machine_.end_record(false);
    } catch (const std::exception&) {
      // The machine is gone, and its tickets with it.
    }
  }
  const std::string text;
  bool fetched = false;

 private:
  Machine& machine_;
};

}  // namespace

void set_notice_callback(remora_notice_callback notice) { notice_callback.store(notice); }

int64_t copy_direct(const at::Tensor& source, const at::Tensor& target, bool temporary) {
  auto* source_storage = context_of(source);
  auto* target_storage = context_of(target);
  if (source_storage == nullptr || target_storage == nullptr) {
    return 0;
  }
  auto& from = *source_storage->machine;
  auto& to = *target_storage->machine;
  from.check_usable(source_storage->id);
  to.check_usable(target_storage->id);
  auto itemsize = static_cast<int64_t>(source.element_size());
  if (source.numel() * itemsize < kLeastBytes) {
    return 0;
  }
  Routes::Route route{from.handle, to.handle, from.node_address()};
  const auto& address = std::get<std::string>(route);
  if (address.empty() || routes().is_avoided(route)) {
    return 0;
  }
  auto step = kPieceBytes / itemsize;
  for (int64_t start = 0; start < source.numel(); start += step) {
    auto length = std::min(step, source.numel() - start);
    auto piece = source.narrow(0, start, length);
    auto place = target.narrow(0, start, length);
    Ticket ticket(from);
    auto held = read_reply(from.question(Question::kHoldTransfer, [&] {
      from.open.string(ticket.text);
      from.open.u8(temporary ? 1 : 0);
      from.open.write_tensor(piece);
    }));
    if (held.result != TransferResult::kDone) {
      ticket.fetched = true;  // the node has nothing to drop
      notice(from, to, held.reason);
      return start;
    }
    auto fetched = read_reply(to.question(Question::kFetchTransfer, [&] {
      to.open.string(ticket.text);
      to.open.string(address);
      to.open.write_tensor(place);
    }));
    if (fetched.result != TransferResult::kDone) {
      if (fetched.result == TransferResult::kRefused) {
        routes().avoid(route);
      }
      notice(from, to, fetched.reason);
      return start;
    }
    ticket.fetched = true;
  }
  return source.numel();
}

}  // namespace remora
