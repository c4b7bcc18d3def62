// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.bytedeco.pytorch.global.torch.randn;
import static org.bytedeco.pytorch.global.torch.zeros;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.atomic.AtomicReference;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** What a node holds for others, and two machines in one process. */
@Tag("critical")
@Timeout(60)
class TensorTransfersTest {
  private static final String TICKET = "0123456789abcdef0123456789abcdef";
  private static final String OTHER = "f123456789abcdef0123456789abcdef";
  private static final Duration LONG = Duration.ofMinutes(1);

  private final AtomicReference<String> asked = new AtomicReference<>();

  @BeforeEach
  void load() {
    TorchLibrary.bytedeco();
    configure(64, 1 << 30, LONG);
  }

  @AfterEach
  void forget() {
    configure(64, 1 << 30, LONG);
  }

  @Test
  void aTicketServesOnce() {
    try (BatchExecutor executor = executor()) {
      hold(executor, 1, TICKET, "hello");

      assertThat(TensorTransfers.take(OTHER)).isEmpty();
      assertThat(TensorTransfers.take("")).isEmpty();
      assertThat(TensorTransfers.take(TICKET + "0")).isEmpty();
      try (TensorTransfers.Held held = TensorTransfers.take(TICKET).orElseThrow()) {
        assertThat(StandardCharsets.UTF_8.decode(held.bytes()).toString()).isEqualTo("hello");
      }
      assertThat(TensorTransfers.take(TICKET)).isEmpty();
    }
  }

  @Test
  void holdsNoMoreThanItsLimits() {
    configure(1, 8, LONG);
    try (BatchExecutor executor = executor()) {
      hold(executor, 1, TICKET, "hello");
      hold(executor, 2, OTHER, "x");
      assertThat(TensorTransfers.take(OTHER)).as("the second of one").isEmpty();
      try (TensorTransfers.Held held = TensorTransfers.take(TICKET).orElseThrow()) {
        hold(executor, 3, OTHER, "12345");
        assertThat(TensorTransfers.take(OTHER)).as("8 bytes, those being sent included").isEmpty();
      }
      hold(executor, 4, OTHER, "12345");
      TensorTransfers.take(OTHER).orElseThrow().close();
    }
  }

  @Test
  void holdsNothingForLongerThanItsLifetime() throws Exception {
    configure(1, 100, Duration.ofMillis(20));
    try (BatchExecutor executor = executor()) {
      hold(executor, 1, TICKET, "hello");
      Thread.sleep(30);
      assertThat(TensorTransfers.take(TICKET)).isEmpty();
      hold(executor, 2, OTHER, "again");
      assertThat(TensorTransfers.take(OTHER)).as("its place was given to the next").isPresent();
    }
  }

  @Test
  void whatASessionHoldsEndsWithIt() {
    try (BatchExecutor executor = executor()) {
      hold(executor, 1, TICKET, "hello");
    }
    assertThat(TensorTransfers.take(TICKET)).isEmpty();
  }

  @Test
  void aTicketOfAnotherLengthIsAProtocolError() {
    try (BatchExecutor executor = executor()) {
      assertThatThrownBy(() -> hold(executor, 1, "short", "hello"))
          .isInstanceOf(ProtocolException.class)
          .hasMessageContaining("a ticket of 5 characters");
    }
  }

  @Test
  void machinesOfOneProcessNeedNoConnection() {
    try (LoopbackMachine one = new LoopbackMachine();
        LoopbackMachine two = new LoopbackMachine()) {
      one.session.setNodeAddress("nowhere:1");
      Tensor local = randn(200, 300);

      Tensor moved = local.to(one.device(), ScalarType.Float).to(two.device(), ScalarType.Float);

      assertThat(moved.cpu().equal(local)).isTrue();
      assertThat(asked).hasNullValue();
      assertThat(one.session.statistics().downloadedBytes()).isZero();
      assertThat(two.session.statistics().uploadedBytes()).isZero();
    }
  }

  @Test
  void smallTensorsAndThoseOfUnknownNodesAreNotFetched() {
    try (LoopbackMachine one = new LoopbackMachine();
        LoopbackMachine two = new LoopbackMachine()) {
      Tensor large = randn(200, 300);
      Tensor small = randn(10);
      move(large, one, two);
      assertThat(one.session.statistics().downloadedBytes()).isEqualTo(large.nbytes());
      one.session.setNodeAddress("nowhere:1");
      move(small, one, two);
      assertThat(one.session.statistics().downloadedBytes())
          .isEqualTo(large.nbytes() + small.nbytes());
    }
  }

  @Test
  void aTensorOfAClosedMachineIsStale() {
    try (LoopbackMachine two = new LoopbackMachine()) {
      LoopbackMachine one = new LoopbackMachine();
      one.session.setNodeAddress("nowhere:1");
      Tensor tensor = zeros(200, 300).to(one.device(), ScalarType.Float);
      one.close();

      assertThatThrownBy(() -> tensor.to(two.device(), ScalarType.Float))
          .isInstanceOf(StaleReferenceException.class);
    }
  }

  private static void move(Tensor local, LoopbackMachine one, LoopbackMachine two) {
    Tensor moved = local.to(one.device(), ScalarType.Float).to(two.device(), ScalarType.Float);
    assertThat(moved.cpu().equal(local)).isTrue();
  }

  private void configure(int tickets, long bytes, Duration lifetime) {
    TensorTransfers.configure(
        (address, ticket, destination) -> {
          asked.set(address);
          throw new IOException("nobody is there");
        },
        tickets,
        bytes,
        lifetime);
  }

  private static BatchExecutor executor() {
    return BatchExecutor.create(List.of("cpu"), List.of());
  }

  /** Runs a batch that makes a tensor of bytes, and holds it under the ticket. */
  private static void hold(BatchExecutor executor, int storage, String ticket, String text) {
    byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
    ByteBuffer batch = ByteBuffer.allocateDirect(256);
    batch.put((byte) 0xB7).put((byte) Batch.WIRE_VERSION);
    // kWrite: a new storage, on device 0, of so many bytes; from byte 0 on, so many bytes
    batch.put((byte) 6).put((byte) 1).put((byte) (2 * storage)).put((byte) 0);
    batch.put((byte) bytes.length).put((byte) 0).put((byte) bytes.length).put(bytes);
    // kQuestion 1: kHoldTransfer, the ticket, not temporary, a tensor of uint8[n] on that storage
    batch.put((byte) 10).put((byte) 1).put((byte) 8).put((byte) ticket.length());
    batch.put(ticket.getBytes(StandardCharsets.UTF_8)).put((byte) 0);
    batch.put((byte) 0x80).put((byte) 0).put((byte) 1).put((byte) bytes.length).put((byte) 0);
    executor.execute(1, batch.flip()).close();
  }
}
