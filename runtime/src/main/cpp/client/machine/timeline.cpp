// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/machine/timeline.h"

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "client/program_line.h"
#include "common/error.h"
#include "common/huge_pages.h"
#include "common/platform.h"
#include "common/wire.h"

namespace remora {

namespace {

constexpr auto kWriteAfter = std::chrono::seconds(1);
// Viewers cannot show much more, and the file stays below about 100 MB.
constexpr size_t kMostOperations = 250'000;
constexpr int64_t kMostOthers = 250'000;  // waits and batches
// After a look at the program's line, the next one must wait for this many times as long as the look took.
constexpr int64_t kPauseOfLines = 100;
constexpr int64_t kLongestPauseOfLines = 300'000'000;  // in ticks: about a tenth of a second
constexpr int kMostNames = 10'000;
// Numbers of processes and threads that no system gives: those of the program are its own.
constexpr int64_t kLinks = 5'000'000, kNodes = 5'001'000, kStates = 5'002'000, kGateways = 5'003'000;

// Whether the processor's counter runs evenly, as the system has found out.
bool counter_is_even() {
#if defined(__x86_64__) && defined(__linux__)
  std::ifstream source("/sys/devices/system/clocksource/clocksource0/current_clocksource");
  std::string name;
  return std::getline(source, name) && name == "tsc";
#else
  return false;
#endif
}

}  // namespace

// Events as JSON. Each is begun by event(), then has fields, and is ended by end().
class Timeline::Text {
 public:
  const std::string& json() const { return json_; }

  Text& event(char phase, const char* category, std::string_view name) {
    json_ += ",\n{\"ph\":\"";
    json_ += phase;
    json_ += '"';
    if (category != nullptr) {
      json_ += ",\"cat\":\"";
      json_ += category;
      json_ += '"';
    }
    json_ += ",\"name\":";
    quoted(name);
    return *this;
  }
  Text& at(int64_t process, int64_t thread) { return number("pid", process).number("tid", thread); }
  Text& from(int64_t begin) { return micros("ts", begin); }
  Text& lasting(int64_t begin, int64_t end) {
    return micros("ts", begin).micros("dur", std::max<int64_t>(0, end - begin));
  }
  Text& number(const char* key, int64_t value) {
    this->key(key);
    digits(value);
    return *this;
  }
  Text& micros(const char* key, int64_t nanos) {
    this->key(key);
    if (nanos < 0) {
      json_ += '-';
      nanos = -nanos;
    }
    digits(nanos / 1000);
    char fraction[] = {'.', static_cast<char>('0' + nanos / 100 % 10), static_cast<char>('0' + nanos / 10 % 10),
                       static_cast<char>('0' + nanos % 10)};
    json_.append(fraction, sizeof fraction);
    return *this;
  }
  Text& text(const char* key, std::string_view value) {
    this->key(key);
    quoted(value);
    return *this;
  }
  Text& flow(const char* direction, uint64_t id) {
    text("bind_id", hexadecimal(id));
    key(direction);
    json_ += "true";
    return *this;
  }
  Text& id(uint64_t id) { return text("id", hexadecimal(id)); }
  Text& args() {
    json_ += ",\"args\":{";
    first_ = true;
    inside_ = true;
    return *this;
  }
  void end() {
    json_ += inside_ ? "}}" : "}";
    inside_ = first_ = false;
  }
  // A name of a process or a thread.
  void names(const char* what, int64_t process, int64_t thread, std::string_view name) {
    event('M', nullptr, what).at(process, thread).args().text("name", name).end();
  }
  void raw(const char* json) { json_ += json; }
  void drop_first_comma() { json_.erase(0, 2); }

 private:
  static std::string hexadecimal(uint64_t value) {
    std::string digits;
    do {
      digits.insert(digits.begin(), "0123456789abcdef"[value % 16]);
    } while ((value /= 16) != 0);
    return "0x" + digits;
  }
  void key(const char* key) {
    if (!std::exchange(first_, false)) json_ += ',';
    json_ += '"';
    json_ += key;
    json_ += "\":";
  }
  void digits(int64_t value) {
    char buffer[24];
    char* p = buffer + sizeof buffer;
    auto rest = value < 0 ? 0 - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
    do {
      *--p = static_cast<char>('0' + rest % 10);
    } while ((rest /= 10) != 0);
    if (value < 0) *--p = '-';
    json_.append(p, static_cast<size_t>(buffer + sizeof buffer - p));
  }
  void quoted(std::string_view text) {
    json_ += '"';
    for (char c : text) {
      if (c == '"' || c == '\\') {
        json_ += '\\';
        json_ += c;
      } else if (static_cast<unsigned char>(c) < 0x20) {
        json_ += ' ';
      } else {
        json_ += c;
      }
    }
    json_ += '"';
  }

  std::string json_;
  bool first_ = false;   // the next field is the first of the arguments
  bool inside_ = false;  // the arguments
};

Timeline::Timeline(std::string machine, int slot) : machine_(std::move(machine)), slot_(slot) {}

int64_t Timeline::ticks() {
#if defined(__x86_64__)
  static const bool even = counter_is_even();
  if (even) return static_cast<int64_t>(__builtin_ia32_rdtsc());
#endif
  return now();
}

int64_t Timeline::nanos(int64_t ticks) const {
  auto span = last_tick_.ticks - first_tick_.ticks;
  auto rate = span > 0 ? static_cast<double>(last_tick_.nanos - first_tick_.nanos) / static_cast<double>(span) : 1.0;
  return first_tick_.nanos + static_cast<int64_t>(static_cast<double>(ticks - first_tick_.ticks) * rate);
}

// ---------------------------------------------------------------- on and off

std::string Timeline::start(const std::string& file) {
  std::lock_guard<std::mutex> life(life_);
  if (writer_.joinable()) {
    raise("MachineStateException", "machine '" + machine_ + "' is traced already, to " + file_name_);
  }
  auto slash = file.find_last_of('/');
  auto dot = file.find_last_of('.');
  if (dot == std::string::npos || (slash != std::string::npos && dot <= slash + 1) || dot == 0) dot = file.size();
  auto name = file;
  for (int number = 2; (file_ = ::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666)) < 0; number++) {
    if (errno != EEXIST || number > kMostNames) {
      raise("RemoraException", "cannot write the trace " + name + ": " + std::strerror(errno));
    }
    name = file.substr(0, dot) + "-" + std::to_string(number) + file.substr(dot);
  }
  file_name_ = name;
  process_ = ::getpid();
  std::lock_guard<std::mutex> guard(mutex_);
  events_ = {};
  under_way_.clear();
  static std::atomic<uint64_t> runs{0};
  run_ = ++runs;
  operations_.reset(new Operation[kMostOperations]);
  prefer_huge_pages(operations_.get(), kMostOperations * sizeof(Operation));
  noted_ = written_ = complete_ = 0;
  first_tick_ = Tick::now();
  names_.clear();
  clock_.reset();
  gateway_clock_.reset();
  named_gateway_ = false;
  executor_free_ = 0;
  others_left_ = kMostOthers;
  stopping_ = abandoned_ = false;
  failure_.clear();
  line_after_ = 0;
  state_since_ = now();
  want_in_file(kOperations);
  writer_ = std::thread([this] { write_file(); });
  return name;
}

void Timeline::stop() {
  std::lock_guard<std::mutex> life(life_);
  if (!writer_.joinable()) {
    return;
  }
  if (process_ != ::getpid()) {  // a forked child has no such thread, and the file is its parent's
    writer_.detach();
    std::lock_guard<std::mutex> guard(mutex_);
    want_in_file(kOff);
    return;
  }
  {
    std::lock_guard<std::mutex> guard(mutex_);
    want_in_file(kOff);
    note_state(now());
    stopping_ = true;
    wake_writer_.notify_all();
  }
  writer_.join();
  ::close(std::exchange(file_, -1));
  if (!failure_.empty()) {
    raise("RemoraException", "the trace " + file_name_ + " is not complete: " + failure_);
  }
}

void Timeline::release() {
  std::lock_guard<std::mutex> life(life_);
  if (!writer_.joinable()) operations_.reset();
}

void Timeline::await_executed(std::chrono::steady_clock::time_point deadline) {
  std::unique_lock<std::mutex> lock(mutex_);
  auto last = under_way_.empty() ? 0 : under_way_.rbegin()->first;
  executed_.wait_until(lock, deadline,
                       [&] { return under_way_.empty() || under_way_.begin()->first > last || abandoned_; });
}

void Timeline::wake() {
  std::lock_guard<std::mutex> guard(mutex_);
  abandoned_ = true;
  executed_.notify_all();
}

void Timeline::want_in_file(Detail detail) {
  in_file_ = detail;
  update_detail();
}

void Timeline::update_detail() {
  auto profiled = profile_.on() && !profile_.full();
  detail_ = profiled ? kOperations : profile_.on() ? std::max<uint32_t>(in_file_, kBatches) : in_file_.load();
}

void Timeline::start_profile() {
  std::lock_guard<std::mutex> guard(mutex_);
  if (!profile_.on()) profile_.begin();
  profiled_ = true;
  update_detail();
}

Profile::Noted Timeline::stop_profile() {
  std::lock_guard<std::mutex> guard(mutex_);
  auto noted = profile_.end();
  profiled_ = false;
  update_detail();
  return noted;
}

const char* Timeline::hindered() const {
  std::lock_guard<std::mutex> guard(mutex_);
  return state_;
}

Timeline::Missing Timeline::await_profiled(std::chrono::steady_clock::time_point deadline) {
  std::unique_lock<std::mutex> lock(mutex_);
  auto since = now();
  executed_.wait_until(lock, deadline,
                       [&] { return profile_.unanswered(since) == 0 || abandoned_ || state_ != nullptr; });
  return {profile_.unanswered(since), profile_.full()};
}

// ---------------------------------------------------------------- noting

// Counts an event. The node is asked for no more than can be written.
bool Timeline::has_room(int64_t& left) {
  if (!in_file() || left <= 0) {
    return false;
  }
  if (--left == 0) want_in_file(kOff);
  return true;
}

uint64_t Timeline::thread(bool locked) {
  static thread_local uint64_t number = 0;
  static thread_local uint64_t named = 0;  // the last file that has the thread's name
  if (named != run_) {
    std::unique_lock<std::mutex> lock(mutex_, std::defer_lock);
    if (!locked) lock.lock();
    named = run_;
    number = thread_number();
    char name[64] = "";
    pthread_getname_np(pthread_self(), name, sizeof name);
    events_.threads[number] = name;
  }
  return number;
}

std::string Timeline::line(int64_t begin) {
  auto line = program_line();
  auto end = ticks();
  line_after_.store(end + std::min((end - begin) * kPauseOfLines, kLongestPauseOfLines), std::memory_order_relaxed);
  return line;
}

void Timeline::operation(int64_t call, const std::string& name, std::string line, int64_t begin, int slot) {
  auto end = ticks();
  if (profiled()) {
    std::lock_guard<std::mutex> guard(mutex_);
    if (profile_.on()) profile_.operation(call, name, slot);
    if (profile_.full()) update_detail();
  }
  auto number = noted_.load(std::memory_order_relaxed);
  if (in_file_.load(std::memory_order_relaxed) != kOperations || number == kMostOperations) {
    return;
  }
  operations_[number] = {call, &name, begin, end, static_cast<uint32_t>(thread(false)), !line.empty()};
  if (line.empty() && number + 1 < kMostOperations) {
    noted_.store(number + 1, std::memory_order_release);
    return;
  }
  std::lock_guard<std::mutex> guard(mutex_);
  if (!line.empty()) events_.lines.push_back(std::move(line));
  noted_.store(number + 1, std::memory_order_release);
  if (number + 1 == kMostOperations && in_file()) want_in_file(kBatches);
}

void Timeline::waited(const char* cause, std::string_view subject, const std::string& line, int64_t begin,
                      int64_t end) {
  std::lock_guard<std::mutex> guard(mutex_);
  if (has_room(others_left_)) events_.waits.push_back({cause, std::string(subject), line, begin, end, thread(true)});
}

void Timeline::hindered(const char* state) {
  std::lock_guard<std::mutex> guard(mutex_);
  auto now = Timeline::now();
  if (in_file()) note_state(now);
  state_ = state;
  state_since_ = now;
  executed_.notify_all();
}

void Timeline::note_state(int64_t now) {
  if (state_ != nullptr) events_.states.push_back({state_, state_since_, now});
}

void Timeline::submitted(uint64_t batch, size_t bytes, int64_t operations) {
  std::lock_guard<std::mutex> guard(mutex_);
  auto now = Timeline::now();
  if (profile_.on()) profile_.submitted(batch, now);
  if (has_room(others_left_)) under_way_[batch] = {batch, bytes, operations, now, 0, "", ""};
}

void Timeline::passed(uint64_t batch, std::string_view passage) {
  std::lock_guard<std::mutex> guard(mutex_);
  if (auto found = under_way_.find(batch); found != under_way_.end()) found->second.passage = passage;
}

void Timeline::executed(uint64_t batch, std::string_view times) {
  std::lock_guard<std::mutex> guard(mutex_);
  auto now = Timeline::now();
  if (profile_.on()) profile_.executed(batch, now, times);
  auto found = under_way_.find(batch);
  if (found != under_way_.end()) {
    found->second.arrived = now;
    found->second.times = times;
    events_.batches.push_back(std::move(found->second));
    under_way_.erase(found);
  }
  executed_.notify_all();
}

// ---------------------------------------------------------------- writing

void Timeline::write_file() {
  lower_own_priority();
  Text head;
  head.names("process_name", process_, process_, "program");
  head.names("process_name", kLinks + slot_, kLinks + slot_, "link of machine '" + machine_ + "'");
  head.names("process_name", kNodes + slot_, kNodes + slot_, "node of machine '" + machine_ + "'");
  head.names("thread_name", kNodes + slot_, kNodes + slot_, "executor");
  head.names("thread_name", process_, kStates + slot_, "machine '" + machine_ + "'");
  head.drop_first_comma();
  {
    Text begin;
    begin.raw("[\n");
    save(begin);
  }
  save(head);
  std::unique_lock<std::mutex> lock(mutex_);
  bool last = false;
  bool told_limit = false;
  while (!last) {
    wake_writer_.wait_for(lock, kWriteAfter, [&] { return stopping_; });
    last = stopping_;
    auto events = std::exchange(events_, {});
    complete_ = noted_.load(std::memory_order_acquire);
    bool limited = complete_ == kMostOperations || others_left_ <= 0;
    auto left_over = last ? std::exchange(under_way_, {}) : std::map<uint64_t, TimedBatch>();
    lock.unlock();
    Text text;
    write(text, events);
    for (const auto& [number, batch] : left_over) {
      text.event('b', "link", "to the node").at(kLinks + slot_, kLinks + slot_).id(number).from(batch.submitted);
      text.args().number("batch", static_cast<int64_t>(number)).text("answered", "no").end();
      text.event('e', "link", "to the node").at(kLinks + slot_, kLinks + slot_).id(number).from(now()).end();
    }
    if (limited && !std::exchange(told_limit, true)) {
      text.event('i', nullptr, "The trace has reached its limit: what follows is left out, at first operations")
          .at(process_, process_)
          .from(now())
          .text("s", "p")
          .end();
    }
    if (last) text.raw("\n]\n");
    save(text);
    lock.lock();
  }
}

void Timeline::save(const Text& text) {
  const auto& json = text.json();
  for (size_t written = 0; written < json.size() && failure_.empty();) {
    auto n = ::write(file_, json.data() + written, json.size() - written);
    if (n >= 0) {
      written += static_cast<size_t>(n);
    } else if (errno != EINTR) {
      failure_ = std::strerror(errno);
    }
  }
}

void Timeline::write(Text& text, Events& events) {
  for (const auto& [number, name] : events.threads)
    text.names("thread_name", process_, static_cast<int64_t>(number), name);
  write_operations(text, events);
  for (const auto& each : events.waits) {
    text.event('X', "wait", std::string("wait: ") + each.subject)
        .at(process_, static_cast<int64_t>(each.thread))
        .lasting(each.begin, each.end);
    text.args().text("cause", each.cause).text("subject", each.subject).text("line", each.line).end();
  }
  for (const auto& each : events.states) {
    text.event('X', "state", each.name).at(process_, kStates + slot_).lasting(each.begin, each.end).end();
  }

  write_passages(text, events.batches);
  by_clock(std::move(events.batches), &clock_,
           [&](const std::vector<TimedBatch>& batches, const PeerClock& clock, bool another_follows) {
             write_batches(text, batches, clock);
             if (another_follows) executor_free_ = 0;
           });
}

void Timeline::write_operations(Text& text, const Events& events) {
  last_tick_ = Tick::now();
  auto line = events.lines.begin();
  for (; written_ < complete_; written_++) {
    const auto& each = operations_[written_];
    names_.push_back({each.call, each.name});
    text.event('X', "record", *each.name).at(process_, each.thread).lasting(nanos(each.begin), nanos(each.end));
    text.flow("flow_out", flow(each.call));
    text.args().number("call", each.call);
    if (each.has_line) text.text("line", *line++);
    text.end();
  }
}

void Timeline::write_passages(Text& text, const std::vector<TimedBatch>& batches) {
  const auto gateway = kGateways + slot_;
  std::vector<Passage> passages;
  for (const auto& batch : batches) {
    if (auto passage = Passage::of(batch)) passages.push_back(*passage);
  }
  if (!passages.empty() && !std::exchange(named_gateway_, true)) {
    text.names("process_name", gateway, gateway, "gateway of machine '" + machine_ + "'");
  }
  auto write = [&](const char* name, uint64_t batch, int64_t begin, int64_t end, const PeerClock& clock) {
    text.event('b', "gateway", name).at(gateway, gateway).id(batch).from(begin - clock.offset());
    text.args().number("batch", static_cast<int64_t>(batch)).micros("clock_error_us", clock.error()).end();
    text.event('e', "gateway", name).at(gateway, gateway).id(batch).from(end - clock.offset()).end();
  };
  by_clock(std::move(passages), &gateway_clock_, [&](const std::vector<Passage>& alike, const PeerClock& clock, bool) {
    for (const auto& each : alike) {
      write("to the node", each.batch, each.received, each.sent, clock);
      write("from the node", each.batch, each.answered, each.sent_answer, clock);
    }
  });
}

void Timeline::write_batches(Text& text, const std::vector<TimedBatch>& batches, const PeerClock& clock) {
  for (const auto& batch : batches) {
    try {
      write_runs(text, batch, clock);
    } catch (const WireError&) {
      // What the node has told up to there is true as far as anyone knows.
    }
  }
}

void Timeline::write_runs(Text& text, const TimedBatch& batch, const PeerClock& clock) {
  const auto link = kLinks + slot_;
  const auto node = kNodes + slot_;
  NodeTimes times(batch, clock);
  auto begin = times.begin(), end = times.end();
  auto behind = std::clamp<int64_t>(executor_free_ - batch.submitted, 0, std::max<int64_t>(0, begin - batch.submitted));
  executor_free_ = end;
  auto number = static_cast<int64_t>(batch.number);

  text.event('b', "link", "to the node").at(link, link).id(batch.number).from(batch.submitted);
  text.args().number("batch", number).number("bytes", static_cast<int64_t>(batch.bytes));
  text.number("operations", batch.operations).micros("behind_other_batches_us", behind).end();
  text.event('e', "link", "to the node").at(link, link).id(batch.number).from(begin).end();
  text.event('b', "link", "from the node").at(link, link).id(batch.number).from(end);
  text.args().number("batch", number).end();
  text.event('e', "link", "from the node").at(link, link).id(batch.number).from(batch.arrived).end();
  text.event('X', "batch", "batch " + std::to_string(number)).at(node, node).lasting(begin, end);
  text.args().number("batch", number).micros("clock_error_us", clock.error()).end();

  while (auto run = times.next()) {
    const std::string* name = nullptr;
    if (run->call != 0) {
      while (!names_.empty() && names_.front().call < run->call) names_.pop_front();
      if (!names_.empty() && names_.front().call == run->call) {
        name = names_.front().name;
        names_.pop_front();
      }
      // A profile has asked the node for what was recorded before the trace, too.
      if (complete_ == 0 || run->call < operations_[0].call) continue;
    }
    text.event('X', "run", name != nullptr ? std::string_view(*name) : std::string_view(name_of_run(run->record)));
    text.at(node, node).lasting(run->begin, run->end);
    if (name != nullptr) text.flow("flow_in", flow(run->call));
    if (run->call != 0) {
      text.args().number("call", run->call).end();
    } else {
      text.end();
    }
  }
}

}  // namespace remora
