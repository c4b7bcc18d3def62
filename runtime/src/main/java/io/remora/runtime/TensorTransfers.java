// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import static java.util.Objects.requireNonNull;

import io.remora.runtime.internal.FetchCallbacks;
import io.remora.runtime.internal.NativeCore;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.Optional;

/**
 * Tensors on their way from one node straight to another, as the host of a node sees them: what
 * this process's executors hold under tickets, and how they get what other nodes hold. A ticket is
 * a secret that only the two nodes and the program know; it serves once. Process-wide, thread-safe.
 */
public final class TensorTransfers {

  private TensorTransfers() {}

  /** Gets from other nodes what they hold. */
  @FunctionalInterface
  public interface Fetcher {
    /**
     * Fills the destination. Called on the session's thread, which waits for it, so that it must
     * have a time limit; it must not touch the destination after it has returned.
     *
     * @param address of the other node, as {@code host:port}
     * @param destination filled from its position to its limit
     * @throws IOException when nothing has come: there is no such node, or it has no such ticket
     * @throws RemoraException when the transfer ended before it was complete
     */
    void fetch(String address, String ticket, ByteBuffer destination) throws IOException;
  }

  /** Bytes that were held under a ticket. */
  public static final class Held implements AutoCloseable {
    private final ByteBuffer bytes;
    private long handle;

    private Held(long handle) {
      this.handle = handle;
      this.bytes =
          NativeMemory.buffer(NativeCore.transferData(handle), NativeCore.transferBytes(handle))
              .asReadOnlyBuffer();
    }

    /** The tensor's bytes; valid until {@link #close()}. */
    public ByteBuffer bytes() {
      return bytes.duplicate();
    }

    /** Frees the bytes. Idempotent. */
    @Override
    public synchronized void close() {
      if (handle != 0) {
        NativeCore.transferRelease(handle);
        handle = 0;
      }
    }
  }

  /**
   * Says how tensors are fetched and what is held for other nodes at most. A later call replaces
   * what an earlier one said. A {@link TorchLibrary} must have been loaded.
   *
   * @param maxTickets how many tickets are held at a time
   * @param maxBytes how many bytes, those being sent included
   * @param lifetime how long a ticket is held that nobody takes
   */
  public static void configure(Fetcher fetcher, int maxTickets, long maxBytes, Duration lifetime) {
    FetchCallbacks.configure(
        requireNonNull(fetcher, "fetcher"), maxTickets, maxBytes, lifetime.toMillis());
  }

  /** What is held under a ticket, which serves no more then; empty if there is no such ticket. */
  public static Optional<Held> take(String ticket) {
    long handle = NativeCore.transferTake(requireNonNull(ticket, "ticket"));
    return handle == 0 ? Optional.empty() : Optional.of(new Held(handle));
  }

  /** Frees what nobody has taken in time. To be called now and then. */
  public static void expire() {
    NativeCore.transferExpire();
  }
}
