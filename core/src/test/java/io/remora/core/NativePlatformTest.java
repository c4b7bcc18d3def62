// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.core;

import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

@Tag("critical")
class NativePlatformTest {

  @ParameterizedTest
  @CsvSource({
    "Linux, amd64, linux-x86_64, libremora.so",
    "Linux, aarch64, linux-aarch64, libremora.so",
    "Mac OS X, aarch64, macos-arm64, libremora.dylib",
    "Mac OS X, x86_64, macos-x86_64, libremora.dylib",
  })
  void namesTheFolderAndTheFilesOfAJvm(String system, String processor, String name, String file) {
    NativePlatform platform = NativePlatform.of(system, processor);

    assertThat(platform.name()).isEqualTo(name);
    assertThat(platform.resource("remora"))
        .isEqualTo("io/remora/runtime/native/" + name + "/" + file);
    assertThat(NativePlatform.SUPPORTED.contains(platform))
        .isNotEqualTo(name.equals("macos-x86_64"));
  }

  @Test
  void knowsOtherSystemsByName() {
    assertThat(NativePlatform.of("Windows 11", "amd64").name()).isEqualTo("windows-x86_64");
    assertThat(NativePlatform.of("FreeBSD", "riscv64").name()).isEqualTo("freebsd-riscv64");
  }
}
