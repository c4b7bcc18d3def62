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
  SHARED_MEMORY(21),
  /** Machine to node: asks for a token for a direct connection of the session; no payload. */
  OPEN_DIRECT(22),
  /** Node to machine: {@code DirectToken}. */
  DIRECT_TOKEN(23),
  /** Program to node, first frame of a direct connection: {@code DirectHello}. */
  DIRECT_HELLO(24),
  /** Node to program, the answer: {@code DirectWelcome}, or REFUSED. */
  DIRECT_WELCOME(25),
  /** Program to node: {@code DirectNotes} after its length (u32), then batches as in BATCH. */
  DIRECT_BATCH(26),
  /**
   * Machine to node: ends the session's direct connection, if there is one, and revokes its token;
   * no payload. The answer is {@code DirectProgress} that says so.
   */
  CLOSE_DIRECT(27),
  /** Node to machine: {@code DirectProgress}. Machine to node: confirms it; no payload. */
  DIRECT_PROGRESS(28),
  /** Node to machine: {@code Notice}. */
  NOTICE(29),
  /** Machine to node, after NOTICE: the machine does not move; no payload. */
  NOTICE_DECLINED(30),
  /** Node to machine: {@code SaveProgress}, before SESSION_SAVED. */
  SAVE_PROGRESS(31),
  /** Node to machine: {@code MemoryUsed}. */
  MEMORY_USED(32);

  /** The sequence of a {@link #SHARED_MEMORY} frame of a side that has opened the memory. */
  static final long OPENED = 1;

  /** The sequence of a {@link #RECEIVED} frame that confirms the session's end. */
  public static final long END = -1;

  private static final FrameType[] BY_CODE = new FrameType[33];

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
