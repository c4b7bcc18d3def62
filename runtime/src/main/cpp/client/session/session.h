// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The program's end of a session, for bindings for which callbacks are expensive (Python). The core keeps batches until
// they are sent, reads reports, and waits for values. See remora_install_sessions.
#pragma once

#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "client/machine/batch.h"
#include "client/machine/machine.h"
#include "client/session/client_frames.h"
#include "client/session/direct.h"
#include "client/session/line.h"
#include "client/session/reported_waits.h"
#include "common/callbacks.h"

namespace remora {

void install_sessions(remora_interrupt_callback interrupt, remora_trace_callback trace, remora_call_site_callback site);

class Stream;

// Thread-safe.
class Session {
 public:
  explicit Session(Machine& machine) : machine_(machine) {}

  void configure(int64_t max_in_flight_bytes, int64_t max_unreceived_bytes, int64_t read_timeout_millis,
                 int64_t ping_millis);
  std::chrono::milliseconds ping_interval() const { return std::chrono::milliseconds(ping_millis_.load()); }

  // ---- for threads that record and wait
  void submit(std::unique_ptr<Batch> batch);  // takes ownership; blocks while too many bytes are in flight
  void await(int64_t request);
  // Reads for which nobody waits yet. Each is awaited later, or forgotten.
  void read_meanwhile();
  void forget(int64_t first, int64_t count);
  void lost();  // the machine was closed or has failed
  std::string next_failure();
  std::string unread_failure();
  // Takes note of the machine's next restoration, if one was reported: reads of what is void fail. Returns false if there
  // is none. For the thread that carries, since the machine's lock may be held by a thread that waits.
  bool next_restored(int64_t* step, std::string* message);
  // The next of libtorch's warnings on the node that was not passed on yet: "<category>: <text>"; "" if there is none.
  std::string next_warning();

  // ---- for the thread that executes the batches in this process
  Batch* take(int64_t timeout_micros);
  void value(int64_t request, int64_t offset, const uint8_t* data, int64_t bytes);
  void executed(uint64_t sequence, const uint8_t* report, size_t bytes);

  // ---- for the threads that carry the batches to a gateway
  // Sends batches over this stream from the next resume() on; null: over no stream. Must not be called under a lock of
  // the stream.
  void set_stream(std::shared_ptr<Stream> stream);
  std::shared_ptr<Stream> stream();
  // The gateway has the batches up to this one; the session sends those after it (again).
  void resume(uint64_t last_batch);
  // The next frame to send over a stream (null: for the binding's own connection); false if there is none.
  bool next_message(const Stream* by, Message& message);
  // Like next_message() for the binding's own connection, but waits for the frame. Throws if no frame will follow.
  bool await_message(int64_t timeout_micros, Message& message);
  // Handles a ServerFrame. Returns true if it is a Welcome, which the caller must handle. Throws if the frame is
  // invalid, or with the error of a Lost.
  bool on_message(ProtoBytes message);
  uint64_t received();  // index of the last ServerFrame
  // Whether a waiting thread reads from this line at present; null: from any.
  bool waiter_reads(const Line* line);
  void nudge_carrier();

  // ---- for a connection of the program's own to the node
  // The gateway may arrange one for the session of this number.
  void use_direct(uint64_t session_number);
  std::shared_ptr<Direct> direct();
  // Makes such a connection, or leaves it, when it is time to. For the thread that carries.
  void attend_direct();
  bool next_frame(const Direct& by, DirectFrame& frame);  // the next frame to send; false if there is none
  void on_direct_welcome(const Direct& by, uint64_t last_received);
  void on_report(const Direct& by, uint64_t sequence, ProtoBytes report);
  void on_value_chunk(const Direct& by, int64_t request, int64_t offset, ProtoBytes data);
  bool has_failures();
  // The reason why the machine rests until it is resumed; "" if it works. Waits fail while it rests, and nothing is
  // lost.
  void set_held(std::string reason);

  Machine& machine() { return machine_; }

 private:
  struct Request {
    Batch* batch = nullptr;  // the batch that ends with the request, until it is executed
    uint64_t sequence = 0;   // that batch's number
    int64_t received = 0;
    bool done = false;
    std::string error;
  };

  template <class F>
  void wait(std::unique_lock<std::mutex>& lock, const char* what, F&& ready);
  void wake_waiters();
  std::shared_ptr<Line> line();
  bool next_message(Message& message);
  bool may_ask_for_direct() const;
  void on_direct(ProtoBytes message);
  void on_direct_closed(ProtoBytes message);
  void leave_direct(const std::string& reason);
  void take_after(uint64_t last_batch);
  void log(std::string text);
  void log_once(const std::string& reason);
  bool read_message(ProtoBytes message);
  void on_executed(ProtoBytes message);
  void on_value(ProtoBytes message);
  void on_restored(ProtoBytes message);
  void event(uint64_t sequence, Reader& r, std::unique_lock<std::mutex>& lock);
  Request* find(int64_t request);
  static void finish(Request* request, std::string error);
  std::string failure(Reader& r, uint64_t* number, std::unique_lock<std::mutex>& lock);
  void warning(Reader& r, std::unique_lock<std::mutex>& lock);
  std::string called_at(int64_t call, std::unique_lock<std::mutex>& lock);

  friend void lock_sessions();
  friend void unlock_sessions();

  using Clock = std::chrono::steady_clock;

  static constexpr size_t kMostFailures = 100;  // kept for the next synchronization
  static constexpr auto kAcknowledgeAfter = std::chrono::milliseconds(50);

  Machine& machine_;
  std::mutex receiving_;  // held while a frame is handled: a broken connection's frames and the next one's may overlap
  std::mutex mutex_;
  std::condition_variable wake_;                // for threads that wait for values or for room
  std::condition_variable to_send_;             // for the thread that takes batches without a stream
  std::deque<std::shared_ptr<Batch>> batches_;  // not executed yet
  size_t taken_ = 0;                            // how many of batches_ were taken
  std::unordered_map<int64_t, Request> requests_;
  std::deque<std::string> to_log_;
  std::deque<std::pair<WarningKind, std::string>> warnings_;  // not passed on yet
  std::map<uint64_t, std::string> unread_;
  struct Restored {
    uint64_t epoch = 0;
    int64_t step = 0;
    std::string text;  // with the exception's class
  };
  std::deque<Restored> restored_;  // not taken note of yet
  uint64_t void_before_ = 0;       // requests of batches before this one get no answer
  std::string void_reason_;
  int64_t in_flight_ = 0;
  int64_t max_in_flight_ = 64 * 1024 * 1024;
  int64_t read_timeout_millis_ = 600'000;
  std::atomic<int64_t> ping_millis_{10'000};
  std::string held_;

  std::shared_ptr<Stream> stream_;
  bool sending_ = false;  // the gateway has told its last batch
  bool said_goodbye_ = false;
  int waiting_ = 0;                     // number of waiting threads
  std::atomic<int32_t> hindrance_{0};   // what the gateway has told last, see remora_hindrance
  const Line* waiter_reads_ = nullptr;  // one of them waits for this line's input
  uint64_t received_ = 0;               // index of the last ServerFrame
  uint64_t acknowledged_ = 0;
  int64_t unacknowledged_bytes_ = 0;
  int64_t max_unacknowledged_bytes_ = 4 * 1024 * 1024;
  Clock::time_point said_ = Clock::now();  // when something was sent last
  ReportedWaits reported_waits_;

  // Which way batches go.
  enum class Way {
    kGateway,
    kAsking,   // the gateway was asked to arrange a connection to the node; batches wait
    kOffered,  // it has done so
    kDialled,  // the node was sent the hello
    kDirect,   // over direct_
    kClosing,  // direct_ is gone, and the gateway has not told which batches the node has; batches wait
  };
  Way way_ = Way::kGateway;
  bool uses_direct_ = false;
  uint64_t number_ = 0;
  DirectOffer offer_;
  std::shared_ptr<Direct> direct_;
  Clock::time_point way_since_ = Clock::now();
  Clock::time_point ask_after_ = Clock::now();
  std::chrono::milliseconds ask_pause_{1000};
  uint64_t closings_ = 0;  // numbers them
  bool told_closing_ = false;
  std::string logged_;
  // What was received over direct_ and was not confirmed to the node.
  uint64_t direct_executed_ = 0;
  uint64_t direct_confirmed_ = 0;
  int64_t unconfirmed_bytes_ = 0;
  Clock::time_point confirmed_at_ = Clock::now();
  Clock::time_point direct_said_ = Clock::now();
};

// Sessions are never deleted, like machines: a thread may still be leaving a wait.
Session& session_of(int64_t machine);

}  // namespace remora
