// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The program's end of a session for bindings that cannot be called back cheaply (Python): batches wait here until they
// are sent, reports are read here, and whoever waits for a value waits here. See remora_install_sessions.
#pragma once

#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "client/machine.h"
#include "client/session/protobuf.h"

namespace remora {

class Stream;

// A ClientFrame of gateway.proto with gRPC's prefix: its head, then the bytes of its batch.
struct Message {
  Writer head;
  std::shared_ptr<Batch> batch;  // may be null
  bool last = false;             // nothing follows

  size_t size() const { return head.size() + (batch ? batch->bytes.size() : 0); }
  // The frame as protobuf has it.
  std::string frame() const;
};

// Thread-safe.
class Session {
 public:
  explicit Session(Machine& machine) : machine_(machine) {}

  void configure(int64_t max_in_flight_bytes, int64_t max_unreceived_bytes, int64_t read_timeout_millis,
                 int64_t ping_millis);
  std::chrono::milliseconds ping_interval() const { return std::chrono::milliseconds(ping_millis_.load()); }

  // ---- for who records and who waits
  void submit(std::unique_ptr<Batch> batch);  // takes it over; blocks while too much is under way
  void await(int64_t request);
  void lost();  // the machine was closed or has failed
  std::string next_failure();
  std::string unread_failure();
  // What libtorch has warned of on the node and nobody has been told: "<category>: <text>"; "" when there is nothing.
  std::string next_warning();

  // ---- for who executes the batches in this process
  Batch* take(int64_t timeout_micros);
  void value(int64_t request, int64_t offset, const uint8_t* data, int64_t bytes);
  void executed(uint64_t sequence, const uint8_t* report, size_t bytes);

  // ---- for who carries them to a gateway
  // Batches go over this stream from the next resume() on; null: over none. Not under a lock of the stream's.
  void set_stream(std::shared_ptr<Stream> stream);
  std::shared_ptr<Stream> stream();
  // The gateway has what came up to this batch: those after it are sent (again).
  void resume(uint64_t last_batch);
  // The next frame to send over a stream (null: by whoever carries the frames otherwise); false when there is none.
  bool next_message(const Stream* by, Message& message);
  // The same, after waiting for it; throws when nothing will come any more.
  bool await_message(int64_t timeout_micros, Message& message);
  // A ServerFrame. Answers whether it is a Welcome, which is left to the caller. Throws what is wrong with it, and what a
  // Lost says.
  bool on_message(ProtoBytes message);
  uint64_t received();  // index of the last ServerFrame
  // A waiting thread reads from the stream at present.
  bool waiter_reads();
  bool has_failures();
  // The machine rests until it is resumed, and why: waits fail meanwhile, and nothing is lost. Empty: it works.
  void set_held(std::string reason);

  Machine& machine() { return machine_; }

 private:
  struct Request {
    Batch* batch = nullptr;  // that ends with it, until it was executed
    int64_t received = 0;
    bool done = false;
    std::string error;
  };

  template <class F>
  void wait(std::unique_lock<std::mutex>& lock, const char* what, F&& ready);
  void wake_waiters();
  bool next_message(Message& message);
  bool read_message(ProtoBytes message);
  void on_executed(ProtoBytes message);
  void on_value(ProtoBytes message);
  void event(Reader& r, std::unique_lock<std::mutex>& lock);
  Request* find(int64_t request);
  static void finish(Request* request, std::string error);
  std::string failure(Reader& r, uint64_t* number, std::unique_lock<std::mutex>& lock);
  void warning(Reader& r, std::unique_lock<std::mutex>& lock);
  std::string called_at(int64_t call, std::unique_lock<std::mutex>& lock);

  friend void lock_sessions();
  friend void unlock_sessions();

  using Clock = std::chrono::steady_clock;

  Machine& machine_;
  std::mutex receiving_;  // held while a frame is handled: those of a broken connection and of the next one may overlap
  std::mutex mutex_;
  std::condition_variable wake_;                // of who waits for values or for room
  std::condition_variable to_send_;             // of who takes batches without a stream
  std::deque<std::shared_ptr<Batch>> batches_;  // not executed yet
  size_t taken_ = 0;                            // how many of them were taken
  std::unordered_map<int64_t, Request> requests_;
  std::deque<std::string> to_log_;
  std::deque<std::pair<WarningKind, std::string>> warnings_;  // nobody has been warned yet
  std::map<uint64_t, std::string> unread_;
  int64_t in_flight_ = 0;
  int64_t max_in_flight_ = 64 * 1024 * 1024;
  int64_t read_timeout_millis_ = 600'000;
  std::atomic<int64_t> ping_millis_{10'000};
  std::string held_;

  std::shared_ptr<Stream> stream_;
  bool sending_ = false;  // the gateway has said what it has
  bool said_goodbye_ = false;
  int waiting_ = 0;            // threads
  bool waiter_reads_ = false;  // one of them waits for the stream
  uint64_t received_ = 0;      // index of the last ServerFrame
  uint64_t acknowledged_ = 0;
  int64_t unacknowledged_bytes_ = 0;
  int64_t max_unacknowledged_bytes_ = 4 * 1024 * 1024;
  Clock::time_point said_ = Clock::now();  // when something was sent
};

// Sessions stay for the life of the process, as machines do: whoever waits in one may leave late.
Session& session_of(int64_t machine);

// ---- stream.cpp

// How carry() comes back.
enum class Carried : int32_t {
  kFailures = 0,     // operations have failed: they are to be logged
  kWelcome = 1,      // a Welcome has come
  kEnded = 2,        // as both sides wanted
  kBroken = 3,       // the connection is; another may take the session up again
  kUnexplained = 4,  // the gateway has ended the stream, and has said why in a way that is not understood here
  kFailed = 5,       // the machine has failed
};

// A connection to a gateway: HTTP/2 (RFC 9113) with the one stream that carries a session. Whoever has something to send
// writes it, unless another thread is writing; whoever waits for a value reads; what else there is to do is done by the
// thread that carries. Thread-safe.
class Stream {
 public:
  // Takes the socket over. `headers` is the request's header block, `hello` the first message.
  Stream(Session& session, int socket, ProtoBytes headers, ProtoBytes hello);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Sends and receives until something is to be told to the caller.
  Carried carry();
  const std::string& welcome() const { return welcome_; }  // for the thread that carries
  const std::string& reason() const { return reason_; }    // as well, once it has ended
  // Ends it. From any thread.
  void cancel();

  // Writes what can be written without waiting.
  void write();
  // Waits until something has come, or nudge_reader() was called; whether something has.
  bool await_input(std::chrono::milliseconds timeout);
  void read();
  void nudge_reader();
  void nudge_carrier();
  // Somebody has sent something and does not wait for what comes back.
  void expect_nobody_reads();

 private:
  void end(Carried how, std::string reason);
  void watch();
  bool flush();  // false when it would have to wait
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
  const int carrier_event_;
  const int reader_event_;

  // The writer's, who has raised write_wanted_ from 0.
  std::atomic<int> write_wanted_{0};
  std::string out_;
  size_t sent_ = 0;
  Message message_;
  size_t message_at_ = 0;
  bool finished_ = false;             // END_STREAM was written
  std::atomic<bool> blocked_{false};  // the socket takes nothing more: the carrying thread continues when it does

  // The reader's.
  std::mutex reading_;
  std::vector<uint8_t> buffer_;
  size_t begin_ = 0, end_ = 0;
  std::string begun_;     // what has come of a message that is not complete
  int64_t consumed_ = 0;  // bytes of data for which no window was returned yet
  std::string welcome_;
  std::atomic<bool> welcomed_{false};

  // Of watch(), on the carrying thread.
  std::atomic<bool> heard_{false};  // something has come
  std::chrono::steady_clock::time_point quiet_since_ = std::chrono::steady_clock::now();
  int unanswered_ = 0;  // pings
  int queued_ = 0;      // bytes that the peer had not confirmed

  std::atomic<bool> parked_{false};  // the carrying thread leaves reading to one that waits

  std::mutex mutex_;
  std::string control_;  // frames that are not data, to be sent
  int64_t connection_window_, stream_window_, initial_window_;
  size_t max_frame_;
  Carried how_ = Carried::kEnded;
  std::string reason_;
  std::atomic<bool> ended_{false};
};

}  // namespace remora
