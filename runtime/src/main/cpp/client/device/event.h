// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Events: places in a machine's operation stream.
#pragma once

#include <cstdint>

#include "client/machine/machine.h"

namespace remora {

// A place in a machine's operation stream.
struct RemoteEvent {
  explicit RemoteEvent(Machine& machine) : machine(&machine), id(machine.next_event()) {}
  ~RemoteEvent() { machine->free_handle(Record::kFreeEvent, id); }
  RemoteEvent(const RemoteEvent&) = delete;
  RemoteEvent& operator=(const RemoteEvent&) = delete;

  Machine* const machine;
  const int64_t id;
  uint64_t sequence = 0;  // of the batch that contains the event
};
void record_event(RemoteEvent& event, int device);
bool event_happened(RemoteEvent& event);
double event_elapsed(const RemoteEvent& first, const RemoteEvent& second);  // milliseconds

}  // namespace remora
