// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static java.util.Objects.requireNonNull;

import io.remora.runtime.FunctionRunner;
import io.remora.runtime.RemoraException;
import java.io.BufferedReader;
import java.io.DataInputStream;
import java.io.EOFException;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.function.BooleanSupplier;
import java.util.function.Consumer;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Runs a session's Python functions in a process of its own: {@code python -m remora.worker}, which
 * is started for the first function and lives as long as the session. A worker that has died or was
 * killed is replaced for the next function. State that functions kept in it is then lost.
 *
 * <p>Messages are frames - type, length, bytes - over the process's standard input and output. The
 * worker ends when its standard input does, so it never outlives this JVM. Only the session's
 * thread may use this class.
 */
final class PythonWorker implements FunctionRunner, AutoCloseable {

  private static final Logger log = LoggerFactory.getLogger(PythonWorker.class);

  /** Types of frames, as in {@code remora/worker.py}. */
  private static final byte RUN = 'R';

  private static final byte DONE = 'D';
  private static final byte HELLO = 'H';
  private static final byte OUTPUT = 'O';
  private static final byte ANSWER = 'A';
  private static final byte FAILURE = 'F';

  /** Pseudo-frame: the process's output has ended, and the process with it. */
  private static final byte ENDED = 0;

  /** The limit of a frame. Results are in shared memory, so frames are small. */
  private static final int MAX_FRAME_BYTES = 256 * 1024 * 1024;

  private static final Duration LOOK_AROUND = Duration.ofMillis(100);
  private static final Duration EXIT_TIMEOUT = Duration.ofSeconds(5);
  private static final int LAST_LINES = 20;
  private static final int LONGEST_LINE = 1000;

  private static final Map<Integer, String> SIGNALS =
      Map.of(
          4, "SIGILL", 6, "SIGABRT", 7, "SIGBUS", 8, "SIGFPE", 9, "SIGKILL", 11, "SIGSEGV", 15,
          "SIGTERM");

  private final String session;
  private final PythonEnvironment environment;
  private final BooleanSupplier abandoned;
  private Running running;

  /**
   * Creates a worker without starting it.
   *
   * @param session the session's number, for the log
   * @param abandoned whether the program is gone; a running function is then ended
   */
  PythonWorker(String session, PythonEnvironment environment, BooleanSupplier abandoned) {
    this.session = requireNonNull(session, "session");
    this.environment = requireNonNull(environment, "environment");
    this.abandoned = requireNonNull(abandoned, "abandoned");
  }

  private record Frame(byte type, byte[] bytes) {
    String text() {
      return new String(bytes, StandardCharsets.UTF_8);
    }
  }

  @Override
  public void run(ByteBuffer request, Duration timeout, Consumer<ByteBuffer> answer) {
    Running worker = running();
    byte[] bytes = new byte[request.remaining()];
    request.get(bytes);
    worker.forgetOutput();
    worker.send(RUN, bytes);
    long deadline = System.nanoTime() + timeout.toNanos();
    try {
      Frame frame = await(worker, deadline);
      if (frame == null) {
        throw new RemoraException(
            "it did not end within %s, so its worker process was killed%s"
                .formatted(text(timeout), worker.quotedOutput()));
      }
      switch (frame.type) {
        case ANSWER -> {
          ByteBuffer direct =
              ByteBuffer.allocateDirect(frame.bytes.length).order(ByteOrder.LITTLE_ENDIAN);
          answer.accept(direct.put(frame.bytes).flip());
          worker.send(DONE, new byte[0]);
        }
        case FAILURE -> throw new WorkerRefusal(frame.text());
        case ENDED ->
            throw new RemoraException(
                "its worker process %s%s".formatted(worker.howItEnded(), worker.quotedOutput()));
        default -> throw new RemoraException("the worker sent a frame of type " + frame.type);
      }
    } catch (WorkerRefusal e) {
      throw e; // the worker itself is healthy
    } catch (RuntimeException | Error e) {
      end();
      throw e;
    }
  }

  /** The worker could not start the function, but can run others. */
  private static final class WorkerRefusal extends RemoraException {
    private static final long serialVersionUID = 1L;

    WorkerRefusal(String message) {
      super(message);
    }
  }

  /** The process's id, or -1 when there is none. */
  long pid() {
    return running == null ? -1 : running.process.pid();
  }

  /** Kills the process, if there is one. Idempotent. */
  @Override
  public void close() {
    end();
  }

  private void end() {
    if (running != null) {
      running.process.descendants().forEach(ProcessHandle::destroyForcibly);
      running.process.destroyForcibly();
      running = null;
    }
  }

  private Running running() {
    if (running != null && !running.process.isAlive()) {
      log.warn("The Python worker of session {} {}", session, running.howItEnded());
      running = null;
    }
    if (running == null) {
      Running started = start();
      long deadline = System.nanoTime() + environment.startTimeout().toNanos();
      running = started;
      try {
        Frame frame = await(started, deadline);
        if (frame == null) {
          throw new RemoraException(
              "the Python worker was not ready after %s (remora.node.python-start-timeout)%s"
                  .formatted(text(environment.startTimeout()), started.quotedOutput()));
        }
        if (frame.type != HELLO) {
          throw new RemoraException(whyNotStarted(started));
        }
        log.info("Python worker {} of session {}: {}", pid(), session, frame.text());
      } catch (RuntimeException e) {
        end();
        throw e;
      }
    }
    return running;
  }

  private Running start() {
    ProcessBuilder builder = new ProcessBuilder(environment.command());
    builder.environment().clear();
    builder.environment().putAll(environment.variables());
    try {
      return new Running(builder.start(), session);
    } catch (IOException e) {
      throw new RemoraException(
          "Python functions need Python on the node, and '%s' cannot be started (remora.node.python): %s"
              .formatted(environment.python(), e.getMessage()),
          e);
    }
  }

  private String whyNotStarted(Running worker) {
    String end = worker.howItEnded();
    String output = worker.quotedOutput();
    for (String module : new String[] {"remora", "torch", "cloudpickle"}) {
      if (output.contains("No module named '" + module)) {
        return "'%s' on the node (remora.node.python) has no package %s: install remora for it with pip%s"
            .formatted(environment.python(), module, output);
      }
    }
    return "'%s' on the node (remora.node.python) cannot run Python functions, it %s%s"
        .formatted(environment.python(), end, output);
  }

  /** The next frame that is not output; null when none arrives in time. */
  private Frame await(Running worker, long deadline) {
    while (true) {
      long left = deadline - System.nanoTime();
      if (left <= 0) {
        return null;
      }
      try {
        Frame frame =
            worker.frames.poll(Math.min(left, LOOK_AROUND.toNanos()), TimeUnit.NANOSECONDS);
        if (frame != null) {
          return frame;
        }
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
        throw new RemoraException("the node ends", e);
      }
      if (abandoned.getAsBoolean()) {
        throw new RemoraException("the program is gone; its function was ended");
      }
    }
  }

  private static String text(Duration duration) {
    return duration.toMillis() % 1000 == 0
        ? duration.toSeconds() + " s"
        : duration.toMillis() + " ms";
  }

  /** A worker process, and the threads that communicate with it. */
  private static final class Running {
    private final Process process;
    private final String session;
    private final BlockingQueue<Frame> frames = new LinkedBlockingQueue<>();
    private final BlockingQueue<Frame> toSend = new LinkedBlockingQueue<>();
    private final Deque<String> output = new ArrayDeque<>();
    private final Thread errors;

    private Running(Process process, String session) {
      this.process = process;
      this.session = session;
      errors = daemon("log", this::readErrors);
      daemon("out", this::readFrames);
      daemon("in", this::writeFrames);
    }

    private Thread daemon(String what, Runnable body) {
      Thread thread = new Thread(body, "remora-python-%s-%d".formatted(what, process.pid()));
      thread.setDaemon(true);
      thread.start();
      return thread;
    }

    /**
     * Sends a frame without blocking, so that a time limit also works for a worker that does not
     * read.
     */
    private void send(byte type, byte[] bytes) {
      toSend.add(new Frame(type, bytes));
    }

    private void writeFrames() {
      try (OutputStream out = process.getOutputStream()) {
        while (process.isAlive()) {
          Frame frame = toSend.poll(1, TimeUnit.SECONDS);
          if (frame != null) {
            ByteBuffer header = ByteBuffer.allocate(5).order(ByteOrder.LITTLE_ENDIAN);
            header.put(frame.type).putInt(frame.bytes.length);
            out.write(header.array());
            out.write(frame.bytes);
            out.flush();
          }
        }
      } catch (IOException | InterruptedException e) {
        log.debug("Writing to a Python worker ends", e);
      }
    }

    private void readFrames() {
      try (DataInputStream in = new DataInputStream(process.getInputStream())) {
        while (true) {
          byte[] header = in.readNBytes(5);
          if (header.length < 5) {
            break;
          }
          int length = ByteBuffer.wrap(header).order(ByteOrder.LITTLE_ENDIAN).getInt(1);
          if (length < 0 || length > MAX_FRAME_BYTES) {
            log.warn("A Python worker's frame has {} bytes", Integer.toUnsignedString(length));
            process.destroyForcibly();
            break;
          }
          byte[] bytes = in.readNBytes(length);
          if (bytes.length < length) {
            throw new EOFException();
          }
          if (header[0] == OUTPUT) {
            note(new String(bytes, StandardCharsets.UTF_8));
          } else {
            frames.add(new Frame(header[0], bytes));
          }
        }
      } catch (IOException e) {
        log.debug("Reading from a Python worker ends", e);
      }
      frames.add(new Frame(ENDED, new byte[0]));
    }

    /**
     * Reads standard error: output of native code and child processes, and Python's last messages.
     */
    private void readErrors() {
      try (BufferedReader lines =
          new BufferedReader(
              new InputStreamReader(process.getErrorStream(), StandardCharsets.UTF_8))) {
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
          log.info("[{}] {}", session, line);
          note(line);
        }
      } catch (IOException e) {
        log.debug("Reading the log of a Python worker ends", e);
      }
    }

    private void note(String text) {
      synchronized (output) {
        for (String line : text.split("\n", -1)) {
          output.add(line.length() > LONGEST_LINE ? line.substring(0, LONGEST_LINE) + "…" : line);
          if (output.size() > LAST_LINES) {
            output.remove();
          }
        }
      }
    }

    private void forgetOutput() {
      synchronized (output) {
        output.clear();
      }
    }

    private String quotedOutput() {
      synchronized (output) {
        return output.isEmpty() ? "" : "; its last output:\n  " + String.join("\n  ", output);
      }
    }

    private String howItEnded() {
      try {
        if (!process.waitFor(EXIT_TIMEOUT.toMillis(), TimeUnit.MILLISECONDS)) {
          return "has closed its output and does not end";
        }
        errors.join(EXIT_TIMEOUT.toMillis());
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
      }
      int code = process.exitValue();
      if (code <= 128) {
        return "ended with exit code " + code;
      }
      String signal = SIGNALS.getOrDefault(code - 128, "number " + (code - 128));
      return "was killed by signal %s%s"
          .formatted(
              signal, code == 137 ? " (the system does that when memory is short, too)" : "");
    }
  }
}
