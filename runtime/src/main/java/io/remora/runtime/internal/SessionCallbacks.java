// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime.internal;

import io.remora.runtime.RemoraException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.bytedeco.javacpp.BytePointer;

/**
 * The native core's calls into Java, handed to the session of the machine they concern. One call
 * for each closed batch, one for each blocking read, none for an operation or a free.
 */
public final class SessionCallbacks {
  /** A machine's session. Methods may throw: the exception comes out of the call that recorded. */
  public interface Session {
    /** Takes over a closed batch (address of a native batch). */
    void submit(long batch);

    /** Returns when the request's value or answer is in place. */
    void await(long request);

    /**
     * An operation is about to be recorded, and the text is "": its number among the calls is to be
     * remembered. Or it was recorded, and the text is for the log.
     */
    void trace(long call, String line);

    /** Something that fails nothing, but that a person may want to know. */
    void notice(String text);
  }

  private static final Map<Long, Session> sessions = new ConcurrentHashMap<>();

  // The native core keeps their addresses: they must never be collected.
  private static final NativeCore.SubmitCallback SUBMIT = new Submit();
  private static final NativeCore.AwaitCallback AWAIT = new Await();
  private static final NativeCore.TraceCallback TRACE = new Trace();
  private static final NativeCore.NoticeCallback NOTICE = new Notice();

  private SessionCallbacks() {}

  /** Registers the PyTorch backend and these callbacks. */
  public static void install() {
    if (NativeCore.install(SUBMIT, AWAIT, TRACE) != 0) {
      throw new RemoraException("cannot register the remora backend: " + NativeCore.lastError());
    }
    NativeCore.setNoticeCallback(NOTICE);
  }

  /** From now on the machine's calls go to this session. */
  public static void add(long machine, Session session) {
    sessions.put(machine, session);
  }

  /** The machine's calls go nowhere any more. */
  public static void remove(long machine) {
    sessions.remove(machine);
  }

  private static int fail(Throwable error, BytePointer text, int capacity) {
    byte[] bytes = NativeErrors.describe(error).getBytes(StandardCharsets.UTF_8);
    int length = Math.min(bytes.length, capacity - 1);
    text.put(Arrays.copyOf(bytes, length + 1), 0, length + 1);
    return -1;
  }

  private static Session session(long machine) {
    Session session = sessions.get(machine);
    if (session == null) {
      throw new RemoraException("the machine's session is closed");
    }
    return session;
  }

  private static final class Submit extends NativeCore.SubmitCallback {
    @Override
    public int call(long machine, long batch, BytePointer error, int errorBytes) {
      Session session = sessions.get(machine);
      if (session == null) {
        NativeCore.batchRelease(batch);
        return fail(new RemoraException("the machine's session is closed"), error, errorBytes);
      }
      try {
        session.submit(batch);
        return 0;
      } catch (Throwable e) {
        return fail(e, error, errorBytes);
      }
    }
  }

  private static final class Await extends NativeCore.AwaitCallback {
    @Override
    public int call(long machine, long request, BytePointer error, int errorBytes) {
      try {
        session(machine).await(request);
        return 0;
      } catch (Throwable e) {
        return fail(e, error, errorBytes);
      }
    }
  }

  private static final class Trace extends NativeCore.TraceCallback {
    @Override
    public void call(long machine, long call, BytePointer line) {
      Session session = sessions.get(machine);
      if (session != null) {
        session.trace(call, line.getString(StandardCharsets.UTF_8));
      }
    }
  }

  private static final class Notice extends NativeCore.NoticeCallback {
    @Override
    public void call(long machine, BytePointer text) {
      Session session = sessions.get(machine);
      if (session != null) {
        session.notice(text.getString(StandardCharsets.UTF_8));
      }
    }
  }
}
