// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/session/reported_waits.h"

#include <algorithm>
#include <string>

namespace remora {

namespace {

constexpr auto kInterval = std::chrono::seconds(1);
constexpr size_t kMostLines = 5;
constexpr size_t kMostText = 200;  // bytes, of a subject and of a line

// Field numbers of gateway.proto.
enum WaitsField : uint32_t { kCauses = 1, kLines = 2 };
enum WaitField : uint32_t { kCause = 1, kCount = 2, kNanos = 3, kSubject = 4, kLine = 5 };

// Waits.Cause of gateway.proto; its 0 is no cause.
uint64_t number_of(Waits::Cause cause) { return static_cast<uint64_t>(cause) + 1; }

void write_text(Writer& out, WaitField field, const std::string& text) {
  auto size = text.size();
  if (size > kMostText) {  // cut between two characters of UTF-8
    size = kMostText;
    while (size > 0 && (static_cast<unsigned char>(text[size]) & 0xC0) == 0x80) size--;
  }
  begin_bytes(out, field, size);
  out.raw(text.data(), size);
}

void append(Writer& out, WaitsField field, const Writer& message) {
  begin_bytes(out, field, message.size());
  out.raw(message.data(), message.size());
}

// The name of the file, its line and its function: the folders are nobody's business.
std::string without_folders(const std::string& line) {
  auto slash = line.substr(0, line.find(" in ")).find_last_of("/\\");
  return slash == std::string::npos ? line : line.substr(slash + 1);
}

}  // namespace

bool ReportedWaits::make(const Waits& waits, Clock::time_point now, bool ends) {
  if (ended_ || (!ends && now - told_at_ < kInterval)) {
    return false;
  }
  ended_ = ends;
  auto times = waits.nanos();
  bool changed = false;
  for (size_t cause = 0; cause < times.size(); cause++) {
    changed |= times[cause] > told_[cause];
    times[cause] = std::max(times[cause], told_[cause]);
  }
  told_at_ = now;
  if (!changed) {
    return false;
  }
  told_ = times;
  message_ = Writer();
  for (size_t number = 0; number < times.size(); number++) {
    auto cause = static_cast<Waits::Cause>(number);
    if (waits.of(cause) > 0 || times[number] > 0) {
      Writer sum;
      write_number(sum, kCause, number_of(cause));
      write_number(sum, kCount, static_cast<uint64_t>(waits.of(cause)));
      write_number(sum, kNanos, static_cast<uint64_t>(times[number]));
      append(message_, kCauses, sum);
    }
  }
  for (const auto& each : waits.longest(kMostLines)) {
    Writer line;
    write_number(line, kCause, number_of(each.cause));
    write_number(line, kCount, static_cast<uint64_t>(each.count));
    write_number(line, kNanos, static_cast<uint64_t>(each.nanos));
    write_text(line, kSubject, each.what);
    write_text(line, kLine, without_folders(each.place));
    append(message_, kLines, line);
  }
  return true;
}

}  // namespace remora
