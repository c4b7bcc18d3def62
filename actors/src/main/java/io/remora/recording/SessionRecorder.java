// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.recording;

import io.remora.actors.internal.Answers;
import io.remora.runtime.Batch;
import io.remora.runtime.BatchSink;
import io.remora.runtime.Hindrance;
import io.remora.runtime.OperationFailure;
import io.remora.runtime.RemoraException;
import io.remora.runtime.ReportReader;
import io.remora.runtime.RestoredException;
import io.remora.runtime.SessionListener;
import io.remora.runtime.SessionWaits;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.zip.CRC32C;

/**
 * Records one session: it stands between the session and its sink, and between the node's answers
 * and the session. Thread-safe.
 */
public final class SessionRecorder {

  private final RecordingWriter writer;
  private final boolean values;
  private final long start = System.nanoTime();

  private SessionRecorder(RecordingWriter writer, boolean values) {
    this.writer = writer;
    this.values = values;
  }

  /**
   * Starts a recording.
   *
   * @param settings must be on
   * @throws io.remora.runtime.ProviderException if the file cannot be made
   */
  public static SessionRecorder start(RecordingSettings settings, RecordingHeader header) {
    return new SessionRecorder(RecordingWriter.open(settings, header), settings.values());
  }

  private long now() {
    return System.nanoTime() - start;
  }

  /**
   * Ends the recording; only the first call counts.
   *
   * @param how in words
   * @return completes when the file is closed; never fails
   */
  public CompletionStage<Void> end(String how) {
    return writer.end(now(), how);
  }

  /**
   * Completes when the recordings of a machine's ended sessions in this JVM are written; never
   * fails.
   */
  public static CompletionStage<Void> written(String machine) {
    return RecordingWriter.written(machine);
  }

  /** A sink that records each batch and passes it on. */
  public BatchSink sink(BatchSink to) {
    return new Sink(to);
  }

  /** A listener that records each answer and passes it on. */
  public SessionListener listener(SessionListener to) {
    return new Listener(to);
  }

  private final class Sink implements BatchSink {
    private final BatchSink to;

    Sink(BatchSink to) {
      this.to = to;
    }

    @Override
    public void submit(Batch batch) {
      AtomicInteger users = new AtomicInteger(2);
      Batch recorded = shared(batch, users);
      Batch sent = shared(batch, users);
      writer.sent(recorded, now());
      to.submit(sent);
    }

    private Batch shared(Batch batch, AtomicInteger users) {
      return new Batch(
          batch.sequence(),
          batch.bytes(),
          batch.born(),
          batch.freed(),
          batch.operations(),
          () -> {
            if (users.decrementAndGet() == 0) {
              batch.release();
            }
          });
    }

    @Override
    public boolean hasRoom(int bytes) {
      return to.hasRoom(bytes);
    }

    @Override
    public boolean awaitRoom(int bytes, Duration limit) {
      return to.awaitRoom(bytes, limit);
    }

    @Override
    public void await(Future<?> done, Duration limit) throws InterruptedException {
      to.await(done, limit);
    }

    @Override
    public String obstacle() {
      return to.obstacle();
    }
  }

  private final class Listener implements SessionListener {
    private final SessionListener to;
    // Used by the thread that reads the connection: checksums of the values of the next report.
    private final Map<Long, CRC32C> large = new HashMap<>();
    private ByteBuffer arriving;

    Listener(SessionListener to) {
      this.to = to;
    }

    @Override
    public void onSent(long sequence, long nanoTime) {
      to.onSent(sequence, nanoTime);
    }

    @Override
    public void onExecuted(long sequence, ByteBuffer report) {
      writer.executed(read(sequence, report));
      large.clear();
      to.onExecuted(sequence, report);
      writer.awaitRoom(); // the node's next answers wait, and so does the program
    }

    private Recorded.Executed read(long sequence, ByteBuffer report) {
      Answers answers =
          Answers.of(report, request -> large.getOrDefault(request, new CRC32C()).getValue());
      AtomicInteger failures = new AtomicInteger();
      ReportReader.read(
          report,
          new ReportReader.Events() {
            @Override
            public void failure(OperationFailure failure) {
              failures.incrementAndGet();
            }
          });
      if (!values) {
        answers =
            new Answers(
                answers.checks().stream()
                    .map(
                        check -> new Answers.Check(check.request(), check.kind(), check.bytes(), 0))
                    .toList(),
                answers.unrepeatable());
      }
      return new Recorded.Executed(sequence, now(), answers, failures.get());
    }

    @Override
    public ByteBuffer valueDestination(long request, long offset, int length) {
      ByteBuffer destination = to.valueDestination(request, offset, length);
      arriving = destination == null || !values ? null : destination.duplicate();
      return destination;
    }

    @Override
    public void onValueReceived(long request, long offset, int length) {
      if (arriving != null) {
        large.computeIfAbsent(request, each -> new CRC32C()).update(arriving);
        arriving = null;
      }
      to.onValueReceived(request, offset, length);
    }

    /** What follows does not begin where the recording ends. */
    @Override
    public void onRestored(long epoch, RestoredException restored) {
      CompletionStage<Void> unused = end("restored: " + restored.getMessage());
      to.onRestored(epoch, restored);
    }

    @Override
    public void onHindered(Hindrance state) {
      to.onHindered(state);
    }

    @Override
    public SessionWaits waited() {
      return to.waited();
    }

    @Override
    public void onLost(RemoraException cause) {
      CompletionStage<Void> unused = end("lost: " + cause.getMessage());
      to.onLost(cause);
    }
  }
}
