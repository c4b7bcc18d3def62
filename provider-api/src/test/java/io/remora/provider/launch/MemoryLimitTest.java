// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.launch;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

@Tag("critical")
final class MemoryLimitTest {

  @TempDir Path folder;

  @Test
  void theSmallestLimitOfTheGroupAndThoseAboveItCounts() throws IOException {
    write("proc/meminfo", "MemTotal:       16777216 kB\nMemFree: 1 kB\n");
    write("proc/self/cgroup", "0::/pod/container\n");
    write("cgroup/pod/memory.max", "2147483648\n");
    write("cgroup/pod/container/memory.max", "max\n");

    assertThat(describe()).isEqualTo("the memory limit of its control group is 2048 MiB");

    write("cgroup/pod/container/memory.max", "1073741824\n");
    assertThat(describe()).contains("1024 MiB");
  }

  @Test
  void groupsOfTheFirstVersionCountToo() throws IOException {
    write("proc/meminfo", "MemTotal:       16777216 kB\n");
    write("proc/self/cgroup", "4:memory:/job\n3:cpuset:/\n0::/\n");
    write("cgroup/memory/job/memory.limit_in_bytes", "536870912\n");
    write("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");

    assertThat(describe()).isEqualTo("the memory limit of its control group is 512 MiB");
  }

  @Test
  void withoutALimitTheComputersMemoryIsNamed() throws IOException {
    write("proc/meminfo", "MemTotal:       16777216 kB\n");
    write("proc/self/cgroup", "0::/\n");

    assertThat(describe()).isEqualTo("this computer has 16384 MiB of memory");
    assertThat(MemoryLimit.describe(folder.resolve("none"), folder)).isEmpty();
    assertThat(MemoryLimit.describe()).contains("MiB");
  }

  private String describe() {
    return MemoryLimit.describe(folder.resolve("proc"), folder.resolve("cgroup"));
  }

  private void write(String file, String text) throws IOException {
    Path path = folder.resolve(file);
    Files.createDirectories(path.getParent());
    Files.writeString(path, text);
  }
}
