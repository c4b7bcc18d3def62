// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import static java.util.Objects.requireNonNull;

import com.google.protobuf.ByteString;
import io.remora.actors.link.proto.SharedMemory;
import java.io.IOException;
import java.net.SocketTimeoutException;
import java.time.Duration;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.Future;
import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicReference;
import java.util.concurrent.locks.LockSupport;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.BooleanSupplier;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * A connection over one socket.
 *
 * <p>A writer thread writes all that waits with one gathering write, straight from the caller's
 * buffers. A reader thread checks each frame and hands it to the {@link LinkConnection.Handler};
 * the bytes of values are read from the socket right into the memory that the handler names.
 *
 * <p>The bytes of large payloads go through {@link LinkMemory} where both ends are on one computer
 * and have agreed on it; the socket carries their frames, so that the order is the same.
 *
 * <p>Each wake-up of another thread costs more than reading a short frame. So without TLS, a thread
 * that waits for a frame reads the socket itself, see {@link #await} and {@link #readUntil}. At any
 * time one thread reads. The reader thread reads when no other has read for a millisecond.
 */
final class SocketConnection implements LinkConnection {
  private static final Logger log = LoggerFactory.getLogger(LinkConnection.class);

  private final LinkChannel channel;
  private final String name;
  private final LinkSettings settings;
  private final Handler handler;
  private final MemorySharing sharing;
  private final Thread reader;
  private final FrameReceiver receiver;
  private final ReadingRole role;
  private final Thread writer;
  private final ConcurrentLinkedQueue<OutboundSource> queue = new ConcurrentLinkedQueue<>();

  /** Held by whoever writes to the socket; guards {@link #gather}. */
  private final ReentrantLock writing = new ReentrantLock();

  private final FrameGather gather;
  private final AtomicBoolean closing = new AtomicBoolean();
  private final AtomicReference<Throwable> cause = new AtomicReference<>();

  private volatile boolean writerWaits;
  private volatile boolean finishing;
  private volatile ScheduledFuture<?> watch;

  private SocketConnection(
      LinkChannel channel, String name, LinkSettings settings, Handler handler) {
    this.channel = requireNonNull(channel, "channel");
    this.name = requireNonNull(name, "name");
    this.settings = requireNonNull(settings, "settings");
    this.handler = requireNonNull(handler, "handler");
    this.sharing = new MemorySharing(name, mayShare(channel) ? settings.sharedMemoryBytes() : 0);
    this.reader = new Thread(this::read, "remora-link-read-" + name);
    this.writer = new Thread(this::write, "remora-link-write-" + name);
    this.receiver = new FrameReceiver(this, channel, sharing, settings, handler);
    this.role = new ReadingRole(this, channel, receiver, reader);
    this.gather = new FrameGather(queue, channel, sharing, settings, name);
    reader.setDaemon(true);
    writer.setDaemon(true);
  }

  static LinkConnection start(
      LinkChannel channel, String name, LinkSettings settings, Handler handler) {
    SocketConnection connection = new SocketConnection(channel, name, settings, handler);
    connection.watch = LinkWatch.watch(connection, settings.heartbeatInterval());
    try {
      channel.start();
    } catch (IOException e) {
      connection.closeBecause(e);
    }
    connection.writer.start();
    connection.reader.start();
    return connection;
  }

  @Override
  public void send(OutboundSource source) {
    queue.add(source);
    wakeWriter();
  }

  @Override
  public void sendNow(OutboundSource source) {
    boolean othersWait = !queue.isEmpty();
    queue.add(source);
    if (othersWait) {
      wakeWriter(); // what others have to say is not written on this thread
      return;
    }
    // A release that sends is called in the middle of a write: then what it sends is next anyway.
    if (closing.get() || writing.isHeldByCurrentThread() || !writing.tryLock()) {
      wakeWriter();
      return;
    }
    if (closing.get()) {
      // Its end may have been told: no source may be asked for frames any more.
      writing.unlock();
      dropQueued();
      return;
    }
    try {
      // Once only: a caller shall not end up writing what others keep queueing.
      if (!gather.isWritten() || gather.collect(false)) {
        gather.write();
      }
    } catch (IOException | RuntimeException | Error e) {
      gather.release();
      closeBecause(e);
    } finally {
      writing.unlock();
    }
    // What the socket did not take, what came while this thread was about to stop writing, and the
    // end of output, are the writer's.
    if (!queue.isEmpty() || gather.isEndOfOutput() || !gather.isWritten()) {
      wakeWriter();
    }
  }

  private void wakeWriter() {
    if (writerWaits) {
      LockSupport.unpark(writer);
    }
    if (closing.get()) {
      dropQueued();
    }
  }

  @Override
  public void finish(OutboundFrame last, Duration limit) {
    finishing = true;
    send(last);
    send(new FrameGather.EndOfOutput());
    LinkWatch.after(limit, this::close);
  }

  @Override
  public void close() {
    closeBecause(null);
  }

  @Override
  public void closeBecause(Throwable reason) {
    if (!closing.compareAndSet(false, true)) {
      return;
    }
    cause.set(finishing ? null : reason);
    ScheduledFuture<?> task = watch;
    if (task != null) {
      task.cancel(false);
    }
    try {
      channel.close();
    } catch (IOException e) {
      log.debug("Closing the socket of {} failed", name, e);
    }
    LockSupport.unpark(writer);
    LockSupport.unpark(reader);
  }

  @Override
  public boolean isOpen() {
    return !closing.get();
  }

  /** Whether the last frame was queued, so that what arrives is discarded. */
  boolean isFinishing() {
    return finishing;
  }

  @Override
  public String name() {
    return name;
  }

  @Override
  public boolean sendsWithoutBlocking() {
    return !channel.blocks();
  }

  // Shared memory ------------------------------------------------------------------------------

  /** Only a peer on this computer can share memory, and TLS protects more than memory does. */
  private static boolean mayShare(LinkChannel channel) {
    try {
      return !channel.blocks() && channel.remoteAddress().getAddress().isLoopbackAddress();
    } catch (IOException e) {
      return false; // closed already
    }
  }

  @Override
  public ByteString memoryChallenge() {
    return sharing.challenge();
  }

  @Override
  public SharedMemory offerMemory(ByteString challenge) {
    return sharing.offer(challenge);
  }

  @Override
  public boolean openMemory(SharedMemory offered) {
    boolean opened = sharing.open(offered);
    send(OutboundFrame.empty(FrameType.SHARED_MEMORY, 0, opened ? FrameType.OPENED : 0));
    return opened;
  }

  @Override
  public boolean sharesMemory() {
    return sharing.writer() != null;
  }

  @Override
  public LinkSettings settings() {
    return settings;
  }

  @Override
  public long bytesSent() {
    return gather.bytesSent();
  }

  @Override
  public long bytesReceived() {
    return receiver.bytesReceived();
  }

  @Override
  public String toString() {
    return "LinkConnection(" + name + ")";
  }

  // Watching -----------------------------------------------------------------------------------

  /** Called by the watch every heartbeat interval. */
  void checkAlive(long nowNanos) {
    long silent = receiver.silence(nowNanos);
    if (silent > settings.heartbeatTimeout().toNanos()) {
      closeBecause(
          new SocketTimeoutException(
              "nothing was heard from "
                  + name
                  + " for "
                  + TimeUnit.NANOSECONDS.toMillis(silent)
                  + " ms (remora.link.heartbeat-timeout)"));
    }
  }

  // Writing ------------------------------------------------------------------------------------

  private void write() {
    long intervalNanos = settings.heartbeatInterval().toNanos();
    try {
      while (!closing.get()) {
        if (writeQueued()) {
          continue;
        }
        if (gather.isEndOfOutput()) {
          channel.shutdownOutput();
          return;
        }
        long wait = intervalNanos - (System.nanoTime() - gather.lastSentNanos());
        if (wait <= 0) {
          queue.add(OutboundFrame.empty(FrameType.HEARTBEAT, 0, 0));
        } else {
          awaitWork(wait);
        }
      }
    } catch (IOException | RuntimeException | Error e) {
      closeBecause(e);
    } finally {
      if (closing.get()) {
        dropQueued();
      }
    }
  }

  /** One gathering write of what waits; false if nothing did. */
  private boolean writeQueued() throws IOException {
    writing.lock();
    try {
      if (gather.isWritten() && !gather.collect(true)) {
        return false;
      }
      gather.write();
      while (!gather.isWritten() && !closing.get()) {
        channel.awaitWritable();
        gather.write();
      }
      return true;
    } catch (IOException | RuntimeException | Error e) {
      gather.release();
      throw e;
    } finally {
      writing.unlock();
    }
  }

  private void awaitWork(long nanos) {
    writerWaits = true;
    if (queue.isEmpty() && gather.isWritten() && !closing.get()) {
      LockSupport.parkNanos(this, nanos);
    }
    writerWaits = false;
  }

  private void dropQueued() {
    for (OutboundSource source = queue.poll(); source != null; source = queue.poll()) {
      try {
        source.onDropped();
      } catch (RuntimeException e) {
        log.warn("Dropping a frame to {} failed", name, e);
      }
    }
  }

  private void joinWriter() {
    boolean interrupted = false;
    while (true) {
      try {
        writer.join();
        break;
      } catch (InterruptedException e) {
        interrupted = true;
      }
    }
    // Somebody in sendNow may still be on the way out of a write to the closed socket.
    writing.lock();
    try {
      gather.release();
      dropQueued();
    } finally {
      writing.unlock();
    }
    if (interrupted) {
      Thread.currentThread().interrupt();
    }
  }

  // Reading ------------------------------------------------------------------------------------

  private void read() {
    try {
      role.readWhileOpen();
    } catch (IOException | RuntimeException | Error e) {
      closeBecause(e);
    } finally {
      close();
      joinWriter();
      role.join();
      sharing.end();
      try {
        handler.onClosed(this, cause.get());
      } catch (RuntimeException e) {
        log.error("The owner of the link to {} failed when it was told of its end", name, e);
      }
    }
  }

  @Override
  public void await(Future<?> done, long nanos) throws InterruptedException {
    role.await(done, nanos);
  }

  @Override
  public boolean readUntil(BooleanSupplier done, long nanos) {
    return role.readUntil(done, nanos);
  }

  @Override
  public void lend() {
    role.lend();
  }
}
