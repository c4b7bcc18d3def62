// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime.internal;

import io.remora.runtime.RemoraException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.bytedeco.javacpp.BytePointer;

/**
 * Passes the native core's calls into Java to the session of their machine. There is one call for
 * each closed batch and one for each blocking read, but none for an operation or a free.
 */
public final class SessionCallbacks {
  /** A machine's session. Methods may throw; the recording call then throws the exception. */
  public interface Session {
    /** Takes over a closed batch, given by its native address. */
    void submit(long batch);

    /** Waits until the request's value or answer has arrived. */
    void await(long request);

    /**
     * Called before an operation is recorded with an empty text, to record its call site; and after
     * it with a text for the log.
     */
    void trace(long call, String line);

    /** Reports something that is not an error but may interest the user. */
    void notice(String text);
  }

  private static final Map<Long, Session> sessions = new ConcurrentHashMap<>();

  // The native core keeps the callbacks' addresses, so they must never be collected.
  private static final NativeCore.SubmitCallback SUBMIT = Lasting.of(new Submit());
  private static final NativeCore.AwaitCallback AWAIT = Lasting.of(new Await());
  private static final NativeCore.TraceCallback TRACE = Lasting.of(new Trace());
  private static final NativeCore.NoticeCallback NOTICE = Lasting.of(new Notice());
  private static final NativeCore.LineCallback LINE = Lasting.of(new ProgramLines.Callback());

  private SessionCallbacks() {}

  /** Registers the PyTorch backend and these callbacks. */
  public static void install() {
    if (NativeCore.install(SUBMIT, AWAIT, TRACE) != 0) {
      throw new RemoraException("cannot register the remora backend: " + NativeCore.lastError());
    }
    NativeCore.setNoticeCallback(NOTICE);
    NativeCore.setLineCallback(LINE);
  }

  /** Routes the machine's calls to this session. */
  public static void add(long machine, Session session) {
    sessions.put(machine, session);
  }

  /** Ends the routing of the machine's calls. */
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
