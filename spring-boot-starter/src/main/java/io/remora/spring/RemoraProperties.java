// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.spring;

import java.nio.file.Path;
import java.time.Duration;
import java.util.Map;
import org.springframework.boot.context.properties.ConfigurationProperties;
import org.springframework.boot.context.properties.bind.DefaultValue;

/**
 * The machine of the application context.
 *
 * @param provider Name of the machine's provider, such as mock or modal. Without it there is no
 *     machine.
 * @param gpu Kind of GPU, such as A100-40GB. Default: the provider's choice.
 * @param gpuCount How many GPUs, 1 to 8.
 * @param name The machine's name. Default: the provider's name with a number or letters.
 * @param idleTimeout How long the machine may go unused before it pauses by itself. Default: the
 *     setting remora.machine.idle-timeout of Remora's configuration, which is off.
 * @param openTimeout How long opening the machine may take. Default: the setting
 *     remora.client.open-timeout of Remora's configuration, 5 minutes.
 * @param gateway The gateway through which the machine is opened.
 * @param config Settings of Remora's configuration for this machine alone, by their whole keys,
 *     such as remora.provider.mock.mode.
 */
@ConfigurationProperties("remora.machine")
public record RemoraProperties(
    String provider,
    String gpu,
    @DefaultValue("1") int gpuCount,
    String name,
    Duration idleTimeout,
    Duration openTimeout,
    @DefaultValue Gateway gateway,
    @DefaultValue Map<String, String> config) {

  public RemoraProperties {
    config = Map.copyOf(config);
  }

  /**
   * A gateway.
   *
   * @param address The gateway's HOST:PORT. Without it the machine is opened in this program's
   *     cluster.
   * @param token The secret that the gateway asks for.
   * @param certificate File of certificates in PEM format that the gateway's certificate is checked
   *     against. Default: those that Java trusts.
   */
  public record Gateway(String address, String token, Path certificate) {
    /** Without the token. */
    @Override
    public String toString() {
      return "Gateway[address=" + address + ", certificate=" + certificate + "]";
    }
  }
}
