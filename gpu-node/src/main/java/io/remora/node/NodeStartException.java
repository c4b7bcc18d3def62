// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import io.remora.runtime.RemoraException;
import picocli.CommandLine.IExitCodeGenerator;

/** A node that could not start. The message names the cause and what to do about it. */
public final class NodeStartException extends RemoraException implements IExitCodeGenerator {

  private static final long serialVersionUID = 1L;

  /** The reason why the node could not start. It decides the exit code of the process. */
  public enum Kind {
    /** libtorch is missing, unusable, or of another version. Exit code 3. */
    LIBTORCH(3),
    /** The requested device does not exist. Exit code 4. */
    DEVICE(4),
    /** The link port could not be opened, or is not allowed. Exit code 5. */
    LISTEN(5),
    /** The configuration is wrong. Exit code 6. */
    CONFIGURATION(6);

    private final int exitCode;

    Kind(int exitCode) {
      this.exitCode = exitCode;
    }

    /**
     * The exit code of a node process that ends for this reason.
     *
     * @return 3 to 6
     */
    public int exitCode() {
      return exitCode;
    }
  }

  private final Kind kind;

  NodeStartException(Kind kind, String message) {
    this(kind, message, null);
  }

  NodeStartException(Kind kind, String message, Throwable cause) {
    super(message, cause);
    this.kind = kind;
  }

  /**
   * The reason why the node could not start.
   *
   * @return the kind of the failure
   */
  public Kind kind() {
    return kind;
  }

  @Override
  public int getExitCode() {
    return kind.exitCode();
  }
}
