// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Consumer;

/** The batches of programs that are recorded but not executed. */
final class RecordedBatches {

  private RecordedBatches() {}

  /** The batches that {@code program} records on a machine with one device. */
  static List<byte[]> of(Consumer<MachineSession> program) {
    List<byte[]> batches = new ArrayList<>();
    MachineSession session = MachineSession.open("recorded", 1, LoopbackMachine.SETTINGS);
    session.connect(
        batch -> {
          byte[] bytes = new byte[batch.size()];
          batch.bytes().get(bytes);
          batches.add(bytes);
          session.onExecuted(batch.sequence(), emptyReport());
          batch.release();
        });
    program.accept(session);
    session.flush();
    session.onLost(new RemoraException("done"));
    session.close();
    return List.copyOf(batches);
  }

  /** The report of a batch without effects. */
  static ByteBuffer emptyReport() {
    return ByteBuffer.wrap(new byte[] {(byte) 0xB8, Batch.WIRE_VERSION});
  }
}
