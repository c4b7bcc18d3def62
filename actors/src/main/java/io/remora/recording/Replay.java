// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.recording;

import io.remora.actors.internal.Answers;
import io.remora.actors.internal.Answers.Check;
import io.remora.core.BatchWalk;
import io.remora.runtime.Batch;
import io.remora.runtime.BatchSink;
import io.remora.runtime.OperationFailure;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.ReadTimeoutException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.ReportReader;
import io.remora.runtime.SessionListener;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.Consumer;
import java.util.function.Function;
import java.util.zip.CRC32C;

/**
 * Executes a recording again in a session and compares its answers. Batches are sent as fast as the
 * session takes them, so the time is the node's and the link's, without that of the program.
 */
public final class Replay {

  /** How {@link BatchWalk} begins the description of a call that the node itself answers. */
  private static final String NODE_CALL = "the call ";

  private static final Duration TURN = Duration.ofSeconds(1);
  private static final Duration LONGEST_OPERATION = Duration.ofMinutes(10);

  /**
   * How far a replay is.
   *
   * @param batches executed
   * @param share of the file that was sent, 0 to 1
   */
  public record Progress(long batches, double share) {}

  /**
   * What a replay has found.
   *
   * @param batches executed
   * @param unexecuted batches of the recording whose execution the recording does not tell of
   * @param operations in the batches that were sent
   * @param bytes of the batches that were sent
   * @param reads values that were compared
   * @param differentReads those that differ
   * @param otherAnswers output shapes and failures of requests that were compared
   * @param differentAnswers those that differ
   * @param failures operations that failed in the recording
   * @param failuresNow operations that fail now
   * @param originalSeconds from the first batch to the last answer, in the recording
   * @param seconds the same now
   * @param end how the recording ends; empty if it was cut
   * @param difference the first difference, or why the replay ended early; empty if there is none
   */
  public record Result(
      long batches,
      long unexecuted,
      long operations,
      long bytes,
      long reads,
      long differentReads,
      long otherAnswers,
      long differentAnswers,
      long failures,
      long failuresNow,
      double originalSeconds,
      double seconds,
      Optional<String> end,
      Optional<String> difference) {

    /** Whether everything was executed and nothing differs. */
    public boolean isEqual() {
      return difference.isEmpty();
    }
  }

  /** What a batch is, for messages. */
  private record Sent(Map<Long, String> requests) {}

  private final RecordingReader reader;
  private final long fileBytes;
  private final boolean functions;

  private final ReentrantLock lock = new ReentrantLock();
  private final Condition changed = lock.newCondition();
  // Guarded by the lock: what waits for its counterpart, by the batch's number.
  private final Map<Long, Recorded.Executed> expected = new HashMap<>();
  private final Map<Long, Answers> actual = new HashMap<>();
  private final Map<Long, Sent> sent = new HashMap<>();
  private long executed;
  private long lastNanos;
  private RemoraException lost;
  private long reads;
  private long differentReads;
  private long otherAnswers;
  private long differentAnswers;
  private long failures;
  private long failuresNow;
  private String difference;

  /**
   * Prepares a replay.
   *
   * @param reader a recording of which only the header was read
   * @param fileBytes the size of its file, for the progress
   * @param functions whether to run Python functions that are in the file
   */
  public Replay(RecordingReader reader, long fileBytes, boolean functions) {
    this.reader = reader;
    this.fileBytes = fileBytes;
    this.functions = functions;
  }

  /**
   * Executes the recording. Call it once.
   *
   * @param session opens a session, which tells this listener, and returns its sink
   * @param progress is told about once a second, on this thread
   * @throws ProtocolException if the recording is damaged; the message has the place
   * @throws IOException if the file cannot be read
   */
  public Result run(Function<SessionListener, BatchSink> session, Consumer<Progress> progress)
      throws IOException {
    if (reader.header().wireVersion() != Batch.WIRE_VERSION) {
      throw new ProtocolException(
          "the recording has batches of version %d, this program executes version %d: use the version of Remora that recorded it%s"
              .formatted(
                  reader.header().wireVersion(),
                  Batch.WIRE_VERSION,
                  reader.header().remora().isEmpty() ? "" : ", " + reader.header().remora()));
    }
    BatchSink sink = session.apply(new Listener());
    BatchWalk walk = new BatchWalk();
    long last = 0;
    long answered = 0;
    long bytes = 0;
    long firstRecorded = 0;
    long lastRecorded = 0;
    long begin = System.nanoTime();
    long shown = begin;
    String end = null;
    String obstacle = null;
    Recorded record;
    while (obstacle == null && (record = reader.next()) != null) {
      if (record instanceof Recorded.Sent batch) {
        if (batch.sequence() != last + 1) {
          throw new ProtocolException(
              "batch %d follows batch %d in the recording".formatted(batch.sequence(), last));
        }
        obstacle = look(walk, batch);
        if (obstacle == null) {
          last = batch.sequence();
          bytes += batch.bytes().remaining();
          firstRecorded = last == 1 ? batch.nanos() : firstRecorded;
          begin = last == 1 ? System.nanoTime() : begin;
          obstacle = submit(sink, batch);
        }
      } else if (record instanceof Recorded.Executed answer) {
        if (answer.sequence() != answered + 1 || answer.sequence() > last) {
          throw new ProtocolException(
              "the answer to batch %d follows that to batch %d in the recording"
                  .formatted(answer.sequence(), answered));
        }
        answered = answer.sequence();
        lastRecorded = answer.nanos();
        expect(answer);
      } else if (record instanceof Recorded.End ending) {
        end = ending.how();
      }
      if (System.nanoTime() - shown > TURN.toNanos()) {
        shown = System.nanoTime();
        progress.accept(progress());
      }
    }
    awaitExecution(last, progress);
    return result(
        last,
        last - answered,
        walk.calls(),
        bytes,
        (lastRecorded - firstRecorded) * 1e-9,
        begin,
        Optional.ofNullable(end),
        obstacle);
  }

  private Progress progress() {
    lock.lock();
    try {
      return new Progress(executed, (double) reader.offset() / Math.max(1, fileBytes));
    } finally {
      lock.unlock();
    }
  }

  /** Looks at a batch; returns why it cannot be executed, or null. */
  private String look(BatchWalk walk, Recorded.Sent batch) {
    Map<Long, String> requests = new HashMap<>();
    String[] obstacle = {null};
    walk.read(
        batch.bytes(),
        new BatchWalk.Visitor() {
          private String last = "";

          @Override
          public void call(long number, String operator) {
            last = " after operation %d, %s".formatted(number, operator);
          }

          @Override
          public void request(long request, String what) {
            requests.put(request, what + last);
          }

          @Override
          public void outside(String what) {
            obstacle[0] = "batch %d %s, which a replay cannot do".formatted(batch.sequence(), what);
          }

          @Override
          public void payload(BatchWalk.Payload kind, int position, int length) {
            if (kind == BatchWalk.Payload.FUNCTION && !functions) {
              obstacle[0] =
                  "batch %d runs a Python function that is in the file; --functions permits it"
                      .formatted(batch.sequence());
            }
          }
        });
    lock.lock();
    try {
      sent.put(batch.sequence(), new Sent(requests));
    } finally {
      lock.unlock();
    }
    return obstacle[0];
  }

  private String submit(BatchSink sink, Recorded.Sent recorded) {
    Batch batch =
        new Batch(recorded.sequence(), recorded.bytes(), List.of(), new long[0], 0, () -> {});
    try {
      Watch watch = new Watch();
      while (!sink.awaitRoom(batch.load(), TURN)) {
        watch.check("room to send batch " + batch.sequence());
      }
      sink.submit(batch);
      return null;
    } catch (RemoraException e) {
      return "batch %d was not executed: %s".formatted(executedBatches() + 1, e.getMessage());
    }
  }

  private long executedBatches() {
    lock.lock();
    try {
      return executed;
    } finally {
      lock.unlock();
    }
  }

  private void awaitExecution(long last, Consumer<Progress> progress) {
    Watch watch = new Watch();
    while (true) {
      lock.lock();
      try {
        if (executed >= last || lost != null) {
          return;
        }
        boolean news = changed.await(TURN.toMillis(), TimeUnit.MILLISECONDS);
        if (news) {
          continue;
        }
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
        throw new RemoraException("the replay was interrupted", e);
      } finally {
        lock.unlock();
      }
      progress.accept(progress());
      watch.check("the execution of batch " + last);
    }
  }

  /** Ends a wait when the node finishes nothing. */
  private final class Watch {
    private long seen = executedBatches();
    private long since = System.nanoTime();

    void check(String awaited) {
      long now = executedBatches();
      if (now != seen) {
        seen = now;
        since = System.nanoTime();
      } else if (System.nanoTime() - since > LONGEST_OPERATION.toNanos()) {
        throw new ReadTimeoutException(
            "the node has finished nothing for %d s while the replay waited for %s"
                .formatted(LONGEST_OPERATION.toSeconds(), awaited));
      }
    }
  }

  private Result result(
      long last,
      long unexecuted,
      long operations,
      long bytes,
      double originalSeconds,
      long begin,
      Optional<String> end,
      String obstacle) {
    lock.lock();
    try {
      if (difference == null && obstacle != null) {
        difference = obstacle;
      }
      if (difference == null && lost != null && executed < last) {
        difference =
            "the session was lost while batch %d was executed: %s"
                .formatted(executed + 1, lost.getMessage());
      }
      return new Result(
          executed,
          unexecuted,
          operations,
          bytes,
          reads,
          differentReads,
          otherAnswers,
          differentAnswers,
          failures,
          failuresNow,
          Math.max(0, originalSeconds),
          executed == 0 ? 0 : (lastNanos - begin) * 1e-9,
          end,
          Optional.ofNullable(difference));
    } finally {
      lock.unlock();
    }
  }

  // Comparing -----------------------------------------------------------------------------------

  private void expect(Recorded.Executed answer) {
    lock.lock();
    try {
      failures += answer.failures();
      expected.put(answer.sequence(), answer);
      compare(answer.sequence());
    } finally {
      lock.unlock();
    }
  }

  /** Called with the lock. */
  private void compare(long sequence) {
    if (!expected.containsKey(sequence) || !actual.containsKey(sequence)) {
      return;
    }
    Answers was = expected.remove(sequence).answers();
    Answers is = actual.remove(sequence);
    Map<Long, String> requests = sent.remove(sequence).requests();
    if (!reader.header().values()) {
      return;
    }
    Map<Long, Check> now = new HashMap<>();
    is.checks().forEach(check -> now.put(check.request(), check));
    // The arguments of calls of the node itself are not in the file.
    now.keySet().removeIf(request -> requests.getOrDefault(request, "").startsWith(NODE_CALL));
    for (Check check : was.checks()) {
      if (requests.getOrDefault(check.request(), "").startsWith(NODE_CALL)) {
        continue;
      }
      Check other = now.remove(check.request());
      boolean differs = !check.equals(other);
      if (check.kind().equals("value")) {
        reads++;
        differentReads += differs ? 1 : 0;
      } else {
        otherAnswers++;
        differentAnswers += differs ? 1 : 0;
      }
      if (differs) {
        differs(sequence, check.request(), requests, check, other);
      }
    }
    now.values().forEach(check -> differs(sequence, check.request(), requests, null, check));
  }

  private void differs(
      long sequence, long request, Map<Long, String> requests, Check was, Check is) {
    if (difference == null) {
      difference =
          "batch %d, request %d (%s): it was %s, and is %s"
              .formatted(
                  sequence,
                  request,
                  requests.getOrDefault(request, "unknown"),
                  describe(was),
                  describe(is));
    }
  }

  private static String describe(Check check) {
    if (check == null) {
      return "not answered";
    }
    return check.kind().equals("failure")
        ? "a failure"
        : "a %s of %d bytes with checksum %08x"
            .formatted(check.kind(), check.bytes(), check.checksum());
  }

  private final class Listener implements SessionListener {
    // Used by the thread that reads the connection.
    private final Map<Long, CRC32C> large = new HashMap<>();
    private ByteBuffer arriving = ByteBuffer.allocateDirect(0);

    @Override
    public void onExecuted(long sequence, ByteBuffer report) {
      Answers answers =
          Answers.of(report, request -> large.getOrDefault(request, new CRC32C()).getValue());
      large.clear();
      int[] failed = {0};
      ReportReader.read(
          report,
          new ReportReader.Events() {
            @Override
            public void failure(OperationFailure failure) {
              failed[0]++;
            }
          });
      lock.lock();
      try {
        executed = sequence;
        lastNanos = System.nanoTime();
        failuresNow += failed[0];
        actual.put(sequence, answers);
        compare(sequence);
        changed.signalAll();
      } finally {
        lock.unlock();
      }
    }

    @Override
    public ByteBuffer valueDestination(long request, long offset, int length) {
      if (arriving.capacity() < length) {
        arriving = ByteBuffer.allocateDirect(length);
      }
      return arriving.clear().limit(length);
    }

    @Override
    public void onValueReceived(long request, long offset, int length) {
      large.computeIfAbsent(request, each -> new CRC32C()).update(arriving.clear().limit(length));
    }

    @Override
    public void onLost(RemoraException cause) {
      lock.lock();
      try {
        lost = cause;
        changed.signalAll();
      } finally {
        lock.unlock();
      }
    }
  }
}
