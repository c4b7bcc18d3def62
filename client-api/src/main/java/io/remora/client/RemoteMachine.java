// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import akka.actor.typed.ActorSystem;
import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigRenderOptions;
import com.typesafe.config.ConfigValueFactory;
import io.remora.actors.MachineInfo;
import io.remora.actors.MachineState;
import io.remora.actors.RecoverySettings;
import io.remora.actors.RemoraCluster;
import io.remora.actors.StorageInfo;
import io.remora.progress.Activities;
import io.remora.progress.Activity;
import io.remora.progress.Progress;
import io.remora.provider.GpuType;
import io.remora.provider.MachineSpec;
import io.remora.provider.Preparation;
import io.remora.recording.RecordingSettings;
import io.remora.runtime.DeviceMemory;
import io.remora.runtime.MachineSession;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.MachineTrace;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ProgramClassPath;
import io.remora.runtime.ProgramWait;
import io.remora.runtime.ProviderException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.RemoteEvent;
import io.remora.runtime.RemoteOperationException;
import io.remora.runtime.RestoredException;
import io.remora.runtime.SessionSettings;
import io.remora.runtime.SessionStatistics;
import io.remora.runtime.TorchLibrary;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Optional;
import java.util.SortedMap;
import java.util.UUID;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.Consumer;
import java.util.function.Function;
import java.util.function.LongConsumer;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.Generator;
import org.bytedeco.pytorch.Tensor;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * A machine with GPUs elsewhere. This program uses its devices like local ones.
 *
 * <pre>{@code
 * try (RemoteMachine machine = RemoteMachine.open("mock")) {
 *   Tensor a = randn(1000, 1000).to(machine.device(), ScalarType.Float);
 *   Tensor b = a.mm(a).relu().sum();
 *   System.out.println(b.item_float());
 * }
 * }</pre>
 *
 * <p>Operations on a machine's tensors are recorded and sent to the machine. The calling thread
 * waits only when it reads a value ({@code item}, {@code cpu}, printing) and in {@link
 * #synchronize()} and {@link #close()}. Errors in shapes, dtypes and devices are thrown at the
 * call. When an operation fails on the machine, reading any value computed from it throws the
 * error. If no such value is read, the next {@code synchronize()} or {@code close()} throws it.
 *
 * <p>A machine that is not needed for a while can be {@linkplain #pause paused}. It pauses by
 * itself after {@link Builder#idleTimeout} without use. Its node ends, and the machine's next use
 * starts another node that continues where the first one stopped.
 *
 * <p>Closing the machine gives it back to its provider; its tensors cannot be used after that. A
 * shutdown hook closes a machine that is still open when the JVM ends, within {@code
 * remora.client.shutdown-timeout} (5 s) at most. Threads that use the machine at that time wait
 * until the JVM has ended.
 *
 * <p>All methods may be called from any thread. Every error is a {@link RemoraException} or, for
 * arguments out of range, an {@link IllegalArgumentException}.
 */
public final class RemoteMachine implements AutoCloseable {

  private static final Logger log = LoggerFactory.getLogger(RemoteMachine.class);

  /** From this time on the waits are in the log when the machine is closed. */
  private static final Duration NOTABLE_WAITS = Duration.ofSeconds(1);

  private static final int MOST_LOGGED_WAITS = 3;
  private static final AtomicLong numbers = new AtomicLong();

  // Applied while remote execution is disabled: the machine's node runs in this process.
  private static final String LOCAL_PROVIDER = "mock";
  private static final String DRY_RUN_PROVIDER = "estimate";
  private static final Config LOCAL_EXECUTION =
      ConfigFactory.parseString("remora.provider.mock.mode = in-jvm");

  private final MachineSpec spec;
  private final ClientSettings settings;
  private final MachineHost host;
  private final MachineSession session;
  private final MachineProgress progress;
  // Whether the machine stays open after this program has closed it.
  private final boolean kept;
  private final ReentrantLock closing = new ReentrantLock();
  private volatile boolean closed;
  private volatile SessionStatistics lastStatistics;
  private volatile List<ProgramWait> lastWaits;
  private volatile Estimate lastEstimate;

  private RemoteMachine(
      MachineSpec spec,
      ClientSettings settings,
      MachineHost host,
      MachineSession session,
      MachineProgress progress,
      boolean kept) {
    this.spec = spec;
    this.settings = settings;
    this.host = host;
    this.session = session;
    this.progress = progress;
    this.kept = kept;
  }

  /**
   * Opens a machine of this provider, with one GPU of the provider's choice and all defaults.
   * Returns when the machine is ready for use.
   *
   * @param provider name of a provider on the class path, such as {@code "mock"}
   * @throws ProviderException when there is no such provider or it cannot give a machine; its
   *     subclasses tell refused credentials, missing resources and a limit that ran out
   */
  public static RemoteMachine open(String provider) {
    return builder().provider(provider).open();
  }

  /**
   * Opens a session of this program on a machine that another program of the cluster has opened.
   * The session has its own tensors, seeds and errors, and shares the machine's devices. {@link
   * #close()} ends the session and leaves the machine open for the others; {@link #stop()} gives it
   * back to its provider. Data goes directly to the machine's node, which must be reachable from
   * this program.
   *
   * @param system this program's member of the cluster; see {@link Builder#system}
   * @throws MachineStateException when no machine of this name is open in the cluster
   */
  public static RemoteMachine attach(ActorSystem<?> system, String name) {
    return builder().system(system).name(name).attach();
  }

  /** A builder for machines that need more settings than the provider's name. */
  public static Builder builder() {
    return new Builder();
  }

  /** The machine's name, unique among the machines that are open at the same time. */
  public String name() {
    return spec.name();
  }

  /**
   * The machine's first device.
   *
   * @throws MachineStateException when the machine is closed
   */
  public Device device() {
    return device(0);
  }

  /**
   * One of the machine's devices.
   *
   * @param index 0 to {@link #deviceCount()} - 1
   * @throws IllegalArgumentException when there is no such device
   * @throws MachineStateException when the machine is closed
   */
  public Device device(int index) {
    requireOpen();
    if (index < 0 || index >= deviceCount()) {
      throw new IllegalArgumentException(
          "Machine %s has devices 0 to %d, not %d".formatted(name(), deviceCount() - 1, index));
    }
    return session.device(index);
  }

  /** How many devices the machine has; also known after {@link #close()}. */
  public int deviceCount() {
    return session.deviceCount();
  }

  /**
   * Waits until everything recorded so far has been executed.
   *
   * @throws RemoteOperationException the first failure of an operation whose result has not been
   *     read
   * @throws NodeLostException when the machine is gone
   * @throws MachineStateException when the machine is closed
   */
  public void synchronize() {
    requireOpen();
    session.synchronize();
  }

  /**
   * Marks that a step of the program is complete: a place to which the program can go back. Returns
   * at once. For machines with {@code remora.recovery.mode = checkpoint}; with another mode nothing
   * follows from it.
   *
   * <p>The node makes a checkpoint of exactly what was recorded before the call, at most one in
   * {@code remora.recovery.checkpoint-interval}, so a program may call this after each step. When
   * the node is lost, another one restores the last checkpoint, and the reads that wait, or else
   * the next use of the machine, throw a {@link RestoredException} with its step.
   *
   * @param step any number; it means something to the program only
   * @throws RestoredException when the machine was restored and the program does not know it yet
   * @throws NodeLostException when the machine is gone
   * @throws MachineStateException when the machine is closed
   */
  public void checkpoint(long step) {
    requireOpen();
    session.checkpoint(step);
  }

  /**
   * Starts reading a tensor and returns at once.
   *
   * @param remote a tensor on one of this machine's devices
   * @return a stage with the same values in a CPU tensor, which the caller closes, or with the
   *     error that a blocking read would have thrown. Dependent stages run on the thread that
   *     completes reads, which is not the thread that receives from the machine. Run work that
   *     takes long, or that reads from a machine, on an executor
   * @throws MachineStateException when the machine is closed
   * @throws IllegalArgumentException when the tensor is not on this machine
   */
  public CompletionStage<Tensor> read(Tensor remote) {
    requireOpen();
    requireOwn(remote);
    return session.read(remote);
  }

  /** {@link #loadStateDicts(String, LoadOptions)} with {@link LoadOptions#defaults()}. */
  public Map<String, Map<String, Tensor>> loadStateDicts(String source) {
    return loadStateDicts(source, LoadOptions.defaults());
  }

  /**
   * Makes the node load a model's weights onto one of its devices. The weights do not pass through
   * this program. The node fetches files that are not in its cache from the hub; the program's
   * other threads can use the machine meanwhile. Tensors that share memory in the files share it on
   * the device.
   *
   * @param source a repository on the hub, {@code owner/name}, or a folder or file on the node's
   *     disk. The node must allow the folder ({@code remora.node.models.directories}), and the path
   *     must begin with {@code /}, {@code ./} or {@code ../}
   * @return for each of the model's directories that has weights, the tensors by name; "" is the
   *     model's own directory. The caller closes the tensors. Names of tied weights have the same
   *     tensor
   * @throws io.remora.models.ModelException when there is no such model, or the node may not or
   *     cannot load it; subclasses stand for missing and gated repositories, damaged files, and
   *     disks and devices without enough room
   * @throws RemoraException when the time limit passes or the thread is interrupted; the node then
   *     stops loading
   */
  public Map<String, Map<String, Tensor>> loadStateDicts(String source, LoadOptions options) {
    requireOpen();
    return new MachineModels(name(), session).load(source, options);
  }

  /**
   * Writes tensors of this machine to a safetensors file on this computer, one after the other. The
   * file replaces an older one of its name only when it is complete. A tensor that appears under
   * several names is written once. The file's metadata lists the other names, as safetensors' own
   * library does, and loading restores them.
   *
   * @param stateDict the tensors by name
   * @param metadata further entries for the file's metadata; may be empty. {@code format} defaults
   *     to {@code pt}
   * @throws io.remora.models.ModelException when the file cannot be written, or the format does not
   *     support a dtype
   * @throws IllegalArgumentException when a tensor is not on this machine
   */
  public void save(Map<String, Tensor> stateDict, Path file, Map<String, String> metadata) {
    requireOpen();
    stateDict.values().forEach(this::requireOwn);
    new MachineModels(name(), session).save(stateDict, file, metadata);
  }

  /**
   * Like {@link #save}, but writes to the node's disk. No tensor passes through this program.
   *
   * @param path absolute, ending with {@code .safetensors}, in a folder that the node allows
   *     ({@code remora.node.models.save-directories})
   */
  public void saveOnNode(Map<String, Tensor> stateDict, String path, Map<String, String> metadata) {
    requireOpen();
    stateDict.values().forEach(this::requireOwn);
    new MachineModels(name(), session).saveOnNode(stateDict, path, metadata);
  }

  /** {@link #keep(String, Map, Map, Duration)} for a day and without metadata. */
  public KeptTensors.Version keep(String name, Map<String, Tensor> tensors) {
    return keep(name, tensors, Map.of(), KeptTensors.DEFAULT_LEASE);
  }

  /**
   * Keeps the present values of tensors on the machine under a name. They replace what was kept
   * under it before, as a whole. They stay when this program ends or is killed, when the machine is
   * paused, closed or moves, and when its node is lost: the node writes them to its state store
   * ({@code remora.state}). Any program with a machine of this name gets them by {@link
   * #kept(String)}, from Java, Kotlin or Python. No value passes through the program.
   *
   * <p>Returns when the values are stored. The node executes nothing else of this program
   * meanwhile.
   *
   * @param name 1 to 64 letters, digits, {@code -} and {@code _}; other machines have names of
   *     their own
   * @param tensors by name, on this machine. A tensor under several names is kept once
   * @param metadata texts to keep with them, such as the step of a training
   * @param lease for so long they are kept, from now on; at least a second
   * @return what is kept now
   * @throws io.remora.models.ModelException when they cannot be kept, because the store has no room
   *     or safetensors does not support a dtype. What was kept before is kept still
   * @throws IllegalArgumentException when a tensor is not on this machine, or the lease is shorter
   *     than a second
   */
  public KeptTensors.Version keep(
      String name, Map<String, Tensor> tensors, Map<String, String> metadata, Duration lease) {
    requireOpen();
    tensors.values().forEach(this::requireOwn);
    return new MachineModels(name(), session).keep(name, tensors, metadata, lease);
  }

  /** {@link #kept(String, int)} on the machine's first device. */
  public Optional<KeptTensors> kept(String name) {
    return kept(name, 0);
  }

  /**
   * The tensors that this or another program has kept under a name, in new memory of a device. They
   * are kept further, until they are replaced or dropped, or their lease is over.
   *
   * @param device 0 to {@link #deviceCount()} - 1
   * @return nothing when nothing is kept under this name
   * @throws io.remora.models.ModelException when they cannot be read
   */
  public Optional<KeptTensors> kept(String name, int device) {
    requireOpen();
    return new MachineModels(name(), session).kept(name, device);
  }

  /** What is kept for machines of this name, sorted by name. */
  public List<KeptTensors.Version> kept() {
    requireOpen();
    return new MachineModels(name(), session).kept();
  }

  /**
   * Deletes what is kept under a name.
   *
   * @return whether something was
   */
  public boolean dropKept(String name) {
    requireOpen();
    return new MachineModels(name(), session).dropKept(name);
  }

  /** The machine's state; {@link MachineState#STOPPED} once closed. */
  public MachineState state() {
    return closed ? MachineState.STOPPED : info().state();
  }

  /**
   * The machine's state, devices and libtorch, as its actor knows them.
   *
   * @throws MachineStateException when the machine is closed
   */
  public MachineInfo info() {
    requireOpen();
    return host.info();
  }

  /**
   * What the machine's actor knows about a tensor's storage: whether the machine holds memory for
   * it, and how much.
   *
   * @throws IllegalArgumentException when the tensor is not on this machine
   * @throws MachineStateException when the machine is closed
   */
  public StorageInfo storage(Tensor tensor) {
    requireOpen();
    requireOwn(tensor);
    return host.storage(Remora.storageId(tensor));
  }

  /**
   * The memory of one of the machine's devices, as the node counts it.
   *
   * @param device 0 to {@link #deviceCount()} - 1
   * @throws IllegalArgumentException when there is no such device
   */
  public DeviceMemory memory(int device) {
    requireOpen();
    return session.memory(device);
  }

  /** Resets the peak figures of {@link #memory}. */
  public void resetPeakMemory(int device) {
    requireOpen();
    session.resetPeakMemory(device);
  }

  /** Makes the node return memory that it keeps for reuse to the device. */
  public void emptyCache(int device) {
    requireOpen();
    session.emptyCache(device);
  }

  /**
   * Marks a place in the machine's operation stream. Use the event to see whether the work before
   * it is done, to wait for that work, and to measure the time between two places on the node. A
   * machine executes its work in order, so a device has one stream, and no other stream waits for
   * an event.
   *
   * @param device the device whose work is marked, 0 to {@link #deviceCount()} - 1
   */
  public RemoteEvent recordEvent(int device) {
    requireOpen();
    return session.recordEvent(device);
  }

  /**
   * The default random generator of a device. Its state is on the node. Seeding it and setting its
   * state happen in order with the operations. It is independent of the program's own generators.
   *
   * @param device 0 to {@link #deviceCount()} - 1
   */
  public Generator generator(int device) {
    requireOpen();
    return session.generator(device);
  }

  /**
   * Seeds the default generators of all devices. A node that computes on the CPU draws the same
   * numbers as the local CPU after {@code torch.manual_seed(seed)}.
   */
  public void manualSeed(long seed) {
    requireOpen();
    for (int device = 0; device < deviceCount(); device++) {
      try (Generator generator = session.generator(device)) {
        generator.set_current_seed(seed);
      }
    }
  }

  /** Operations, batches and bytes of this machine so far; also known after {@link #close()}. */
  public SessionStatistics statistics() {
    SessionStatistics last = lastStatistics;
    return last == null ? session.statistics() : last;
  }

  /**
   * Where this program has waited for the machine so far, the longest wait first; also known after
   * {@link #close()}. The log has the first three lines at the machine's end if the program has
   * waited for a second or more.
   */
  public List<ProgramWait> waits() {
    List<ProgramWait> last = lastWaits;
    return last == null ? session.waits() : last;
  }

  /**
   * What this program has needed of the machine so far, and the GPUs on which it would fit. A
   * machine of provider {@code estimate} finds that without a GPU and without computing; see {@code
   * docs/dry-run.md}. It also prints this on standard error when it is closed, and knows it after
   * that.
   *
   * @throws MachineStateException when the machine is closed, and was not of provider {@code
   *     estimate}
   */
  public Estimate estimate() {
    Estimate last = lastEstimate;
    if (last != null) {
      return last;
    }
    requireOpen();
    return measured();
  }

  private Estimate measured() {
    List<DeviceMemory> devices =
        IntStream.range(0, deviceCount()).mapToObj(session::memory).toList();
    return Estimate.of(session.statistics(), devices);
  }

  /**
   * Writes a timeline of this machine to a file, until the trace or the machine is closed: what the
   * program's threads record and wait for and at which lines, the batches on their way, and what
   * the node executes. Perfetto (ui.perfetto.dev) and Chrome show it.
   *
   * <pre>{@code
   * try (MachineTrace trace = machine.trace(Path.of("run.json"))) {
   *   step();
   * }
   * }</pre>
   *
   * @param file if it exists, a number is added to its name; {@link MachineTrace#file()} tells
   * @throws MachineStateException when the machine is traced already, or is closed
   * @throws RemoraException when the file cannot be created
   */
  public MachineTrace trace(Path file) {
    requireOpen();
    return session.trace(Objects.requireNonNull(file, "file"));
  }

  /**
   * The machine's figures by name: counters and current values, as the machine's actor knows them,
   * including the sessions of other programs. {@code docs/operations.md} lists them. The gateway,
   * Python and Micrometer report the same figures.
   *
   * @throws MachineStateException when the machine is closed
   */
  public SortedMap<String, Double> stats() {
    requireOpen();
    return host.stats();
  }

  /**
   * Pauses the machine. The node executes the recorded work, saves its state to the state store
   * ({@code remora.state}), and ends, so that it costs nothing. The saved state is tensors, random
   * generators and failures that have not been read. Returns when the machine is paused; pausing a
   * paused machine does nothing. Other threads may keep recording while the machine pauses and is
   * paused. Their work is neither lost nor executed twice.
   *
   * <p>The machine's next use resumes it: a read of a value, or recorded work that is sent. If
   * other threads use the machine during {@code pause()}, such work is already waiting when {@code
   * pause()} returns. Releasing tensors does not count as use.
   *
   * @throws MachineStateException when the machine is closed, or when it could not be paused; the
   *     message gives the reason, and the machine continues to run
   * @throws NodeLostException when the node is lost meanwhile
   */
  public void pause() {
    requireOpen();
    session.flush();
    host.pause();
  }

  /**
   * Starts a node for a paused machine and restores the saved state, so that the machine's tensors
   * have their old values. Returns when that is done; resuming a running machine does nothing.
   *
   * @throws ProviderException when the provider cannot start a node; the machine stays paused and
   *     can be resumed later
   * @throws NodeLostException when the saved state is damaged; the machine's tensors are lost
   * @throws MachineStateException when the machine is closed
   */
  public void resume() {
    requireOpen();
    session.setNodeAddress(host.resume(spec).nodeAddress());
  }

  /**
   * Moves the machine to another node of its provider, with the same specification. See {@link
   * #migrate(Migration)}.
   */
  public void migrate() {
    migrate(Migration.toAnotherNode());
  }

  /**
   * Moves the machine to another node: of another provider, with GPUs of another kind, or just
   * another one. Programs that use the machine, this one included, continue; while their tensors
   * are on the way they wait. The other node is started first. Then the node saves its state to the
   * state store ({@code remora.state}), which both nodes must reach, and the other node restores
   * it: tensors, random generators and failures that have not been read. Returns when the former
   * node has ended.
   *
   * <p>Values have the same bits as without a move if both nodes compute them alike; other GPUs may
   * not. A paused machine is resumed first. All sessions of the machine move, also those of other
   * programs.
   *
   * @throws ProviderException when the other node cannot be started, or has other devices; the
   *     machine continues on its node
   * @throws MachineStateException when the machine is closed, or its state could not be saved or
   *     restored; the message gives the reason. The machine continues on its node, or stays paused
   *     if that was lost meanwhile
   * @throws NodeLostException when the node is lost before its state is saved, and the machine does
   *     not recover ({@code remora.recovery})
   * @throws RemoraException when this takes longer than the time limits of opening, pausing and
   *     closing a machine together; the machine goes on moving
   */
  public void migrate(Migration to) {
    requireOpen();
    session.flush();
    Duration start = to.timeout() == null ? spec.openTimeout() : to.timeout();
    session.setNodeAddress(
        host.migrate(
                to,
                start
                    .plus(settings.pauseTimeout())
                    .plus(settings.pauseTimeout())
                    .plus(settings.closeTimeout()))
            .nodeAddress());
  }

  /**
   * Waits until everything recorded has been executed, then gives the machine back to its provider.
   * A paused machine is not resumed; its saved state is deleted. The machine is given back even if
   * an earlier step fails. A second call does nothing. A call while another thread closes the
   * machine returns when that thread is done. A machine that was {@linkplain Builder#keep kept} or
   * {@linkplain #attach attached to} stays open.
   *
   * @throws RemoteOperationException when an operation has failed and its result has not been read
   * @throws NodeLostException when the machine was gone before everything was executed
   * @throws RemoraException when the provider does not take the machine back in time
   */
  @Override
  public void close() {
    close(kept);
  }

  /**
   * Like {@link #close()}, but gives the machine back to its provider even if others may still use
   * it: a machine that was {@linkplain Builder#keep kept} or {@linkplain #attach attached to}.
   */
  public void stop() {
    close(false);
  }

  private void close(boolean leave) {
    closing.lock();
    try {
      if (closed) {
        return;
      }
      closed = true;
      Failure failure = new Failure();
      boolean atRest = isAtRest();
      if (!atRest) {
        failure.keep(session::synchronize);
      }
      if (!atRest && spec.provider().equals(DRY_RUN_PROVIDER)) {
        failure.keep(this::printEstimate);
      }
      lastStatistics = session.statistics();
      lastWaits = session.waits();
      progress.unwatch();
      failure.keep(atRest ? session::closeWithoutWaiting : session::close);
      failure.keep(host::disconnect);
      failure.keep(leave ? host::leave : host::close);
      failure.keep(progress::close);
      failure.keep(host::release);
      OpenMachines.remove(this);
      logWaits();
      failure.rethrow();
      log.info("Machine {} is closed", name());
    } finally {
      closing.unlock();
    }
  }

  private void logWaits() {
    Duration sum = lastWaits.stream().map(ProgramWait::time).reduce(Duration.ZERO, Duration::plus);
    if (sum.compareTo(NOTABLE_WAITS) >= 0) {
      log.info(
          "Machine {}: this program has waited {} s for it: {}",
          name(),
          "%.2f".formatted(sum.toMillis() / 1e3),
          lastWaits.stream()
              .limit(MOST_LOGGED_WAITS)
              .map(ProgramWait::toString)
              .collect(Collectors.joining("; ")));
    }
  }

  private void printEstimate() {
    lastEstimate = measured();
    System.err.printf("Dry run of machine %s%n%s%n", name(), lastEstimate);
  }

  /**
   * Gives the machine back while the JVM ends. Other threads that use the machine wait for the
   * JVM's end, and get no error.
   *
   * @param limit the time limit; pending work gets half of it
   * @throws RuntimeException what {@link #close} throws
   */
  void closeAtExit(Duration limit) {
    closing.lock();
    try {
      if (closed) {
        return;
      }
      Failure failure = new Failure();
      if (!isAtRest()) {
        failure.keep(() -> synchronizeWithin(limit.dividedBy(2)));
      }
      session.endTrace();
      session.hold(limit);
      failure.keep(host::disconnect);
      failure.keep(kept ? host::leave : host::close);
      failure.keep(host::release);
      failure.rethrow();
      log.info("Machine {} is closed", name());
    } finally {
      closing.unlock();
    }
  }

  private void synchronizeWithin(Duration limit) {
    Failure failure = new Failure();
    Thread waiter =
        new Thread(() -> failure.keep(session::synchronize), "remora-synchronize-" + name());
    waiter.setDaemon(true);
    waiter.start();
    try {
      waiter.join(limit.toMillis());
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
    if (waiter.isAlive()) {
      log.info("Machine {} did not finish its recorded work in time; the rest is dropped", name());
    } else {
      failure.rethrow();
    }
  }

  @Override
  public String toString() {
    return "RemoteMachine[" + name() + ", " + deviceCount() + " devices]";
  }

  /** Sets the address at which the nodes of other machines reach this machine's node; for tests. */
  void setNodeAddress(String address) {
    session.setNodeAddress(address);
  }

  /** Whether the machine is paused and no recorded work waits that would resume it. */
  private boolean isAtRest() {
    try {
      session.flush();
      return host.isPaused();
    } catch (RemoraException e) {
      return false; // synchronize() throws the reason
    }
  }

  Duration shutdownTimeout() {
    return settings.shutdownTimeout();
  }

  private void requireOpen() {
    if (closed) {
      throw new MachineStateException(
          "Machine %s is closed: open another one with RemoteMachine.open".formatted(name()));
    }
  }

  private void requireOwn(Tensor tensor) {
    Device device = Objects.requireNonNull(tensor, "tensor").device();
    if (!owns(device)) {
      throw new IllegalArgumentException(
          "The tensor is on %s, not on machine %s".formatted(device.str().getString(), name()));
    }
  }

  boolean owns(Device device) {
    return session.owns(device);
  }

  /** Collects the errors of several steps that all must run. */
  private static final class Failure {
    private RuntimeException first;

    void keep(Runnable step) {
      try {
        step.run();
      } catch (RuntimeException e) {
        if (first == null) {
          first = e;
        } else {
          first.addSuppressed(e);
        }
      }
    }

    void rethrow() {
      if (first instanceof NodeLostException) {
        // Both may be the same object: an exception cannot suppress itself.
        throw Failures.asThrownHere(first, "Closing");
      }
      if (first != null) {
        throw first;
      }
    }
  }

  /**
   * The settings of a machine to open. Not thread-safe. A builder may be reused after {@link
   * #open()} to open another machine, unless a name was set.
   */
  public static final class Builder {

    private String provider;
    private GpuType gpu;
    private int gpuCount = 1;
    private String name;
    private Duration idleTimeout;
    private Duration timeout;
    private Config overrides = ConfigFactory.empty();
    private Config recording = ConfigFactory.empty();
    private Config standby = ConfigFactory.empty();
    private GatewayAddress gateway;
    private ActorSystem<?> system;
    private boolean keep;
    private Consumer<Progress> listener;
    private LongConsumer onRestored = step -> {};

    private Builder() {}

    /** Name of a provider on the class path, such as {@code "mock"}. Required. */
    public Builder provider(String provider) {
      this.provider = requireText(provider, "provider");
      return this;
    }

    /** Kind of GPU. Default: the provider's choice. */
    public Builder gpu(GpuType gpu) {
      this.gpu = Objects.requireNonNull(gpu, "gpu");
      return this;
    }

    /**
     * Kind of GPU by name, such as {@code "A100-40GB"}, in upper or lower case.
     *
     * @throws IllegalArgumentException when there is no such kind; the message lists all
     */
    public Builder gpu(String gpu) {
      return gpu(GpuType.parse(requireText(gpu, "gpu")));
    }

    /**
     * How many GPUs, 1 to 8. Default 1.
     *
     * @throws IllegalArgumentException when out of range
     */
    public Builder gpuCount(int gpuCount) {
      if (gpuCount < 1 || gpuCount > 8) {
        throw new IllegalArgumentException("gpuCount must be 1 to 8, but is " + gpuCount);
      }
      this.gpuCount = gpuCount;
      return this;
    }

    /** The machine's name. Default: the provider's name with a number or letters. */
    public Builder name(String name) {
      this.name = requireText(name, "name");
      return this;
    }

    /**
     * How long the machine may go unused before it {@linkplain RemoteMachine#pause pauses} by
     * itself. Only work sent to the node counts as use; releasing tensors does not. Default: {@code
     * remora.machine.idle-timeout}, which is off.
     *
     * @throws IllegalArgumentException when not positive
     */
    public Builder idleTimeout(Duration idleTimeout) {
      this.idleTimeout = requirePositive(idleTimeout, "idleTimeout");
      return this;
    }

    /**
     * How long {@link #open()} may take in total. Default: {@code remora.client.open-timeout}, 5
     * minutes.
     *
     * @throws IllegalArgumentException when not positive
     */
    public Builder timeout(Duration openTimeout) {
      this.timeout = requirePositive(openTimeout, "timeout");
      return this;
    }

    /**
     * Opens the machine through a gateway, for programs outside the cluster that the machine is in.
     * Unless the gateway is on loopback, its certificate is checked against the certificates that
     * Java trusts, or against {@link #gatewayCertificate}. The provider is then one of the
     * gateway's, not of this program's.
     *
     * @param address the gateway's HOST:PORT
     * @param token the secret that the gateway asks for; null for none
     */
    public Builder gateway(String address, String token) {
      this.gateway = GatewayAddress.parse(requireText(address, "address"), token);
      return this;
    }

    /**
     * Sets the certificates to check the gateway's certificate against, also on loopback. Call
     * {@link #gateway} first.
     *
     * @param certificate a file with certificates in PEM format
     */
    public Builder gatewayCertificate(Path certificate) {
      if (gateway == null) {
        throw new IllegalStateException("gateway must be set first");
      }
      this.gateway = gateway.trusting(Objects.requireNonNull(certificate, "certificate"));
      return this;
    }

    /**
     * The program's own actor system, a member of the cluster in which to open the machine.
     * Default: the cluster of the settings under {@code remora.cluster}, which the program starts
     * or joins. {@link io.remora.actors.RemoraCluster#init} describes what the system needs. It
     * must outlive the machine.
     */
    public Builder system(ActorSystem<?> system) {
      this.system = Objects.requireNonNull(system, "system");
      return this;
    }

    /**
     * Keeps the machine open when this program closes it or ends, until a program {@linkplain #stop
     * stops} it. When the machine's cluster member leaves or fails, another member takes over the
     * machine. It keeps the node if the provider's nodes outlive the process that requested them,
     * as those of provider {@code cluster} do. Otherwise it starts another node from the saved
     * state; this needs a member that leaves in order. In a cluster of one member the machine ends
     * with the program.
     */
    public Builder keep() {
      this.keep = true;
      return this;
    }

    /**
     * Settings for this machine alone. They take precedence over {@code application.conf} and the
     * {@code reference.conf} files.
     *
     * @param overrides keys under {@code remora.client}, {@code remora.batch}, {@code
     *     remora.session}, {@code remora.link}, {@code remora.recording}, {@code remora.recovery},
     *     {@code remora.state} and {@code remora.provider}; other keys have no effect on a single
     *     machine
     */
    public Builder config(Config overrides) {
      this.overrides = Objects.requireNonNull(overrides, "overrides").withOnlyPath("remora");
      return this;
    }

    /**
     * Whether a second node executes the same batches as the first, so that the machine continues
     * there at once when the first is lost. It is a whole second node, which its provider charges
     * for. Default: {@code remora.recovery.mirror}, which is off. Needs {@code remora.recovery.mode
     * = replay}; otherwise {@link #open} throws a {@link MachineStateException}.
     */
    public Builder mirror(boolean mirror) {
      this.standby =
          ConfigFactory.empty()
              .withValue(RecoverySettings.PATH + ".mirror", ConfigValueFactory.fromAnyRef(mirror));
      return this;
    }

    /**
     * Sets what is told the step when another node has restored a {@linkplain
     * RemoteMachine#checkpoint checkpoint} after the loss of the machine's node, for programs that
     * use the machine on several threads: only one of them gets the {@link RestoredException}. It
     * is called on a thread of Remora's, and may use the machine. Default: nothing.
     */
    public Builder onRestored(LongConsumer action) {
      this.onRestored = Objects.requireNonNull(action, "action");
      return this;
    }

    /**
     * Writes what the machine's sessions do to a file, which {@code remora replay} executes again.
     * If the file is there, or the machine has several sessions, further ones get numbers. The file
     * is complete when the machine is closed. It has everything that the program uploads, unless
     * {@code remora.recording.values} is off. A disk that is full ends the recording with a
     * warning, and not the session. Default: {@code remora.recording.file}, which is none. Has no
     * effect on {@link #attach()}.
     */
    public Builder record(Path file) {
      this.recording =
          ConfigFactory.empty()
              .withValue(
                  RecordingSettings.PATH + ".file",
                  ConfigValueFactory.fromAnyRef(
                      Objects.requireNonNull(file, "file").toAbsolutePath().toString()));
      return this;
    }

    /**
     * Reports what the machine does when it takes longer than a second: opening with the provider's
     * news, loading a model, large uploads and downloads, checkpoints, recovery, pauses and moves.
     * The reports come until the machine is closed, a few each second, on a thread of their own.
     * The listener must return soon; one that throws is removed. {@code remora.client.progress}
     * shows the same on a terminal.
     */
    public Builder onProgress(Consumer<Progress> listener) {
      this.listener = Objects.requireNonNull(listener, "listener");
      return this;
    }

    /**
     * Opens the machine and returns when it is ready for use.
     *
     * @throws ProviderException when there is no such provider or it cannot give a machine; its
     *     subclasses tell refused credentials, missing resources and a limit that ran out
     * @throws MachineStateException when a machine of this name is open already
     * @throws IllegalArgumentException when no provider was set, or the name is not valid
     */
    public RemoteMachine open() {
      if (provider == null) {
        throw new IllegalArgumentException("provider must be set");
      }
      Config overrides = recording.withFallback(standby).withFallback(this.overrides);
      Config config = ProgramClassPath.configuration(overrides);
      ClientSettings settings = ClientSettings.from(config);
      String provider = this.provider;
      boolean remote = Remora.isRemoteExecutionEnabled(settings);
      if (!remote) {
        log.info("Remote execution is disabled: the machine runs in this process");
        provider = LOCAL_PROVIDER;
        overrides = LOCAL_EXECUTION.withFallback(overrides);
      }
      String title = provider;
      MachineSpec spec =
          new MachineSpec(
              Optional.ofNullable(name).orElseGet(() -> freeName(title)),
              provider,
              gpu,
              gpuCount,
              idleTimeout,
              Optional.ofNullable(timeout).orElse(settings.openTimeout()),
              overrides.resolveWith(config).root().render(ConfigRenderOptions.concise()));
      log.info(
          "Opening machine {} (provider {}, {} x {})",
          spec.name(),
          spec.provider(),
          spec.gpuCount(),
          spec.gpuType() == null ? "any GPU" : spec.gpuType().displayName());
      long begin = System.nanoTime();
      MachineProgress progress = new MachineProgress(spec.name(), listener, settings);
      try (Preparation prepared = prepare(spec, remote)) {
        long loaded;
        MachineHost reached;
        try (Activity starting = Activities.begin(spec.name(), "start")) {
          // The first call takes seconds. Make it before a machine is running and costs money.
          starting.message("loading libtorch");
          TorchLibrary.bytedeco();
          loaded = System.nanoTime();
          starting.message(gateway == null ? "joining the cluster" : "reaching the gateway");
          reached = host(spec.name(), settings, config, remote);
        }
        long joined = System.nanoTime();
        return with(
            reached,
            progress,
            host -> {
              MachineInfo info = host.open(spec, keep);
              long ready = System.nanoTime();
              try {
                RemoteMachine machine =
                    connect(spec, settings, config, host, info, progress, keep, onRestored);
                log.debug(
                    "Opening machine {} took {} ms: loading libtorch {}, starting or reaching the"
                        + " cluster or gateway {}, getting the node {}, opening the session {}",
                    spec.name(),
                    millis(begin, System.nanoTime()),
                    millis(begin, loaded),
                    millis(loaded, joined),
                    millis(joined, ready),
                    millis(ready, System.nanoTime()));
                return machine;
              } catch (RuntimeException | Error e) {
                host.abandon();
                throw e;
              }
            });
      } catch (RuntimeException | Error e) {
        progress.close();
        throw e;
      }
    }

    private static long millis(long from, long to) {
      return TimeUnit.NANOSECONDS.toMillis(to - from);
    }

    /** Lets the node start while the program's own cluster does. */
    private Preparation prepare(MachineSpec spec, boolean remote) {
      return system == null && (gateway == null || !remote)
          ? RemoraCluster.prepare(spec)
          : Preparation.NOTHING;
    }

    /**
     * Opens a session on a machine that another program has opened under the {@linkplain #name
     * name} that was set; see {@link RemoteMachine#attach}. Returns when the session is ready for
     * use.
     *
     * @throws MachineStateException when no machine of this name is open
     * @throws IllegalArgumentException when no name was set
     */
    public RemoteMachine attach() {
      if (name == null) {
        throw new IllegalArgumentException("name must be set");
      }
      Config config = ProgramClassPath.configuration(overrides);
      ClientSettings settings = ClientSettings.from(config);
      TorchLibrary.bytedeco();
      MachineProgress progress = new MachineProgress(name, listener, settings);
      return with(
          host(name, settings, config, true),
          progress,
          host -> {
            MachineInfo info = host.attach();
            MachineSpec spec =
                new MachineSpec(
                    name,
                    info.provider(),
                    null,
                    Math.max(1, info.devices().size()),
                    null,
                    Optional.ofNullable(timeout).orElse(settings.openTimeout()));
            return connect(spec, settings, config, host, info, progress, true, onRestored);
          });
    }

    private MachineHost host(
        String machine, ClientSettings settings, Config config, boolean remote) {
      if (gateway != null && remote) {
        return new GatewayHost(machine, gateway, settings, RecordingSettings.from(config));
      }
      return system == null
          ? new ClusterHost(machine, settings)
          : new ClusterHost(machine, settings, system);
    }

    private static RemoteMachine with(
        MachineHost host, MachineProgress progress, Function<MachineHost, RemoteMachine> opening) {
      try {
        if (progress.isOn()) {
          host.reportProgress();
        }
        RemoteMachine machine = opening.apply(host);
        OpenMachines.add(machine);
        return machine;
      } catch (RuntimeException | Error e) {
        progress.close();
        host.release();
        throw e;
      }
    }

    /**
     * A name that is not in use. Letters make it unique at a gateway, where other programs have
     * machines too.
     */
    private String freeName(String title) {
      return gateway == null
          ? title + "-" + numbers.incrementAndGet()
          : title + "-" + UUID.randomUUID().toString().substring(0, 8);
    }

    private static RemoteMachine connect(
        MachineSpec spec,
        ClientSettings settings,
        Config config,
        MachineHost host,
        MachineInfo info,
        MachineProgress progress,
        boolean kept,
        LongConsumer onRestored) {
      MachineSession session =
          MachineSession.open(spec.name(), info.devices().size(), SessionSettings.from(config));
      session.onRestored(onRestored);
      try {
        host.connect(session);
        session.setNodeAddress(info.nodeAddress());
        progress.watch(session);
        return new RemoteMachine(spec, settings, host, session, progress, kept);
      } catch (RuntimeException | Error e) {
        closeQuietly(session, e);
        throw e;
      }
    }

    private static void closeQuietly(MachineSession session, Throwable because) {
      try {
        session.close();
      } catch (RuntimeException e) {
        because.addSuppressed(e);
      }
    }

    private static String requireText(String value, String what) {
      if (Objects.requireNonNull(value, what).isBlank()) {
        throw new IllegalArgumentException(what + " must not be blank");
      }
      return value;
    }

    private static Duration requirePositive(Duration value, String what) {
      if (Objects.requireNonNull(value, what).isNegative() || value.isZero()) {
        throw new IllegalArgumentException(what + " must be positive, but is " + value);
      }
      return value;
    }
  }
}
