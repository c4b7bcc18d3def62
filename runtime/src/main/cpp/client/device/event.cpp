// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/device/event.h"

namespace remora {

void record_event(RemoteEvent& event, int device) {
  auto& machine = *event.machine;
  Machine::Lock lock(machine);
  machine.begin_record();
  machine.open.code(Record::kRecordEvent);
  machine.open.varint(event.id);
  machine.open.varint(device);
  event.sequence = machine.progress.submitted() + 1;
  machine.end_record(false);
}

bool event_happened(RemoteEvent& event) {
  event.machine->flush_for(event.sequence);
  return event.machine->progress.executed() >= event.sequence;
}

double event_elapsed(const RemoteEvent& first, const RemoteEvent& second) {
  TORCH_CHECK(first.machine == second.machine, "the events belong to two machines, whose clocks are not comparable");
  auto answer = first.machine->question(Question::kElapsed,
                                        {static_cast<uint64_t>(first.id), static_cast<uint64_t>(second.id)});
  return Reader(reinterpret_cast<const uint8_t*>(answer.data()), answer.size()).f64();
}

}  // namespace remora
