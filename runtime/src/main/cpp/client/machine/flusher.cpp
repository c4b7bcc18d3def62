// SPDX-License-Identifier: AGPL-3.0-or-later
//
// When a machine's open batch is submitted although it is not full: on request, and by the session's flusher thread
// whenever the node has nothing to do, or may have nothing to do by the time the batch arrives.
#include <algorithm>
#include <chrono>
#include <thread>

#include "client/machine/machine.h"

namespace remora {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

namespace {

constexpr int kMostPatience = 16;
// How many linger times a batch grows while the node has not answered earlier ones, plus one for each of these. A
// distant node has executed them long before its answers arrive, and would then wait for what is recorded meanwhile.
// The more batches are under way, the likelier it is that the node is behind and that a further batch is of no use.
constexpr int kPatienceWhenUnanswered = 4;
constexpr int kMostNeedless = 4;

steady_clock::time_point middle(steady_clock::time_point a, steady_clock::time_point b) { return a + (b - a) / 2; }

}  // namespace

void Machine::flush_for(uint64_t wanted) {
  Lock lock(*this);
  if (progress.submitted() < wanted) {
    begin_record();
    submit_open_batch();
  }
}

int Machine::flush() {
  Lock lock(*this);
  begin_record();
  if (open.has_records()) {
    submit_open_batch();
  }
  return 0;
}

int Machine::flush_when_idle(int64_t timeout_micros, int64_t linger_micros) {
  auto deadline = steady_clock::now() + microseconds(timeout_micros);
  auto linger = microseconds(linger_micros);
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    if (!state_.open()) {
      return -1;
    }
    if (!frees_.empty()) {
      frees_.record(open);
    }
    bool holds_something = open.has_records();
    auto now = steady_clock::now();
    auto closed = progress.submitted();
    auto unanswered = static_cast<int64_t>(closed - std::min(closed, progress.executed()));
    if (!holds_something || noticed_ != closed + 1) {
      noticed_ = closed + 1;
      noticed_at_ = now;
    }
    auto due = noticed_at_ + linger * (kPatienceWhenUnanswered + unanswered);
    if (holds_something && (unanswered == 0 || now >= due)) {
      // If the node finishes a batch before the next one is recorded, smaller batches do not help the node and each
      // costs the program time: wait longer. If the node is slower, or the program reads values, do not wait.
      bool kept_up = unanswered == 0 && closed == flushed_ && progress.executed_at() < middle(last_flush_, now);
      patience_ = kept_up ? std::min(patience_ * 2, kMostPatience) : 1;
      last_flush_ = now;
      flushed_ = closed + 1;
      needless_ = 0;
      submit_open_batch();
      return 1;
    }
    if (now >= deadline) {
      return 0;
    }
    if (holds_something) {  // the node is busy, or far away
      lock.unlock();
      progress.await_idle(std::min(deadline, due), state_);
      // Keep the linger time since the last flush: each batch costs the program time.
      std::this_thread::sleep_until(last_flush_ + linger);
      lock.lock();
    } else if (needless_ >= kMostNeedless) {
      // The program reads values, and so submits all that it records. Waking up for each record would take time from
      // both. What it records without a read waits for up to this nap, once.
      lock.unlock();
      std::this_thread::sleep_for(linger * kMostPatience);
      lock.lock();
      if (!open.has_records() && progress.submitted() == closed)
        needless_ = 0;  // the program does nothing: wait for it
    } else {
      flusher_waits_ = true;
      // Frees do not wake the flusher, so that a free costs next to nothing. The flusher looks for them a few times per
      // second.
      wake_flusher_.wait_until(lock, std::min(deadline, now + milliseconds(100)));
      bool woken = !flusher_waits_;
      flusher_waits_ = false;
      if (woken) {
        auto grow = linger * patience_;
        lock.unlock();
        std::this_thread::sleep_for(grow);
        lock.lock();
        needless_ = open.has_records() || progress.submitted() == closed ? 0 : needless_ + 1;
      }
    }
  }
}

}  // namespace remora
