// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import akka.Done;
import akka.actor.typed.ActorRef;
import akka.actor.typed.Props;
import akka.actor.typed.javadsl.Behaviors;
import akka.pattern.StatusReply;
import io.remora.actors.LocalSessions;
import io.remora.actors.MachineInfo;
import io.remora.actors.StorageInfo;
import io.remora.actors.machine.MachineProtocol;
import io.remora.core.WireFormat;
import io.remora.node.SimulatedExecutor.Kind;
import io.remora.provider.MachineSpec;
import io.remora.runtime.Batch;
import io.remora.runtime.BatchSink;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.SessionListener;
import io.remora.runtime.StorageBirth;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.TreeSet;
import java.util.function.BiConsumer;
import java.util.function.Consumer;
import java.util.function.Function;

/**
 * A program: it opens a machine and a session, submits batches, waits for some of them, lets time
 * pass, pauses and resumes the machine, and closes everything. It knows the right answer to each
 * batch.
 */
final class SimulatedProgram implements SessionListener {

  private static final Duration REPLY_LIMIT = Duration.ofHours(1);

  private final RecoverySimulation simulation;
  private final SimulatedTime time;
  private final Random random;
  private final ActorRef<MachineProtocol.Command> machine;
  private final MachineSpec spec;
  private final int batches;
  private final boolean risky;

  private long session;
  private BatchSink sink;
  private final List<Kind> kinds = new ArrayList<>();
  private final List<Long> states = new ArrayList<>();
  private final TreeSet<Long> storages = new TreeSet<>();
  private int executed;
  private int released;
  private int made;
  private int unanswered;
  private long awaited;

  /** The last batch that does more than free something. Nobody waits for others. */
  private int lastWork;

  private int largeReceived;
  private final ByteBuffer large = ByteBuffer.allocate(SimulatedExecutor.LARGE_BYTES);
  private RemoraException lost;
  private boolean closing;
  private boolean endsMachine;
  private boolean closed;

  SimulatedProgram(
      RecoverySimulation simulation,
      ActorRef<MachineProtocol.Command> machine,
      MachineSpec spec,
      int batches,
      boolean risky) {
    this.simulation = simulation;
    this.time = simulation.time();
    this.random = time.random();
    this.machine = machine;
    this.spec = spec;
    this.batches = batches;
    this.risky = risky;
    states.add(0L);
    kinds.add(Kind.NOTHING);
  }

  // What came of it -----------------------------------------------------------------------------

  /** Whether the program has come to its end, and every question was answered. */
  boolean isDone() {
    return closed && unanswered == 0;
  }

  /** The error with which the session ended; null if it was not lost. */
  RemoraException lost() {
    return lost;
  }

  /** The last batch whose answer the program has. */
  int executed() {
    return executed;
  }

  /** What is wrong at the end; null if nothing is. */
  String complaint() {
    if (lost == null && executed != batches) {
      return "%d of %d batches were executed".formatted(executed, batches);
    }
    if (released != made) {
      return "%d of %d batches were released".formatted(released, made);
    }
    return null;
  }

  @Override
  public String toString() {
    return "program: session %d, %d submitted, %d executed, waits for %d, %d unanswered%s%s"
        .formatted(
            session,
            made,
            executed,
            awaited,
            unanswered,
            closing ? ", closing" : "",
            lost == null ? "" : ", lost: " + lost.getMessage());
  }

  // Opening -------------------------------------------------------------------------------------

  void start() {
    ask(
        MachineInfo.class,
        to -> new MachineProtocol.Open(spec, to),
        (info, failure) -> {
          if (failure == null) {
            openSession();
          } else {
            later(Duration.ofSeconds(90), this::start);
          }
        });
  }

  private void openSession() {
    ask(
        MachineProtocol.SessionOpened.class,
        MachineProtocol.OpenSession::new,
        (opened, failure) -> {
          if (failure != null && failure.getMessage().contains("is FAILED")) {
            lost = new NodeLostException(failure.getMessage());
            closeMachine();
            return;
          }
          if (failure != null) {
            later(Duration.ofSeconds(1), this::openSession);
            return;
          }
          session = opened.session();
          try {
            sink = LocalSessions.get(simulation.system()).attach(session, this);
          } catch (RemoraException e) {
            lost = e;
          }
          soon();
        });
  }

  private <T> void ask(
      Class<T> of,
      Function<ActorRef<StatusReply<T>>, MachineProtocol.Command> question,
      BiConsumer<T, Throwable> then) {
    this.<StatusReply<T>>question(
        question,
        reply -> {
          simulation.note(
              reply.isSuccess()
                  ? "answered: " + of.getSimpleName()
                  : "refused: %s: %s".formatted(of.getSimpleName(), reply.getError().getMessage()));
          if (reply.isSuccess()) {
            then.accept(reply.getValue(), null);
          } else {
            then.accept(null, reply.getError());
          }
        });
  }

  /** Asks the machine. Each question must be answered once, in time. */
  private <R> void question(
      Function<ActorRef<R>, MachineProtocol.Command> question, Consumer<R> then) {
    unanswered++;
    SimulatedTime.Timer limit =
        time.after(
            REPLY_LIMIT,
            () -> simulation.fail("a question was not answered within " + REPLY_LIMIT, null));
    ActorRef<R> asker =
        simulation
            .system()
            .systemActorOf(
                Behaviors.receiveMessage(
                    reply -> {
                      boolean unused = limit.cancel();
                      unanswered--;
                      then.accept(reply);
                      return Behaviors.stopped();
                    }),
                "asker-" + simulation.nextName(),
                Props.empty());
    MachineProtocol.Command command = question.apply(asker);
    simulation.note("asks: " + command.getClass().getSimpleName());
    machine.tell(command);
  }

  private void later(Duration delay, Runnable action) {
    SimulatedTime.Timer unused = time.after(delay, action);
  }

  private void soon() {
    time.execute(this::work);
  }

  // Working -------------------------------------------------------------------------------------

  private void work() {
    if (lost != null) {
      closeMachine();
      return;
    }
    if (made == batches) {
      if (executed < batches) {
        awaited = batches;
      } else {
        checkStorages();
      }
      return;
    }
    switch (random.nextInt(40)) {
      case 0 -> pause();
      case 1 -> resume();
      case 2 -> {
        later(time.upTo(Duration.ofMinutes(20)), this::work);
        return;
      }
      case 3, 4, 5, 6 -> {
        later(time.upTo(Duration.ofSeconds(20)), this::work);
        return;
      }
      case 7, 8, 9 -> {
        awaited = lastWork;
        if (awaited <= executed) {
          soon();
        }
        return;
      }
      case 10 -> describe();
      default -> {
        if (!submit()) {
          later(Duration.ofMillis(100), this::work);
          return;
        }
      }
    }
    soon();
  }

  private boolean submit() {
    int sequence = made + 1;
    Kind kind = Kind.ALL.get(random.nextInt(Kind.ALL.size() - (risky ? 0 : 1)));
    int size = SimulatedExecutor.KIND_AT + 1 + random.nextInt(random.nextInt(4) == 0 ? 900 : 60);
    boolean onlyFrees = random.nextInt(12) == 0 && sequence < batches;
    ByteBuffer bytes;
    if (onlyFrees) {
      kind = Kind.NOTHING;
      bytes = ByteBuffer.allocate(4).put(3, (byte) 0).put(2, (byte) WireFormat.Records.FREE);
    } else {
      bytes = ByteBuffer.allocate(size);
      random.nextBytes(bytes.array());
      bytes.put(2, (byte) 1).put(SimulatedExecutor.KIND_AT, (byte) Kind.ALL.indexOf(kind));
    }
    if (!sink.hasRoom(bytes.remaining())) {
      return false;
    }
    states.add(SimulatedExecutor.after(states.get(made), bytes));
    kinds.add(kind);
    List<StorageBirth> born =
        kind == Kind.STORAGE ? List.of(new StorageBirth(sequence, 100, 0)) : List.of();
    long[] freed = {};
    if (!storages.isEmpty() && random.nextInt(4) == 0) {
      freed = new long[] {storages.pollFirst()};
    }
    if (kind == Kind.STORAGE) {
      storages.add((long) sequence);
    }
    made++;
    lastWork = onlyFrees ? lastWork : made;
    byte[] memory = bytes.array();
    Batch batch =
        new Batch(sequence, bytes, born, freed, 1 + random.nextInt(3), () -> release(memory));
    try {
      sink.submit(batch);
      simulation.note("submitted %d: %s".formatted(sequence, kind));
    } catch (RemoraException e) {
      if (lost == null) {
        lost = e;
      }
    }
    return true;
  }

  /** The memory of a released batch has other content from now on. */
  private void release(byte[] memory) {
    released++;
    java.util.Arrays.fill(memory, (byte) 0x77);
  }

  private void pause() {
    ask(MachineInfo.class, MachineProtocol.Pause::new, (info, failure) -> {});
  }

  private void resume() {
    ask(MachineInfo.class, MachineProtocol.Resume::new, (info, failure) -> {});
  }

  private void describe() {
    if (!storages.isEmpty()) {
      long storage = storages.first();
      boolean isThere = storage <= executed;
      ask(
          StorageInfo.class,
          to -> new MachineProtocol.GetStorage(session, storage, to),
          (info, failure) -> {
            if (failure != null && isThere && storages.contains(storage) && lost == null) {
              simulation.fail("storage %d is unknown".formatted(storage), failure);
            }
          });
    }
  }

  /** Everything is executed: the machine knows the storages that are left. */
  private void checkStorages() {
    question(
        MachineProtocol.GetState::new,
        (MachineInfo info) -> {
          if (lost == null && info.liveStorages() != storages.size()) {
            simulation.fail(
                "the machine knows %d storages, the program has %s"
                    .formatted(info.liveStorages(), storages),
                null);
          }
          closeSession();
        });
  }

  private void closeSession() {
    if (closing) {
      return;
    }
    closing = true;
    ask(
        Done.class,
        to -> new MachineProtocol.CloseSession(session, to),
        (done, failure) -> {
          if (lost == null && failure instanceof NodeLostException cause) {
            lost = cause;
          }
          closeMachine();
        });
    if (random.nextInt(6) == 0) {
      simulation.fault(RecoverySimulation.Fault.KILL);
    }
  }

  private void closeMachine() {
    if (endsMachine) {
      return;
    }
    endsMachine = true;
    closing = true;
    ask(
        Done.class,
        MachineProtocol.Close::new,
        (done, failure) -> {
          if (failure != null) {
            simulation.fail("the machine was not closed", failure);
          }
          closed = true;
        });
  }

  // Answers -------------------------------------------------------------------------------------

  @Override
  public void onExecuted(long sequence, ByteBuffer report) {
    if (sequence != executed + 1) {
      simulation.fail("batch %d was answered after batch %d".formatted(sequence, executed), null);
    }
    if (simulation.hasDiffered()) {
      simulation.fail("batch %d was answered by a node that differs".formatted(sequence), null);
    }
    long state = states.get((int) sequence);
    Kind kind = kinds.get((int) sequence);
    ByteBuffer right = ByteBuffer.wrap(SimulatedExecutor.report(kind, sequence, state));
    if (!right.equals(report.duplicate().order(ByteOrder.BIG_ENDIAN))) {
      simulation.fail("batch %d (%s) got a wrong answer".formatted(sequence, kind), null);
    }
    if (largeReceived != (kind == Kind.LARGE_VALUE ? SimulatedExecutor.LARGE_BYTES : 0)) {
      simulation.fail(
          "batch %d (%s) got %d bytes of a value".formatted(sequence, kind, largeReceived), null);
    }
    for (int i = 0; i < largeReceived; i++) {
      if (large.get(i) != SimulatedExecutor.large(state, i)) {
        simulation.fail("batch %d got a wrong value at %d".formatted(sequence, i), null);
      }
    }
    largeReceived = 0;
    executed++;
    simulation.note("executed " + sequence);
    if (awaited == executed) {
      soon();
    }
  }

  @Override
  public ByteBuffer valueDestination(long request, long offset, int length) {
    if (lost != null) {
      return null;
    }
    if (request != executed + 1 || kinds.get((int) request) != Kind.LARGE_VALUE) {
      simulation.fail("bytes of value %d came after batch %d".formatted(request, executed), null);
    }
    return large.slice((int) offset, length);
  }

  @Override
  public void onValueReceived(long request, long offset, int length) {
    if (lost == null && offset != largeReceived) {
      simulation.fail("bytes at %d came after %d".formatted(offset, largeReceived), null);
    }
    largeReceived += length;
  }

  @Override
  public void onLost(RemoraException cause) {
    if (closing && !(cause instanceof NodeLostException)) {
      return; // the session was closed
    }
    simulation.note("lost: " + cause.getMessage());
    lost = cause;
    if (sink != null && !closing) {
      soon();
    }
  }
}
