// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.core;

import java.nio.ByteBuffer;

/**
 * The numbers of the wire format of batches and reports that Java code needs. The native core has
 * the whole format in {@code wire.h}, under the same names; a test compares both.
 */
public final class WireFormat {

  /** Version of batches and reports. */
  public static final int WIRE_VERSION = 4;

  /** First byte of a batch. */
  public static final int BATCH_MAGIC = 0xB7;

  /** First byte of a report. */
  public static final int REPORT_MAGIC = 0xB8;

  /** The longest text, in bytes of UTF-8. */
  public static final int MAX_STRING_BYTES = 64 * 1024;

  private WireFormat() {}

  /** The bytes of an element of a dtype, which is a number of {@code c10::ScalarType}. */
  public static int elementBytes(int dtype) {
    return switch (dtype) {
      case 2, 5, 15, 22, 27 -> 2;
      case 3, 6, 8, 14, 28 -> 4;
      case 4, 7, 9, 29 -> 8;
      case 10 -> 16;
      default -> 1;
    };
  }

  /**
   * Reads an unsigned integer that this process's own core has written: nothing is checked.
   *
   * @throws java.nio.BufferUnderflowException when the buffer ends within it
   */
  public static long varint(ByteBuffer in) {
    long value = 0;
    int octet;
    int shift = 0;
    do {
      octet = in.get();
      value |= (long) (octet & 0x7F) << shift;
      shift += 7;
    } while (octet < 0);
    return value;
  }

  /** First bytes of the records of a batch. */
  public static final class Records {
    public static final int DEFINE_OPERATOR = 1;
    public static final int CALL = 2;
    public static final int ASK = 3;
    public static final int BIND = 4;
    public static final int FREE = 5;
    public static final int WRITE = 6;
    public static final int READ = 7;
    public static final int RESIZE = 8;
    public static final int SEED = 9;
    public static final int QUESTION = 10;
    public static final int WRITE_RANDOM_STATE = 11;
    public static final int FREE_GENERATOR = 12;
    public static final int SETTINGS = 13;
    public static final int RECORD_EVENT = 14;
    public static final int FREE_EVENT = 15;
    public static final int DROP_TRANSFER = 16;
    public static final int RUN = 17;
    public static final int CALL_NODE = 18;
    public static final int TOLD = 19;
    public static final int FREE_MANY = 20;
    public static final int REPEAT = 21;
    public static final int LIKE = 22;
    public static final int FORGET = 23;
    public static final int MARK = 24;
    public static final int RESTART = 25;
    public static final int TIMED = 26;

    private Records() {}
  }

  /** Kinds of questions about the node. */
  public static final class Questions {
    public static final int RANDOM_STATE = 1;
    public static final int SYNCHRONIZE = 2;
    public static final int SYNCHRONIZE_EVENT = 3;
    public static final int ELAPSED = 4;
    public static final int MEMORY = 5;
    public static final int EMPTY_CACHE = 6;
    public static final int RESET_PEAK_MEMORY = 7;
    public static final int HOLD_TRANSFER = 8;
    public static final int FETCH_TRANSFER = 9;

    private Questions() {}
  }

  /** First bytes of the events of a report. */
  public static final class Events {
    public static final int REALIZED = 1;
    public static final int FREED = 2;
    public static final int FAILURE = 3;
    public static final int VALUE = 4;
    public static final int LARGE_VALUE = 5;
    public static final int ANSWER = 6;
    public static final int REQUEST_FAILED = 7;
    public static final int WARNING = 8;
    public static final int OUTPUTS = 9;
    public static final int UNREPEATABLE = 10;
    public static final int TIMES = 11;
    public static final int PASSAGE = 12;

    private Events() {}
  }
}
