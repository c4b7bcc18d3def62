// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/session/direct.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "client/session/session.h"
#include "common/crc32c.h"
#include "common/error.h"

namespace remora {

namespace {

constexpr size_t kChecked = 28;                   // bytes of a header before its checksum
constexpr size_t kCopied = size_t{16} << 10;      // a longer batch is written from its own memory
constexpr size_t kWrite = size_t{256} << 10;      // bytes collected for one write
constexpr size_t kFirstBuffer = size_t{1} << 20;  // grows to the longest frame
constexpr size_t kRoom = size_t{64} << 10;        // bytes read at least with one call, if they are there
constexpr size_t kValueHeader = 24;
constexpr int kConnectSeconds = 2;

template <class T>
void append_little(std::string& out, T value) {
  for (size_t i = 0; i < sizeof value; i++) out.push_back(static_cast<char>(value >> (8 * i)));
}

template <class T>
T little_at(const uint8_t* p) {
  T value = 0;
  for (size_t i = 0; i < sizeof value; i++) value |= static_cast<T>(p[i]) << (8 * i);
  return value;
}

// Thrown if the connection cannot be used any more, although the session can.
struct Broken : std::runtime_error {
  using std::runtime_error::runtime_error;
};

[[noreturn]] void broken(const std::string& text) { throw Broken(text); }
[[noreturn]] void broken_by(const char* what) { broken(std::string(what) + ": " + std::strerror(errno)); }

// Connects to a loopback address: nothing else is reached without TLS.
int connect_to(const std::string& address) {
  auto colon = address.rfind(':');
  auto host = address.substr(0, colon == std::string::npos ? 0 : colon);
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (host.empty() || ::getaddrinfo(host.c_str(), address.c_str() + colon + 1, &hints, &found) != 0) {
    broken("'" + address + "' is not the address of a node");
  }
  std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, &::freeaddrinfo);
  bool loopback = found->ai_family == AF_INET
                      ? (ntohl(reinterpret_cast<sockaddr_in*>(found->ai_addr)->sin_addr.s_addr) >> 24) == 127
                      : IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<sockaddr_in6*>(found->ai_addr)->sin6_addr);
  if (!loopback) {
    broken("the node is at " + address + ", which is not on this computer");
  }
  int socket = stream_socket(found->ai_family);
  if (socket < 0) {
    broken_by("there is no socket");
  }
  ignore_broken_pipe(socket);
  timeval limit{kConnectSeconds, 0};
  int one = 1;
  ::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (::connect(socket, found->ai_addr, found->ai_addrlen) != 0) {
    auto error = errno;
    ::close(socket);
    errno = error;
    broken_by(("the node at " + address + " cannot be reached").c_str());
  }
  return socket;
}

}  // namespace

// ---------------------------------------------------------------- headers

void FrameHeader::write_to(std::string& out, uint32_t index) const {
  auto start = out.size();
  append_little(out, length);
  append_little(out, static_cast<uint8_t>(type));
  append_little(out, uint8_t{0});
  append_little(out, kProtocolVersion);
  append_little(out, session);
  append_little(out, sequence);
  append_little(out, payload_checksum);
  append_little(out, Crc32c::of(out.data() + start, kChecked) ^ index);
}

FrameHeader FrameHeader::read_from(const uint8_t* bytes, uint32_t index, size_t max_length) {
  if ((Crc32c::of(bytes, kChecked) ^ index) != little_at<uint32_t>(bytes + kChecked)) {
    broken("frame " + std::to_string(index) + " from the node has a damaged header");
  }
  auto version = little_at<uint16_t>(bytes + 6);
  FrameHeader header;
  header.type = static_cast<FrameType>(bytes[4]);
  if (version != kProtocolVersion && header.type != FrameType::kRefused) {
    broken("the node speaks link protocol version " + std::to_string(version) + ", this program " +
           std::to_string(kProtocolVersion));
  }
  if (bytes[5] != 0) {
    broken("a frame from the node has unknown flags");
  }
  header.length = little_at<uint32_t>(bytes);
  if (header.length > max_length) {
    broken("the node has announced a frame of " + std::to_string(header.length) + " bytes, the limit is " +
           std::to_string(max_length));
  }
  header.session = little_at<uint64_t>(bytes + 8);
  header.sequence = little_at<uint64_t>(bytes + 16);
  header.payload_checksum = little_at<uint32_t>(bytes + 24);
  return header;
}

// ---------------------------------------------------------------- the connection

Direct::Direct(Session& session, uint64_t session_number, DirectOffer offer, uint64_t last_acknowledged)
    : session_(session), number_(session_number), offer_(std::move(offer)), buffer_(kFirstBuffer) {
  Writer hello;
  begin_bytes(hello, 1, offer_.token.size());
  hello.raw(offer_.token.data(), offer_.token.size());
  write_number(hello, 2, last_acknowledged);
  DirectFrame frame;
  frame.type = FrameType::kDirectHello;
  frame.head.assign(reinterpret_cast<const char*>(hello.data()), hello.size());
  append(frame);
  socket_ = connect_to(offer_.address);
  if (!reader_event_.valid()) {
    ::close(socket_);
    broken("this process has no file descriptors left");
  }
}

Direct::~Direct() { ::close(socket_); }

void Direct::end(std::string reason) {
  {
    std::lock_guard<std::mutex> guard(mutex_);
    if (ended_.load()) {
      return;
    }
    reason_ = std::move(reason);
    ended_.store(true, std::memory_order_release);
  }
  ::shutdown(socket_, SHUT_RDWR);
  nudge_reader();
}

std::string Direct::reason() {
  std::lock_guard<std::mutex> guard(mutex_);
  return reason_;
}

void Direct::nudge_reader() { reader_event_.nudge(); }

void Direct::watch() {
  auto now = std::chrono::steady_clock::now();
  if (heard_.exchange(false, std::memory_order_acq_rel)) {
    heard_at_ = now;
  } else if (now - heard_at_ > offer_.heartbeat_timeout) {
    end("the node has sent nothing for " + std::to_string(offer_.heartbeat_timeout.count()) +
        " ms (remora.link.heartbeat-timeout)");
  }
}

// ---------------------------------------------------------------- sending

void Direct::write() {
  // As Stream::write().
  if (write_wanted_.fetch_add(1, std::memory_order_acq_rel) != 0) {
    return;
  }
  int seen;
  do {
    seen = write_wanted_.load(std::memory_order_acquire);
    if (!ended() && !blocked_.load(std::memory_order_acquire)) {
      do {
        fill();
      } while ((sent_ < out_.size() || body_ != nullptr) && flush());
    }
  } while (!write_wanted_.compare_exchange_strong(seen, 0, std::memory_order_acq_rel));
}

// Collects frames to send, up to the first long one.
void Direct::fill() {
  DirectFrame frame;
  while (out_.size() < kWrite && body_ == nullptr && session_.next_frame(*this, frame)) {
    auto size = frame.head.size() + (frame.batch ? frame.batch->bytes.size() : 0);
    if (size > offer_.max_frame_bytes) {
      end("a batch of " + std::to_string(size) + " bytes does not fit into a frame (remora.link.max-frame-bytes)");
      return;
    }
    append(frame);
  }
}

void Direct::append(const DirectFrame& frame) {
  Crc32c checksum;
  checksum.add(frame.head.data(), frame.head.size());
  auto size = frame.head.size();
  if (frame.batch) {
    checksum.add(frame.batch->bytes.data(), frame.batch->bytes.size());
    size += frame.batch->bytes.size();
  }
  FrameHeader header;
  header.type = frame.type;
  header.length = static_cast<uint32_t>(size);
  header.session = number_;
  header.sequence = frame.sequence;
  header.payload_checksum = checksum.value();
  header.write_to(out_, frames_sent_++);
  out_ += frame.head;
  if (frame.batch && frame.batch->bytes.size() > kCopied) {
    body_ = frame.batch;
    body_sent_ = 0;
  } else if (frame.batch) {
    out_.append(reinterpret_cast<const char*>(frame.batch->bytes.data()), frame.batch->bytes.size());
  }
}

bool Direct::flush() {
  while (sent_ < out_.size() || body_ != nullptr) {
    iovec parts[2] = {{const_cast<char*>(out_.data()) + sent_, out_.size() - sent_}, {nullptr, 0}};
    if (body_ != nullptr) {
      parts[1] = {const_cast<uint8_t*>(body_->bytes.data()) + body_sent_, body_->bytes.size() - body_sent_};
    }
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = 2;
    auto count = ::sendmsg(socket_, &message, kSendFlags);
    if (count >= 0) {
      auto of_out = std::min(static_cast<size_t>(count), parts[0].iov_len);
      sent_ += of_out;
      body_sent_ += static_cast<size_t>(count) - of_out;
      if (body_ != nullptr && body_sent_ == body_->bytes.size()) {
        body_ = nullptr;
        body_sent_ = 0;
      }
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      blocked_.store(true, std::memory_order_release);
      session_.nudge_carrier();
      return false;
    } else if (errno != EINTR) {
      end(std::string("the connection is broken: ") + std::strerror(errno));
      return false;
    }
  }
  out_.clear();
  sent_ = 0;
  return true;
}

// ---------------------------------------------------------------- receiving

bool Direct::await_input(std::chrono::milliseconds timeout) {
  pollfd both[] = {{socket_, POLLIN, 0}, {reader_event_.descriptor(), POLLIN, 0}};
  ::poll(both, 2, static_cast<int>(timeout.count()));
  if (both[1].revents != 0) {
    reader_event_.clear();
  }
  return both[0].revents != 0;
}

void Direct::read() {
  {
    std::lock_guard<std::mutex> reading(reading_);
    if (ended()) {
      return;
    }
    try {
      auto count = ::recv(socket_, buffer_.data() + end_, buffer_.size() - end_, MSG_DONTWAIT);
      if (count == 0) {
        broken("the node has closed the connection");
      }
      if (count < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) {
          return;
        }
        broken_by("the connection is broken");
      }
      end_ += static_cast<size_t>(count);
      heard_.store(true, std::memory_order_release);
      take_frames();
    } catch (const Broken& e) {
      end(e.what());
    } catch (const std::exception& e) {  // an error of the session, whose state is unknown now
      session_.machine().fail(error_text(e));
      end(error_text(e));
    }
  }
  write();  // confirmations
  if (ended() || session_.has_failures()) {
    session_.nudge_carrier();
  }
}

void Direct::take_frames() {
  while (true) {
    if (!have_header_) {
      if (end_ - begin_ < FrameHeader::kBytes) {
        break;
      }
      header_ = FrameHeader::read_from(buffer_.data() + begin_, frames_received_++, offer_.max_frame_bytes);
      begin_ += FrameHeader::kBytes;
      have_header_ = true;
    }
    if (end_ - begin_ < header_.length) {
      break;
    }
    auto* payload = buffer_.data() + begin_;
    if (Crc32c::of(payload, header_.length) != header_.payload_checksum) {
      broken("frame " + std::to_string(frames_received_ - 1) + " from the node has a damaged payload");
    }
    begin_ += header_.length;
    have_header_ = false;
    on_frame(header_, payload);
    if (ended()) {
      return;
    }
  }
  size_t wanted = have_header_ ? header_.length : FrameHeader::kBytes;
  if (begin_ == end_) {
    begin_ = end_ = 0;
  } else if (begin_ + wanted + kRoom > buffer_.size()) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  if (begin_ + wanted + kRoom > buffer_.size()) {
    buffer_.resize(begin_ + wanted + kRoom);
  }
}

void Direct::on_frame(const FrameHeader& header, const uint8_t* payload) {
  switch (header.type) {
    case FrameType::kHeartbeat: break;
    case FrameType::kAck: session_.on_report(*this, header.sequence, {payload, header.length}); break;
    case FrameType::kValue: {
      if (header.length < kValueHeader) {
        broken("the node has sent a value without its header");
      }
      session_.on_value_chunk(*this, static_cast<int64_t>(little_at<uint64_t>(payload)),
                              static_cast<int64_t>(little_at<uint64_t>(payload + 8)),
                              {payload + kValueHeader, header.length - kValueHeader});
      break;
    }
    case FrameType::kDirectWelcome: {
      uint64_t last_received = 0;
      for (ProtoReader in({payload, header.length}); in.next();) {
        if (in.is_number(1)) last_received = in.number;
      }
      session_.on_direct_welcome(*this, last_received);
      break;
    }
    case FrameType::kRefused:
    case FrameType::kGoodbye: {
      std::string text;
      for (ProtoReader in({payload, header.length}); in.next();) {
        if (in.is_bytes(2)) text = in.bytes.text();
      }
      broken(header.type == FrameType::kRefused ? "the node refuses it: " + text : "the node ends it: " + text);
    }
    default: broken("the node has sent a frame of type " + std::to_string(static_cast<int>(header.type)));
  }
}

}  // namespace remora
