// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import io.remora.runtime.OperationFailure;
import io.remora.runtime.ReportReader;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.function.LongUnaryOperator;
import java.util.zip.CRC32C;

/**
 * What a program learned from a batch, as checksums: the values that it read, the outputs that it
 * asked for, and which requests failed. A node that executes the batch again must give the same.
 * Answers that may differ, such as times and sizes of memory, are not in it.
 *
 * @param checks one for each request, in the order of the report
 * @param unrepeatable what the batch did that another node cannot do again; empty if nothing
 */
public record Answers(List<Check> checks, Optional<String> unrepeatable) {

  /** An answer: its request, what kind it was, and its checksum. */
  public record Check(long request, String kind, long bytes, long checksum) {}

  /** Copies the list. */
  public Answers {
    checks = List.copyOf(checks);
  }

  /**
   * Reads the report of a batch.
   *
   * @param large the checksum of a large value, by its request
   */
  public static Answers of(ByteBuffer report, LongUnaryOperator large) {
    List<Check> checks = new ArrayList<>();
    List<String> unrepeatable = new ArrayList<>();
    ReportReader.read(
        report,
        new ReportReader.Events() {
          @Override
          public void value(long request, ByteBuffer bytes) {
            checks.add(new Check(request, "value", bytes.remaining(), checksum(bytes)));
          }

          @Override
          public void largeValue(long request, long bytes) {
            checks.add(new Check(request, "value", bytes, large.applyAsLong(request)));
          }

          @Override
          public void outputs(long request, ByteBuffer bytes) {
            checks.add(new Check(request, "output shapes", bytes.remaining(), checksum(bytes)));
          }

          @Override
          public void requestFailed(long request, OperationFailure failure) {
            checks.add(
                new Check(
                    request, "failure", 0, Integer.toUnsignedLong(failure.operator().hashCode())));
          }

          @Override
          public void unrepeatable(String what) {
            unrepeatable.add(what);
          }
        });
    return new Answers(checks, unrepeatable.stream().findFirst());
  }

  private static long checksum(ByteBuffer bytes) {
    CRC32C checksum = new CRC32C();
    checksum.update(bytes.duplicate());
    return checksum.getValue();
  }

  /** The first answer of {@code again} that differs from this; empty if there is none. */
  Optional<String> difference(Answers again) {
    for (int i = 0; i < Math.max(checks.size(), again.checks.size()); i++) {
      if (i >= checks.size() || i >= again.checks.size()) {
        return Optional.of(
            "it had %d answers, and now has %d".formatted(checks.size(), again.checks.size()));
      }
      Check was = checks.get(i);
      Check is = again.checks.get(i);
      if (!was.equals(is)) {
        return Optional.of(
            "request %d had a %s of %d bytes with checksum %08x, and now has a %s of %d bytes with checksum %08x"
                .formatted(
                    was.request,
                    was.kind,
                    was.bytes,
                    was.checksum,
                    is.kind,
                    is.bytes,
                    is.checksum));
      }
    }
    return Optional.empty();
  }
}
