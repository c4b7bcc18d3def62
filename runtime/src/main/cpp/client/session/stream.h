// SPDX-License-Identifier: AGPL-3.0-or-later
//
// A program's connection to its gateway.
#pragma once

#include <atomic>
#include <chrono>
#include <mutex>
#include <string>
#include <vector>

#include "client/session/client_frames.h"
#include "client/session/line.h"
#include "client/session/protobuf.h"
#include "common/platform.h"

namespace remora {

class Session;

// The reason why carry() returns.
enum class Carried : int32_t {
  kFailures = 0,     // operations have failed and should be logged
  kWelcome = 1,      // a Welcome has arrived
  kEnded = 2,        // both sides have ended the stream
  kBroken = 3,       // the connection broke; another one may resume the session
  kUnexplained = 4,  // the gateway has ended the stream with a status that is not read here
  kFailed = 5,       // the machine has failed
};

// A connection to a gateway: HTTP/2 (RFC 9113) with the one stream that carries a session. A thread that has something
// to send writes it, unless another thread is writing. A thread that waits for a value reads. The carrying thread does
// all other work. Thread-safe.
class Stream : public Line {
 public:
  // Takes ownership of the socket. `headers` is the request's header block, `hello` the first message.
  Stream(Session& session, int socket, ProtoBytes headers, ProtoBytes hello);
  ~Stream() override;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Sends and receives until there is something to tell the caller.
  Carried carry();
  const std::string& welcome() const { return welcome_; }  // for the thread that carries
  const std::string& reason() const { return reason_; }    // likewise, after the connection has ended
  // Ends the connection. May be called from any thread.
  void cancel();

  void write() override;
  bool await_input(std::chrono::milliseconds timeout) override;
  void read() override;
  void nudge_reader() override;
  void nudge_carrier();
  // Called by a thread that has sent something and does not wait for the answer.
  void expect_nobody_reads();

 private:
  void end(Carried how, std::string reason);
  void watch();
  bool flush();  // false if it would block
  void fill();
  void take_frames();
  void on_frame(uint8_t kind, uint8_t flags, uint32_t stream, ProtoBytes payload);
  void on_data(uint8_t flags, ProtoBytes payload);
  void on_messages(ProtoBytes payload);
  void on_settings(ProtoBytes payload);
  void on_window_update(uint32_t stream, ProtoBytes payload);
  void control(uint8_t kind, uint8_t flags, uint32_t stream, ProtoBytes payload);

  Session& session_;
  const int socket_;
  WakeEvent carrier_event_;
  WakeEvent reader_event_;

  // For the writer: the thread that has raised write_wanted_ from 0.
  std::atomic<int> write_wanted_{0};
  std::string out_;
  size_t sent_ = 0;
  Message message_;
  size_t message_at_ = 0;
  bool finished_ = false;             // END_STREAM was written
  std::atomic<bool> blocked_{false};  // the socket is full: the carrying thread continues when it has room

  // For the reader.
  std::mutex reading_;
  std::vector<uint8_t> buffer_;
  size_t begin_ = 0, end_ = 0;
  std::string begun_;     // the received part of an incomplete message
  int64_t consumed_ = 0;  // received bytes whose flow-control window was not returned yet
  std::string welcome_;
  std::atomic<bool> welcomed_{false};

  // For watch(), on the carrying thread.
  std::atomic<bool> heard_{false};  // something has arrived
  std::chrono::steady_clock::time_point quiet_since_ = std::chrono::steady_clock::now();
  int unanswered_ = 0;  // pings without an answer
  int queued_ = 0;      // bytes that the peer had not acknowledged

  std::atomic<bool> parked_{false};  // the carrying thread leaves reading to a waiting thread

  std::mutex mutex_;
  std::string control_;  // frames other than DATA, to be sent
  int64_t connection_window_, stream_window_, initial_window_;
  size_t max_frame_;
  Carried how_ = Carried::kEnded;
  std::string reason_;
  std::atomic<bool> ended_{false};
};

}  // namespace remora
