// SPDX-License-Identifier: AGPL-3.0-or-later
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

#include "client/session/stream.h"

#include "client/session/session.h"

namespace remora {

namespace {

enum Kind : uint8_t {
  kDataFrame = 0,
  kHeadersFrame = 1,
  kResetFrame = 3,
  kSettingsFrame = 4,
  kPingFrame = 6,
  kGoAwayFrame = 7,
  kWindowUpdateFrame = 8
};
enum Flag : uint8_t { kEndStream = 1, kAck = 1, kEndHeaders = 4, kPadded = 8 };
enum Setting : uint16_t { kInitialWindow = 4, kMaxFrame = 5 };

constexpr uint32_t kStream = 1;
constexpr size_t kFrameHeader = 9;
constexpr int64_t kFirstWindow = 65'535;
constexpr int64_t kLargestWindow = 0x7FFF'FFFF;
constexpr size_t kFirstMaxFrame = 16'384;
// The gateway's flow-control window. It is replenished long before it is used up: the gateway limits itself by what it
// keeps until it is received.
constexpr int64_t kWindow = int64_t{1} << 30;
constexpr int64_t kReplenish = int64_t{1} << 26;
constexpr size_t kLargestFrame = size_t{1} << 20;
constexpr size_t kLargestMessage = size_t{64} << 20;
constexpr size_t kMostControl = size_t{64} << 10;
constexpr size_t kWrite = size_t{256} << 10;  // bytes collected for one write
constexpr int kMostUnanswered = 2;            // pings; after one more interval the connection counts as dead
constexpr int kTickMillis = 100;

void append_number(std::string& out, uint64_t value, int bytes) {
  for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) out.push_back(static_cast<char>(value >> shift));
}

void append_header(std::string& out, size_t size, uint8_t kind, uint8_t flags, uint32_t stream) {
  append_number(out, size, 3);
  append_number(out, kind, 1);
  append_number(out, flags, 1);
  append_number(out, stream, 4);
}

uint32_t number_at(const uint8_t* p, int bytes) {
  uint32_t value = 0;
  for (int i = 0; i < bytes; i++) value = value << 8 | p[i];
  return value;
}

// Thrown if the connection cannot be used any more, although the session can.
struct Broken : std::runtime_error {
  Broken(Carried how, const std::string& text) : std::runtime_error(text), how(how) {}
  explicit Broken(const std::string& text) : Broken(Carried::kBroken, text) {}
  Carried how;
};

}  // namespace

Stream::Stream(Session& session, int socket, ProtoBytes headers, ProtoBytes hello)
    : session_(session),
      socket_(socket),
      buffer_(kLargestFrame + (size_t{64} << 10)),
      connection_window_(kFirstWindow),
      stream_window_(kFirstWindow),
      initial_window_(kFirstWindow),
      max_frame_(kFirstMaxFrame) {
  ignore_broken_pipe(socket_);
  out_ = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  append_header(out_, 12, kSettingsFrame, 0, 0);
  append_number(out_, kInitialWindow, 2);
  append_number(out_, kWindow, 4);
  append_number(out_, kMaxFrame, 2);
  append_number(out_, kLargestFrame, 4);
  append_header(out_, 4, kWindowUpdateFrame, 0, 0);
  append_number(out_, kWindow - kFirstWindow, 4);
  append_header(out_, headers.size, kHeadersFrame, kEndHeaders, kStream);
  out_.append(reinterpret_cast<const char*>(headers.data), headers.size);
  write_grpc_prefix(message_.head, hello.size);
  message_.head.raw(hello.data, hello.size);
  if (!carrier_event_.valid() || !reader_event_.valid()) {
    end(Carried::kBroken, "this process has no file descriptors left");
  } else if (headers.size > kFirstMaxFrame || hello.size > kFirstMaxFrame) {
    end(Carried::kBroken, "the request's headers are too large");
  }
}

Stream::~Stream() {
  if (socket_ >= 0) ::close(socket_);
}

// ---------------------------------------------------------------- the thread that carries

Carried Stream::carry() {
  write();
  while (true) {
    if (ended_.load(std::memory_order_acquire)) {
      std::lock_guard<std::mutex> reading(reading_);  // a thread that was reading at the end has left
      return how_;
    }
    if (welcomed_.exchange(false)) {
      return Carried::kWelcome;
    }
    if (session_.has_failures()) {
      return Carried::kFailures;
    }
    auto& machine = session_.machine();
    if (!machine.open_for_work() && !machine.closed()) {
      end(Carried::kFailed, "the machine has failed");
      continue;
    }
    auto direct = session_.direct();
    parked_.store(session_.waiter_reads(nullptr), std::memory_order_release);
    auto wanted = [&](const Line* line, bool blocked) {
      return static_cast<short>((session_.waiter_reads(line) ? 0 : POLLIN) | (blocked ? POLLOUT : 0));
    };
    pollfd all[] = {{socket_, wanted(this, blocked_.load()), 0}, {carrier_event_.descriptor(), POLLIN, 0}, {-1, 0, 0}};
    if (direct != nullptr && !direct->ended()) {
      all[2] = {direct->socket(), wanted(direct.get(), direct->blocked()), 0};
    }
    ::poll(all, 3, kTickMillis);
    parked_.store(false, std::memory_order_release);
    if (all[1].revents != 0) {
      carrier_event_.clear();
    }
    if ((all[0].revents & POLLOUT) != 0) {
      blocked_.store(false);
    }
    if ((all[0].revents & ~POLLOUT) != 0 && !session_.waiter_reads(this)) {
      read();
    }
    if (direct != nullptr) {
      if ((all[2].revents & POLLOUT) != 0) {
        direct->unblock();
      }
      if ((all[2].revents & ~POLLOUT) != 0 && !session_.waiter_reads(direct.get())) {
        direct->read();
      }
      direct->watch();
      direct->write();
    }
    session_.attend_direct();
    watch();
    write();
  }
}

// Pings a gateway that sends nothing, to detect a dead connection.
void Stream::watch() {
  int queued = unconfirmed_bytes(socket_);
  bool moves = queued > 0 && queued != queued_;  // a ping would queue behind the bytes in flight
  queued_ = queued;
  auto now = std::chrono::steady_clock::now();
  if (heard_.exchange(false, std::memory_order_acq_rel) || moves) {
    quiet_since_ = now;
    unanswered_ = 0;
  } else if (now - quiet_since_ >= session_.ping_interval()) {
    quiet_since_ = now;
    if (unanswered_++ == kMostUnanswered) {
      auto millis = session_.ping_interval().count() * (kMostUnanswered + 1);
      end(Carried::kBroken, "the gateway has sent nothing for " + std::to_string(millis / 1000) +
                                " s, not even answers to pings (REMORA_PING_INTERVAL)");
    } else {
      const uint8_t payload[8] = {'r', 'e', 'm', 'o', 'r', 'a', 0, static_cast<uint8_t>(unanswered_)};
      control(kPingFrame, 0, 0, {payload, sizeof payload});
    }
  }
}

void Stream::cancel() { end(Carried::kBroken, "the connection was cancelled"); }

void Stream::end(Carried how, std::string reason) {
  {
    std::lock_guard<std::mutex> guard(mutex_);
    if (ended_.load()) {
      return;
    }
    how_ = how;
    reason_ = std::move(reason);
    ended_.store(true, std::memory_order_release);
  }
  ::shutdown(socket_, SHUT_RDWR);
  nudge_carrier();
  nudge_reader();
}

void Stream::nudge_reader() { reader_event_.nudge(); }
void Stream::nudge_carrier() { carrier_event_.nudge(); }

void Stream::expect_nobody_reads() {
  if (parked_.load(std::memory_order_acquire)) {
    nudge_carrier();
  }
}

// ---------------------------------------------------------------- sending

void Stream::write() {
  // The thread that finds no other thread writing does it, and also writes for threads that arrive meanwhile.
  if (write_wanted_.fetch_add(1, std::memory_order_acq_rel) != 0) {
    return;
  }
  int seen;
  do {
    seen = write_wanted_.load(std::memory_order_acquire);
    if (!ended_.load(std::memory_order_acquire) && !blocked_.load(std::memory_order_acquire)) {
      do {
        fill();
      } while (sent_ < out_.size() && flush());
    }
  } while (!write_wanted_.compare_exchange_strong(seen, 0, std::memory_order_acq_rel));
}

bool Stream::flush() {
  while (sent_ < out_.size()) {
    auto count = ::send(socket_, out_.data() + sent_, out_.size() - sent_, kSendFlags);
    if (count >= 0) {
      sent_ += static_cast<size_t>(count);
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      blocked_.store(true, std::memory_order_release);
      nudge_carrier();
      return false;
    } else if (errno != EINTR) {
      end(Carried::kBroken, std::string("the connection is broken: ") + std::strerror(errno));
      return false;
    }
  }
  out_.clear();
  sent_ = 0;
  return true;
}

// Collects the bytes to send, as far as the peer's window allows.
void Stream::fill() {
  if (sent_ < out_.size()) {
    return;
  }
  {
    std::lock_guard<std::mutex> guard(mutex_);
    out_ += control_;
    control_.clear();
  }
  while (out_.size() < kWrite && !finished_) {
    if (message_at_ == message_.size()) {
      message_at_ = 0;
      message_ = {};
      if (!session_.next_message(this, message_)) {
        return;
      }
    }
    auto left = message_.size() - message_at_;
    size_t size;
    {
      std::lock_guard<std::mutex> guard(mutex_);
      auto room = std::min(connection_window_, stream_window_);
      if (room <= 0) {
        return;
      }
      size = std::min({left, max_frame_, static_cast<size_t>(room)});
      connection_window_ -= static_cast<int64_t>(size);
      stream_window_ -= static_cast<int64_t>(size);
    }
    finished_ = message_.last && size == left;
    append_header(out_, size, kDataFrame, finished_ ? kEndStream : 0, kStream);
    auto of_head = message_at_ < message_.head.size() ? std::min(size, message_.head.size() - message_at_) : 0;
    out_.append(reinterpret_cast<const char*>(message_.head.data()) + message_at_, of_head);
    if (of_head < size) {
      auto from = message_at_ + of_head - message_.head.size();
      out_.append(reinterpret_cast<const char*>(message_.batch->bytes.data()) + from, size - of_head);
    }
    message_at_ += size;
  }
}

// Queues a frame other than DATA, which needs no flow-control window.
void Stream::control(uint8_t kind, uint8_t flags, uint32_t stream, ProtoBytes payload) {
  std::lock_guard<std::mutex> guard(mutex_);
  if (control_.size() > kMostControl) {
    throw Broken("the gateway requests more answers than it reads");
  }
  append_header(control_, payload.size, kind, flags, stream);
  control_.append(reinterpret_cast<const char*>(payload.data), payload.size);
}

// ---------------------------------------------------------------- receiving

bool Stream::await_input(std::chrono::milliseconds timeout) {
  pollfd both[] = {{socket_, POLLIN, 0}, {reader_event_.descriptor(), POLLIN, 0}};
  ::poll(both, 2, static_cast<int>(timeout.count()));
  if (both[1].revents != 0) {
    reader_event_.clear();
  }
  return both[0].revents != 0;
}

void Stream::read() {
  {
    std::lock_guard<std::mutex> reading(reading_);
    if (ended_.load(std::memory_order_acquire)) {
      return;
    }
    try {
      auto count = ::recv(socket_, buffer_.data() + end_, buffer_.size() - end_, MSG_DONTWAIT);
      if (count == 0) {
        throw Broken("the gateway has closed the connection");
      }
      if (count < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) {
          return;
        }
        throw Broken(std::string("the connection is broken: ") + std::strerror(errno));
      }
      end_ += static_cast<size_t>(count);
      heard_.store(true, std::memory_order_release);
      take_frames();
    } catch (const Broken& e) {
      end(e.how, e.what());
    } catch (const std::exception& e) {  // an error of the session, whose state is unknown now
      session_.machine().fail(error_text(e));
      end(Carried::kFailed, error_text(e));
    }
  }
  write();  // answers, and data that the window allows now
  if (ended_.load() || welcomed_.load() || session_.has_failures()) {
    nudge_carrier();
  }
}

void Stream::take_frames() {
  while (end_ - begin_ >= kFrameHeader) {
    const uint8_t* header = buffer_.data() + begin_;
    size_t size = number_at(header, 3);
    if (size > kLargestFrame) {
      throw Broken("the gateway has sent a frame of " + std::to_string(size) + " bytes, the limit is " +
                   std::to_string(kLargestFrame));
    }
    if (end_ - begin_ < kFrameHeader + size) {
      break;
    }
    begin_ += kFrameHeader + size;
    on_frame(header[3], header[4], number_at(header + 5, 4) & kLargestWindow, {header + kFrameHeader, size});
    if (ended_.load(std::memory_order_acquire)) {
      return;
    }
  }
  if (begin_ == end_) {
    begin_ = end_ = 0;
  } else if (begin_ > buffer_.size() - end_) {  // more than half of the buffer is used up
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
}

void Stream::on_frame(uint8_t kind, uint8_t flags, uint32_t stream, ProtoBytes payload) {
  switch (kind) {
    case kDataFrame: on_data(flags, payload); break;
    case kWindowUpdateFrame: on_window_update(stream, payload); break;
    case kSettingsFrame:
      if ((flags & kAck) == 0) {
        on_settings(payload);
        control(kSettingsFrame, kAck, 0, {});
      }
      break;
    case kPingFrame:
      if ((flags & kAck) == 0) {
        control(kPingFrame, kAck, 0, payload);
      }
      break;
    case kHeadersFrame:
      if ((flags & kEndStream) != 0) {
        throw session_.machine().closed() ? Broken(Carried::kEnded, "")
                                          : Broken(Carried::kUnexplained, "the gateway has ended the stream");
      }
      break;
    case kResetFrame: {
      auto code = payload.size < 4 ? 0 : number_at(payload.data, 4);
      throw code == 0 ? Broken(Carried::kEnded, "the gateway has ended the connection")
                      : Broken("the gateway has reset the stream (HTTP/2 code " + std::to_string(code) + ")");
    }
    case kGoAwayFrame: throw Broken("the gateway is ending its connections");
    default: break;
  }
}

void Stream::on_data(uint8_t flags, ProtoBytes payload) {
  auto all = static_cast<int64_t>(payload.size);
  if ((flags & kPadded) != 0) {
    if (payload.size == 0 || payload.data[0] >= payload.size) {
      throw Broken("the gateway has sent a frame with more padding than bytes");
    }
    payload = {payload.data + 1, payload.size - 1 - payload.data[0]};
  }
  on_messages(payload);
  consumed_ += all;
  if (consumed_ >= kReplenish) {
    std::string more;
    append_number(more, static_cast<uint64_t>(consumed_), 4);
    ProtoBytes bytes{reinterpret_cast<const uint8_t*>(more.data()), more.size()};
    control(kWindowUpdateFrame, 0, 0, bytes);
    control(kWindowUpdateFrame, 0, kStream, bytes);
    consumed_ = 0;
  }
  if ((flags & kEndStream) != 0) {
    throw Broken(Carried::kEnded, "the gateway has ended the connection");
  }
}

// Delivers the messages that a frame completes.
void Stream::on_messages(ProtoBytes payload) {
  auto size_of = [](const uint8_t* prefix) {
    if (prefix[0] != 0) {
      throw Broken("the gateway has sent a compressed message, which this program does not accept");
    }
    size_t size = number_at(prefix + 1, 4);
    if (size > kLargestMessage) {
      throw Broken("the gateway has sent a message of " + std::to_string(size) + " bytes, the limit is " +
                   std::to_string(kLargestMessage));
    }
    return kPrefixBytes + size;
  };
  auto handle = [&](const uint8_t* message, size_t size) {
    ProtoBytes bytes{message + kPrefixBytes, size - kPrefixBytes};
    if (session_.on_message(bytes)) {
      if (!welcome_.empty()) {
        throw Broken("the gateway has sent a second Welcome");
      }
      welcome_ = bytes.text();
      welcomed_.store(true);
    }
  };
  auto keep = [&](size_t wanted) {
    auto count = std::min(wanted, payload.size);
    begun_.append(reinterpret_cast<const char*>(payload.data), count);
    payload = {payload.data + count, payload.size - count};
  };
  while (payload.size > 0) {
    if (begun_.empty() && payload.size >= kPrefixBytes && payload.size >= size_of(payload.data)) {
      auto size = size_of(payload.data);
      handle(payload.data, size);
      payload = {payload.data + size, payload.size - size};
      continue;
    }
    if (begun_.size() < kPrefixBytes) {
      keep(kPrefixBytes - begun_.size());
    }
    if (begun_.size() >= kPrefixBytes) {
      auto* begun = reinterpret_cast<const uint8_t*>(begun_.data());
      auto size = size_of(begun);
      keep(size - begun_.size());
      if (begun_.size() == size) {
        handle(reinterpret_cast<const uint8_t*>(begun_.data()), size);
        begun_.clear();
      }
    }
  }
}

void Stream::on_settings(ProtoBytes payload) {
  std::lock_guard<std::mutex> guard(mutex_);
  for (size_t at = 0; at + 6 <= payload.size; at += 6) {
    auto name = number_at(payload.data + at, 2);
    int64_t value = number_at(payload.data + at + 2, 4);
    if (name == kInitialWindow && value <= kLargestWindow) {
      stream_window_ += value - initial_window_;
      initial_window_ = value;
    } else if (name == kMaxFrame && value >= static_cast<int64_t>(kFirstMaxFrame)) {
      max_frame_ = std::min(static_cast<size_t>(value), kLargestFrame);
    }
  }
}

void Stream::on_window_update(uint32_t stream, ProtoBytes payload) {
  if (payload.size != 4) {
    throw Broken("the gateway has sent a window update of " + std::to_string(payload.size) + " bytes");
  }
  std::lock_guard<std::mutex> guard(mutex_);
  auto& window = stream == 0 ? connection_window_ : stream_window_;
  window += number_at(payload.data, 4) & kLargestWindow;
  if (window > kLargestWindow) {
    throw Broken("the gateway has raised a flow-control window above its limit");
  }
}

}  // namespace remora
