// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The program's own connection to the node, which carries one session's batches, reports and values past the gateway:
// frames of the link (FrameHeader.java, link.proto). The session still belongs to the gateway, which takes it back when
// the connection ends.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "client/machine/batch.h"
#include "client/session/line.h"
#include "common/platform.h"

namespace remora {

class Session;

// The types of frames that a direct connection has, as in FrameType.java.
enum class FrameType : uint8_t {
  kRefused = 3,
  kAck = 9,
  kValue = 10,
  kHeartbeat = 11,
  kGoodbye = 12,
  kReceived = 18,
  kDirectHello = 24,
  kDirectWelcome = 25,
  kDirectBatch = 26,
};

// As in FrameHeader.java, where the layout is.
struct FrameHeader {
  static constexpr size_t kBytes = 32;
  static constexpr uint16_t kProtocolVersion = 4;

  FrameType type = FrameType::kHeartbeat;
  uint32_t length = 0;
  uint64_t session = 0;
  uint64_t sequence = 0;
  uint32_t payload_checksum = 0;

  // `index`: how many frames the connection has carried before in this direction.
  void write_to(std::string& out, uint32_t index) const;
  // Throws std::runtime_error if the header is damaged, is not the frame with this index, or is too long.
  static FrameHeader read_from(const uint8_t* bytes, uint32_t index, size_t max_length);
};

// What the gateway tells of the node's link port.
struct DirectOffer {
  std::string address;  // HOST:PORT
  std::string token;
  std::chrono::milliseconds heartbeat_interval{0};
  std::chrono::milliseconds heartbeat_timeout{0};
  size_t max_frame_bytes = 0;
};

// A frame to send: `head` is the payload's start, and `batch`, if it is not null, the rest.
struct DirectFrame {
  FrameType type = FrameType::kHeartbeat;
  uint64_t sequence = 0;
  std::string head;
  std::shared_ptr<Batch> batch;
};

// Threads write and read it like a Stream. It never waits for the peer. Thread-safe.
class Direct : public Line {
 public:
  // Connects to a node on this computer, and sends the hello. Throws std::runtime_error if that fails.
  Direct(Session& session, uint64_t session_number, DirectOffer offer, uint64_t last_acknowledged);
  ~Direct() override;

  void write() override;
  bool await_input(std::chrono::milliseconds timeout) override;
  void read() override;
  void nudge_reader() override;

  // ---- for the thread that carries
  int socket() const { return socket_; }
  bool blocked() const { return blocked_.load(); }
  void unblock() { blocked_.store(false); }
  void watch();  // ends a connection whose node is silent
  bool ended() const { return ended_.load(std::memory_order_acquire); }
  std::string reason();
  void end(std::string reason);

  std::chrono::milliseconds heartbeat_interval() const { return offer_.heartbeat_interval; }

 private:
  void fill();
  void append(const DirectFrame& frame);
  bool flush();  // false if it would block
  void take_frames();
  void on_frame(const FrameHeader& header, const uint8_t* payload);

  Session& session_;
  const uint64_t number_;
  const DirectOffer offer_;
  int socket_ = -1;
  WakeEvent reader_event_;

  // For the writer: the thread that has raised write_wanted_ from 0.
  std::atomic<int> write_wanted_{0};
  std::string out_;
  size_t sent_ = 0;
  std::shared_ptr<Batch> body_;  // follows out_
  size_t body_sent_ = 0;
  uint32_t frames_sent_ = 0;
  std::atomic<bool> blocked_{false};  // the socket is full: the carrying thread continues when it has room

  // For the reader.
  std::mutex reading_;
  std::vector<uint8_t> buffer_;
  size_t begin_ = 0, end_ = 0;
  uint32_t frames_received_ = 0;
  bool have_header_ = false;
  FrameHeader header_;

  std::atomic<bool> heard_{false};
  std::chrono::steady_clock::time_point heard_at_ = std::chrono::steady_clock::now();  // the carrying thread's

  std::mutex mutex_;
  std::string reason_;
  std::atomic<bool> ended_{false};
};

}  // namespace remora
