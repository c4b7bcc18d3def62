// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import io.remora.core.NativePlatform;
import io.remora.core.ProgramLibtorch;
import io.remora.runtime.RemoraException;
import io.remora.runtime.TorchLibrary;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;

/** Checks the folder given by {@code --torch-home} before libtorch is loaded from it. */
final class TorchHome {

  private static final List<String> REQUIRED = List.of("c10", "torch_cpu");

  /** The libtorch version whose ABI the shipped native core uses. */
  static final String SUPPORTED = "2.10";

  private TorchHome() {}

  /**
   * Loads libtorch from a torch installation.
   *
   * @throws NodeStartException if it is not a folder, or has another version; the message says what
   *     was expected
   */
  static TorchLibrary load(Path home) {
    if (!Files.isDirectory(home)) {
      throw unusable(home, "there is no such folder");
    }
    for (String each : REQUIRED) {
      String library = NativePlatform.current().fileName(each);
      if (!Files.isReadable(home.resolve("lib").resolve(library))) {
        throw unusable(home, "it has no lib/" + library);
      }
    }
    String version = declaredVersion(home);
    boolean ownCore = System.getenv(ProgramLibtorch.CORE_VARIABLE) != null;
    if (version != null && !ownCore && !Handshake.majorMinor(version).equals(SUPPORTED)) {
      throw unusable(home, "it is torch %s, but %s is needed".formatted(version, SUPPORTED));
    }
    try {
      return TorchLibrary.home(home);
    } catch (RemoraException | LinkageError e) {
      throw new NodeStartException(
          NodeStartException.Kind.LIBTORCH,
          "libtorch cannot be loaded from --torch-home %s: %s".formatted(home, e.getMessage()),
          e);
    }
  }

  /** What the installation says about itself in version.py; null where it says nothing. */
  private static String declaredVersion(Path home) {
    try {
      return Files.readAllLines(home.resolve("version.py")).stream()
          .filter(line -> line.startsWith("__version__"))
          .map(line -> line.replaceAll("^[^=]*=\\s*['\"]|['\"].*$", ""))
          .findFirst()
          .orElse(null);
    } catch (IOException e) {
      return null;
    }
  }

  private static NodeStartException unusable(Path home, String why) {
    return new NodeStartException(
        NodeStartException.Kind.LIBTORCH,
        ("--torch-home %s is not usable: %s. Name the 'torch' folder of a 'pip install torch==%s.0'"
                + " (python3 -c 'import torch; print(torch.__path__[0])' prints it)")
            .formatted(home, why, SUPPORTED));
  }
}
