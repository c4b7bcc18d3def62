// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.core;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/** The Java that runs this program, for child processes that use it, too. */
public final class OwnJava {

  private OwnJava() {}

  /** The command {@code java} of this JDK or JRE, an absolute path. */
  public static Path command() {
    return Path.of(System.getProperty("java.home"), "bin", "java");
  }

  /**
   * Options that make newer versions let libraries use native code and memory without a warning;
   * empty before JDK 22.
   */
  public static List<String> nativeAccessOptions() {
    int version = Runtime.version().feature();
    List<String> options = new ArrayList<>();
    if (version >= 22) {
      options.add("--enable-native-access=ALL-UNNAMED");
    }
    if (version >= 23) {
      options.add("--sun-misc-unsafe-memory-access=allow");
    }
    return options;
  }
}
