// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import java.util.Objects;
import picocli.CommandLine.IVersionProvider;

/** The node's version, from its jar's manifest. */
final class NodeVersion implements IVersionProvider {
  @Override
  public String[] getVersion() {
    String version = NodeVersion.class.getPackage().getImplementationVersion();
    return new String[] {"remora-node " + Objects.requireNonNullElse(version, "(not packaged)")};
  }
}
