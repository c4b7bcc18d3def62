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
 * Transfers of tensors directly between nodes, for the process that hosts a node. Its executors
 * hold tensors for other nodes under tickets, and fetch the tensors that other nodes hold. A ticket
 * is a secret that only the two nodes and the program know, and can be used once. Process-wide,
 * thread-safe.
 */
public final class TensorTransfers {

  private TensorTransfers() {}

  /** Fetches tensors from other nodes. */
  @FunctionalInterface
  public interface Fetcher {
    /**
     * Fills the destination. Called on the session's thread, which waits, so the method needs a
     * time limit. It must not touch the destination after it has returned.
     *
     * @param address the other node's {@code host:port}
     * @param destination the buffer to fill from its position to its limit
     * @throws IOException when nothing arrived: the node cannot be reached, or does not have the
     *     ticket
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
   * Sets how tensors are fetched, and the limits on what is held for other nodes. A later call
   * replaces an earlier one. A {@link TorchLibrary} must have been loaded.
   *
   * @param maxTickets most tickets held at a time
   * @param maxBytes most bytes held, including those being sent
   * @param lifetime how long an unused ticket is held
   */
  public static void configure(Fetcher fetcher, int maxTickets, long maxBytes, Duration lifetime) {
    FetchCallbacks.configure(
        requireNonNull(fetcher, "fetcher"), maxTickets, maxBytes, lifetime.toMillis());
  }

  /**
   * Takes the bytes held under a ticket, which cannot be used again. Empty if there is no such
   * ticket.
   */
  public static Optional<Held> take(String ticket) {
    long handle = NativeCore.transferTake(requireNonNull(ticket, "ticket"));
    return handle == 0 ? Optional.empty() : Optional.of(new Held(handle));
  }

  /** Frees the bytes of expired tickets. Call it from time to time. */
  public static void expire() {
    NativeCore.transferExpire();
  }
}
