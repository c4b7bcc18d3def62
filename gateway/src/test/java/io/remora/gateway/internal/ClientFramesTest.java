// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway.internal;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import akka.grpc.GrpcServiceException;
import akka.util.ByteString;
import io.grpc.Status;
import io.remora.actors.link.BufferPool;
import io.remora.gateway.v1.Batch;
import io.remora.gateway.v1.Batches;
import io.remora.gateway.v1.ClientFrame;
import io.remora.gateway.v1.Ping;
import io.remora.gateway.v1.ServerFrame;
import io.remora.gateway.v1.Value;
import io.remora.runtime.StorageBirth;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("critical")
final class ClientFramesTest {

  private final ClientFrames frames = new ClientFrames(new BufferPool(1 << 20), 1 << 20);

  @Test
  void readsFramesHoweverTheirBytesAreCut() {
    ByteString bytes = ByteString.emptyByteString();
    for (int i = 1; i <= 5; i++) {
      bytes =
          bytes.concat(
              GrpcFrames.encode(
                  ClientFrame.newBuilder().setPing(Ping.newBuilder().setNumber(i)).build()));
    }
    for (int step : new int[] {1, 2, 3, 7, bytes.size()}) {
      List<Long> numbers = new ArrayList<>();
      for (int from = 0; from < bytes.size(); from += step) {
        frames.add(bytes.slice(from, Math.min(bytes.size(), from + step)));
        for (ClientFrame next = frames.next(); next != null; next = frames.next()) {
          numbers.add(next.getPing().getNumber());
        }
      }
      assertThat(numbers).as("in steps of %d bytes", step).containsExactly(1L, 2L, 3L, 4L, 5L);
    }
  }

  @Test
  void batchesKeepTheirBytesWhenTheNextMessageComes() {
    List<io.remora.runtime.Batch> batches = new ArrayList<>();
    for (int i = 1; i <= 4; i++) {
      byte[] data = new byte[i % 2 == 0 ? 100 : 100_000];
      Arrays.fill(data, (byte) i);
      frames.add(
          GrpcFrames.encode(
              ClientFrame.newBuilder()
                  .setBatches(
                      Batches.newBuilder()
                          .addBatches(
                              Batch.newBuilder()
                                  .setSequence(i)
                                  .setData(com.google.protobuf.ByteString.copyFrom(data))
                                  .addAllBorn(List.of(7L, 8L, 1L))
                                  .addFreed(5)))
                  .build()));
      batches.addAll(frames.batches(frames.next()));
    }

    for (int i = 1; i <= 4; i++) {
      io.remora.runtime.Batch batch = batches.get(i - 1);
      assertThat(batch.sequence()).isEqualTo(i);
      assertThat(batch.size()).isEqualTo(i % 2 == 0 ? 100 : 100_000);
      assertThat(batch.bytes().get(batch.size() - 1)).isEqualTo((byte) i);
      assertThat(batch.born()).containsExactly(new StorageBirth(7, 8, 1));
      assertThat(batch.freed()).containsExactly(5);
    }
  }

  @Test
  void aValuesFrameIsWhatProtobufWouldWrite() throws Exception {
    ByteBuffer data = ByteBuffer.allocateDirect(300_000).putLong(100, 12345);
    ServerFrame frame =
        ServerFrame.newBuilder()
            .setIndex(1L << 40)
            .setValue(
                Value.newBuilder()
                    .setRequest(300)
                    .setOffset(1L << 33)
                    .setData(com.google.protobuf.ByteString.copyFrom(data.duplicate())))
            .build();

    assertThat(GrpcFrames.value(1L << 40, 300, 1L << 33, data)).isEqualTo(GrpcFrames.encode(frame));
  }

  @Test
  void refusesAMessageThatIsTooLargeByItsLengthAlone() {
    frames.add(ByteString.fromInts(0, 0, 0x10, 0, 1));

    assertRefused(Status.Code.RESOURCE_EXHAUSTED, "max-message-bytes");
  }

  @Test
  void refusesCompressedMessages() {
    frames.add(ByteString.fromInts(1, 0, 0, 0, 1, 7));

    assertRefused(Status.Code.UNIMPLEMENTED, "compressed");
  }

  @Test
  void refusesWhatIsNoFrame() {
    frames.add(ByteString.fromInts(0, 0, 0, 0, 3, 0xff, 0xff, 0xff));

    assertRefused(Status.Code.INVALID_ARGUMENT, "not a ClientFrame");
  }

  private void assertRefused(Status.Code code, String text) {
    assertThatThrownBy(frames::next)
        .isInstanceOfSatisfying(
            GrpcServiceException.class,
            refusal -> assertThat(refusal.getStatus().getCode()).isEqualTo(code))
        .hasMessageContaining(text);
  }

  /** Prints nothing: the seed is in the failure. */
  @Test
  void damagedBytesAreRefusedOrRight() {
    ByteString sound = ByteString.emptyByteString();
    for (int i = 1; i <= 3; i++) {
      sound =
          sound.concat(
              GrpcFrames.encode(
                  ClientFrame.newBuilder()
                      .setBatches(
                          Batches.newBuilder()
                              .addBatches(
                                  Batch.newBuilder()
                                      .setSequence(i)
                                      .setData(
                                          com.google.protobuf.ByteString.copyFrom(new byte[200]))
                                      .addAllBorn(List.of(7L, 8L, 1L))
                                      .addFreed(5)))
                      .build()));
    }
    long seed = System.nanoTime();
    Random random = new Random(seed);
    int refused = 0;
    for (int round = 0; round < 20_000; round++) {
      byte[] bytes = sound.toArray();
      for (int changes = 1 + random.nextInt(4); changes > 0; changes--) {
        bytes[random.nextInt(bytes.length)] =
            random.nextBoolean() ? (byte) 0xff : (byte) random.nextInt();
      }
      ClientFrames damaged = new ClientFrames(new BufferPool(1 << 20), 1 << 16);
      try {
        damaged.add(
            ByteString.fromArrayUnsafe(Arrays.copyOf(bytes, 1 + random.nextInt(2 * bytes.length))));
        for (ClientFrame next = damaged.next(); next != null; next = damaged.next()) {
          if (next.hasBatches()) {
            damaged.batches(next).forEach(io.remora.runtime.Batch::release);
          }
        }
      } catch (GrpcServiceException e) {
        refused++;
      } catch (RuntimeException e) {
        throw new AssertionError("seed " + seed + ", round " + round, e);
      }
    }
    assertThat(refused).as("seed %d", seed).isGreaterThan(1_000);
  }
}
