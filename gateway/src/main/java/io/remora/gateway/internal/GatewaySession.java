// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway.internal;

import akka.Done;
import akka.grpc.GrpcServiceException;
import akka.util.ByteString;
import io.grpc.Status;
import io.remora.actors.DirectWay;
import io.remora.actors.MachineInfo;
import io.remora.core.ErrorTable;
import io.remora.core.ReplayQueue;
import io.remora.core.errors.ErrorKind;
import io.remora.gateway.v1.Direct;
import io.remora.gateway.v1.DirectClosed;
import io.remora.gateway.v1.Executed;
import io.remora.gateway.v1.Held;
import io.remora.gateway.v1.Hindered;
import io.remora.gateway.v1.Lost;
import io.remora.gateway.v1.Notice;
import io.remora.gateway.v1.Restored;
import io.remora.gateway.v1.ServerFrame;
import io.remora.runtime.Batch;
import io.remora.runtime.BatchSink;
import io.remora.runtime.Hindrance;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.RestoredException;
import io.remora.runtime.SessionListener;
import io.remora.runtime.SessionWaits;
import java.nio.ByteBuffer;
import java.security.MessageDigest;
import java.security.SecureRandom;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.Consumer;

/**
 * A program's session on a machine, on the side of the gateway. It outlives the stream that carries
 * it.
 *
 * <p>Towards the machine, batches are passed on in order, once each; a repeated batch is ignored.
 * Towards the program, reports and values are numbered frames. They are kept until the program
 * confirms them, and sent again on the next stream. Reports that wait for the stream share a frame.
 * Above {@code remora.gateway.max-unreceived-bytes} the thread that reads the machine's link waits,
 * which slows down the machine instead of filling the memory. Thread-safe.
 */
final class GatewaySession implements SessionListener, DirectWay.Listener {

  private static final SecureRandom RANDOM = new SecureRandom();
  private static final int SECRET_BYTES = 32;

  /** Reports that wait longer than this together travel in several frames. */
  private static final int LARGEST_EXECUTED = 256 * 1024;

  /** What a batch takes besides its bytes. */
  private static final long BATCH_OVERHEAD = 256;

  /**
   * The stream that carries a session. Its methods are called under the session's lock, so they
   * must only notify.
   */
  interface Stream {

    /** There are frames again, or there is room for batches again, or the session has ended. */
    void wake();

    /** The session continues over another stream. */
    void replaced();
  }

  /** A call that comes after the batches up to this one. */
  private record Follower(long batch, boolean executed, CompletableFuture<Done> turn) {}

  /**
   * @param passage how its batch was passed on; null if the program has no timeline
   */
  private record Report(com.google.protobuf.ByteString bytes, Passage passage) {

    com.google.protobuf.ByteString sentNow() {
      return passage == null ? bytes : passage.putInto(bytes);
    }
  }

  private final long number;
  private final MachineInfo machine;
  private final long maxInFlightBytes;
  private final long maxUnreceivedBytes;
  private final Duration patience;
  private final Consumer<GatewaySession> abandon;
  private final byte[] secret = new byte[SECRET_BYTES];

  private final ReentrantLock lock = new ReentrantLock();
  private final Condition received = lock.newCondition();

  // Guarded by the lock.
  private BatchSink sink;
  private DirectWay way;

  /** The program has, or may make, a connection of its own to the node. */
  private boolean direct;

  /** The node has accepted that connection. */
  private boolean connectsDirectly;

  /** The number of the program's unanswered request to close it; 0: none. */
  private long closesDirect;

  private long directReceived;
  private long directExecuted;
  private Stream stream;
  private boolean waitsForFrames;
  private boolean waitsForRoom;
  // The sizes of the batches that the machine has not executed. The sink keeps the batches.
  private final ReplayQueue<Long> inFlight = new ReplayQueue<>("batch", Long::longValue);
  private final List<Follower> followers = new ArrayList<>();
  private final ReplayQueue<ByteString> frames = new ReplayQueue<>("frame", ByteString::size);
  // Of the batches under way whose program has a timeline.
  private final Deque<Passage> passages = new ArrayDeque<>();
  private final List<Report> reports = new ArrayList<>();
  private long reportBytes;
  private long reported;
  private boolean held;
  private boolean toldHeld;
  private boolean ended;
  private long streams;

  private volatile SessionWaits waits = SessionWaits.NONE;

  /** The reader's: where the bytes of a value arrive. */
  private ByteBuffer arriving = ByteBuffer.allocateDirect(0);

  /**
   * @param number the session's number in the actor system
   * @param machine the machine as it was when the session was opened
   * @param maxInFlightBytes bytes of batches not executed that the machine takes
   * @param maxUnreceivedBytes bytes of frames that are kept
   * @param patience how long the machine waits for a program that receives nothing
   * @param abandon ends the session when this time has passed
   */
  GatewaySession(
      long number,
      MachineInfo machine,
      long maxInFlightBytes,
      long maxUnreceivedBytes,
      Duration patience,
      Consumer<GatewaySession> abandon) {
    this.number = number;
    this.machine = machine;
    this.maxInFlightBytes = maxInFlightBytes;
    this.maxUnreceivedBytes = maxUnreceivedBytes;
    this.patience = patience;
    this.abandon = abandon;
    RANDOM.nextBytes(secret);
  }

  long number() {
    return number;
  }

  MachineInfo machine() {
    return machine;
  }

  com.google.protobuf.ByteString secret() {
    return com.google.protobuf.ByteString.copyFrom(secret);
  }

  /** Compares in constant time. */
  boolean hasSecret(com.google.protobuf.ByteString shown) {
    return MessageDigest.isEqual(secret, shown.toByteArray());
  }

  /** Sets where batches go. Called once, before the first stream. */
  void attached(BatchSink to, DirectWay past) {
    lock.lock();
    try {
      sink = to;
      way = past;
    } finally {
      lock.unlock();
    }
  }

  // The stream's side ---------------------------------------------------------------------------

  /**
   * Takes over the session. Frames that were sent but not received are sent again.
   *
   * @param receivedIndex the last frame that the program has
   * @return the last batch that was received
   */
  long connect(Stream by, long receivedIndex) {
    lock.lock();
    try {
      if (stream != null) {
        stream.replaced();
      }
      stream = by;
      waitsForFrames = false;
      waitsForRoom = false;
      forget(receivedIndex);
      frames.replayAfter(frames.lastAcknowledged());
      streams++;
      return inFlight.last();
    } finally {
      lock.unlock();
    }
  }

  /** Notes the end of a stream. Returns false if another stream already carries the session. */
  boolean disconnect(Stream by) {
    lock.lock();
    try {
      if (stream != by) {
        return false;
      }
      stream = null;
      return true;
    } finally {
      lock.unlock();
    }
  }

  boolean isConnected() {
    lock.lock();
    try {
      return stream != null;
    } finally {
      lock.unlock();
    }
  }

  /** Whether the program has a connection of its own to the node. */
  boolean isDirect() {
    lock.lock();
    try {
      return connectsDirectly;
    } finally {
      lock.unlock();
    }
  }

  /** How many streams have carried the session. */
  long streams() {
    lock.lock();
    try {
      return streams;
    } finally {
      lock.unlock();
    }
  }

  /** The program has waited this long so far. */
  void waited(SessionWaits told) {
    waits = told;
  }

  @Override
  public SessionWaits waited() {
    return waits;
  }

  /** Drops the frames up to this one, which the program has received. */
  void received(long index) {
    lock.lock();
    try {
      forget(index);
    } finally {
      lock.unlock();
    }
  }

  private void forget(long index) {
    if (frames.acknowledgeUpTo(index)) {
      received.signalAll();
    }
  }

  /**
   * Passes on a batch, and releases it later.
   *
   * @return false if there is no room; {@link Stream#wake} is called when to try again
   * @throws GrpcServiceException if the batch is not the next one
   */
  boolean submit(Stream by, Batch batch) {
    lock.lock();
    try {
      if (stream != by || ended || batch.sequence() <= inFlight.last()) {
        batch.release();
        return true;
      }
      if (direct) {
        batch.release();
        throw GatewayErrors.refusal(
            Status.Code.INVALID_ARGUMENT,
            ErrorKind.ProtocolException,
            "batch %d came before DirectClosed".formatted(batch.sequence()));
      }
      if (batch.sequence() != inFlight.last() + 1) {
        throw GatewayErrors.refusal(
            Status.Code.INVALID_ARGUMENT,
            ErrorKind.ProtocolException,
            "batch %d came after batch %d".formatted(batch.sequence(), inFlight.last()));
      }
      long size = batch.size() + BATCH_OVERHEAD;
      if (batch.isTimed()
          && (passages.isEmpty() || passages.getLast().batch() != batch.sequence())) {
        passages.addLast(new Passage(batch.sequence()));
      }
      boolean fits =
          inFlight.bytes() == 0
              || (inFlight.fits(size, maxInFlightBytes, Long.MAX_VALUE)
                  && sink.hasRoom(batch.size()));
      if (held || !fits) {
        waitsForRoom = true;
        return false;
      }
      inFlight.add(batch.sequence(), size);
      inFlight.send();
      // Does not block: it has room for more than is counted here.
      sink.submit(batch);
      callFollowers();
      return true;
    } catch (RemoraException e) {
      end(e);
      return true;
    } finally {
      lock.unlock();
    }
  }

  /**
   * The next frame to send; null if there is none, and {@link Stream#wake} is called when there is
   * one.
   */
  ByteString nextFrame(Stream by) {
    lock.lock();
    try {
      if (stream != by) {
        return null;
      }
      if (frames.peekUnsent() == null) {
        closeReports();
      }
      ByteString next = frames.send();
      waitsForFrames |= next == null;
      return next;
    } finally {
      lock.unlock();
    }
  }

  /**
   * Completes when the batches up to this one have been passed on; at once while none is passed on,
   * because the session is held or has ended.
   *
   * @param executed whether to wait for the execution of batches that were not passed on here, but
   *     went directly to the node
   */
  CompletableFuture<Done> after(long batch, boolean executed) {
    lock.lock();
    try {
      followers.removeIf(follower -> follower.turn().isDone());
      Follower follower = new Follower(batch, executed, new CompletableFuture<>());
      followers.add(follower);
      callFollowers();
      return follower.turn();
    } finally {
      lock.unlock();
    }
  }

  private void callFollowers() {
    followers.removeIf(
        follower -> {
          boolean itsTurn = held || ended || follower.batch() <= reached(follower.executed());
          if (itsTurn) {
            follower.turn().completeAsync(Done::getInstance);
          }
          return itsTurn;
        });
  }

  private long reached(boolean executed) {
    return !direct ? inFlight.last() : executed ? directExecuted : directReceived;
  }

  /** Stops passing on batches until {@link #release}. Earlier batches are still executed. */
  void hold() {
    lock.lock();
    try {
      held = true;
      callFollowers();
    } finally {
      lock.unlock();
    }
  }

  /** Tells the program why its batches are not taken. */
  void tellHeld(String reason) {
    lock.lock();
    try {
      if (held) {
        toldHeld = true;
        tell(ServerFrame.newBuilder().setHeld(Held.newBuilder().setReason(reason)));
      }
    } finally {
      lock.unlock();
    }
  }

  /** Passes batches on again. */
  void release() {
    lock.lock();
    try {
      held = false;
      if (toldHeld) {
        toldHeld = false;
        tell(ServerFrame.newBuilder().setHeld(Held.getDefaultInstance()));
      }
      wakeStream();
    } finally {
      lock.unlock();
    }
  }

  // The program's own connection to the node ----------------------------------------------------

  /** The program wants a connection of its own to the node. */
  void openDirect() {
    lock.lock();
    try {
      if (direct || ended) {
        return;
      }
      if (held || inFlight.lastAcknowledged() != inFlight.last()) {
        onDirectRefused("the machine is paused, or batches are under way");
        return;
      }
      direct = true;
      closesDirect = 0;
      directReceived = inFlight.last();
      directExecuted = inFlight.last();
      way.openDirect(this);
    } finally {
      lock.unlock();
    }
  }

  /** The program has no such connection any more, and makes none. */
  void closeDirect(long request) {
    lock.lock();
    try {
      closesDirect = request;
      if (direct) {
        way.closeDirect();
      } else {
        tellDirectClosed();
      }
    } finally {
      lock.unlock();
    }
  }

  /** Called with the lock held. */
  private void tellDirectClosed() {
    if (closesDirect != 0) {
      tell(
          ServerFrame.newBuilder()
              .setDirectClosed(
                  DirectClosed.newBuilder().setLastBatch(inFlight.last()).setNumber(closesDirect)));
      closesDirect = 0;
    }
  }

  @Override
  public void onDirectOffer(DirectWay.Offer offer) {
    lock.lock();
    try {
      tell(
          ServerFrame.newBuilder()
              .setDirect(
                  Direct.newBuilder()
                      .setAddress(offer.address())
                      .setToken(offer.token())
                      .setHeartbeatIntervalMillis(offer.heartbeatIntervalMillis())
                      .setHeartbeatTimeoutMillis(offer.heartbeatTimeoutMillis())
                      .setMaxFrameBytes(offer.maxFrameBytes())));
    } finally {
      lock.unlock();
    }
  }

  @Override
  public void onDirectRefused(String reason) {
    lock.lock();
    try {
      direct = false;
      tell(ServerFrame.newBuilder().setDirect(Direct.newBuilder().setRefusal(reason)));
      tellDirectClosed();
      callFollowers();
    } finally {
      lock.unlock();
    }
  }

  @Override
  public void onDirectProgress(long received, long executed) {
    lock.lock();
    try {
      connectsDirectly = true;
      directReceived = received;
      directExecuted = executed;
      callFollowers();
    } finally {
      lock.unlock();
    }
  }

  @Override
  public void onDirectClosed(long received, long confirmed) {
    lock.lock();
    try {
      direct = false;
      connectsDirectly = false;
      if (ended) {
        return;
      }
      inFlight.skipTo(confirmed);
      for (long number = confirmed + 1; number <= received; number++) {
        inFlight.add(number, BATCH_OVERHEAD);
        inFlight.send();
      }
      tellDirectClosed();
      callFollowers();
    } finally {
      lock.unlock();
    }
  }

  /** Sends a notice to the program's user. */
  void notice(String text) {
    lock.lock();
    try {
      tell(ServerFrame.newBuilder().setNotice(Notice.newBuilder().setText(text)));
    } finally {
      lock.unlock();
    }
  }

  private void tell(ServerFrame.Builder frame) {
    if (!ended) {
      closeReports();
      add(frame);
      wakeStream();
    }
  }

  /** Nothing will come any more. */
  boolean hasEnded() {
    lock.lock();
    try {
      return ended;
    } finally {
      lock.unlock();
    }
  }

  // The machine's side --------------------------------------------------------------------------

  @Override
  public void onSent(long sequence, long nanoTime) {
    lock.lock();
    try {
      Passage passage = passage(sequence);
      if (passage != null) {
        passage.sent(nanoTime);
      }
    } finally {
      lock.unlock();
    }
  }

  /** Called with the lock held. Null if the batch's program has no timeline. */
  private Passage passage(long sequence) {
    while (!passages.isEmpty() && passages.getFirst().batch() < sequence) {
      passages.removeFirst();
    }
    Passage first = passages.peekFirst();
    return first != null && first.batch() == sequence ? first : null;
  }

  @Override
  public void onExecuted(long sequence, ByteBuffer report) {
    com.google.protobuf.ByteString copy = com.google.protobuf.ByteString.copyFrom(report);
    lock.lock();
    try {
      inFlight.acknowledgeUpTo(sequence);
      reports.add(new Report(copy, passage(sequence)));
      reported = sequence;
      reportBytes += copy.size();
      if (reportBytes > LARGEST_EXECUTED) {
        closeReports();
      }
      wakeStream();
      awaitRoom();
    } finally {
      lock.unlock();
    }
  }

  @Override
  public ByteBuffer valueDestination(long request, long offset, int length) {
    lock.lock();
    try {
      awaitRoom();
      if (ended) {
        return null;
      }
    } finally {
      lock.unlock();
    }
    if (arriving.capacity() < length) {
      arriving = ByteBuffer.allocateDirect(length);
    }
    return arriving.clear().limit(length);
  }

  @Override
  public void onValueReceived(long request, long offset, int length) {
    lock.lock();
    try {
      closeReports();
      add(GrpcFrames.value(frames.last() + 1, request, offset, arriving.clear().limit(length)));
      wakeStream();
    } finally {
      lock.unlock();
    }
  }

  @Override
  public void onHindered(Hindrance state) {
    lock.lock();
    try {
      tell(
          ServerFrame.newBuilder()
              .setHindered(Hindered.newBuilder().setStateValue(state.number())));
    } finally {
      lock.unlock();
    }
  }

  @Override
  public void onRestored(long epoch, RestoredException restored) {
    lock.lock();
    try {
      tell(
          ServerFrame.newBuilder()
              .setRestored(
                  Restored.newBuilder()
                      .setEpoch(epoch)
                      .setStep(restored.step())
                      .setMessage(restored.getMessage())));
    } finally {
      lock.unlock();
    }
  }

  @Override
  public void onLost(RemoraException cause) {
    end(cause);
  }

  /**
   * Ends the session. The program gets {@code cause} after all earlier frames; null if the program
   * asked for the end.
   */
  void end(RemoraException cause) {
    lock.lock();
    try {
      if (ended) {
        return;
      }
      ended = true;
      if (cause != null) {
        closeReports();
        add(
            ServerFrame.newBuilder()
                .setLost(
                    Lost.newBuilder()
                        .setError(ErrorTable.kindOf(cause).name())
                        .setMessage(String.valueOf(cause.getMessage()))));
      }
      inFlight.clear();
      waitsForFrames = true;
      wakeStream();
      received.signalAll();
      callFollowers();
    } finally {
      lock.unlock();
    }
  }

  private void closeReports() {
    if (!reports.isEmpty()) {
      reportBytes = 0;
      add(
          ServerFrame.newBuilder()
              .setExecuted(
                  Executed.newBuilder()
                      .setSequence(reported)
                      .addAllReports(reports.stream().map(Report::sentNow).toList())));
      reports.clear();
    }
  }

  private void add(ServerFrame.Builder frame) {
    add(GrpcFrames.encode(frame.setIndex(frames.last() + 1).build()));
  }

  private void add(ByteString bytes) {
    frames.add(frames.last() + 1, bytes);
  }

  private void wakeStream() {
    if (stream != null && (waitsForFrames || waitsForRoom)) {
      waitsForFrames = false;
      waitsForRoom = false;
      stream.wake();
    }
  }

  /** Waits while too many bytes are kept, as long as the program keeps receiving. */
  private void awaitRoom() {
    long left = patience.toNanos();
    while (keptBytes() > maxUnreceivedBytes && !ended) {
      long before = keptBytes();
      try {
        left = received.awaitNanos(left);
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
        return;
      }
      if (keptBytes() < before) {
        left = patience.toNanos();
      } else if (left <= 0) {
        end(
            new MachineStateException(
                "session %d on machine %s was ended: its program has received nothing for %d s while %d MiB wait for it (remora.gateway.max-unreceived-bytes, remora.gateway.session-lease)"
                    .formatted(number, machine.name(), patience.toSeconds(), keptBytes() >> 20)));
        abandon.accept(this);
      }
    }
  }

  /** The bytes of frames that the program has not confirmed. */
  long unreceivedBytes() {
    lock.lock();
    try {
      return keptBytes();
    } finally {
      lock.unlock();
    }
  }

  /** Called with the lock held. */
  private long keptBytes() {
    return frames.bytes() + reportBytes;
  }
}
