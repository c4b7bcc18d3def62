// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import akka.actor.BootstrapSetup;
import akka.actor.setup.ActorSystemSetup;
import akka.actor.typed.ActorRef;
import akka.actor.typed.ActorSystem;
import akka.actor.typed.Props;
import akka.actor.typed.javadsl.Adapter;
import akka.actor.typed.javadsl.Behaviors;
import ch.qos.logback.classic.Level;
import ch.qos.logback.classic.Logger;
import ch.qos.logback.classic.spi.ILoggingEvent;
import ch.qos.logback.core.AppenderBase;
import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.ActorsSettings;
import io.remora.actors.ActorsSetup;
import io.remora.actors.MachineActor;
import io.remora.actors.link.LinkLine;
import io.remora.actors.link.LinkSettings;
import io.remora.actors.link.LinkTls;
import io.remora.actors.link.SimulatedConnection;
import io.remora.actors.machine.MachineProtocol;
import io.remora.provider.MachineSpec;
import io.remora.provider.ProvisionedNode;
import io.remora.runtime.ProviderException;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.time.Duration;
import java.util.ArrayList;
import java.util.EnumMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import org.slf4j.LoggerFactory;

/**
 * A machine with recovery, its link, its nodes and its program, in one thread, with faults at any
 * step. The actors, the link's states, the sessions and the checkpoints are the real ones. Time,
 * the network, the provider, the store and what executes batches are simulated. A seed decides
 * everything, so that the same seed does the same again.
 */
final class RecoverySimulation implements SimulatedConnection.World, AutoCloseable {

  /** What can go wrong. */
  enum Fault {
    /** The line is cut. */
    CUT,
    /** One direction of the line delivers nothing for some time. */
    STALL,
    /** The node is killed. */
    KILL,
    /** The node ends as by SIGTERM. */
    END,
    /** The next node to execute a batch is killed before it does. */
    KILL_AT_BATCH,
    /** The next node to write a state is killed before it has. */
    KILL_AT_SAVE,
    /** The next state is not written. */
    FAIL_SAVE,
    /** A batch that is executed again gives another answer than before. */
    DIFFER,
    /** The next state that is read is damaged. */
    DAMAGE,
    /** The provider gives no node the next time. */
    REFUSE_NODE,
    /** The provider needs minutes for the next node. */
    SLOW_NODE,
    /** The next attempt to dial fails. */
    REFUSE_LINE
  }

  /** A rule was broken. */
  static final class Broken extends AssertionError {

    private static final long serialVersionUID = 1;

    Broken(String message, Throwable cause) {
      super(message, cause);
    }
  }

  /** What a schedule has come to. */
  record Outcome(
      long steps, Duration time, int recoveries, int faults, int replayed, boolean lost) {}

  /** A node has answered a batch in another way than the program knows. */
  private record Difference(SimulatedNode node, long batch) {}

  private static final List<Fault> FAULTS = List.of(Fault.values());
  private static final int MOST_STEPS = 200_000;
  private static final Duration LONGEST = Duration.ofHours(12);

  private static final Config CONFIG =
      ConfigFactory.parseString(
              """
              akka {
                loggers = ["akka.event.Logging$StandardOutLogger"]
                use-slf4j = off
                library-extensions = []
                loglevel = "OFF"
                stdout-loglevel = "OFF"
                log-dead-letters = off
                daemonic = on
                jvm-shutdown-hooks = off
                coordinated-shutdown.run-by-jvm-shutdown-hook = off
                coordinated-shutdown.run-by-actor-system-terminate = off
                actor.provider = local
                scheduler.implementation = "io.remora.node.SimulatedTime$Scheduling"
                actor.default-dispatcher = ${simulated}
                actor.internal-dispatcher = ${simulated}
                actor.default-blocking-io-dispatcher = ${simulated}
              }
              simulated {
                type = Dispatcher
                executor = "io.remora.node.SimulatedTime$Dispatching"
                throughput = 1
              }
              remora {
                node.session-dispatcher = ${simulated}
                node.remote-functions = off
                state.store = simulated
                link.redial.random-factor = 0
                link.chunk-bytes = 1 KiB
              }
              """)
          .withFallback(ConfigFactory.load())
          .resolve();

  private final boolean mirror;
  private final SimulatedTime time = new SimulatedTime();
  private final SimulatedStore store = new SimulatedStore();
  private final NodeSettings nodeSettings = NodeSettings.from(CONFIG);
  private final LinkSettings linkSettings = LinkSettings.from(CONFIG);
  private final ActorSystem<Void> system;
  private final Logger logger = (Logger) LoggerFactory.getLogger("io.remora");
  private final Level level = logger.getLevel();
  private int names;

  // Of one schedule.
  private final List<SimulatedNode> nodes = new ArrayList<>();
  private final Map<Fault, Integer> due = new EnumMap<>(Fault.class);
  private final Map<Fault, Integer> happened = new EnumMap<>(Fault.class);
  private List<String> trace;
  private long fingerprint;
  private int executions;
  private boolean damagedPause;
  private SimulatedProgram program;
  private final Set<Difference> differences = new HashSet<>();
  private boolean differed;
  private Broken broken;

  RecoverySimulation() {
    this(false);
  }

  /**
   * @param mirror whether the machines have a standby
   */
  RecoverySimulation(boolean mirror) {
    this.mirror = mirror;
    logger.setLevel(Level.OFF);
    SimulatedProvider.use(this);
    system =
        ActorSystem.create(
            Behaviors.empty(),
            "simulation",
            ActorSystemSetup.create(
                BootstrapSetup.create(CONFIG), new ActorsSetup(this::dial, time::nanos)));
    while (!time.isQuiet()) {
      boolean unused = time.step();
    }
  }

  // One schedule --------------------------------------------------------------------------------

  /**
   * Runs the schedule of this seed.
   *
   * @param into receives what happens; null to keep nothing
   * @throws Broken if a rule is broken
   */
  Outcome run(long seed, List<String> into) {
    time.restart(seed);
    nodes.clear();
    due.clear();
    happened.clear();
    trace = into;
    fingerprint = 0;
    executions = 0;
    damagedPause = false;
    differences.clear();
    differed = false;
    broken = null;
    Random random = time.random();
    int batches = 5 + random.nextInt(60);
    boolean risky = random.nextInt(8) == 0;
    int logBytes = random.nextInt(4) == 0 ? 3000 : 1_000_000;
    int faultsLeft = random.nextInt(7);
    int faultEvery = 20 + random.nextInt(600);
    String settings =
        """
        remora.recovery {
          mode = replay
          mirror = %s
          checkpoint-interval = %d s
          checkpoint-bytes = %d
          log-bytes = %d
        }
        remora.machine.idle-timeout = "%s"
        """
            .formatted(
                mirror,
                5 + random.nextInt(60),
                200 + random.nextInt(2000),
                logBytes,
                random.nextInt(3) == 0 ? "60s" : "off");
    String name = "m" + nextName();
    MachineSpec spec =
        new MachineSpec(name, "simulated", null, 1, null, Duration.ofMinutes(5), settings);
    Config configuration = spec.configuration(CONFIG);
    ActorRef<MachineProtocol.Command> machine =
        system.systemActorOf(
            MachineActor.create(name, ActorsSettings.from(configuration)), name, Props.empty());
    program = new SimulatedProgram(this, machine, spec, batches, risky);
    time.execute(program::start);
    long begin = time.nanos();
    while (!program.isDone()) {
      if (faultsLeft > 0 && time.oneIn(faultEvery)) {
        faultsLeft--;
        fault(FAULTS.get(random.nextInt(FAULTS.size())));
      }
      step(program, begin);
    }
    if (differed && program.lost() == null && !mirror) { // else the standby was given up
      throw failure("the program did not hear of another answer to one of " + differences, null);
    }
    if (program.lost() != null && !isExcused(program.lost().getMessage(), risky, logBytes)) {
      throw failure("the session was lost without need", program.lost());
    }
    checkNothingIsLeft(machine, program, begin);
    String complaint = program.complaint();
    if (complaint != null) {
      throw failure(complaint, null);
    }
    Duration took = Duration.ofNanos(time.nanos() - begin);
    return new Outcome(
        time.steps(),
        took,
        Math.max(0, nodes.size() - 1),
        happened.values().stream().mapToInt(Integer::intValue).sum(),
        Math.max(0, executions - batches),
        program.lost() != null);
  }

  private void step(SimulatedProgram program, long begin) {
    boolean any;
    try {
      any = time.step();
    } catch (Broken e) {
      throw e;
    } catch (RuntimeException | Error e) {
      throw failure("a step failed", e);
    }
    if (broken != null) {
      throw broken;
    }
    if (!any) {
      throw failure("nothing happens any more: " + program, null);
    }
    if (time.steps() > MOST_STEPS || time.nanos() - begin > LONGEST.toNanos()) {
      throw failure(
          "no end after %d steps and %s: %s"
              .formatted(time.steps(), Duration.ofNanos(time.nanos() - begin), program),
          null);
    }
  }

  /** Whether the documentation says that a session can be lost like this. */
  private boolean isExcused(String message, boolean risky, int logBytes) {
    int damaged = happened.getOrDefault(Fault.DAMAGE, 0);
    boolean shortLog = logBytes < 10_000;
    return (message.contains("gave another answer") && differed)
        || (message.contains("cannot be repeated") && risky)
        || (message.contains("are not kept any more")
            && shortLog
            && happened.containsKey(Fault.FAIL_SAVE))
        || (message.contains("is damaged") && (damagedPause || damaged > 1 || shortLog || risky))
        || (message.contains("remora.recovery.give-up-after")
            && (happened.containsKey(Fault.SLOW_NODE) || happened.containsKey(Fault.REFUSE_NODE)));
  }

  /** Whether a node answers this batch, of which the program has the answer, in another way. */
  boolean differs(SimulatedNode node, long sequence, SimulatedExecutor.Kind kind) {
    boolean differs =
        sequence <= program.executed()
            && (kind == SimulatedExecutor.Kind.VALUE || kind == SimulatedExecutor.Kind.OUTPUTS)
            && isDue(Fault.DIFFER);
    if (differs) {
      note("batch %d differs".formatted(sequence));
      differences.add(new Difference(node, sequence));
    }
    return differs;
  }

  @Override
  public void acknowledged(SimulatedConnection by, long sequence) {
    differed |=
        differences.stream()
            .anyMatch(each -> each.batch == sequence && each.node.connections().contains(by));
  }

  /**
   * Whether the machine's node, which is not a standby, has given another answer than the program
   * knows.
   */
  boolean hasDiffered() {
    return differed && !mirror;
  }

  /** The state of a pause is damaged, which loses the session. */
  void damagedPause() {
    damagedPause = true;
  }

  private void checkNothingIsLeft(
      ActorRef<MachineProtocol.Command> machine, SimulatedProgram program, long begin) {
    stop(machine);
    long end = time.nanos() + Duration.ofMinutes(30).toNanos();
    while (!time.isQuiet() && time.nanos() < end) {
      step(program, begin);
    }
    for (SimulatedNode node : nodes) {
      if (node.isAlive() || !node.isTerminated()) {
        throw failure("the provider was not told to end the " + node.description(), null);
      }
      stop(node.actor());
    }
    while (!time.isQuiet() && time.nanos() < end) {
      step(program, begin);
    }
    if (!time.isQuiet()) {
      throw failure("something still ticks", null);
    }
    if (!Adapter.toClassic(machine).isTerminated()
        || nodes.stream().anyMatch(node -> !Adapter.toClassic(node.actor()).isTerminated())) {
      throw failure("an actor is left", null);
    }
    if (!store.keys().isEmpty()) {
      String left = store.keys().toString();
      store.clear();
      throw failure("the store still has " + left, null);
    }
  }

  private void stop(ActorRef<?> actor) {
    Adapter.toClassic(system).stop(Adapter.toClassic(actor));
  }

  // Faults --------------------------------------------------------------------------------------

  /** Makes something go wrong, which happens now or later. */
  void fault(Fault fault) {
    Random random = time.random();
    List<SimulatedNode> alive = nodes.stream().filter(SimulatedNode::isAlive).toList();
    SimulatedNode node = alive.isEmpty() ? null : alive.get(random.nextInt(alive.size()));
    List<SimulatedConnection> lines = node == null ? List.of() : node.connections();
    SimulatedConnection line = lines.isEmpty() ? null : lines.get(lines.size() - 1);
    note("fault: " + fault);
    switch (fault) {
      case CUT -> {
        if (line != null) {
          line.cut(linkSettings.heartbeatTimeout());
        }
      }
      case STALL -> {
        if (line != null) {
          line.stall(time.upTo(Duration.ofMinutes(2)), linkSettings.heartbeatTimeout());
        }
      }
      case KILL -> {
        if (node != null) {
          node.kill("killed");
        }
      }
      case END -> {
        if (node != null) {
          node.endGently();
        }
      }
      case FAIL_SAVE, REFUSE_NODE, REFUSE_LINE ->
          due.merge(fault, 1 + random.nextInt(3), Integer::sum);
      default -> due.merge(fault, 1, Integer::sum);
    }
    happened.merge(fault, 1, Integer::sum);
  }

  /** Whether this fault is to happen now, which uses it up. */
  boolean isDue(Fault fault) {
    int left = due.getOrDefault(fault, 0);
    due.put(fault, Math.max(0, left - 1));
    return left > 0;
  }

  // The world -----------------------------------------------------------------------------------

  private LinkLine dial(InetSocketAddress address, Duration timeout, LinkTls tls)
      throws IOException {
    if (isDue(Fault.REFUSE_LINE)) {
      throw new IOException("no route to host");
    }
    return nodes.get(address.getPort() - 1).dialled();
  }

  /** The provider's answer. */
  CompletionStage<ProvisionedNode> provision() {
    CompletableFuture<ProvisionedNode> answer = new CompletableFuture<>();
    Duration wait =
        isDue(Fault.SLOW_NODE)
            ? Duration.ofSeconds(200 + time.random().nextInt(200))
            : time.upTo(Duration.ofSeconds(60));
    boolean refused = isDue(Fault.REFUSE_NODE);
    SimulatedTime.Timer unused =
        time.after(
            wait,
            () -> {
              if (refused) {
                note("no node");
                answer.completeExceptionally(new ProviderException("no machine is free"));
              } else {
                SimulatedNode node = new SimulatedNode(this, nodes.size() + 1);
                nodes.add(node);
                note("node %d starts".formatted(nodes.size()));
                answer.complete(node);
              }
            });
    return answer;
  }

  /** A batch was executed. */
  void executed() {
    executions++;
  }

  SimulatedTime time() {
    return time;
  }

  SimulatedStore store() {
    return store;
  }

  ActorSystem<?> system() {
    return system;
  }

  NodeSettings nodeSettings() {
    return nodeSettings;
  }

  LinkSettings linkSettings() {
    return linkSettings;
  }

  int nextName() {
    return ++names;
  }

  @Override
  public void soon(Runnable task) {
    time.execute(task);
  }

  @Override
  public void after(Duration delay, Runnable task) {
    SimulatedTime.Timer unused = time.after(delay, task);
  }

  @Override
  public int random(int bound) {
    return time.random().nextInt(bound);
  }

  // Notes ---------------------------------------------------------------------------------------

  @Override
  public void note(String text) {
    fingerprint = 31 * fingerprint + text.hashCode() + time.nanos();
    if (trace != null) {
      trace.add("%12.6f %s".formatted(time.nanos() / 1e9, text));
    }
  }

  /** A number that depends on all that has happened. */
  long fingerprint() {
    return fingerprint;
  }

  /** Notes that a rule is broken. The schedule ends after this step. */
  void fail(String how, Throwable cause) {
    if (broken == null) {
      broken = failure(how, cause);
    }
  }

  private Broken failure(String how, Throwable cause) {
    note("BROKEN: " + how);
    return new Broken(how, cause);
  }

  /** Adds what the code under test logs to the trace, while {@code action} runs. */
  void withLog(Runnable action) {
    AppenderBase<ILoggingEvent> appender =
        new AppenderBase<>() {
          @Override
          protected void append(ILoggingEvent event) {
            if (trace != null) {
              trace.add("%12.6f    %s".formatted(time.nanos() / 1e9, event.getFormattedMessage()));
            }
          }
        };
    appender.start();
    logger.addAppender(appender);
    logger.setAdditive(false);
    logger.setLevel(Level.INFO);
    try {
      action.run();
    } finally {
      logger.setLevel(Level.OFF);
      logger.setAdditive(true);
      logger.detachAppender(appender);
    }
  }

  /** Ends the actor system. What a broken schedule has left fails, and nobody needs it. */
  @Override
  public void close() {
    system.terminate();
    boolean more = true;
    for (int steps = 0; more && steps < MOST_STEPS; steps++) {
      try {
        more = time.step() && !system.getWhenTerminated().toCompletableFuture().isDone();
      } catch (RuntimeException | Error e) {
        note("after the end: " + e);
      }
    }
    logger.setLevel(level);
    store.close();
  }
}
