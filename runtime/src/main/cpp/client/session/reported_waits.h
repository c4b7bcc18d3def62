// SPDX-License-Identifier: AGPL-3.0-or-later
//
// What the gateway is told of the program's waits: the message Waits of gateway.proto.
#pragma once

#include <chrono>

#include "client/machine/waits.h"
#include "client/session/protobuf.h"

namespace remora {

// Not thread-safe.
class ReportedWaits {
 public:
  using Clock = std::chrono::steady_clock;

  // Makes a message if the waits have changed since the last one, and that was a second ago or the session `ends`.
  bool make(const Waits& waits, Clock::time_point now, bool ends);
  const Writer& message() const { return message_; }
  // The gateway may not have received the last message.
  void repeat() { told_ = {}; }

 private:
  Writer message_;
  Waits::Times told_{};  // nanoseconds by cause
  Clock::time_point told_at_{};
  bool ended_ = false;
};

}  // namespace remora
