// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import io.remora.actors.link.proto.DirectNotes;
import io.remora.actors.link.proto.DirectProgress;
import io.remora.runtime.ExecutionReport;
import io.remora.runtime.StorageBirth;
import java.nio.ByteBuffer;

/**
 * What came and went over a session's direct connection and was not told to the machine yet. It is
 * open while the session has a direct connection. Thread-safe.
 */
final class DirectAccount {

  private final Runnable onChange;

  // Guarded by this.
  private final DirectProgress.Builder untold = DirectProgress.newBuilder();
  private boolean open;
  private boolean changed;

  /**
   * @param onChange called on any thread, with no lock of the account, when something is to be told
   *     after nothing was
   */
  DirectAccount(Runnable onChange) {
    this.onChange = onChange;
  }

  /** Opens the account for a session that has received and executed the batches up to this one. */
  synchronized void open(long sequence) {
    open = true;
    untold.setReceivedSequence(sequence).setExecutedSequence(sequence);
  }

  /** Notes batches, up to this one, that have arrived, and what the program says of them. */
  void received(long last, DirectNotes notes, long bytes) {
    boolean first;
    synchronized (this) {
      DirectNotes.Builder all = untold.getNotesBuilder();
      all.addAllBorn(notes.getBornList()).addAllFreed(notes.getFreedList());
      all.setOperations(all.getOperations() + notes.getOperations());
      untold.setReceivedSequence(last).setBatchBytes(untold.getBatchBytes() + bytes);
      first = !changed;
      changed = true;
    }
    if (first) {
      onChange.run();
    }
  }

  /**
   * Notes the result of a batch. Does nothing if the account is closed.
   *
   * @param valueBytes bytes of the values beside the report
   */
  void executed(long sequence, ByteBuffer report, long valueBytes) {
    boolean first;
    synchronized (this) {
      if (!open) {
        return;
      }
      ExecutionReport result = ExecutionReport.decode(report);
      for (StorageBirth storage : result.realized()) {
        untold.addRealized(storage.id()).addRealized(storage.bytes()).addRealized(storage.device());
      }
      for (long id : result.freed()) {
        untold.addFreed(id);
      }
      untold
          .setExecutedSequence(sequence)
          .setFailures(untold.getFailures() + result.failures().size())
          .setValueBytes(untold.getValueBytes() + valueBytes);
      first = !changed;
      changed = true;
    }
    if (first) {
      onChange.run();
    }
  }

  /**
   * Takes what is to be told.
   *
   * @param confirmed the last batch whose report the program has confirmed
   * @param close closes the account
   */
  synchronized DirectProgress take(long confirmed, boolean close) {
    DirectProgress told = untold.setConfirmedSequence(confirmed).setClosed(close).build();
    untold
        .clear()
        .setReceivedSequence(told.getReceivedSequence())
        .setExecutedSequence(told.getExecutedSequence());
    changed = false;
    open &= !close;
    return told;
  }
}
