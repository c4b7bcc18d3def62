// SPDX-License-Identifier: AGPL-3.0-or-later
//
// A connection that carries batches, reports and values: to the gateway (Stream) or to the node (Direct).
#pragma once

#include <chrono>

namespace remora {

class Line {
 public:
  virtual ~Line() = default;
  // Writes as much as possible without waiting.
  virtual void write() = 0;
  // Waits for input or nudge_reader(). Returns whether there is input.
  virtual bool await_input(std::chrono::milliseconds timeout) = 0;
  virtual void read() = 0;
  virtual void nudge_reader() = 0;
};

}  // namespace remora
