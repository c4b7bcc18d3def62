// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway;

import java.util.Objects;
import picocli.CommandLine.IVersionProvider;

/** The gateway's version, from its jar's manifest. */
final class GatewayVersion implements IVersionProvider {
  @Override
  public String[] getVersion() {
    String version = GatewayVersion.class.getPackage().getImplementationVersion();
    return new String[] {"remora-gateway " + Objects.requireNonNullElse(version, "(not packaged)")};
  }
}
