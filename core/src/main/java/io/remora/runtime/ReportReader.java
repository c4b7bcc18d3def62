// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import io.remora.core.WireFormat;
import java.nio.BufferUnderflowException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;

/** Reads an executor's report; {@code wire.h} describes the format. Treats its input as hostile. */
public final class ReportReader {
  /** The events of a report. Buffers are valid during the call only. */
  public interface Events {
    default void realized(StorageBirth storage) {}

    default void freed(long[] ids) {}

    default void failure(OperationFailure failure) {}

    default void value(long request, ByteBuffer bytes) {}

    default void largeValue(long request, long bytes) {}

    default void answer(long request, ByteBuffer bytes) {}

    /** The answer to an operator call whose results the program could not predict. */
    default void outputs(long request, ByteBuffer bytes) {
      answer(request, bytes);
    }

    /** The batch did what cannot be done again on another node. */
    default void unrepeatable(String what) {}

    default void requestFailed(long request, OperationFailure failure) {}

    default void warning(OperationWarning warning) {}

    /** When the batch was executed. Each execution of a batch has other times. */
    default void times(ByteBuffer bytes) {}

    /** When a gateway passed the batch on; comes before the times. */
    default void passage(ByteBuffer bytes) {}
  }

  private final ByteBuffer in;

  private ReportReader(ByteBuffer in) {
    this.in = in;
  }

  /**
   * Reads a whole report. The buffer's position does not change.
   *
   * @throws ProtocolException when the bytes are not a report
   */
  public static void read(ByteBuffer report, Events events) {
    ReportReader reader = new ReportReader(report.duplicate());
    try {
      reader.read(events);
    } catch (BufferUnderflowException e) {
      throw new ProtocolException("the report ends too early", e);
    }
  }

  private void read(Events events) {
    if (octet() != WireFormat.REPORT_MAGIC) {
      throw new ProtocolException("this is not a report");
    }
    int version = octet();
    if (version != WireFormat.WIRE_VERSION) {
      throw new ProtocolException(
          "the report has wire version "
              + version
              + ", this program speaks "
              + WireFormat.WIRE_VERSION);
    }
    while (in.hasRemaining()) {
      int event = octet();
      switch (event) {
        case WireFormat.Events.REALIZED -> {
          for (int n = count(); n > 0; n--) {
            events.realized(new StorageBirth(varint(), varint(), (int) varint()));
          }
        }
        case WireFormat.Events.FREED -> {
          long[] ids = new long[count()];
          for (int i = 0; i < ids.length; i++) {
            ids[i] = varint();
          }
          events.freed(ids);
        }
        case WireFormat.Events.FAILURE -> events.failure(failure());
        case WireFormat.Events.VALUE -> events.value(varint(), bytes(count()));
        case WireFormat.Events.LARGE_VALUE -> events.largeValue(varint(), varint());
        case WireFormat.Events.ANSWER -> events.answer(varint(), bytes(count()));
        case WireFormat.Events.REQUEST_FAILED -> events.requestFailed(varint(), failure());
        case WireFormat.Events.WARNING -> events.warning(warning());
        case WireFormat.Events.OUTPUTS -> events.outputs(varint(), bytes(count()));
        case WireFormat.Events.UNREPEATABLE -> events.unrepeatable(string());
        case WireFormat.Events.TIMES -> events.times(bytes(count()));
        case WireFormat.Events.PASSAGE -> events.passage(bytes(count()));
        default -> throw new ProtocolException("the report has an unknown event " + event);
      }
    }
  }

  private int octet() {
    return in.get() & 0xFF;
  }

  private long varint() {
    long value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      int octet = octet();
      value |= (long) (octet & 0x7F) << shift;
      if (octet < 0x80) {
        return value;
      }
    }
    throw new ProtocolException("the report has an integer of more than 64 bits");
  }

  /**
   * Reads a count of elements that take at least a byte each, so it cannot exceed the remaining
   * bytes.
   */
  private int count() {
    long count = varint();
    if (count < 0 || count > in.remaining()) {
      throw new ProtocolException(
          "the report announces " + count + " things in " + in.remaining() + " bytes");
    }
    return (int) count;
  }

  private ByteBuffer bytes(int length) {
    ByteBuffer slice = in.slice(in.position(), length);
    in.position(in.position() + length);
    return slice;
  }

  private String string() {
    int length = count();
    if (length > WireFormat.MAX_STRING_BYTES) {
      throw new ProtocolException("the report has a text of " + length + " bytes");
    }
    return StandardCharsets.UTF_8.decode(bytes(length)).toString();
  }

  private OperationFailure failure() {
    long id = varint();
    long call = varint();
    String operator = string();
    String error = string();
    String message = string();
    List<String> inputs = new ArrayList<>();
    for (int n = count(); n > 0; n--) {
      inputs.add(string());
    }
    return new OperationFailure(id, call, operator, error, message, inputs);
  }

  private OperationWarning warning() {
    long call = varint();
    String operator = string();
    boolean deprecation = octet() == 1;
    return new OperationWarning(call, operator, deprecation, string());
  }
}
