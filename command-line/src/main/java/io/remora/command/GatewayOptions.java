// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.command;

import java.nio.file.Path;
import java.util.Map;
import java.util.Optional;
import picocli.CommandLine.Option;

/**
 * The options of commands that call a gateway, and the variables of the environment behind them.
 */
final class GatewayOptions {

  /** The variable that has the gateway's token. */
  static final String TOKEN = "REMORA_GATEWAY_TOKEN";

  private final Map<String, String> environment;

  @Option(
      names = "--gateway",
      paramLabel = "HOST:PORT",
      description = "The gateway, with the token in REMORA_GATEWAY_TOKEN. Default: REMORA_GATEWAY")
  private String gateway;

  @Option(
      names = "--gateway-certificate",
      paramLabel = "FILE",
      description =
          "Certificates to trust for it, in PEM format. Default: those that Java trusts; no TLS on"
              + " the loopback address")
  private Path certificate;

  GatewayOptions(Map<String, String> environment) {
    this.environment = environment;
  }

  /** The gateway's address, HOST:PORT; empty if neither the option nor the variable names one. */
  Optional<String> address() {
    return Optional.ofNullable(gateway).or(() -> variable("REMORA_GATEWAY"));
  }

  Optional<Path> certificate() {
    return Optional.ofNullable(certificate);
  }

  Optional<String> token() {
    return variable(TOKEN);
  }

  /** A variable of the environment that is set and not blank. */
  Optional<String> variable(String name) {
    return Optional.ofNullable(environment.get(name)).filter(value -> !value.isBlank());
  }
}
