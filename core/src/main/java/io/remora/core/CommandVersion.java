// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.core;

import java.util.Objects;
import picocli.CommandLine.IVersionProvider;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Spec;

/** What {@code --version} prints: the command's name, and the version in this jar's manifest. */
public final class CommandVersion implements IVersionProvider {

  @Spec private CommandSpec command;

  @Override
  public String[] getVersion() {
    String version = CommandVersion.class.getPackage().getImplementationVersion();
    return new String[] {
      command.qualifiedName() + " " + Objects.requireNonNullElse(version, "(not packaged)")
    };
  }
}
