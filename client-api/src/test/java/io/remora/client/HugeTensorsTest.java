// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.bytedeco.pytorch.global.torch.empty;

import com.typesafe.config.ConfigFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.DeviceOptional;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.ScalarTypeOptional;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorOptions;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Tensors with more bytes than a Java buffer or an {@code int} can have. */
@Tag("full")
@Timeout(value = 300, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class HugeTensorsTest {

  private static final long TWO_GIBIBYTES = 1L << 31;

  @ParameterizedTest
  @ValueSource(strings = {"child-jvm", "in-jvm"})
  void aTensorOfMoreThanTwoGibibytesIsRead(String mode) throws Exception {
    try (RemoteMachine machine = open(mode);
        PointerScope scope = new PointerScope()) {
      Tensor remote = tensor(machine, ScalarType.Float, TWO_GIBIBYTES / 4 + 16);
      try (PointerScope first = new PointerScope()) {
        requireValues(remote.cpu());
      }
      Tensor read = machine.read(remote).toCompletableFuture().get(200, TimeUnit.SECONDS);
      requireValues(read);
      read.close();
      assertThat(machine.statistics().downloadedBytes()).isGreaterThan(2 * TWO_GIBIBYTES);
      assertThat(remote.narrow(0, 0, 3).sum().item_float()).isEqualTo(3);
    }
  }

  @Test
  void bytesPastTwoGibibytesAreReadWrittenAndSaved(@TempDir Path folder) throws Exception {
    try (RemoteMachine machine = open("child-jvm");
        PointerScope scope = new PointerScope()) {
      Tensor remote = tensor(machine, ScalarType.Byte, TWO_GIBIBYTES + 7);
      Path file = folder.resolve("huge.safetensors");
      machine.save(Map.of("huge", remote), file, Map.of());

      assertThat(Files.size(file)).isGreaterThan(TWO_GIBIBYTES + 7);
      assertThat((Files.size(file) - TWO_GIBIBYTES - 7) % 8).as("after the header").isZero();
      try (var channel = Files.newByteChannel(file)) {
        var last = java.nio.ByteBuffer.allocate(3);
        channel.position(Files.size(file) - 3).read(last);
        assertThat(last.array()).containsExactly(1, 1, 5);
      }
      remote.copy_(tensor(ScalarType.Byte, TWO_GIBIBYTES + 7).fill_(new Scalar(3)));
      assertThat(remote.select(0, TWO_GIBIBYTES + 6).item_byte()).isEqualTo((byte) 3);
    }
  }

  private static RemoteMachine open(String mode) {
    return RemoteMachine.builder()
        .provider("mock")
        .config(ConfigFactory.parseString("remora.provider.mock.mode = " + mode))
        .open();
  }

  /** All ones, except for the last element, which is 5. */
  private static Tensor tensor(RemoteMachine machine, ScalarType dtype, long count) {
    Tensor made =
        empty(
            new long[] {count},
            new TensorOptions()
                .dtype(new ScalarTypeOptional(dtype))
                .device(new DeviceOptional(machine.device())),
            null);
    made.fill_(new Scalar(1)).select(0, count - 1).fill_(new Scalar(5));
    return made;
  }

  private static Tensor tensor(ScalarType dtype, long count) {
    return empty(new long[] {count}, new TensorOptions(dtype), null);
  }

  private static void requireValues(Tensor read) {
    long last = read.numel() - 1;
    assertThat(read.select(0, last).item_float()).isEqualTo(5);
    assertThat(read.narrow(0, 0, last).min().item_float()).isEqualTo(1);
    assertThat(read.narrow(0, 0, last).max().item_float()).isEqualTo(1);
  }
}
