// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import io.remora.runtime.ProgramWait;
import java.util.List;
import java.util.SortedMap;
import java.util.TreeMap;

/**
 * A machine's figures by name, as {@code docs/operations.md} lists them: counters since the start
 * of its actor, and current values. The sessions' {@code storages}, {@code storage.bytes} and
 * {@code in.flight.bytes} add up to the machine's.
 *
 * @param values the machine's figures, by name
 * @param sessions the figures of its open sessions, by the session's number
 * @param waits the programs' lines that have waited longest for the machine, the longest first
 */
public record MachineStats(
    SortedMap<String, Double> values,
    SortedMap<Long, SortedMap<String, Double>> sessions,
    List<ProgramWait> waits)
    implements RemoraMessage {

  /** Copies maps and list. The receiver of the message may change the copies. */
  public MachineStats {
    values = new TreeMap<>(values);
    sessions = new TreeMap<>(sessions);
    waits = List.copyOf(waits);
  }
}
