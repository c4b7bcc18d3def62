// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import io.remora.runtime.ProtocolException;

/** The type of a frame. The codes are part of the protocol and never change their meaning. */
public enum FrameType {
  /** Machine to node, first frame: {@code Hello}. */
  HELLO(1),
  /** Node to machine, the answer: {@code Welcome}. */
  WELCOME(2),
  /** Node to machine: {@code Refused}, of the connection (session 0) or of a session. */
  REFUSED(3),
  /** Machine to node: {@code OpenSession}. */
  OPEN_SESSION(4),
  /** Node to machine: {@code SessionOpened}. */
  SESSION_OPENED(5),
  /** Machine to node: {@code CloseSession}. */
  CLOSE_SESSION(6),
  /** Node to machine: {@code SessionClosed}. */
  SESSION_CLOSED(7),
  /**
   * Machine to node: one or more batches back to back, each after its length (u32). The header's
   * sequence is the first batch's; the others follow without a gap.
   */
  BATCH(8),
  /** Node to machine: the batch of this sequence was executed; the payload is its report. */
  ACK(9),
  /** Node to machine: a {@link ValueHeader} and then bytes of a value. */
  VALUE(10),
  /** Either way: "I am alive"; no payload. */
  HEARTBEAT(11),
  /** Either way, last frame: {@code Goodbye}. */
  GOODBYE(12),
  /**
   * Node to node, first and only frame of its side: {@code Fetch}. The answer is VALUE frames, or
   * {@code Refused}.
   */
  FETCH(13),
  /** Machine to node: {@code SaveSession}, after the batches sent before it. */
  SAVE_SESSION(14),
  /** Node to machine: {@code SessionSaved}, after the acknowledgements of all those batches. */
  SESSION_SAVED(15),
  /** Machine to node: {@code ForgetState}. */
  FORGET_STATE(16),
  /** Node to machine: {@code StateForgotten}. */
  STATE_FORGOTTEN(17),
  /**
   * Machine to node: confirms the acknowledgements of the session up to this sequence, and all
   * values before them; with {@link #END}, the end of the session. No payload.
   */
  RECEIVED(18),
  /** Machine to node: asks for a token for another link; no payload. */
  ISSUE_TOKEN(19),
  /** Node to machine: {@code Token}. */
  TOKEN(20),
  /**
   * Machine to node: whether the machine's side has opened the shared memory of {@code Welcome}, in
   * the sequence: {@link #OPENED} or 0. No payload.
   */
  SHARED_MEMORY(21);

  /** The sequence of a {@link #SHARED_MEMORY} frame of a side that has opened the memory. */
  static final long OPENED = 1;

  /** The sequence of a {@link #RECEIVED} frame that confirms the session's end. */
  public static final long END = -1;

  private static final FrameType[] BY_CODE = new FrameType[22];

  static {
    for (FrameType type : values()) {
      BY_CODE[type.code] = type;
    }
  }

  private final byte code;

  FrameType(int code) {
    this.code = (byte) code;
  }

  /** The byte in the frame header. */
  public byte code() {
    return code;
  }

  /**
   * The type with this code.
   *
   * @throws ProtocolException if there is no such type
   */
  public static FrameType ofCode(int code) {
    FrameType type = code >= 0 && code < BY_CODE.length ? BY_CODE[code] : null;
    if (type == null) {
      throw new ProtocolException("unknown frame type " + code);
    }
    return type;
  }
}
