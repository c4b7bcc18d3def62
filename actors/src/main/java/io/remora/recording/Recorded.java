// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.recording;

import static java.util.Objects.requireNonNull;

import io.remora.actors.internal.Answers;
import java.nio.ByteBuffer;
import java.util.List;

/** A record of a recording. The first one is a {@link RecordingHeader}. */
public sealed interface Recorded
    permits RecordingHeader, Recorded.Sent, Recorded.Executed, Recorded.End {

  /**
   * A part of a batch that is not in the file, and is zeros instead.
   *
   * @param position of its first byte in the batch
   * @param length in bytes
   */
  record Gap(int position, int length) {}

  /**
   * A batch that the program has sent.
   *
   * @param sequence its number: 1, 2, 3 …
   * @param nanos when, since the recording began
   * @param bytes the batch in wire format
   * @param gaps what is left out
   */
  record Sent(long sequence, long nanos, ByteBuffer bytes, List<Gap> gaps) implements Recorded {

    /** Copies the list. */
    public Sent {
      requireNonNull(bytes, "bytes");
      gaps = List.copyOf(gaps);
    }
  }

  /**
   * The node has executed a batch.
   *
   * @param sequence its number
   * @param nanos when the program's side heard of it, since the recording began
   * @param answers what the program learned from it; without checksums if the recording has no
   *     values
   * @param failures how many operations failed
   */
  record Executed(long sequence, long nanos, Answers answers, int failures) implements Recorded {}

  /**
   * The session has ended.
   *
   * @param nanos when, since the recording began
   * @param how in words
   */
  record End(long nanos, String how) implements Recorded {}
}
