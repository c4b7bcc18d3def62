// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import static java.util.Objects.requireNonNull;

import io.remora.core.ErrorTable;
import io.remora.core.errors.ErrorKind;
import io.remora.runtime.internal.CallSites;
import io.remora.runtime.internal.NativeCore;
import io.remora.runtime.internal.NativeErrors;
import io.remora.runtime.internal.SessionCallbacks;
import java.lang.ref.Reference;
import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.EnumMap;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Executor;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.LongConsumer;
import java.util.stream.Collectors;
import java.util.stream.LongStream;
import org.bytedeco.javacpp.BytePointer;
import org.bytedeco.javacpp.LongPointer;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.DeviceOptional;
import org.bytedeco.pytorch.Generator;
import org.bytedeco.pytorch.MemoryFormatOptional;
import org.bytedeco.pytorch.ScalarTypeOptional;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorOptions;
import org.bytedeco.pytorch.global.torch;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * A program's connection to a machine. The session sends the operations that libtorch records on
 * the machine's devices in numbered batches, and receives values.
 *
 * <p>A batch is closed when a value is read, when the batch is full, and by the session's flusher
 * thread when the node is idle. The node executes batches in order, once each. The failure of an
 * operation on the node is logged at once. It is thrown when the operation's result is read, or
 * else by the next {@link #synchronize()} or {@link #close()}.
 *
 * <p>Thread-safe: several threads may record, read and synchronize at the same time.
 */
public final class MachineSession implements SessionListener, AutoCloseable {
  private static final Logger log = LoggerFactory.getLogger(MachineSession.class);

  /** Logs each operation with its tensors' ids and metadata hashes, if the settings ask for it. */
  private static final Logger operations = LoggerFactory.getLogger("io.remora.operations");

  private static final int KEPT_PLANS = 13;

  /** The most different warnings that are logged for a session, each once. */
  private static final int MOST_WARNINGS = 100;

  private static final int MOST_UNREAD_FAILURES = 100;
  private static final int LIVE_BYTES = 8; // REMORA_STORAGE_BYTES
  private static final long FLUSHER_TURN_MICROS = 500_000;
  private static final Duration PROGRESS_CHECK = Duration.ofSeconds(1);

  private static final Executor CALLBACKS =
      Executors.newCachedThreadPool(
          task -> {
            Thread thread = new Thread(task, "remora-read-callback");
            thread.setDaemon(true);
            return thread;
          });

  /** A value or an answer that is being waited for. */
  private static final class Pending {
    final long batch;
    final ByteBuffer destination;
    final CompletableFuture<Void> done = new CompletableFuture<>();
    long received;

    Pending(long batch, ByteBuffer destination) {
      this.batch = batch;
      this.destination = destination;
    }
  }

  private final String machineName;
  private final long machine;
  private final int deviceCount;
  private final SessionSettings settings;
  private final Map<Long, Pending> pending = new ConcurrentHashMap<>();
  private final Object lock = new Object();
  private final List<OperationFailure> unread = new ArrayList<>();
  private final Set<String> warned = new HashSet<>(); // used only by the thread that reads reports
  private final Thread flusher;
  private final CallSites callSites;
  private final FlightEvents events;

  private final AtomicLong submittedOperations = new AtomicLong();
  private final CollectionHint collection;

  private volatile BatchSink sink;
  private volatile long executed;
  private volatile RemoraException lost;
  private volatile Hold hold;
  private volatile MachineTrace trace;
  private boolean closed;

  // What another node has restored: the latest time, the first batch that counts since then, and
  // who wants to know.
  private final Object restoring = new Object();
  private long epoch;
  private volatile Voided voided = new Voided(0, null);
  private volatile LongConsumer onRestored = step -> {};

  /** The batches before this one are void; requests in them get no answer. */
  private record Voided(long before, RestoredException why) {}

  private MachineSession(String machineName, int deviceCount, SessionSettings settings) {
    this.machineName = machineName;
    this.deviceCount = deviceCount;
    this.settings = settings;
    this.machine = NativeCore.machineOpen(machineName, deviceCount, settings.maxBatchBytes());
    if (machine < 0) {
      throw new MachineStateException(NativeCore.lastError());
    }
    callSites = settings.callSites() ? new CallSites() : null;
    events = new FlightEvents(machineName);
    collection =
        new CollectionHint(
            settings,
            () -> NativeCore.machineStatistic(machine, LIVE_BYTES),
            bytes -> NativeCore.machineSetNotableBytes(machine, bytes),
            System::gc);
    SessionCallbacks.add(machine, new Callbacks());
    NativeCore.machineSetTrace(
        machine, settings.logOperations() ? 1 : 0, settings.callSites() ? 1 : 0);
    flusher = new Thread(this::flushWhenIdle, "remora-flusher-" + machineName);
    flusher.setDaemon(true);
  }

  /**
   * Opens a session and takes device slots for it. Recording may start after {@link #connect}.
   *
   * @param machineName for messages
   * @param deviceCount the machine's devices, 1 or more
   * @throws MachineStateException when the process has no device slots left
   */
  public static MachineSession open(String machineName, int deviceCount, SessionSettings settings) {
    requireNonNull(machineName, "machineName");
    requireNonNull(settings, "settings");
    TorchLibrary.bytedeco();
    SessionCallbacks.install();
    return new MachineSession(machineName, deviceCount, settings);
  }

  /**
   * Connects the session to the sink for its batches. Call it once.
   *
   * @param onCuda whether the node computes on CUDA; libtorch chooses some operators by this
   */
  public void connect(BatchSink sink, boolean onCuda) {
    NativeCore.machineSetCuda(machine, onCuda ? 1 : 0);
    connect(sink);
  }

  /**
   * Sets the address at which other machines' nodes reach this machine's node. Tensors that move
   * from this machine to another then go directly from node to node. If that fails, or no address
   * is set, they go through this process in parts.
   *
   * @param address {@code host:port}; empty if not known
   */
  public void setNodeAddress(String address) {
    check(NativeCore.machineSetNodeAddress(machine, requireNonNull(address, "address")));
  }

  /**
   * Connects the session of a machine that computes on the CPU to the sink for its batches. Call it
   * once.
   */
  public void connect(BatchSink sink) {
    if (this.sink != null) {
      throw new IllegalStateException("the session is connected already");
    }
    this.sink = requireNonNull(sink, "sink");
    flusher.start();
    events.state("ready");
    if (!settings.traceFile().isEmpty()) {
      MachineTrace trace = trace(Path.of(settings.traceFile()));
      log.info("Machine '{}' is traced to {}", machineName, trace.file());
    }
  }

  /**
   * Writes a timeline of the machine to a file until the trace or the session is closed. There may
   * be one at a time.
   *
   * @param file if it exists, a number is added to its name
   * @throws MachineStateException when the machine is traced already, or is closed
   * @throws RemoraException when the file cannot be created
   */
  public MachineTrace trace(Path file) {
    throwIfLost();
    MachineTrace started = MachineTrace.start(machine, file);
    trace = started;
    return started;
  }

  /** Completes the file of a trace, if there is one, without waiting. */
  public void endTrace() {
    MachineTrace running = trace;
    if (running != null) {
      try {
        running.stop(Duration.ZERO);
      } catch (RemoraException e) {
        log.warn("Machine '{}': {}", machineName, e.getMessage());
      }
    }
  }

  /**
   * One of the machine's devices, as a PyTorch device.
   *
   * @param index 0 to {@code deviceCount() - 1}
   * @throws IllegalArgumentException when the machine has no such device
   */
  public Device device(int index) {
    int slot = NativeCore.machineSlot(machine, index);
    if (slot < 0) {
      throw new IllegalArgumentException(NativeCore.lastError());
    }
    return new Device("remora:" + slot);
  }

  /** Whether a device is one of the machine's. */
  public boolean owns(Device device) {
    for (int i = 0; i < deviceCount; i++) {
      if (device(i).equals(device)) {
        return true;
      }
    }
    return false;
  }

  /** Number of devices of the machine. */
  public int deviceCount() {
    return deviceCount;
  }

  /** Sends the recorded operations without waiting for their execution. */
  public void flush() {
    throwIfLost();
    if (NativeCore.machineFlush(machine) != 0) {
      throwIfLost();
      throw NativeErrors.last();
    }
  }

  /**
   * Says that a step of the program is complete: the node may make a checkpoint of exactly what was
   * recorded so far. Sends it and does not wait.
   */
  public void checkpoint(long step) {
    throwIfLost();
    check(NativeCore.machineMark(machine, step));
  }

  /**
   * Sets what is told the step when another node has restored an earlier state. It is called on a
   * thread of this class, after the reads that wait have failed.
   */
  public void onRestored(LongConsumer action) {
    onRestored = requireNonNull(action, "action");
  }

  /**
   * Waits until everything recorded so far has been executed, and the node's devices are idle.
   *
   * @throws RemoteOperationException the first failure on the node that has not been read
   * @throws NodeLostException when the node is gone
   * @throws ReadTimeoutException when the node finishes nothing for {@code
   *     remora.session.read-timeout}
   */
  public void synchronize() {
    throwIfLost();
    if (NativeCore.machineSynchronize(machine) != 0) {
      throwIfLost();
      throw NativeErrors.last();
    }
    throwUnread();
  }

  /**
   * Downloads a tensor without blocking. The stage completes on a thread of this class, with a
   * contiguous CPU tensor of the same dtype and shape. Operations recorded later do not change its
   * values.
   *
   * @throws IllegalArgumentException when the tensor is not on this machine
   * @throws StaleReferenceException when the tensor's storage is gone
   */
  public CompletionStage<Tensor> read(Tensor remote) {
    throwIfLost();
    if (!owns(remote.device())) {
      throw new IllegalArgumentException(
          "the tensor is on %s, not on machine '%s'"
              .formatted(remote.device().str().getString(), machineName));
    }
    Tensor target =
        torch.empty(
            remote.shape(),
            new TensorOptions()
                .dtype(new ScalarTypeOptional(remote.scalar_type()))
                .device(new DeviceOptional(new Device(torch.DeviceType.CPU))),
            new MemoryFormatOptional());
    PointerScope scope = PointerScope.getInnerScope();
    if (scope != null) {
      // The caller's scope may end before the value arrives.
      target.retainReference();
      scope.detach(target);
    }
    if (target.numel() == 0) {
      return CompletableFuture.completedFuture(target);
    }
    long[] requests;
    try (LongPointer count = new LongPointer(1)) {
      long first = NativeCore.machineRead(machine, remote.address(), target.address(), count);
      if (first < 0) {
        RemoraException failure = NativeErrors.last();
        target.close();
        throwIfLost();
        throw failure;
      }
      requests = LongStream.range(first, first + count.get()).toArray();
    } finally {
      Reference.reachabilityFence(remote); // keeps the tensor alive while its address is in use
    }
    CompletableFuture<?>[] pieces =
        LongStream.of(requests).mapToObj(this::piece).toArray(CompletableFuture<?>[]::new);
    CompletableFuture<Tensor> result = new CompletableFuture<>();
    CompletableFuture<Void> unused =
        CompletableFuture.allOf(pieces)
            .whenCompleteAsync(
                (nothing, error) -> {
                  LongStream.of(requests).forEach(pending::remove);
                  if (error != null) {
                    target.close();
                    result.completeExceptionally(
                        error instanceof CompletionException wrapped ? wrapped.getCause() : error);
                  } else {
                    result.complete(target);
                  }
                },
                CALLBACKS);
    return result;
  }

  private CompletableFuture<Void> piece(long request) {
    Pending read = pending.get(request);
    return read != null
        ? read.done
        : CompletableFuture.failedFuture(
            new MachineStateException("machine '" + machineName + "' is closed"));
  }

  /**
   * Marks a place in the machine's operation stream.
   *
   * @param device number of the device whose work is marked
   */
  public RemoteEvent recordEvent(int device) {
    requireDevice(device);
    long event = NativeCore.eventRecord(machine, device);
    if (event < 0) {
      throw NativeErrors.last();
    }
    return new RemoteEvent(event);
  }

  /** Asks the node for the memory statistics of a device. */
  public DeviceMemory memory(int device) {
    requireDevice(device);
    try (LongPointer values = new LongPointer(5)) {
      check(NativeCore.machineMemory(machine, device, values));
      return new DeviceMemory(
          values.get(0), values.get(1), values.get(2), values.get(3), values.get(4));
    }
  }

  /** Makes the node's allocator return memory that it keeps for reuse to the device. */
  public void emptyCache(int device) {
    requireDevice(device);
    check(NativeCore.machineEmptyCache(machine, device));
  }

  /** Resets the peak figures of {@link #memory}. */
  public void resetPeakMemory(int device) {
    requireDevice(device);
    check(NativeCore.machineResetPeakMemory(machine, device));
  }

  /**
   * A device's default random generator. Seeding it and setting its state happen in order with the
   * operations. On a node that computes on the CPU, equal seeds give the same numbers as the local
   * CPU.
   */
  public Generator generator(int device) {
    return torch.getPrivateUse1Hooks().getDefaultGenerator(device(device).index());
  }

  /**
   * Calls the node itself, in order with the operations, and waits for its answer.
   *
   * @param device index of the device for new tensors
   * @param name the call's name, for messages
   * @param payload the request, in a format that both sides know
   * @param tensors the tensors on this machine that the call uses
   * @param timeout time limit for the answer, in whole milliseconds; it replaces the read timeout
   * @throws RemoteOperationException when the node gives no answer; the message gives the reason
   */
  public NodeCallResult callNode(
      int device, String name, byte[] payload, List<Tensor> tensors, Duration timeout) {
    requireDevice(device);
    throwIfLost();
    long request;
    try (BytePointer bytes = new BytePointer(payload);
        LongPointer addresses = new LongPointer(Math.max(1, tensors.size()))) {
      for (int i = 0; i < tensors.size(); i++) {
        addresses.put(i, tensors.get(i).address());
      }
      request =
          NativeCore.callNode(
              machine,
              device,
              timeout.toMillis(),
              name,
              bytes,
              payload.length,
              addresses,
              tensors.size());
    } finally {
      Reference.reachabilityFence(
          tensors); // keeps the tensors alive while their addresses are in use
    }
    long answer = request < 0 ? request : NativeCore.nodeAnswer(machine, request);
    if (answer < 0) {
      throwIfLost();
      throw NativeErrors.last();
    }
    try {
      return result(answer);
    } finally {
      NativeCore.nodeAnswerRelease(answer);
    }
  }

  private static NodeCallResult result(long answer) {
    byte[] payload = new byte[Math.toIntExact(NativeCore.nodeAnswerBytes(answer))];
    NativeMemory.buffer(NativeCore.nodeAnswerPayload(answer), payload.length).get(payload);
    List<Tensor> tensors = new ArrayList<>();
    for (long i = 0; i < NativeCore.nodeAnswerTensors(answer); i++) {
      long address = NativeCore.nodeAnswerTensor(answer, i);
      tensors.add(new Tensor(new Tensor(new NativeMemory(address, 0))));
    }
    return new NodeCallResult(payload, tensors);
  }

  private void requireDevice(int device) {
    if (device < 0 || device >= deviceCount) {
      throw new IllegalArgumentException(
          "machine '"
              + machineName
              + "' has devices 0 to "
              + (deviceCount - 1)
              + ", there is no device "
              + device);
    }
  }

  private static void check(int result) {
    if (result != 0) {
      throw NativeErrors.last();
    }
  }

  private Map<String, Long> metadataWaits() {
    return NativeCore.machineMetadataWaits(machine)
        .lines()
        .map(line -> line.split(" "))
        .collect(
            Collectors.toUnmodifiableMap(parts -> parts[0], parts -> Long.parseLong(parts[1])));
  }

  /** The number of the last batch that the node has executed; 0 before the first. */
  public long lastExecuted() {
    return executed;
  }

  /** The counters of the session so far. */
  public SessionStatistics statistics() {
    return new SessionStatistics(
        NativeCore.machineStatistic(machine, 0),
        NativeCore.machineStatistic(machine, 1),
        NativeCore.machineStatistic(machine, 2),
        NativeCore.machineStatistic(machine, 3),
        NativeCore.machineStatistic(machine, 4),
        NativeCore.machineStatistic(machine, 5),
        NativeCore.machineStatistic(machine, 6),
        NativeCore.machineStatistic(machine, 7),
        NativeCore.machineStatistic(machine, LIVE_BYTES),
        NativeCore.machineStatistic(machine, 9),
        NativeCore.machineStatistic(machine, 10),
        NativeCore.machineStatistic(machine, 11),
        NativeCore.machineStatistic(machine, 12),
        metadataWaits(),
        NativeCore.machineStatistic(machine, KEPT_PLANS),
        Arrays.stream(MetadataOrigin.values())
            .collect(
                Collectors.toUnmodifiableMap(
                    origin -> origin,
                    origin -> NativeCore.machineStatistic(machine, origin.statistic))),
        Arrays.stream(WaitCause.values())
            .collect(
                Collectors.toUnmodifiableMap(
                    cause -> cause,
                    cause ->
                        Duration.ofNanos(
                            NativeCore.machineStatistic(machine, cause.nanosStatistic)))));
  }

  /** Where the program has waited for the machine so far, the longest wait first. */
  public List<ProgramWait> waits() {
    return ProgramWait.parse(NativeCore.machineWaits(machine));
  }

  @Override
  public SessionWaits waited() {
    List<ProgramWait> lines = waits();
    Map<WaitCause, SessionWaits.Sum> causes = new EnumMap<>(WaitCause.class);
    for (WaitCause cause : WaitCause.values()) {
      long count = 0;
      for (ProgramWait line : lines) {
        count += line.cause() == cause ? line.count() : 0;
      }
      Duration time = Duration.ofNanos(NativeCore.machineStatistic(machine, cause.nanosStatistic));
      if (count > 0 || !time.isZero()) {
        causes.put(cause, new SessionWaits.Sum(count, time));
      }
    }
    return new SessionWaits(causes, lines);
  }

  /**
   * Waits for the recorded operations, then gives the device slots back. Remaining tensors become
   * stale. Idempotent. The session is closed even when this method throws.
   *
   * @throws RemoteOperationException the first failure on the node that has not been read
   */
  @Override
  public void close() {
    close(this::synchronize);
  }

  /**
   * Like {@link #close}, for a machine that is paused and has executed everything recorded. Waiting
   * would resume the machine.
   *
   * @throws RemoteOperationException the first failure on the node that has not been read
   */
  public void closeWithoutWaiting() {
    close(this::throwUnread);
  }

  private void close(Runnable lastWords) {
    synchronized (lock) {
      if (closed) {
        return;
      }
      closed = true;
    }
    try {
      if (lost == null && sink != null) {
        lastWords.run();
      }
    } finally {
      endTrace();
      NativeCore.machineClose(machine);
      events.state("closed");
      SessionCallbacks.remove(machine);
      failPending(new MachineStateException("machine '" + machineName + "' is closed"));
    }
  }

  /**
   * Blocks every thread that waits for the machine, or gives it work, from now on. For a JVM that
   * is about to end: its threads run until the end, and would report the loss of the machine that
   * is being given back. After this call, only the disconnection of the session may follow.
   *
   * @param limit after this time the blocked threads fail with a {@link MachineStateException},
   *     since a shutdown hook may be among them
   */
  public void hold(Duration limit) {
    hold = new Hold(System.nanoTime() + limit.toNanos());
  }

  // ---------------------------------------------------------------- the node's answers

  @Override
  public void onExecuted(long sequence, ByteBuffer report) {
    // First, so that a thread that the report wakes sees the batch as done.
    NativeCore.machineExecuted(machine, sequence);
    executed = sequence;
    events.executed(sequence);
    ReportReader.read(report, new Answers());
  }

  @Override
  public ByteBuffer valueDestination(long request, long offset, int length) {
    Pending read = pending.get(request);
    if (read == null || read.destination == null) {
      return null;
    }
    int room = read.destination.capacity();
    if (length < 0 || length > room || offset < 0 || offset > room - length) {
      throw new ProtocolException(
          "%d bytes at offset %d do not fit into a value of %d bytes"
              .formatted(length, offset, room));
    }
    return read.destination.slice((int) offset, length);
  }

  @Override
  public void onValueReceived(long request, long offset, int length) {
    Pending read = pending.get(request);
    if (read != null) {
      read.received += length;
    }
  }

  @Override
  public void onHindered(Hindrance state) {
    NativeCore.machineHinder(machine, state.number());
    events.state(state == Hindrance.NONE ? "ready" : state.name().toLowerCase(Locale.ROOT));
  }

  @Override
  public void onLost(RemoraException cause) {
    synchronized (lock) {
      if (lost != null || hold != null) {
        return;
      }
      lost = cause;
    }
    events.state("lost");
    NativeCore.machineFail(machine, ErrorTable.kindOf(cause).name() + ": " + cause.getMessage());
    failPending(cause);
  }

  @Override
  public void onRestored(long newEpoch, RestoredException restored) {
    // The machine's lock may be held by a thread that waits for what this thread is to bring.
    CALLBACKS.execute(() -> takeBack(newEpoch, restored));
  }

  private void takeBack(long newEpoch, RestoredException restored) {
    synchronized (restoring) {
      if (newEpoch <= epoch) {
        return;
      }
      epoch = newEpoch;
      long first =
          NativeCore.machineRestored(
              machine, newEpoch, ErrorTable.kindOf(restored).name() + ": " + restored.getMessage());
      if (first < 0) {
        return; // the machine has failed or is closed
      }
      voided = new Voided(first, restored);
      for (Pending read : pending.values()) {
        failIfVoid(read);
      }
    }
    log.warn("{}; what was recorded since then is void", restored.getMessage());
    try {
      onRestored.accept(restored.step());
    } catch (RuntimeException e) {
      log.error("The program's action after a restoration has failed", e);
    }
  }

  private void failIfVoid(Pending read) {
    Voided now = voided;
    if (read.batch < now.before()) {
      read.done.completeExceptionally(now.why());
    }
  }

  /** Handles the events of a report. */
  private final class Answers implements ReportReader.Events {
    @Override
    public void value(long request, ByteBuffer bytes) {
      Pending read = pending.get(request);
      if (read == null) {
        return;
      }
      if (read.destination == null || bytes.remaining() != read.destination.capacity()) {
        throw new ProtocolException(
            "the value of request " + request + " has " + bytes.remaining() + " bytes");
      }
      read.destination.duplicate().put(bytes);
      read.done.complete(null);
    }

    @Override
    public void largeValue(long request, long bytes) {
      Pending read = pending.get(request);
      if (read == null) {
        return;
      }
      if (read.destination == null
          || bytes != read.destination.capacity()
          || read.received != bytes) {
        throw new ProtocolException(
            "of the value of request " + request + " " + read.received + " bytes came of " + bytes);
      }
      read.done.complete(null);
    }

    @Override
    public void answer(long request, ByteBuffer bytes) {
      Pending read = pending.get(request);
      if (read == null) {
        return;
      }
      ByteBuffer direct = direct(bytes);
      NativeCore.machineAnswer(machine, request, NativeMemory.pointer(direct), direct.remaining());
      read.done.complete(null);
    }

    @Override
    public void passage(ByteBuffer bytes) {
      ByteBuffer direct = direct(bytes);
      NativeCore.machinePassage(
          machine, executed, NativeMemory.pointer(direct), direct.remaining());
    }

    @Override
    public void times(ByteBuffer bytes) {
      ByteBuffer direct = direct(bytes);
      NativeCore.machineTimes(machine, executed, NativeMemory.pointer(direct), direct.remaining());
    }

    @Override
    public void failure(OperationFailure failure) {
      log.warn("Machine '{}': {}", machineName, error(failure).getMessage());
      synchronized (lock) {
        if (unread.size() < MOST_UNREAD_FAILURES) {
          unread.add(failure);
        }
      }
    }

    @Override
    public void warning(OperationWarning warning) {
      if (warned.size() < MOST_WARNINGS
          && warned.add(warning.operator() + ": " + warning.message())) {
        StackTraceElement site = callSites == null ? null : callSites.of(warning.call());
        log.warn(
            "Machine '{}': {} warns: {}{}",
            machineName,
            warning.operator(),
            warning.message(),
            site == null ? "" : " (called at " + site + ")");
      }
    }

    @Override
    public void requestFailed(long request, OperationFailure failure) {
      synchronized (lock) {
        unread.removeIf(each -> each.id() == failure.id());
      }
      Pending read = pending.get(request);
      if (read != null) {
        read.done.completeExceptionally(readError(failure));
      }
    }
  }

  private static ByteBuffer direct(ByteBuffer bytes) {
    return bytes.isDirect()
        ? bytes
        : ByteBuffer.allocateDirect(bytes.remaining()).put(bytes).flip();
  }

  // ---------------------------------------------------------------- what goes out

  private final class Callbacks implements SessionCallbacks.Session {
    @Override
    public void submit(long address) {
      long request = NativeCore.batchRequest(address);
      long destination = NativeCore.batchDestination(address);
      collection.check();
      Batch batch = wrap(address);
      BatchSink to = sink;
      RemoraException noRoom;
      try {
        awaitEnd();
        throwIfLost();
        if (to == null) {
          throw new MachineStateException("machine '" + machineName + "' is not connected yet");
        }
        noRoom = awaitRoom(to, batch.load());
        if (request != 0) {
          // The batch keeps the destination alive until it is released, after its acknowledgement.
          Pending read =
              new Pending(
                  batch.sequence(),
                  destination == 0
                      ? null
                      : NativeMemory.buffer(
                          destination, NativeCore.batchDestinationBytes(address)));
          pending.put(request, read);
          failIfVoid(read); // after it is among those that a restoration fails
        }
      } catch (RemoraException e) {
        batch.release();
        throw e;
      }
      events.submitted(batch);
      try {
        to.submit(batch);
      } catch (RemoraException e) {
        awaitEnd();
        onLost(e); // a gap in the sequence: the node could execute no later batch
        throw e;
      }
      if (noRoom != null) {
        pending.remove(request);
        throw noRoom;
      }
      if (request != 0 && lost != null) {
        failPending(lost); // the answer may have arrived between the check and the entry
      }
    }

    @Override
    public void await(long request) {
      Pending read = pending.get(request);
      if (read == null) {
        throwIfLost();
        throw new MachineStateException("machine '" + machineName + "' is closed");
      }
      FlightEvents.WaitEvent wait = events.waits();
      try {
        awaitDone(read);
      } finally {
        events.waited(wait);
        pending.remove(request);
      }
    }

    @Override
    public void trace(long call, String line) {
      if (line.isEmpty()) {
        callSites.remember(call);
      } else {
        operations.info("{} {}", machineName, line);
      }
    }

    @Override
    public void notice(String text) {
      log.info("Machine '{}': {}", machineName, text);
    }
  }

  private Batch wrap(long address) {
    long count = NativeCore.batchBornCount(address);
    List<StorageBirth> born = List.of();
    if (count > 0) {
      ByteBuffer triples = NativeMemory.buffer(NativeCore.batchBorn(address), count * 24);
      born = new ArrayList<>((int) count);
      for (int i = 0; i < count; i++) {
        born.add(new StorageBirth(triples.getLong(), triples.getLong(), (int) triples.getLong()));
      }
    }
    long[] freed = new long[(int) NativeCore.batchFreedCount(address)];
    if (freed.length > 0) {
      NativeMemory.buffer(NativeCore.batchFreed(address), freed.length * 8L)
          .asLongBuffer()
          .get(freed);
    }
    return new Batch(
        NativeCore.batchSequence(address),
        NativeMemory.buffer(NativeCore.batchData(address), NativeCore.batchBytes(address)),
        born,
        freed,
        recordedSinceLast(),
        () -> NativeCore.batchRelease(address));
  }

  /** The operations recorded since the last batch. Batches are submitted one at a time. */
  private long recordedSinceLast() {
    long recorded = NativeCore.machineStatistic(machine, 0);
    return recorded - submittedOperations.getAndSet(recorded);
  }

  private void flushWhenIdle() {
    long linger = Math.max(1, settings.flushInterval().toNanos() / 1_000);
    while (lost == null) {
      if (NativeCore.machineFlushWhenIdle(machine, FLUSHER_TURN_MICROS, linger) < 0) {
        return;
      }
    }
  }

  // ---------------------------------------------------------------- waiting

  /**
   * Waits until the sink has room. Returns the error if there is no room in time. The batch goes to
   * the sink even then, since a gap in the sequence would end the session.
   */
  private RemoraException awaitRoom(BatchSink to, int bytes) {
    boolean waits = !to.hasRoom(bytes);
    Progress watch = new Progress("room to send more (remora.link.max-in-flight-bytes)");
    FlightEvents.WaitEvent wait = events.waits();
    long begin = System.nanoTime();
    try {
      while (!to.awaitRoom(bytes, PROGRESS_CHECK)) {
        awaitEnd();
        watch.check();
      }
      return null;
    } catch (ReadTimeoutException e) {
      return e;
    } finally {
      if (waits) {
        NativeCore.machineWaitedForRoom(machine, System.nanoTime() - begin);
        events.waitedForRoom(wait);
      }
    }
  }

  private void awaitDone(Pending read) {
    Progress watch = new Progress("a value");
    try {
      while (!read.done.isDone()) {
        sink.await(read.done, PROGRESS_CHECK);
        if (!read.done.isDone()) {
          awaitEnd();
          watch.check();
        }
      }
      read.done.get();
    } catch (InterruptedException e) {
      throw interrupted(e);
    } catch (ExecutionException e) {
      if (e.getCause() instanceof RemoraException remora) {
        throw NativeErrors.copy(remora);
      }
      throw new RemoraException("the read failed", e.getCause());
    }
  }

  /** Set when the JVM is about to end: how long its threads wait for the end. */
  private record Hold(long untilNanos) {}

  /** Waits for the JVM's end if it is about to end. */
  private void awaitEnd() {
    Hold end = hold;
    if (end == null) {
      return;
    }
    try {
      TimeUnit.NANOSECONDS.sleep(end.untilNanos - System.nanoTime());
    } catch (InterruptedException e) {
      throw interrupted(e);
    }
    throw new MachineStateException(
        "machine '" + machineName + "' is closed: the program is ending");
  }

  /** Ends a wait when the node has finished nothing for the read timeout. */
  private final class Progress {
    private final String awaited;
    private long seen = executed;
    private long since = System.nanoTime();

    Progress(String awaited) {
      this.awaited = awaited;
    }

    void check() {
      long now = System.nanoTime();
      if (executed != seen) {
        seen = executed;
        since = now;
      } else if (now - since > settings.readTimeout().toNanos() + longestCall()) {
        String obstacle = sink.obstacle();
        throw new ReadTimeoutException(
            ("machine '%s' has finished nothing for %s (batch %d of %d) while this thread "
                    + "waited for %s%s; raise remora.session.read-timeout if an operation takes "
                    + "that long")
                .formatted(
                    machineName,
                    describe(settings.readTimeout()),
                    seen,
                    NativeCore.machineSequence(machine),
                    awaited,
                    obstacle.isEmpty() ? "" : ": " + obstacle));
      }
    }
  }

  /** The longest time limit of the pending calls of the node; they replace the read timeout. */
  private long longestCall() {
    return TimeUnit.MILLISECONDS.toNanos(Math.max(0, NativeCore.runLongest(machine)));
  }

  private static String describe(Duration duration) {
    return duration.toMillis() % 1000 == 0
        ? duration.toSeconds() + " s"
        : duration.toMillis() + " ms";
  }

  private RemoraException interrupted(InterruptedException e) {
    Thread.currentThread().interrupt();
    return new RemoraException(
        "the wait for machine '"
            + machineName
            + "' was interrupted; the machine continues its work",
        e);
  }

  private void throwIfLost() {
    RemoraException cause = lost;
    if (cause != null) {
      throw NativeErrors.copy(cause); // one cause, thrown on many threads
    }
  }

  private void throwUnread() {
    List<OperationFailure> failures;
    synchronized (lock) {
      failures = List.copyOf(unread);
      unread.clear();
    }
    if (failures.isEmpty()) {
      return;
    }
    RemoteOperationException error = error(failures.get(0));
    for (OperationFailure other : failures.subList(1, failures.size())) {
      error.addSuppressed(error(other));
    }
    NativeCore.machineTold(machine, failures.get(failures.size() - 1).id());
    throw error;
  }

  private RemoteOperationException error(OperationFailure failure) {
    return new RemoteOperationException(
        failure, callSites == null ? null : callSites.of(failure.call()));
  }

  /** What the read of a value that failed throws. */
  private RemoraException readError(OperationFailure failure) {
    return failure.error().equals(ErrorKind.StaleReferenceException.name())
        ? new StaleReferenceException(failure.message())
        : error(failure);
  }

  private void failPending(RemoraException cause) {
    for (Pending read : pending.values()) {
      read.done.completeExceptionally(cause);
    }
  }
}
