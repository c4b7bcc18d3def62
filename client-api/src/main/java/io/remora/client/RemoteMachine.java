// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import akka.actor.typed.ActorSystem;
import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigRenderOptions;
import io.remora.actors.MachineInfo;
import io.remora.actors.MachineState;
import io.remora.actors.StorageInfo;
import io.remora.provider.GpuType;
import io.remora.provider.MachineSpec;
import io.remora.runtime.DeviceMemory;
import io.remora.runtime.MachineSession;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ProviderException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.RemoteEvent;
import io.remora.runtime.RemoteOperationException;
import io.remora.runtime.SessionSettings;
import io.remora.runtime.SessionStatistics;
import io.remora.runtime.TorchLibrary;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Map;
import java.util.Objects;
import java.util.Optional;
import java.util.SortedMap;
import java.util.UUID;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.Function;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.Generator;
import org.bytedeco.pytorch.Tensor;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * A machine with GPUs somewhere else, whose devices this program uses like its own.
 *
 * <pre>{@code
 * try (RemoteMachine machine = RemoteMachine.open("mock")) {
 *   Tensor a = randn(1000, 1000).to(machine.device(), ScalarType.Float);
 *   Tensor b = a.mm(a).relu().sum();
 *   System.out.println(b.item_float());
 * }
 * }</pre>
 *
 * <p>Operations on a machine's tensors are recorded and sent on; the calling thread waits only
 * where a value is read ({@code item}, {@code cpu}, printing) and in {@link #synchronize()}, {@link
 * #close()}. Mistakes that show in shapes, types and devices are thrown at the call. An operation
 * that fails on the machine fails the reading of anything computed from it; when nothing is read,
 * the next {@code synchronize()} or {@code close()} throws it.
 *
 * <p>A machine that is not needed for a while can be {@linkplain #pause paused}, and pauses by
 * itself after {@link Builder#idleTimeout} without use: its node ends, and its next use starts
 * another that resumes where that one stopped.
 *
 * <p>Closing the machine gives it back to its provider; its tensors cannot be used after that. A
 * machine that is still open when the JVM ends is closed by a shutdown hook, for {@code
 * remora.client.shutdown-timeout} (5 s) at most; threads that use it then are held until the JVM
 * has ended.
 *
 * <p>All methods may be called from any thread. Every error is a {@link RemoraException} or, for
 * arguments out of range, an {@link IllegalArgumentException}.
 */
public final class RemoteMachine implements AutoCloseable {

  private static final Logger log = LoggerFactory.getLogger(RemoteMachine.class);
  private static final AtomicLong numbers = new AtomicLong();

  // What a machine becomes while remote execution is disabled: a node in this process.
  private static final String LOCAL_PROVIDER = "mock";
  private static final Config LOCAL_EXECUTION =
      ConfigFactory.parseString("remora.provider.mock.mode = in-jvm");

  private final MachineSpec spec;
  private final ClientSettings settings;
  private final MachineHost host;
  private final MachineSession session;
  // Whether the machine stays open when this program has closed it.
  private final boolean kept;
  private final ReentrantLock closing = new ReentrantLock();
  private volatile boolean closed;
  private volatile SessionStatistics lastStatistics;

  private RemoteMachine(
      MachineSpec spec,
      ClientSettings settings,
      MachineHost host,
      MachineSession session,
      boolean kept) {
    this.spec = spec;
    this.settings = settings;
    this.host = host;
    this.session = session;
    this.kept = kept;
  }

  /**
   * Opens a machine of this provider, with one GPU of the provider's choice and all defaults.
   * Returns when the machine can be used.
   *
   * @param provider name of a provider on the class path, such as {@code "mock"}
   * @throws ProviderException when there is no such provider or it cannot give a machine; its
   *     subclasses tell refused credentials, missing resources and a limit that ran out
   */
  public static RemoteMachine open(String provider) {
    return builder().provider(provider).open();
  }

  /**
   * A session of this program's own on a machine that another program of the cluster has opened:
   * its tensors, seeds and errors are apart from those of others, the machine's devices are the
   * same. {@link #close()} ends the session and leaves the machine to the others; {@link #stop()}
   * gives it back. Bytes go straight to the machine's node, which must be reachable from here.
   *
   * @param system this program's member of the cluster, prepared as {@link Builder#system}
   * @throws MachineStateException when no machine of this name is open in the cluster
   */
  public static RemoteMachine attach(ActorSystem<?> system, String name) {
    return builder().system(system).name(name).attach();
  }

  /** A builder for machines that need more said than the provider's name. */
  public static Builder builder() {
    return new Builder();
  }

  /** The machine's name, unique among the machines open at a time. */
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

  /** How many devices the machine has; known after {@link #close()} as well. */
  public int deviceCount() {
    return session.deviceCount();
  }

  /**
   * Waits until everything recorded so far has been executed.
   *
   * @throws RemoteOperationException when an operation has failed whose result nobody has read: the
   *     first such
   * @throws NodeLostException when the machine is gone
   * @throws MachineStateException when the machine is closed
   */
  public void synchronize() {
    requireOpen();
    session.synchronize();
  }

  /**
   * Starts reading a tensor and returns at once.
   *
   * @param remote a tensor on one of this machine's devices
   * @return the same values in a CPU tensor, which the receiver closes; or the error that a
   *     blocking read would have thrown. Stages that depend on it run on the thread that completes
   *     reads, which is not the one that receives from the machine: work that takes long or that
   *     reads from a machine belongs on an executor
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
   * Has the node load a model's weights onto a device of its own; none passes through this program.
   * What is not in the node's cache yet is fetched from the hub, while the program's other threads
   * continue using the machine. Tensors that share memory in the files do so on the device.
   *
   * @param source a repository on the hub, {@code owner/name}; or a folder or file on the node's
   *     disk that the node allows ({@code remora.node.models.directories}): a path that begins with
   *     {@code /}, {@code ./} or {@code ../}
   * @return for each of the model's directories that has weights - "" is the model's own - the
   *     tensors by name, which the receiver closes. Where weights are tied, two names have the same
   *     tensor
   * @throws io.remora.models.ModelException when there is no such model, the node may not load it,
   *     or it cannot; its subclasses tell missing and gated repositories, damaged files, disks and
   *     devices without room
   * @throws RemoraException when it is not there in time, or the thread is interrupted: the node
   *     gives up, too
   */
  public Map<String, Map<String, Tensor>> loadStateDicts(String source, LoadOptions options) {
    requireOpen();
    return new MachineModels(name(), session).load(source, options);
  }

  /**
   * Writes tensors of this machine to a safetensors file of this computer, one after the other. The
   * file is there when it is whole, and until then what was there before. Tensors that are the same
   * are written once; the file's metadata gives the other names, as safetensors' own library does,
   * and loading brings them back.
   *
   * @param stateDict by name
   * @param metadata what the file says besides; may be empty. {@code format} is {@code pt} unless
   *     it is here
   * @throws io.remora.models.ModelException when the file cannot be written, or a dtype has no
   *     place in it
   * @throws IllegalArgumentException when a tensor is not on this machine
   */
  public void save(Map<String, Tensor> stateDict, Path file, Map<String, String> metadata) {
    requireOpen();
    stateDict.values().forEach(this::requireOwn);
    new MachineModels(name(), session).save(stateDict, file, metadata);
  }

  /**
   * As {@link #save}, to the disk of the node: no tensor passes through this program.
   *
   * @param path absolute, ending with {@code .safetensors}, within a folder that the node allows
   *     ({@code remora.node.models.save-directories})
   */
  public void saveOnNode(Map<String, Tensor> stateDict, String path, Map<String, String> metadata) {
    requireOpen();
    stateDict.values().forEach(this::requireOwn);
    new MachineModels(name(), session).saveOnNode(stateDict, path, metadata);
  }

  /** What the machine is doing; {@link MachineState#STOPPED} once closed. */
  public MachineState state() {
    return closed ? MachineState.STOPPED : info().state();
  }

  /**
   * The machine as its actor knows it: state, devices, libtorch.
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
   * Memory of one of the machine's devices, as the node counts it.
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

  /** Makes the node give memory that it keeps for reuse back to the device. */
  public void emptyCache(int device) {
    requireOpen();
    session.emptyCache(device);
  }

  /**
   * Marks a place in the machine's operation stream: to see whether the work before it is done, to
   * wait for it, and to measure the time between two places on the node. Work on one machine is in
   * order, so a device has one stream and nothing else waits for an event.
   *
   * @param device the device whose work is marked, 0 to {@link #deviceCount()} - 1
   */
  public RemoteEvent recordEvent(int device) {
    requireOpen();
    return session.recordEvent(device);
  }

  /**
   * The default random generator of a device. Its state is on the node; seeding and setting it are
   * ordered with the operations, and independent of the program's own generators.
   *
   * @param device 0 to {@link #deviceCount()} - 1
   */
  public Generator generator(int device) {
    requireOpen();
    return session.generator(device);
  }

  /**
   * Seeds the default generators of all devices. On a node that computes on the CPU the numbers are
   * those that the local CPU draws after {@code torch.manual_seed(seed)}.
   */
  public void manualSeed(long seed) {
    requireOpen();
    for (int device = 0; device < deviceCount(); device++) {
      try (Generator generator = session.generator(device)) {
        generator.set_current_seed(seed);
      }
    }
  }

  /** Operations, batches and bytes of this machine so far; known after {@link #close()} as well. */
  public SessionStatistics statistics() {
    SessionStatistics last = lastStatistics;
    return last == null ? session.statistics() : last;
  }

  /**
   * The machine's figures as its actor knows them, those of other programs' sessions included:
   * counts, and what is the case now, by name. {@code docs/operations.md} lists them; they are
   * those that the gateway, Python and Micrometer have.
   *
   * @throws MachineStateException when the machine is closed
   */
  public SortedMap<String, Double> stats() {
    requireOpen();
    return host.stats();
  }

  /**
   * Pauses the machine: what was recorded is executed, everything that is on the node - tensors,
   * random generators, failures that nobody has read - is saved to its state store ({@code
   * remora.state}), and the node is ended, so that it costs nothing. Returns when that is done;
   * pausing a paused machine does nothing. Meanwhile, and as long as the machine is paused, other
   * threads may continue recording: their work is neither lost nor executed twice.
   *
   * <p>The machine's next use resumes it: a value that is read, or recorded work that is sent off.
   * That work waits at the end of {@code pause()} already when other threads use the machine
   * meanwhile. Dropping tensors is no use.
   *
   * @throws MachineStateException when the machine is closed; or when it could not be paused, which
   *     the message explains, and it continues as if nothing had happened
   * @throws NodeLostException when the node is lost meanwhile
   */
  public void pause() {
    requireOpen();
    session.flush();
    host.pause();
  }

  /**
   * Starts a node for a paused machine and brings back what was saved; the machine's tensors are
   * what they were. Returns when that is done; resuming a machine that runs does nothing.
   *
   * @throws ProviderException when no node can be had; the machine stays paused, and can be resumed
   *     later
   * @throws NodeLostException when what was saved is damaged: the machine's tensors are lost
   * @throws MachineStateException when the machine is closed
   */
  public void resume() {
    requireOpen();
    session.setNodeAddress(host.resume(spec).nodeAddress());
  }

  /**
   * Waits until everything recorded has been executed, then gives the machine back to its provider.
   * A paused machine is not resumed for that; what it has saved is deleted. The machine is given
   * back whatever fails on the way. Calling it again does nothing; a call while another thread
   * closes the machine returns when that is done. A machine that was {@linkplain Builder#keep kept}
   * or {@linkplain #attach attached to} stays open.
   *
   * @throws RemoteOperationException when an operation has failed whose result nobody has read
   * @throws NodeLostException when the machine was gone before everything was executed
   * @throws RemoraException when the provider does not take the machine back in time
   */
  @Override
  public void close() {
    close(kept);
  }

  /**
   * As {@link #close()}, and gives the machine back to its provider also where others may use it
   * still: one that was {@linkplain Builder#keep kept} or {@linkplain #attach attached to}.
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
      lastStatistics = session.statistics();
      failure.keep(atRest ? session::closeWithoutWaiting : session::close);
      failure.keep(host::disconnect);
      failure.keep(leave ? host::leave : host::close);
      failure.keep(host::release);
      OpenMachines.remove(this);
      failure.rethrow();
      log.info("Machine {} is closed", name());
    } finally {
      closing.unlock();
    }
  }

  /**
   * Gives the machine back while the JVM ends. The program's other threads, which do not know that
   * yet, are held rather than told.
   *
   * @param limit half of it for what is pending, which nobody may want to wait for
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
      log.info("Machine {} is not done with its work: the rest is dropped", name());
    } else {
      failure.rethrow();
    }
  }

  @Override
  public String toString() {
    return "RemoteMachine[" + name() + ", " + deviceCount() + " devices]";
  }

  /** As if the machine's node were there for other machines' nodes. */
  void setNodeAddress(String address) {
    session.setNodeAddress(address);
  }

  /** Whether the machine is paused, and nothing was recorded that would wake it up. */
  private boolean isAtRest() {
    try {
      session.flush();
      return host.info().state() == MachineState.PAUSED;
    } catch (RemoraException e) {
      return false; // synchronizing says what is wrong
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

  /** Collects what goes wrong while everything is closed all the same. */
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
        // Maybe the very object that the program has been thrown before: it cannot suppress itself.
        throw Failures.asThrownHere(first, "Closing");
      }
      if (first != null) {
        throw first;
      }
    }
  }

  /**
   * Says what machine to open. Not thread-safe; may be used again after {@link #open()}, which then
   * opens another machine, unless a name was set.
   */
  public static final class Builder {

    private String provider;
    private GpuType gpu;
    private int gpuCount = 1;
    private String name;
    private Duration idleTimeout;
    private Duration timeout;
    private Config overrides = ConfigFactory.empty();
    private GatewayAddress gateway;
    private ActorSystem<?> system;
    private boolean keep;

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
        throw new IllegalArgumentException("gpuCount must be 1 to 8, is " + gpuCount);
      }
      this.gpuCount = gpuCount;
      return this;
    }

    /** The machine's name. Default: the provider's name, and a number or letters. */
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
     * How long {@link #open()} may take in all. Default: {@code remora.client.open-timeout}, 5
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
     * Off loopback the gateway's certificate is checked against what Java trusts, or {@link
     * #gatewayCertificate}. Providers are then the gateway's, not this program's.
     *
     * @param address the gateway's HOST:PORT
     * @param token the secret that it asks for; null: none
     */
    public Builder gateway(String address, String token) {
      this.gateway = GatewayAddress.parse(requireText(address, "address"), token);
      return this;
    }

    /**
     * What the gateway's certificate is checked against, also on loopback; after {@link #gateway}.
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
     * The program's own actor system, a member of the cluster that the machine is to be in.
     * Default: {@code remora.cluster} - one that the program carries within itself, or joins.
     * {@link io.remora.actors.RemoraCluster#init} says what the system needs. It must outlive the
     * machine.
     */
    public Builder system(ActorSystem<?> system) {
      this.system = Objects.requireNonNull(system, "system");
      return this;
    }

    /**
     * The machine stays when this program closes it or ends, until somebody {@linkplain #stop
     * stops} it. When the cluster member that it is on leaves or fails, another continues it: with
     * the same node where the provider's nodes outlive the process that asked for them (as those of
     * provider {@code cluster}), else, when the member leaves in order, with another node and what
     * was saved. In a cluster of one it ends with the program all the same.
     */
    public Builder keep() {
      this.keep = true;
      return this;
    }

    /**
     * Settings for this machine alone, which go before those of {@code application.conf} and the
     * {@code reference.conf} files.
     *
     * @param overrides keys under {@code remora.client}, {@code remora.batch}, {@code
     *     remora.session}, {@code remora.link}, {@code remora.state} and {@code remora.provider};
     *     others have no effect for one machine
     */
    public Builder config(Config overrides) {
      this.overrides = Objects.requireNonNull(overrides, "overrides").withOnlyPath("remora");
      return this;
    }

    /**
     * Opens the machine and returns when it can be used.
     *
     * @throws ProviderException when there is no such provider or it cannot give a machine; its
     *     subclasses tell refused credentials, missing resources and a limit that ran out
     * @throws MachineStateException when a machine of this name is open already
     * @throws IllegalArgumentException when no provider was set or the name cannot be one
     */
    public RemoteMachine open() {
      if (provider == null) {
        throw new IllegalArgumentException("provider must be set");
      }
      Config config = overrides.withFallback(ConfigFactory.load()).resolve();
      ClientSettings settings = ClientSettings.from(config);
      String provider = this.provider;
      Config overrides = this.overrides;
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
      // Takes seconds the first time: no machine shall wait for it.
      TorchLibrary.bytedeco();
      return with(
          host(spec.name(), settings, remote),
          host -> {
            MachineInfo info = host.open(spec, keep);
            try {
              return connect(spec, settings, config, host, info, keep);
            } catch (RuntimeException | Error e) {
              host.abandon();
              throw e;
            }
          });
    }

    /**
     * Opens a session on the machine with the {@linkplain #name name} that was set, which somebody
     * else has opened: see {@link RemoteMachine#attach}. Returns when it can be used.
     *
     * @throws MachineStateException when no machine of this name is open
     * @throws IllegalArgumentException when no name was set
     */
    public RemoteMachine attach() {
      if (name == null) {
        throw new IllegalArgumentException("name must be set");
      }
      Config config = overrides.withFallback(ConfigFactory.load()).resolve();
      ClientSettings settings = ClientSettings.from(config);
      TorchLibrary.bytedeco();
      return with(
          host(name, settings, true),
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
            return connect(spec, settings, config, host, info, true);
          });
    }

    private MachineHost host(String machine, ClientSettings settings, boolean remote) {
      if (gateway != null && remote) {
        return new GatewayHost(machine, gateway, settings);
      }
      return system == null
          ? new ClusterHost(machine, settings)
          : new ClusterHost(machine, settings, system);
    }

    private static RemoteMachine with(
        MachineHost host, Function<MachineHost, RemoteMachine> opening) {
      try {
        RemoteMachine machine = opening.apply(host);
        OpenMachines.add(machine);
        return machine;
      } catch (RuntimeException | Error e) {
        host.release();
        throw e;
      }
    }

    /** Other programs have machines at a gateway, too. */
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
        boolean kept) {
      MachineSession session =
          MachineSession.open(spec.name(), info.devices().size(), SessionSettings.from(config));
      try {
        host.connect(session);
        session.setNodeAddress(info.nodeAddress());
        return new RemoteMachine(spec, settings, host, session, kept);
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
        throw new IllegalArgumentException(what + " must be positive, is " + value);
      }
      return value;
    }
  }
}
