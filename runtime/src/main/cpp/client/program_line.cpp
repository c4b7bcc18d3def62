// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/program_line.h"

#include <algorithm>
#include <atomic>

namespace remora {

namespace {

constexpr int32_t kMostText = 1000;

std::atomic<remora_line_callback> line_of_program{nullptr};

}  // namespace

void set_line_callback(remora_line_callback line) { line_of_program.store(line); }

std::string program_line() {
  auto* line = line_of_program.load();
  char text[kMostText];
  auto length = line == nullptr ? 0 : line(text, kMostText);
  std::string result(text, static_cast<size_t>(std::clamp(length, 0, kMostText)));
  if (result.size() == kMostText) {  // cut, maybe within a character
    while (!result.empty() && static_cast<unsigned char>(result.back()) >= 0x80) result.pop_back();
  }
  std::replace_if(result.begin(), result.end(), [](char c) { return c == '\t' || c == '\n'; }, ' ');
  return result;
}

}  // namespace remora
