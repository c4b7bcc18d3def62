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
// Two computers' clocks may drift apart by this part of the time that passes.
constexpr int64_t kDriftsByOneIn = 10'000;
constexpr int kMostNames = 10'000;
constexpr uint64_t kMostNanos = uint64_t{1} << 60;
// Numbers of processes and threads that no system gives: those of the program are its own.
constexpr int64_t kLinks = 5'000'000, kNodes = 5'001'000, kStates = 5'002'000;

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

// Of what the node does beside calls.
const char* name_of(uint8_t record) {
  switch (static_cast<Record>(record)) {
    case Record::kWrite: return "write";
    case Record::kRead: return "read";
    case Record::kQuestion: return "question";
    case Record::kRun: return "function";
    case Record::kCallNode: return "call of the node";
    default: return "operation";
  }
}

// Of a batch, on the node's clock.
void read_span(Reader& r, int64_t* begin, int64_t* end) {
  *begin = static_cast<int64_t>(r.bounded(kMostNanos, "a time"));
  *end = *begin + static_cast<int64_t>(r.bounded(kMostNanos, "a time"));
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
  if (on() || writer_.joinable()) {
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
  operations_ = {};
  operations_.reserve(kMostOperations);
  written_ = complete_ = 0;
  first_tick_ = Tick::now();
  names_.clear();
  clock_ = {};
  executor_free_ = 0;
  others_left_ = kMostOthers;
  stopping_ = abandoned_ = false;
  failure_.clear();
  line_after_ = 0;
  state_since_ = now();
  detail_ = kOperations;
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
    detail_ = kOff;
    return;
  }
  {
    std::lock_guard<std::mutex> guard(mutex_);
    detail_ = kOff;
    note_state(now());
    stopping_ = true;
    wake_writer_.notify_all();
  }
  writer_.join();
  operations_ = {};
  ::close(std::exchange(file_, -1));
  if (!failure_.empty()) {
    raise("RemoraException", "the trace " + file_name_ + " is not complete: " + failure_);
  }
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

// ---------------------------------------------------------------- noting

// Counts an event. The node is asked for no more than can be written.
bool Timeline::has_room(int64_t& left) {
  if (detail_.load() == kOff || left <= 0) {
    return false;
  }
  if (--left == 0) detail_ = kOff;
  return true;
}

uint64_t Timeline::thread() {
  static thread_local uint64_t number = 0;
  static thread_local uint64_t named = 0;  // the last file that has the thread's name
  if (named != run_) {
    named = run_;
    number = thread_number();
    char name[64] = "";
    pthread_getname_np(pthread_self(), name, sizeof name);
    events_.threads[number] = name;
  }
  return number;
}

std::string Timeline::line(int64_t begin) {
  auto after = line_after_.load(std::memory_order_relaxed);
  if (begin < after) {
    return "";
  }
  auto line = program_line();
  auto end = ticks();
  line_after_.store(end + std::min((end - begin) * kPauseOfLines, kLongestPauseOfLines), std::memory_order_relaxed);
  return line;
}

void Timeline::operation(int64_t call, const std::string& name, std::string line, int64_t begin) {
  auto end = ticks();
  std::lock_guard<std::mutex> guard(mutex_);
  if (detail_ != kOperations) {
    return;
  }
  operations_.push_back({call, &name, begin, end, static_cast<uint32_t>(thread()), !line.empty()});
  if (!line.empty()) events_.lines.push_back(std::move(line));
  if (operations_.size() == kMostOperations) detail_ = kBatches;
}

void Timeline::waited(const char* cause, std::string_view subject, const std::string& line, int64_t begin,
                      int64_t end) {
  std::lock_guard<std::mutex> guard(mutex_);
  if (has_room(others_left_)) events_.waits.push_back({cause, std::string(subject), line, begin, end, thread()});
}

void Timeline::hindered(const char* state) {
  std::lock_guard<std::mutex> guard(mutex_);
  auto now = Timeline::now();
  if (on()) note_state(now);
  state_ = state;
  state_since_ = now;
}

void Timeline::note_state(int64_t now) {
  if (state_ != nullptr) events_.states.push_back({state_, state_since_, now});
}

void Timeline::submitted(uint64_t batch, size_t bytes, int64_t operations) {
  std::lock_guard<std::mutex> guard(mutex_);
  if (has_room(others_left_)) under_way_[batch] = {batch, bytes, operations, now(), 0, ""};
}

void Timeline::executed(uint64_t batch, std::string_view times) {
  std::lock_guard<std::mutex> guard(mutex_);
  auto found = under_way_.find(batch);
  if (found == under_way_.end()) {
    return;
  }
  found->second.arrived = now();
  found->second.times = times;
  events_.batches.push_back(std::move(found->second));
  under_way_.erase(found);
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
    complete_ = operations_.size();
    bool limited = complete_ == kMostOperations || others_left_ <= 0;
    auto left_over = last ? std::exchange(under_way_, {}) : std::map<uint64_t, Batch>();
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

  // The node's clock: an execution begins after the batch's submission and ends before the report's arrival. What many
  // batches say together is narrow. If two contradict each other, the clock is another one: of another node.
  std::vector<Batch> alike;
  auto clock = clock_;
  for (auto& batch : events.batches) {
    int64_t begin = 0, end = 0;
    try {
      Reader r(reinterpret_cast<const uint8_t*>(batch.times.data()), batch.times.size());
      read_span(r, &begin, &end);
    } catch (const WireError&) {
      continue;
    }
    ClockOffset own{end - batch.arrived, begin - batch.submitted, batch.arrived, true};
    auto drift = clock.known ? std::abs(batch.arrived - clock.at) / kDriftsByOneIn : 0;
    ClockOffset both{std::max(clock.least - drift, own.least), std::min(clock.most + drift, own.most), batch.arrived,
                     true};
    if (clock.known && both.least <= both.most) {
      clock = both;
    } else {
      write_batches(text, alike, clock);
      alike.clear();
      executor_free_ = 0;
      clock = own;
    }
    alike.push_back(std::move(batch));
  }
  write_batches(text, alike, clock);
  clock_ = clock;
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

void Timeline::write_batches(Text& text, const std::vector<Batch>& batches, const ClockOffset& clock) {
  auto offset = clock.least + (clock.most - clock.least) / 2;
  auto error = std::max<int64_t>(0, (clock.most - clock.least) / 2);
  for (const auto& batch : batches) {
    try {
      write_runs(text, batch, offset, error);
    } catch (const WireError&) {
      // What the node has told up to there is true as far as anyone knows.
    }
  }
}

void Timeline::write_runs(Text& text, const Batch& batch, int64_t offset, int64_t error) {
  const auto link = kLinks + slot_;
  const auto node = kNodes + slot_;
  Reader r(reinterpret_cast<const uint8_t*>(batch.times.data()), batch.times.size());
  int64_t begin = 0, end = 0;
  read_span(r, &begin, &end);
  begin -= offset;
  end -= offset;
  auto call = static_cast<int64_t>(r.bounded(kMostNanos, "a call's number"));
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
  text.args().number("batch", number).micros("clock_error_us", error).end();

  for (auto at = begin; !r.done();) {
    auto record = r.u8();
    auto until = std::min(at + static_cast<int64_t>(r.bounded(kMostNanos, "a time")), end);
    const std::string* name = nullptr;
    int64_t number_of_call = 0;
    if (record == static_cast<uint8_t>(Record::kCall)) {
      number_of_call = call++;
      while (!names_.empty() && names_.front().call < number_of_call) names_.pop_front();
      if (!names_.empty() && names_.front().call == number_of_call) {
        name = names_.front().name;
        names_.pop_front();
      }
    }
    text.event('X', "run", name != nullptr ? std::string_view(*name) : std::string_view(name_of(record)));
    text.at(node, node).lasting(at, until);
    if (name != nullptr) text.flow("flow_in", flow(number_of_call));
    if (number_of_call != 0) {
      text.args().number("call", number_of_call).end();
    } else {
      text.end();
    }
    at = until;
  }
}

}  // namespace remora
