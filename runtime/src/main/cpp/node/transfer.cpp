// SPDX-License-Identifier: AGPL-3.0-or-later
#include "node/transfer.h"

#include <sys/random.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <tuple>
#include <vector>

#include "client/machine.h"

namespace remora {

using Clock = std::chrono::steady_clock;

// ---------------------------------------------------------------- the node's side

namespace {

// Tickets of all the nodes of this process; usually it is one.
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

  // Makes room for so many bytes, which release() gives back; says why not, if not.
  std::string reserve(int64_t bytes) {
    expire();
    std::lock_guard<std::mutex> guard(mutex_);
    if (static_cast<int64_t>(held_.size()) >= most_tickets_) {
      return "the node holds " + std::to_string(held_.size()) +
          " tensors for other nodes already (remora.node.transfer.max-tickets)";
    }
    if (bytes > most_bytes_ - bytes_) {
      return "the node holds " + std::to_string(bytes_) +
          " bytes for other nodes already (remora.node.transfer.max-bytes)";
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
    std::vector<std::unique_ptr<HeldTransfer>> dropped;  // freed once the lock is let go
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

  // Looks at every byte of every ticket, so that the time it takes tells a guesser nothing.
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
  static auto* all = new Tickets();  // never destroyed: its user's threads outlive static destructors
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
  // Later batches may write to the source while its bytes are on their way.
  held->bytes = !source.device().is_cpu() ? source.cpu() : temporary ? source : source.clone();
  if (!tickets().add(ticket, owner, std::move(held))) {
    return {TransferResult::kRefused, "the ticket is in use"};
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

// ---------------------------------------------------------------- the program's side

namespace {

// Tensors go in pieces, so that neither node holds another whole copy of a large one, and others' operations pass
// between them.
constexpr int64_t kPieceBytes = int64_t{256} << 20;
static_assert(kPieceBytes <= static_cast<int64_t>(kMaxTransferBytes));
// Below this the questions and the connection cost more than the way through this process.
constexpr int64_t kLeastBytes = 64 * 1024;
// How long a node that could not be reached is not tried again.
constexpr auto kAvoid = std::chrono::seconds(60);
constexpr size_t kMostPairs = 1024;  // of machines, remembered

std::atomic<remora_notice_callback> notice_callback{nullptr};

// Which nodes have not reached which, and whom it was told.
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
  // Whether this is the first time for this pair of machines.
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
  if (getrandom(random, sizeof random, 0) != static_cast<ssize_t>(sizeof random)) {
    raise("RemoraException", "the operating system gives no random numbers");
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
    auto text = "a tensor for machine '" + to.name + "' goes by way of this process, not straight: " + why;
    callback(from.handle, text.c_str());
  }
}

Transferred read_answer(const std::string& answer) {
  Reader r(reinterpret_cast<const uint8_t*>(answer.data()), answer.size());
  auto result = static_cast<TransferResult>(r.u8());
  return {result, std::string(r.string())};
}

// The ticket is given back when nobody has fetched it.
class Ticket {
 public:
  explicit Ticket(Machine& machine) : text(new_ticket()), machine_(machine) {}
  ~Ticket() {
    if (fetched) {
      return;
    }
    try {
      Machine::Lock lock(machine_);
      machine_.begin_record();
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

int64_t copy_straight(const at::Tensor& source, const at::Tensor& target, bool temporary) {
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
    auto held = read_answer(from.question(Question::kHoldTransfer, [&] {
      NamedTensors named;
      from.open.string(ticket.text);
      from.open.u8(temporary ? 1 : 0);
      from.write_tensor(piece, named);
    }));
    if (held.result != TransferResult::kDone) {
      ticket.fetched = true;  // there is nothing to drop
      notice(from, to, held.reason);
      return start;
    }
    auto fetched = read_answer(to.question(Question::kFetchTransfer, [&] {
      NamedTensors named;
      to.open.string(ticket.text);
      to.open.string(address);
      to.write_tensor(place, named);
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
