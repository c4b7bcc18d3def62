// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/machine/waits.h"

namespace remora {

void Waits::note_operator(const std::string& full_name) {
  std::lock_guard<std::mutex> guard(mutex_);
  operators_[full_name]++;
}

int64_t Waits::for_answers() const {
  int64_t sum = 0;
  for (int cause = 0; cause < kCauses; cause++) {
    if (cause != kRoom) sum += of(static_cast<Cause>(cause));
  }
  return sum;
}

std::string Waits::operators() const {
  std::lock_guard<std::mutex> guard(mutex_);
  std::string lines;
  for (const auto& [name, count] : operators_) lines += name + " " + std::to_string(count) + "\n";
  return lines;
}

}  // namespace remora
