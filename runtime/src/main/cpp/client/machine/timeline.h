// SPDX-License-Identifier: AGPL-3.0-or-later
//
// A machine's timeline: what its program records and waits for, what is on the way, and what its node executes, written
// to a file in Chrome's trace event format, which Perfetto shows. It keeps what a profile is told of the machine, too.
// Nothing is kept while neither a file nor a profile wants it.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "client/machine/node_times.h"
#include "client/machine/profile.h"

namespace remora {

// Thread-safe. Times are nanoseconds of this process's steady clock. A thread of its own writes the file.
class Timeline {
 public:
  // How much the node is asked to tell of a batch: the value of a kTimed record.
  enum Detail : uint32_t { kOff = 0, kBatches = 1, kOperations = 2 };

  Timeline(std::string machine, int slot);

  static int64_t now() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
  // Whether anyone wants to know.
  bool on() const { return detail() != kOff; }
  bool in_file() const { return in_file_.load(std::memory_order_relaxed) != kOff; }
  Detail detail() const { return static_cast<Detail>(detail_.load(std::memory_order_relaxed)); }

  // A clock for operations that costs less than now(), in units of its own.
  static int64_t ticks();

  // Creates the file and begins. If the file exists, a number is added to its name. Returns the file's name. Throws if
  // the timeline is on, or the file cannot be created. With the machine's lock.
  std::string start(const std::string& file);
  // Completes the file. Throws if not all of it could be written. Does nothing if the timeline is off.
  void stop();
  void release();  // the memory of a timeline that has stopped; with the machine's lock
  // For torch.profiler; independent of the file. Does nothing if a profile is on.
  void start_profile();
  Profile::Noted stop_profile();
  bool profiled() const { return profiled_.load(std::memory_order_relaxed); }
  // What the profile lacks of what was submitted so far: batches of which the node has told nothing, and whether
  // operations are left out because there were too many.
  struct Missing {
    size_t batches = 0;
    bool full = false;
  };
  // Waits until it lacks no batch, or the node cannot answer.
  Missing await_profiled(std::chrono::steady_clock::time_point deadline);
  // The state in which the node cannot answer; null: it can.
  const char* hindered() const;

  // Waits until the node has executed the batches that were submitted so far.
  void await_executed(std::chrono::steady_clock::time_point deadline);
  void wake();  // to be called when the machine is no longer open
  // To be called around a fork.
  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

  // ---- what the program does
  // Whether the program's line is to be looked for, for an operation that begins now, in ticks: not for most of them if
  // looking costs much. line() looks.
  bool wants_line(int64_t begin) const { return in_file() && begin >= line_after_.load(std::memory_order_relaxed); }
  std::string line(int64_t begin);
  // `begin` is in ticks. `name` must live as long as the process. `slot` is the device's. With the machine's lock.
  void operation(int64_t call, const std::string& name, std::string line, int64_t begin, int slot);
  void waited(const char* cause, std::string_view subject, const std::string& line, int64_t begin, int64_t end);
  // The machine has entered a state in which its node cannot answer; null: it has left it.
  void hindered(const char* state);
  // ---- what happens to batches
  void submitted(uint64_t batch, size_t bytes, int64_t operations);
  // A gateway has passed the batch on. `passage` is the content of the report's kPassage. To be called before executed().
  void passed(uint64_t batch, std::string_view passage);
  // The node has executed the batch. `times` is the content of the report's kTimes.
  void executed(uint64_t batch, std::string_view times);

 private:
  struct Operation {
    int64_t call;
    const std::string* name;
    int64_t begin, end;  // in ticks
    uint32_t thread;
    bool has_line;  // the next one of Events::lines
  };
  struct Wait {
    const char* cause;
    std::string subject, line;
    int64_t begin, end;
    uint64_t thread;
  };
  struct State {
    const char* name;
    int64_t begin, end;
  };
  struct Named {
    int64_t call;
    const std::string* name;
  };
  // What was noted and is not written.
  struct Events {
    std::vector<std::string> lines;
    std::vector<Wait> waits;
    std::vector<State> states;
    std::vector<TimedBatch> batches;
    std::map<uint64_t, std::string> threads;
  };
  // What ticks() and now() said at one time.
  struct Tick {
    int64_t ticks = 0, nanos = 0;
    static Tick now() { return {Timeline::ticks(), Timeline::now()}; }
  };
  class Text;

  void want_in_file(Detail detail);  // with the lock
  void update_detail();              // with the lock
  bool has_room(int64_t& left);      // with the lock
  uint64_t thread(bool locked);      // whether the caller has the lock
  int64_t nanos(int64_t ticks) const;
  void write_operations(Text& text, const Events& events);
  void note_state(int64_t now);  // with the lock
  void write_file();
  void write(Text& text, Events& events);
  void write_passages(Text& text, const std::vector<TimedBatch>& batches);
  void write_batches(Text& text, const std::vector<TimedBatch>& batches, const PeerClock& clock);
  void write_runs(Text& text, const TimedBatch& batch, const PeerClock& clock);
  void save(const Text& text);
  uint64_t flow(int64_t call) const { return (static_cast<uint64_t>(slot_ + 1) << 40) | static_cast<uint64_t>(call); }

  const std::string machine_;
  const int slot_;
  // What the file wants, and what it and the profile want together. Changed with the lock.
  std::atomic<uint32_t> in_file_{kOff};
  std::atomic<uint32_t> detail_{kOff};
  std::atomic<int64_t> line_after_{0};  // when the next operation's line may be looked for

  mutable std::mutex mutex_;
  std::condition_variable wake_writer_;
  std::condition_variable executed_;
  Events events_;
  Profile profile_;
  std::map<uint64_t, TimedBatch> under_way_;
  uint64_t run_ = 0;  // numbers the files of all timelines
  // Filled with the machine's lock. The writer reads the first `noted_`. An operation with a line is noted with the
  // timeline's lock, too, so that the writer finds both.
  std::unique_ptr<Operation[]> operations_;
  std::atomic<size_t> noted_{0};
  std::atomic<bool> profiled_{false};
  const char* state_ = nullptr;
  int64_t state_since_ = 0;
  int64_t others_left_ = 0;
  bool abandoned_ = false;  // the machine is no longer open
  bool stopping_ = false;
  std::string failure_;
  std::thread writer_;
  std::mutex life_;  // held by start() and stop()

  // For the writer.
  int file_ = -1;
  std::string file_name_;
  int64_t process_ = 0;
  size_t written_ = 0, complete_ = 0;  // operations
  Tick first_tick_, last_tick_;
  std::optional<PeerClock> clock_, gateway_clock_;
  bool named_gateway_ = false;
  int64_t executor_free_ = 0;  // when the node ended the batch before
  std::deque<Named> names_;    // of the operations that the node has not executed
};

}  // namespace remora
