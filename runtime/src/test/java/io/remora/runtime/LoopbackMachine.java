// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.atomic.AtomicLong;
import org.bytedeco.pytorch.Device;

/**
 * A session whose batches are executed by a thread of the same process: both sides without a wire.
 */
final class LoopbackMachine implements AutoCloseable {
  static final SessionSettings SETTINGS =
      new SessionSettings(64 << 10, Duration.ofNanos(100_000), Duration.ofSeconds(60), false);

  /**
   * Settings with which only full batches are closed, and those that somebody waits for. What
   * travels does not depend on the pace of the threads.
   */
  static final SessionSettings PATIENT =
      new SessionSettings(64 << 10, Duration.ofMinutes(1), Duration.ofMinutes(1), false);

  final MachineSession session;
  final AtomicLong batches = new AtomicLong();
  final AtomicLong bytes = new AtomicLong();
  final List<StorageBirth> born = new ArrayList<>();
  final List<Long> freed = new ArrayList<>();
  final List<StorageBirth> realized = new ArrayList<>();
  final List<Long> freedOnNode = new ArrayList<>();
  final CountDownLatch gate = new CountDownLatch(1);

  private final BlockingQueue<Batch> queue = new LinkedBlockingQueue<>();
  private final Thread node;
  private volatile BatchExecutor executor;
  private volatile boolean stopped;
  private volatile Path state;
  private volatile CompletableFuture<SavedSession> swapped;
  private volatile boolean inPieces;

  LoopbackMachine() {
    this(SETTINGS, 1, true);
  }

  LoopbackMachine(SessionSettings settings, int devices, boolean open) {
    session = MachineSession.open("loopback", devices, settings);
    if (open) {
      gate.countDown();
    }
    node = new Thread(() -> run(devices), "loopback-node");
    node.setDaemon(true);
    node.start();
    session.connect(
        batch -> {
          synchronized (born) {
            born.addAll(batch.born());
            for (long id : batch.freed()) {
              freed.add(id);
            }
          }
          batches.incrementAndGet();
          bytes.addAndGet(batch.size());
          queue.add(batch);
        });
  }

  Device device() {
    return session.device(0);
  }

  long storages() {
    return executor.storageCount();
  }

  /** Saves the session, ends its executor, and continues with one that has loaded it. */
  SavedSession swap(Path file) throws Exception {
    return swap(file, false);
  }

  /** Likewise, by a copy whose parts lie in pieces of the file. */
  SavedSession swapInPieces(Path file) throws Exception {
    return swap(file, true);
  }

  private SavedSession swap(Path file, boolean pieces) throws Exception {
    CompletableFuture<SavedSession> done = new CompletableFuture<>();
    swapped = done;
    inPieces = pieces;
    state = file;
    return done.get(60, java.util.concurrent.TimeUnit.SECONDS);
  }

  /** Saves and loads; the executor is another one afterwards. */
  private SavedSession swap(int devices, long executed, Path file) throws IOException {
    if (!inPieces) {
      SavedSession saved = executor.save(executed, file);
      executor.close();
      executor = create(devices);
      SavedSession loaded = executor.load(file);
      if (!saved.equals(loaded)) {
        throw new RemoraException("saved " + saved + ", loaded " + loaded);
      }
      return saved;
    }
    List<BatchExecutor.Piece> pieces = new ArrayList<>();
    long storages;
    try (CapturedSession copy = executor.capture(executed);
        FileChannel channel =
            FileChannel.open(file, StandardOpenOption.CREATE, StandardOpenOption.WRITE)) {
      storages = copy.storages();
      copy.takeAll(
          (bytes, values) -> {
            pieces.add(new BatchExecutor.Piece(file, channel.position(), bytes.remaining()));
            channel.write(bytes);
          });
    }
    executor.close();
    executor = create(devices);
    SavedSession loaded = executor.load(pieces);
    if (loaded.storages() != storages || loaded.sequence() != executed) {
      throw new RemoraException("%d storages, loaded %s".formatted(storages, loaded));
    }
    return loaded;
  }

  private BatchExecutor create(int devices) {
    return BatchExecutor.create(
        java.util.Collections.nCopies(devices, "cpu"), List.of("aten::from_file"));
  }

  private void run(int devices) {
    executor = create(devices);
    long executed = 0;
    try {
      gate.await();
      while (!stopped) {
        Batch batch = queue.poll(50, java.util.concurrent.TimeUnit.MILLISECONDS);
        if (batch != null) {
          executed = batch.sequence();
          execute(executor, batch);
        } else if (state != null) {
          SavedSession saved = swap(devices, executed, state);
          state = null;
          swapped.complete(saved);
        }
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    } catch (IOException e) {
      swapped.completeExceptionally(e);
    } catch (RemoraException e) {
      session.onLost(e);
      if (swapped != null) {
        swapped.completeExceptionally(e);
      }
    } finally {
      executor.close();
    }
  }

  private void execute(BatchExecutor executor, Batch batch) {
    ByteBuffer copy = ByteBuffer.allocateDirect(batch.size()).order(ByteOrder.LITTLE_ENDIAN);
    copy.put(batch.bytes()).flip();
    try (ExecutionResult result = executor.execute(batch.sequence(), copy)) {
      for (ExecutionResult.LargeValue value : result.values()) {
        int size = value.bytes().remaining();
        ByteBuffer target = session.valueDestination(value.request(), 0, size);
        if (target != null) {
          target.put(value.bytes());
          session.onValueReceived(value.request(), 0, size);
        }
      }
      ExecutionReport report = ExecutionReport.decode(result.report());
      synchronized (born) {
        realized.addAll(report.realized());
        for (long id : report.freed()) {
          freedOnNode.add(id);
        }
      }
      session.onExecuted(batch.sequence(), result.report());
    } finally {
      batch.release();
    }
  }

  @Override
  public void close() {
    try {
      session.close();
    } finally {
      stopped = true;
    }
  }
}
