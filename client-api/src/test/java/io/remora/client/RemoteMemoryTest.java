// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.bytedeco.pytorch.global.torch.empty;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Stream;
import org.bytedeco.pytorch.DeviceOptional;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorOptions;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** This process holds no tensor data. */
@Tag("fast")
@Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class RemoteMemoryTest {

  /** Tensors cost the same each time; the JVM's compiler and heap grow at times of their own. */
  private static final int ATTEMPTS = 5;

  private static final long GIBIBYTE = 1L << 30;
  private static final long MEBIBYTE = 1L << 20;

  @Test
  void sixtyFourGibibytesOfTensorsCostLessThanTwentyMebibytesHere() throws IOException {
    try (RemoteMachine machine = RemoteMachine.open("mock")) {
      TensorOptions options = new TensorOptions().device(new DeviceOptional(machine.device()));
      use(options, 1);
      long least = Long.MAX_VALUE;
      for (int attempt = 0; attempt < ATTEMPTS && least >= 20 * MEBIBYTE; attempt++) {
        machine.synchronize();
        System.gc(); // garbage of the machine's start must not count, or hide growth
        long before = residentBytes();

        List<Tensor> tensors = use(options, 64);
        machine.synchronize();

        assertThat(tensors.stream().mapToLong(Tensor::nbytes).sum()).isEqualTo(64 * GIBIBYTE);
        least = Math.min(least, residentBytes() - before);
        tensors.forEach(Tensor::close);
      }
      assertThat(least).isLessThan(20 * MEBIBYTE);
    }
  }

  private static List<Tensor> use(TensorOptions options, int count) {
    List<Tensor> tensors = new ArrayList<>();
    for (int i = 0; i < count; i++) {
      Tensor tensor = empty(new long[] {GIBIBYTE / 4}, options, null);
      tensor.reshape(1024, -1).t().close(); // tests views as well
      tensors.add(tensor);
    }
    return tensors;
  }

  private static long residentBytes() throws IOException {
    try (Stream<String> lines = Files.lines(Path.of("/proc/self/status"))) {
      String resident = lines.filter(line -> line.startsWith("VmRSS")).findFirst().orElseThrow();
      return Long.parseLong(resident.replaceAll("[^0-9]", "")) * 1024;
    }
  }
}
