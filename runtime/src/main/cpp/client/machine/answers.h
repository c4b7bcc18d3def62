// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Answers of the node that no thread has taken yet, by the numbers of their requests.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>

namespace remora {

// Thread-safe.
class Answers {
 public:
  void put(int64_t request, std::string bytes) {
    std::lock_guard<std::mutex> guard(mutex_);
    answers_[request] = std::move(bytes);
  }
  // "" if there is none.
  std::string take(int64_t request) {
    std::lock_guard<std::mutex> guard(mutex_);
    auto answer = answers_.extract(request);
    return answer.empty() ? std::string() : std::move(answer.mapped());
  }
  void clear() {
    std::lock_guard<std::mutex> guard(mutex_);
    answers_.clear();
  }

 private:
  std::mutex mutex_;
  std::map<int64_t, std::string> answers_;
};

}  // namespace remora
