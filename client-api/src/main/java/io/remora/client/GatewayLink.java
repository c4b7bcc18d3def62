// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import akka.Done;
import akka.NotUsed;
import akka.actor.typed.ActorSystem;
import akka.grpc.javadsl.StreamResponseRequestBuilder;
import akka.japi.Pair;
import akka.stream.javadsl.Source;
import com.google.protobuf.ByteString;
import com.google.protobuf.UnsafeByteOperations;
import io.remora.actors.link.LinkSettings;
import io.remora.core.ProgramLibtorch;
import io.remora.core.ReplayQueue;
import io.remora.core.Room;
import io.remora.gateway.v1.Batches;
import io.remora.gateway.v1.ClientFrame;
import io.remora.gateway.v1.Executed;
import io.remora.gateway.v1.Goodbye;
import io.remora.gateway.v1.Hello;
import io.remora.gateway.v1.Hindered;
import io.remora.gateway.v1.Machine;
import io.remora.gateway.v1.Ping;
import io.remora.gateway.v1.ServerFrame;
import io.remora.gateway.v1.SessionsClient;
import io.remora.gateway.v1.Value;
import io.remora.gateway.v1.Waits;
import io.remora.gateway.v1.Welcome;
import io.remora.runtime.Batch;
import io.remora.runtime.BatchSink;
import io.remora.runtime.Hindrance;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.RestoredException;
import io.remora.runtime.SessionListener;
import io.remora.runtime.StorageBirth;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.time.Duration;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.ReentrantLock;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * A session's connection through a gateway. Batches stay here until the gateway reports their
 * execution. When the stream breaks, another stream continues the session: it sends the batches
 * that have not arrived and receives the answers that have not come back. Thread-safe.
 */
final class GatewayLink implements BatchSink {

  private static final Logger log = LoggerFactory.getLogger(GatewayLink.class);

  private static final int PROTOCOL = 1;
  private static final long LARGEST_MESSAGE = 1 << 20;
  private static final Duration AGAIN_AFTER = Duration.ofMillis(200);

  private final String machine;
  private final GatewayAddress gateway;
  private final SessionsClient client;
  private final ActorSystem<?> system;
  private final SessionListener program;
  private final long maxUnsentBytes;
  private final CompletableFuture<Machine> opened = new CompletableFuture<>();
  private final CompletableFuture<Done> closed = new CompletableFuture<>();

  private final ReentrantLock lock = new ReentrantLock();
  private final Room room = new Room(lock, this::fits);

  // Guarded by the lock.
  private final ReplayQueue<Batch> batches = new ReplayQueue<>("batch", Batch::load);
  private Outgoing outgoing;
  private final ReportedWaits reportedWaits = new ReportedWaits();
  private long maxInFlightBytes;
  private long ackBytes;
  private long session;
  private ByteString secret = ByteString.EMPTY;
  private Duration lease = Duration.ZERO;
  private long brokenSinceNanos;
  private long received;
  private long unacknowledged;
  private boolean closing;
  private RemoraException lost;

  GatewayLink(
      String machine,
      GatewayAddress gateway,
      SessionsClient client,
      ActorSystem<?> system,
      SessionListener program) {
    this.machine = machine;
    this.gateway = gateway;
    this.client = client;
    this.system = system;
    this.program = program;
    this.maxUnsentBytes = LinkSettings.from(system.settings().config()).maxUnsentBytes();
  }

  /** Opens the session. Returns its machine. */
  Machine open(Duration limit) {
    connect();
    return Answers.await(opened, limit, "Opening a session on machine " + machine);
  }

  /** The session's number at the gateway. */
  long session() {
    lock.lock();
    try {
      return session;
    } finally {
      lock.unlock();
    }
  }

  /** The last batch that was submitted, sent or not; 0 before the first. */
  long lastBatch() {
    lock.lock();
    try {
      return batches.last();
    } finally {
      lock.unlock();
    }
  }

  // The program's side --------------------------------------------------------------------------

  @Override
  public void submit(Batch batch) {
    boolean accepted = false;
    lock.lock();
    try {
      if (lost != null) {
        throw (RemoraException) Failures.asThrownHere(lost, "Sending");
      }
      batches.add(batch.sequence(), batch);
      accepted = true;
      send();
    } finally {
      lock.unlock();
      if (!accepted) {
        batch.release();
      }
    }
  }

  @Override
  public boolean hasRoom(int bytes) {
    return room.isThere(bytes);
  }

  @Override
  public boolean awaitRoom(int bytes, Duration limit) {
    return room.await(bytes, limit);
  }

  @Override
  public String obstacle() {
    lock.lock();
    try {
      return outgoing != null && outgoing.welcomed
          ? ""
          : "there is no stream to the gateway at %s at present".formatted(gateway);
    } finally {
      lock.unlock();
    }
  }

  /**
   * Called with the lock held. Whether more bytes fit; they do after a loss, whose error the caller
   * then gets. Unsent batches count only while there is a stream.
   */
  private boolean fits(int size) {
    boolean flowing = outgoing != null && outgoing.welcomed;
    return lost != null
        || batches.fits(size, maxInFlightBytes, flowing ? maxUnsentBytes : Long.MAX_VALUE);
  }

  /** Ends the session after the work that was sent, and waits for the gateway's confirmation. */
  void close(Duration limit) {
    lock.lock();
    try {
      closing = true;
      if (lost != null) {
        return;
      }
      send();
    } finally {
      lock.unlock();
    }
    try {
      closed.get(limit.toMillis(), TimeUnit.MILLISECONDS);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    } catch (java.util.concurrent.ExecutionException | java.util.concurrent.TimeoutException e) {
      log.debug("Session {} was left to the gateway", session, e);
    }
    lose(new MachineStateException("the session on machine " + machine + " is closed"), false);
  }

  // The stream ----------------------------------------------------------------------------------

  /**
   * The source of one stream's requests. The stream asks for the next frame when it has sent the
   * one before.
   */
  private final class Outgoing {

    private CompletableFuture<Optional<Pair<Outgoing, ClientFrame>>> asked;
    private boolean greeted;
    private boolean welcomed;
    private boolean saidGoodbye;
    private boolean ended;

    CompletionStage<Optional<Pair<Outgoing, ClientFrame>>> next() {
      lock.lock();
      try {
        asked = new CompletableFuture<>();
        CompletableFuture<Optional<Pair<Outgoing, ClientFrame>>> answer = asked;
        offer();
        return answer;
      } finally {
        lock.unlock();
      }
    }

    /** Emits the next frame if the stream has asked for one. */
    void offer() {
      if (asked == null) {
        return;
      }
      if (ended) {
        complete(Optional.empty());
        return;
      }
      ClientFrame.Builder frame = nextFrame();
      if (frame != null) {
        unacknowledged = 0;
        complete(Optional.of(Pair.create(this, frame.setReceived(received).build())));
      }
    }

    private void complete(Optional<Pair<Outgoing, ClientFrame>> with) {
      CompletableFuture<Optional<Pair<Outgoing, ClientFrame>>> answer = asked;
      asked = null;
      answer.complete(with);
    }

    private ClientFrame.Builder nextFrame() {
      if (!greeted) {
        greeted = true;
        return ClientFrame.newBuilder().setHello(hello());
      }
      if (!welcomed) {
        return null;
      }
      Waits waits = reportedWaits.next(program, closing);
      if (waits != null) {
        return ClientFrame.newBuilder().setWaits(waits);
      }
      if (batches.peekUnsent() != null) {
        return ClientFrame.newBuilder().setBatches(nextBatches());
      }
      if (closing && !saidGoodbye) {
        saidGoodbye = true;
        return ClientFrame.newBuilder().setGoodbye(Goodbye.getDefaultInstance());
      }
      if (unacknowledged > ackBytes) {
        return ClientFrame.newBuilder().setPing(Ping.getDefaultInstance());
      }
      return null;
    }
  }

  private Hello hello() {
    return Hello.newBuilder()
        .setProtocol(PROTOCOL)
        .setWireVersion(Batch.WIRE_VERSION)
        .setTorchVersion(ProgramLibtorch.version())
        .setMachine(machine)
        .setSession(session)
        .setSecret(secret)
        .build();
  }

  /** As many of the waiting batches as fit into a message. */
  private Batches nextBatches() {
    Batches.Builder frame = Batches.newBuilder();
    long bytes = 0;
    do {
      Batch batch = batches.send();
      bytes += batch.size();
      io.remora.gateway.v1.Batch.Builder message =
          frame
              .addBatchesBuilder()
              .setSequence(batch.sequence())
              .setOperations(batch.operations())
              .setData(UnsafeByteOperations.unsafeWrap(batch.bytes()));
      for (StorageBirth birth : batch.born()) {
        message.addBorn(birth.id()).addBorn(birth.bytes()).addBorn(birth.device());
      }
      for (long freed : batch.freed()) {
        message.addFreed(freed);
      }
    } while (batches.peekUnsent() != null
        && bytes + batches.peekUnsent().size() <= LARGEST_MESSAGE);
    room.changed();
    return frame.build();
  }

  private void send() {
    if (outgoing != null) {
      outgoing.offer();
    }
  }

  private void connect() {
    Outgoing stream = new Outgoing();
    lock.lock();
    try {
      if (lost != null) {
        return;
      }
      outgoing = stream;
    } finally {
      lock.unlock();
    }
    Source<ClientFrame, NotUsed> requests = Source.unfoldAsync(stream, Outgoing::next);
    StreamResponseRequestBuilder<Source<ClientFrame, NotUsed>, ServerFrame> call = client.connect();
    CompletionStage<Done> unused =
        (gateway.token() == null
                ? call
                : call.addHeader("authorization", "Bearer " + gateway.token()))
            .invoke(requests)
            .runForeach(frame -> onFrame(stream, frame), system)
            .whenComplete((done, failure) -> onEnd(stream, failure));
  }

  private void onEnd(Outgoing stream, Throwable failure) {
    boolean again;
    lock.lock();
    try {
      stream.ended = true;
      stream.offer();
      if (outgoing != stream) {
        return;
      }
      outgoing = null;
      room.changed();
      long now = System.nanoTime();
      if (stream.welcomed || brokenSinceNanos == 0) {
        brokenSinceNanos = now;
      }
      again =
          !closing
              && lost == null
              && session != 0
              && (failure == null || GatewayErrors.isBroken(failure))
              && now - brokenSinceNanos < lease.toNanos();
    } finally {
      lock.unlock();
    }
    if (again) {
      log.info("The stream to machine {} broke; reconnecting", machine);
      var unused =
          system.scheduler().scheduleOnce(AGAIN_AFTER, this::connect, system.executionContext());
      return;
    }
    closed.complete(Done.getInstance());
    RuntimeException cause =
        failure == null
            ? new MachineStateException("the gateway has ended the session on machine " + machine)
            : GatewayErrors.of(failure, gateway);
    opened.completeExceptionally(cause);
    lose(
        session() == 0 || !GatewayErrors.isBroken(failure)
            ? (cause instanceof RemoraException ours
                ? ours
                : new RemoraException(cause.getMessage(), cause))
            : new NodeLostException(
                "machine %s is lost: its gateway at %s could not be reached again within %d s (%s)"
                    .formatted(machine, gateway, lease.toSeconds(), cause.getMessage()),
                cause),
        true);
  }

  private void lose(RemoraException cause, boolean tell) {
    List<Batch> released;
    lock.lock();
    try {
      if (lost != null) {
        return;
      }
      lost = cause;
      released = batches.clear();
      room.changed();
      if (outgoing != null) {
        outgoing.ended = true;
        outgoing.offer();
      }
    } finally {
      lock.unlock();
    }
    released.forEach(Batch::release);
    if (tell) {
      program.onLost(cause);
    }
  }

  // Frames from the gateway ---------------------------------------------------------------------

  private void onFrame(Outgoing stream, ServerFrame frame) {
    switch (frame.getFrameCase()) {
      case WELCOME -> onWelcome(stream, frame.getWelcome());
      case EXECUTED -> onExecuted(frame.getExecuted());
      case VALUE -> onValue(frame.getValue());
      case LOST ->
          lose(
              (RemoraException)
                  GatewayErrors.named(
                      frame.getLost().getError(), frame.getLost().getMessage(), null),
              true);
      case HELD -> {
        if (!frame.getHeld().getReason().isEmpty()) {
          log.warn("Work on the machine waits: {}", frame.getHeld().getReason());
        }
      }
      case NOTICE -> log.warn("Machine {}: {}", machine, frame.getNotice().getText());
      case HINDERED -> program.onHindered(hindrance(frame.getHindered().getState()));
      case RESTORED ->
          program.onRestored(
              frame.getRestored().getEpoch(),
              new RestoredException(frame.getRestored().getMessage()));
      case PONG, DIRECT, DIRECT_CLOSED, FRAME_NOT_SET -> {
        // Carries nothing, or was not asked for.
      }
    }
    if (frame.getIndex() != 0) {
      lock.lock();
      try {
        received = frame.getIndex();
        unacknowledged += frame.getSerializedSize();
        if (unacknowledged > ackBytes) {
          send();
        }
      } finally {
        lock.unlock();
      }
    }
  }

  /**
   * Offers the waits that are new, each second while the stream lasts. Called with the lock held.
   */
  private void reportWaits(Outgoing stream) {
    stream.offer();
    var unused =
        system
            .scheduler()
            .scheduleOnce(
                ReportedWaits.INTERVAL,
                () -> {
                  lock.lock();
                  try {
                    if (outgoing == stream && lost == null && !closing) {
                      reportWaits(stream);
                    }
                  } finally {
                    lock.unlock();
                  }
                },
                system.executionContext());
  }

  private void onWelcome(Outgoing stream, Welcome welcome) {
    lock.lock();
    try {
      session = welcome.getSession();
      secret = welcome.getSecret();
      lease = Duration.ofMillis(welcome.getLeaseMillis());
      maxInFlightBytes = welcome.getMaxInFlightBytes();
      ackBytes = welcome.getMaxUnreceivedBytes() / 8;
      if (!batches.canBeLastReceived(welcome.getLastBatch())) {
        throw new ProtocolException(
            "the gateway at %s has received batch %d last, but batch %d was acknowledged and batch %d sent last"
                .formatted(
                    gateway,
                    welcome.getLastBatch(),
                    batches.lastAcknowledged(),
                    batches.lastSent()));
      }
      batches.replayAfter(welcome.getLastBatch());
      stream.welcomed = true;
      reportedWaits.repeat();
      reportWaits(stream);
    } finally {
      lock.unlock();
    }
    opened.complete(welcome.getMachine());
  }

  private static Hindrance hindrance(Hindered.State state) {
    return switch (state) {
      case PAUSED -> Hindrance.PAUSED;
      case RECONNECTING -> Hindrance.RECONNECTING;
      case RECOVERING -> Hindrance.RECOVERING;
      case NONE, UNRECOGNIZED -> Hindrance.NONE;
    };
  }

  private void onExecuted(Executed executed) {
    long sequence = executed.getSequence() - executed.getReportsCount();
    for (ByteString report : executed.getReportsList()) {
      sequence++;
      Batch batch;
      lock.lock();
      try {
        batch = batches.acknowledge(sequence);
        if (batch == null) {
          throw new ProtocolException(
              "the gateway at %s reported batch %d, but batch %d was acknowledged and batch %d sent last"
                  .formatted(gateway, sequence, batches.lastAcknowledged(), batches.lastSent()));
        }
        room.changed();
      } finally {
        lock.unlock();
      }
      program.onExecuted(sequence, report.asReadOnlyByteBuffer().order(ByteOrder.LITTLE_ENDIAN));
      batch.release();
    }
  }

  private void onValue(Value value) {
    int length = value.getData().size();
    ByteBuffer target = program.valueDestination(value.getRequest(), value.getOffset(), length);
    if (target != null) {
      value.getData().copyTo(target);
      program.onValueReceived(value.getRequest(), value.getOffset(), length);
    }
  }
}
