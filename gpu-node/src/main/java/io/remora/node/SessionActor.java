// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import akka.actor.typed.ActorRef;
import akka.actor.typed.Behavior;
import akka.actor.typed.DispatcherSelector;
import akka.actor.typed.PostStop;
import akka.actor.typed.javadsl.AbstractBehavior;
import akka.actor.typed.javadsl.ActorContext;
import akka.actor.typed.javadsl.Behaviors;
import akka.actor.typed.javadsl.Receive;
import com.typesafe.config.Config;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.proto.Reason;
import io.remora.actors.link.proto.SavedState;
import io.remora.actors.link.proto.SessionClosed;
import io.remora.runtime.BatchExecutor;
import io.remora.runtime.ExecutionResult;
import io.remora.runtime.ProtocolException;
import io.remora.state.StateStores;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.time.Duration;
import java.util.Optional;
import java.util.OptionalLong;
import java.util.function.Supplier;

/**
 * One program's session on this node. Runs on a pinned dispatcher. Only its thread executes the
 * session's batches, in the order of their numbers and each once.
 *
 * <p>Batches come through a {@link SessionInbox}, not through the mailbox; a message wakes the
 * actor only when it has run out of batches. Questions and commands are messages. The actor answers
 * them between two frames of batches, so an answer may wait for a long operator.
 *
 * <p>The session outlives the connections of its link. Without a connection it executes what it has
 * received, as long as its unconfirmed answers stay within their bound. When the session ends, on
 * request, by an error or with its link, its storages are freed.
 */
final class SessionActor extends AbstractBehavior<SessionActor.Command> {

  /** The commands of a session. */
  sealed interface Command permits Describe, Drain, Measure {}

  /** Asks for a description of the session. */
  record Describe(ActorRef<Description> replyTo) implements Command {}

  /**
   * The state of a session.
   *
   * @param executed number of the last batch executed
   * @param storages storages that hold memory
   * @param bytes their bytes
   */
  record Description(long executed, long storages, long bytes) {}

  /**
   * Sent when work has arrived in the inbox, or when the inbox was abandoned because the link is
   * gone.
   */
  enum Drain implements Command {
    INSTANCE
  }

  private enum Measure implements Command {
    INSTANCE
  }

  /**
   * How long the sum of the storages' bytes may be out of date; computing it takes time with many
   * storages.
   */
  private static final Duration MEASURE_AFTER = Duration.ofSeconds(1);

  /** Computing the sum may take at most one part in this many of the session's time. */
  private static final int MEASURE_PART = 100;

  /** How many frames are executed before messages get a turn. */
  private static final int FRAMES_PER_TURN = 16;

  private final String name;
  private final SessionInbox inbox;
  private final SessionOutbox outbox;
  private final BatchExecutor executor;
  private final Optional<PythonWorker> worker;
  private final ModelCalls modelCalls;
  private final NodeFigures.OfSession figures;
  private final Runnable wakeUp;
  private long executed;
  // The batches being executed. Their payload's position is before the next batch.
  private SessionInbox.Batches current;
  private long currentSequence;
  private boolean answeredShort;
  private final SessionSaver saver;
  private boolean measuring;
  private Duration measureAfter = MEASURE_AFTER;
  private String endReason = "the node ends";

  /**
   * Creates a session that takes batches from now on, and reports this to its owner.
   *
   * @param machine whose session it is
   * @param session its number in the connection
   * @param executors makes its executor
   * @param restoredFrom where the session was saved; null: it is new
   * @param python runs Python functions; empty if they are not allowed
   * @param models loads and saves models
   * @param writes knows what the node is writing to the store
   */
  static Behavior<Command> create(
      String machine,
      long session,
      SessionInbox inbox,
      SessionOutbox outbox,
      Supplier<BatchExecutor> executors,
      SavedState restoredFrom,
      Optional<PythonEnvironment> python,
      NodeModels models,
      StateWrites writes) {
    return Behaviors.setup(
        context -> {
          context.setLoggerName(SessionActor.class);
          String name = machine + "/" + session;
          BatchExecutor executor;
          try {
            executor = executors.get();
          } catch (RuntimeException e) {
            context.getLog().error("Session {} cannot be opened", name, e);
            outbox.end(FrameType.SESSION_CLOSED, closed(Reason.REASON_INTERNAL, e.getMessage()));
            inbox.close();
            return Behaviors.stopped();
          }
          long executed = 0;
          CheckpointFile.Contents checkpoint = null;
          if (restoredFrom != null) {
            try {
              checkpoint =
                  SessionRestore.restore(
                      StateStores.open(context.getSystem().settings().config()),
                      session,
                      executor,
                      restoredFrom);
              executed = position(restoredFrom);
            } catch (IOException | RuntimeException e) {
              context.getLog().error("Session {} cannot be restored", name, e);
              executor.close();
              outbox.end(
                  FrameType.SESSION_CLOSED, closed(Reason.REASON_STATE, SessionSaver.text(e)));
              inbox.close();
              return Behaviors.stopped();
            }
          }
          Optional<PythonWorker> worker =
              python.map(environment -> new PythonWorker(name, environment, inbox::abandoned));
          worker.ifPresent(executor::runFunctionsWith);
          ModelCalls modelCalls = models.session(machine, name);
          executor.answerCallsWith(modelCalls);
          return new SessionActor(
              context,
              name,
              session,
              inbox,
              outbox,
              executor,
              executed,
              checkpoint,
              worker,
              modelCalls,
              writes);
        });
  }

  private SessionActor(
      ActorContext<Command> context,
      String name,
      long session,
      SessionInbox inbox,
      SessionOutbox outbox,
      BatchExecutor executor,
      long executed,
      CheckpointFile.Contents checkpoint,
      Optional<PythonWorker> worker,
      ModelCalls modelCalls,
      StateWrites writes) {
    super(context);
    this.name = name;
    this.inbox = inbox;
    this.outbox = outbox;
    this.executor = executor;
    this.executed = executed;
    this.worker = worker;
    this.modelCalls = modelCalls;
    Config config = context.getSystem().settings().config();
    this.saver =
        new SessionSaver(
            name,
            session,
            () -> StateStores.open(config),
            outbox,
            context.getSystem().dispatchers().lookup(DispatcherSelector.blocking()),
            writes,
            context.getSystem(),
            checkpoint);
    this.figures = NodeFigures.PROCESS.sessionOpened(inbox);
    figures.setStorages(executor.storageCount());
    outbox.opened();
    ActorRef<Command> self = context.getSelf();
    this.wakeUp = () -> self.tell(Drain.INSTANCE);
    inbox.onWork(wakeUp);
    context.getLog().info("Session {} is open", name);
  }

  @Override
  public Receive<Command> createReceive() {
    return newReceiveBuilder()
        .onMessageEquals(Drain.INSTANCE, this::onDrain)
        .onMessage(Describe.class, this::onDescribe)
        .onMessageEquals(Measure.INSTANCE, this::onMeasure)
        .onSignal(PostStop.class, this::onPostStop)
        .build();
  }

  private Behavior<Command> onDrain() {
    for (int frames = 0; frames < FRAMES_PER_TURN; frames++) {
      figures.setStorages(executor.storageCount());
      if (inbox.abandoned()) {
        endReason = "its connection is gone";
        return Behaviors.stopped();
      }
      if (!outbox.hasRoom(wakeUp)) {
        return this;
      }
      SessionInbox.Entry entry = current == null ? inbox.take(this::readNext) : current;
      if (entry == null) {
        if (inbox.abandoned()) {
          continue; // meanwhile, and without a wake-up
        }
        return this;
      }
      if (entry instanceof SessionInbox.Close) {
        return end(Reason.REASON_CLOSED, "");
      }
      if (entry instanceof SessionInbox.Save save) {
        saver.save(save, executor, executed);
        continue;
      }
      if (current == null) {
        current = (SessionInbox.Batches) entry;
        currentSequence = current.firstSequence();
      }
      try {
        executeCurrent();
      } catch (ProtocolException e) {
        getContext().getLog().error("Session {} ends: {}", name, e.getMessage());
        return end(Reason.REASON_MALFORMED, e.getMessage());
      } catch (RuntimeException e) {
        getContext().getLog().error("Session {} ends because the node failed", name, e);
        return end(Reason.REASON_INTERNAL, "the node failed: " + e);
      }
    }
    getContext().getSelf().tell(Drain.INSTANCE);
    return this;
  }

  private Behavior<Command> onMeasure() {
    measuring = false;
    long start = System.nanoTime();
    figures.setStorageBytes(executor.storageBytes());
    Duration least = Duration.ofNanos(MEASURE_PART * (System.nanoTime() - start));
    measureAfter = least.compareTo(MEASURE_AFTER) > 0 ? least : MEASURE_AFTER;
    return this;
  }

  private Behavior<Command> onDescribe(Describe question) {
    question.replyTo.tell(
        new Description(executed, executor.storageCount(), executor.storageBytes()));
    return this;
  }

  private Behavior<Command> onPostStop(PostStop signal) {
    figures.close();
    inbox.close();
    releaseCurrent();
    if (!outbox.hasEnded()) {
      outbox.abandon();
    }
    worker.ifPresent(PythonWorker::close);
    modelCalls.close();
    long storages = executor.storageCount();
    long bytes = executor.storageBytes();
    executor.close();
    getContext()
        .getLog()
        .info(
            "Session {} has ended after {} batches: {}; {} storages of {} bytes are freed",
            name,
            executed,
            endReason,
            storages,
            bytes);
    return this;
  }

  /** Executes batches of the taken frame while there is room for their answers. */
  private void executeCurrent() {
    ByteBuffer payload = current.payload().order(ByteOrder.LITTLE_ENDIAN);
    if (!payload.hasRemaining()) {
      throw new ProtocolException("a frame of batches without a batch");
    }
    TransferClient.giveUpWhen(inbox::abandoned);
    while (payload.hasRemaining() && !inbox.abandoned()) {
      if (!outbox.hasRoom(wakeUp)) {
        return;
      }
      ByteBuffer batch = nextBatch(payload);
      execute(currentSequence++, batch, !payload.hasRemaining() && inbox.isEmpty());
    }
    answeredShort = current.isShort();
    releaseCurrent();
  }

  /**
   * Reads the connection on this thread for a moment, after an answer to a short frame: whoever
   * waited for the answer often sends the next frame at once, and a wake-up would take longer than
   * the frame.
   */
  private void readNext() {
    if (answeredShort) {
      answeredShort = false;
      outbox.readUntil(() -> !inbox.isEmpty() || inbox.abandoned());
    }
  }

  private void releaseCurrent() {
    if (current != null) {
      current.release().run();
      current = null;
    }
  }

  private void execute(long sequence, ByteBuffer batch, boolean last) {
    if (sequence <= executed) {
      return; // The batch came twice. Its result is kept until the machine has confirmed it.
    }
    if (sequence != executed + 1) {
      throw new ProtocolException(
          "batch %d came after batch %d: %d batch(es) are missing"
              .formatted(sequence, executed, sequence - executed - 1));
    }
    long start = System.nanoTime();
    ExecutionResult result = executor.execute(sequence, batch);
    figures.executed(batch.remaining(), System.nanoTime() - start);
    if (!measuring) {
      measuring = true;
      getContext().scheduleOnce(measureAfter, getContext().getSelf(), Measure.INSTANCE);
    }
    executed = sequence;
    OptionalLong mark = result.mark();
    outbox.executed(sequence, result, last);
    if (mark.isPresent()) {
      saver.marked(mark.getAsLong(), executor, executed);
    }
  }

  private static ByteBuffer nextBatch(ByteBuffer payload) {
    if (payload.remaining() < Integer.BYTES) {
      throw new ProtocolException(
          "%d stray bytes at the end of a frame of batches".formatted(payload.remaining()));
    }
    int length = payload.getInt();
    if (length < 0 || length > payload.remaining()) {
      throw new ProtocolException(
          "a batch of %s bytes in a frame that has %d left"
              .formatted(Integer.toUnsignedString(length), payload.remaining()));
    }
    ByteBuffer batch = payload.slice(payload.position(), length).order(ByteOrder.LITTLE_ENDIAN);
    payload.position(payload.position() + length);
    return batch;
  }

  /** The number of the last batch before the first one that a session gets. */
  static long position(SavedState restoredFrom) {
    if (restoredFrom == null) {
      return 0;
    }
    return restoredFrom.hasContinuedAfter()
        ? restoredFrom.getContinuedAfter()
        : restoredFrom.getLastExecutedSequence();
  }

  private Behavior<Command> end(Reason reason, String message) {
    outbox.end(FrameType.SESSION_CLOSED, closed(reason, message));
    endReason = reason == Reason.REASON_CLOSED ? "its owner has closed it" : message;
    return Behaviors.stopped();
  }

  private static SessionClosed closed(Reason reason, String message) {
    return SessionClosed.newBuilder()
        .setReason(reason)
        .setMessage(message == null ? "" : message)
        .build();
  }
}
