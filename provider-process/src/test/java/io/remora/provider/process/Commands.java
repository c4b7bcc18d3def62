// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.process;

import com.typesafe.config.ConfigRenderOptions;
import com.typesafe.config.ConfigValueFactory;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.ArrayList;
import java.util.List;

/** Commands that start real nodes on this computer. */
final class Commands {

  private Commands() {}

  /** The words of a command that runs a node, with the options that all examples share. */
  static List<String> node(String... options) {
    List<String> words =
        new ArrayList<>(
            List.of(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "-XX:TieredStopAtLevel=1",
                "-XX:+UseSerialGC",
                "-cp",
                System.getProperty("java.class.path"),
                "io.remora.node.Main",
                "--device=cpu",
                "--compute-threads=1",
                "--gpu-count={gpu-count}",
                "--gpu-type={gpu-type}",
                "--exit-with-stdin"));
    words.addAll(List.of(options));
    return words;
  }

  /**
   * Imitates {@code ssh HOST COMMAND…}: runs the command in a shell below another process. The
   * shell has this process's standard input and output, but none of its environment.
   */
  static Path ssh(Path folder) throws IOException {
    Path script = folder.resolve("ssh");
    Files.writeString(
        script,
        """
        #!/bin/sh
        echo "Warning: Permanently added '$1' to the list of known hosts." >&2
        shift
        env -i PATH="$PATH" HOME="$HOME" OMP_NUM_THREADS=1 /bin/sh -c "$*; exit \\$?"
        exit $?
        """);
    Files.setPosixFilePermissions(script, PosixFilePermissions.fromString("rwx------"));
    return script;
  }

  /** A setting whose value is a command. */
  static String setting(String key, List<String> words) {
    return "remora.provider.process.%s = %s\n"
        .formatted(
            key, ConfigValueFactory.fromIterable(words).render(ConfigRenderOptions.concise()));
  }
}
