// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import com.google.protobuf.InvalidProtocolBufferException;
import io.remora.actors.link.FrameHeader;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.LinkChannel;
import io.remora.actors.link.LinkConnection;
import io.remora.actors.link.LinkSettings;
import io.remora.actors.link.LinkTransport;
import io.remora.actors.link.OutboundFrame;
import io.remora.actors.link.PooledBuffer;
import io.remora.actors.link.ValueHeader;
import io.remora.actors.link.proto.Fetch;
import io.remora.actors.link.proto.Goodbye;
import io.remora.actors.link.proto.Refused;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.TensorTransfers;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.function.BooleanSupplier;

/**
 * Fetches tensors that other nodes hold. It connects to the other node's link port, shows the
 * ticket, and writes the bytes to their destination as they arrive. Each tensor has its own
 * connection, so that a large tensor delays no other. Thread-safe.
 */
final class TransferClient implements TensorTransfers.Fetcher {

  /** How often a waiting session checks whether the tensor is still wanted. */
  private static final long LOOK_MILLIS = 100;

  private static final ThreadLocal<BooleanSupplier> ABANDONED =
      ThreadLocal.withInitial(() -> () -> false);

  private final LinkSettings linkSettings;
  private final NodeSettings.Transfer settings;

  TransferClient(LinkSettings linkSettings, NodeSettings.Transfer settings) {
    this.linkSettings = linkSettings;
    this.settings = settings;
  }

  /** Sets a condition under which this thread stops waiting for a tensor. */
  static void giveUpWhen(BooleanSupplier abandoned) {
    ABANDONED.set(abandoned);
  }

  @Override
  public void fetch(String address, String ticket, ByteBuffer destination) throws IOException {
    Arrival arrival = new Arrival(address, destination);
    LinkConnection connection =
        LinkConnection.start(dial(address), "node at " + address, linkSettings, arrival);
    try {
      Fetch fetch = Fetch.newBuilder().setTicket(ticket).setBytes(destination.remaining()).build();
      connection.send(OutboundFrame.control(FrameType.FETCH, 0, fetch));
      await(arrival.complete, address);
    } finally {
      connection.close();
      // After this no thread writes to the destination. Closing the socket ends its reader.
      arrival.closed.join();
    }
  }

  private LinkChannel dial(String address) throws IOException {
    try {
      InetSocketAddress resolved = LinkTransport.address(address);
      return LinkTransport.dial(resolved, settings.connectTimeout(), linkSettings.tls());
    } catch (IOException | RuntimeException e) {
      throw new IOException(
          "its node cannot reach the other one at %s: %s".formatted(address, e.getMessage()), e);
    }
  }

  private void await(CompletableFuture<Void> complete, String address) throws IOException {
    BooleanSupplier abandoned = ABANDONED.get();
    long end = System.nanoTime() + settings.timeout().toNanos();
    while (true) {
      try {
        complete.get(LOOK_MILLIS, TimeUnit.MILLISECONDS);
        return;
      } catch (TimeoutException e) {
        if (abandoned.getAsBoolean()) {
          throw new RemoraException("nobody waits for the tensor any more", e);
        }
        if (System.nanoTime() - end > 0) {
          throw new RemoraException(
              "the node at %s did not send a tensor within %s (remora.node.transfer.timeout)"
                  .formatted(address, settings.timeout()),
              e);
        }
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
        throw new RemoraException("interrupted while a tensor came from " + address, e);
      } catch (ExecutionException e) {
        if (e.getCause() instanceof IOException refused) {
          throw refused;
        }
        throw new RemoraException(e.getCause().getMessage(), e.getCause());
      }
    }
  }

  /** Handles the other node's frames on the connection's reader thread. */
  private static final class Arrival implements LinkConnection.Handler {
    final CompletableFuture<Void> complete = new CompletableFuture<>();
    final CompletableFuture<Void> closed = new CompletableFuture<>();
    private final String address;
    private final ByteBuffer destination;
    private long received;

    Arrival(String address, ByteBuffer destination) {
      this.address = address;
      this.destination = destination.slice();
    }

    @Override
    public ByteBuffer valueDestination(FrameHeader header, ValueHeader value) {
      if (value.total() != destination.capacity() || value.offset() != received) {
        throw new ProtocolException(
            ("the node at %s sent bytes at offset %d of a tensor of %d bytes; expected "
                    + "were offset %d and %d bytes")
                .formatted(
                    address, value.offset(), value.total(), received, destination.capacity()));
      }
      return destination.slice((int) received, value.length());
    }

    @Override
    public void onValue(FrameHeader header, ValueHeader value) {
      received += value.length();
      if (received == destination.capacity()) {
        complete.complete(null);
      }
    }

    @Override
    public void onFrame(LinkConnection connection, FrameHeader header, PooledBuffer payload) {
      try {
        switch (header.type()) {
          case REFUSED ->
              complete.completeExceptionally(
                  new IOException(
                      "the node at %s refused: %s"
                          .formatted(
                              address,
                              Refused.parseFrom(payload.bytes().duplicate()).getMessage())));
          case GOODBYE ->
              complete.completeExceptionally(
                  new RemoraException(
                      "the node at %s broke off: %s"
                          .formatted(
                              address,
                              Goodbye.parseFrom(payload.bytes().duplicate()).getMessage())));
          default ->
              throw new ProtocolException(
                  "a %s frame is not an answer to FETCH".formatted(header.type()));
        }
      } catch (InvalidProtocolBufferException e) {
        throw new ProtocolException("unreadable control message: " + e.getMessage(), e);
      }
    }

    @Override
    public void onClosed(LinkConnection connection, Throwable cause) {
      complete.completeExceptionally(
          new RemoraException(
              "the connection to the node at %s ended after %d of %d bytes: %s"
                  .formatted(
                      address,
                      received,
                      destination.capacity(),
                      cause == null ? "closed" : cause.getMessage()),
              cause));
      closed.complete(null);
    }
  }
}
