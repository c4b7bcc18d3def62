// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.process;

import com.typesafe.config.ConfigException;
import io.remora.actors.link.LinkCertificate;
import io.remora.actors.link.LinkTls;
import io.remora.provider.LaunchToken;
import io.remora.provider.MachineProvider;
import io.remora.provider.MachineSpec;
import io.remora.provider.ProviderContext;
import io.remora.provider.ProvisionedNode;
import io.remora.provider.launch.NodeEnvironment;
import io.remora.provider.launch.NodeLog;
import io.remora.provider.launch.NodeProcess;
import io.remora.runtime.ProviderException;
import io.remora.runtime.ProvisioningTimeoutException;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;

/**
 * Machines on nodes that a command starts, {@code remora.provider.process.command}: which can be
 * any command that runs a process somewhere and passes on its standard output. A node ends with its
 * command, and the command ends with this JVM at the latest. Stateless and thread-safe.
 */
public final class ProcessProvider implements MachineProvider {

  /** The provider's name. */
  public static final String NAME = "process";

  /**
   * The validity of a link's certificates. A connected link outlives it, but cannot reconnect after
   * it.
   */
  private static final Duration CERTIFICATE_VALIDITY = Duration.ofDays(365);

  /** Called by the service loader. */
  public ProcessProvider() {}

  @Override
  public String name() {
    return NAME;
  }

  @Override
  public CompletionStage<ProvisionedNode> provision(MachineSpec spec, ProviderContext context) {
    return CompletableFuture.supplyAsync(() -> start(spec, context), context.blocking());
  }

  private static ProvisionedNode start(MachineSpec spec, ProviderContext context) {
    try {
      return start(spec, ProcessSettings.from(context.config()), context);
    } catch (ConfigException | IllegalArgumentException e) {
      throw new ProviderException("wrong configuration: " + e.getMessage(), e);
    }
  }

  private static ProvisionedNode start(
      MachineSpec spec, ProcessSettings settings, ProviderContext context) {
    int port = settings.port().orElse(0);
    if (settings.port().isPresent() && port == 0) {
      port = freePort();
    }
    String launch = UUID.randomUUID().toString().substring(0, 8);
    CommandTemplate template = new CommandTemplate(spec, launch, port);
    List<String> command = template.fill(settings.command());
    if (command.isEmpty()) {
      throw new IllegalArgumentException(
          ProcessSettings.PATH
              + ".command is empty for a machine without a GPU type: add a word without that "
              + "placeholder");
    }
    EndCommand end = new EndCommand(template.fill(settings.endCommand()), settings.stopTimeout());

    LaunchToken token = LaunchToken.random();
    NodeLog nodeLog = new NodeLog(spec.name());
    Map<String, String> secrets = NodeEnvironment.of(token, settings.nodeConfig(), nodeLog);
    Optional<LinkTls> tls = Optional.empty();
    if (settings.tls()) {
      LinkCertificate own = LinkCertificate.ephemeral("machine", CERTIFICATE_VALIDITY);
      LinkCertificate node = LinkCertificate.ephemeral("node", CERTIFICATE_VALIDITY);
      secrets.putAll(LinkTls.launchEnvironment(node, own.pin()));
      tls = Optional.of(LinkTls.pinned(own, node.pin()));
    }
    byte[] input = settings.secretsFromStdin() ? NodeEnvironment.line(secrets) : new byte[0];
    ProcessBuilder builder = new ProcessBuilder(command);
    if (!settings.secretsFromStdin()) {
      builder.environment().putAll(secrets);
    }

    NodeProcess process = NodeProcess.start(spec, builder, input, nodeLog);
    context.progress().accept("started %s, process %d".formatted(command.get(0), process.pid()));
    try {
      InetSocketAddress announced =
          process.awaitAddress(
              settings.startTimeout(), ProcessSettings.PATH + ".start-timeout", context);
      return new CommandNode(
          command.get(0),
          process,
          address(announced, settings.host(), port),
          token,
          tls,
          settings.stopTimeout(),
          end);
    } catch (ProviderException e) {
      process.end(Duration.ZERO, end).toCompletableFuture().join();
      String message = "%s%nThe command: %s".formatted(e.getMessage(), String.join(" ", command));
      throw e instanceof ProvisioningTimeoutException
          ? new ProvisioningTimeoutException(message, e)
          : new ProviderException(message, e);
    }
  }

  /** The address for connecting to the node, which may differ from the one that the node prints. */
  private static InetSocketAddress address(
      InetSocketAddress announced, Optional<String> host, int port) {
    InetSocketAddress address =
        new InetSocketAddress(
            host.orElse(announced.getHostString()), port == 0 ? announced.getPort() : port);
    if (address.isUnresolved() || address.getAddress().isAnyLocalAddress()) {
      throw new ProviderException(
          "the node listens on %s, which is not an address to connect to: set %s.host"
              .formatted(address.getHostString(), ProcessSettings.PATH));
    }
    return address;
  }

  /**
   * A free port. If another process takes it before the command does, the start fails with a
   * message.
   */
  private static int freePort() {
    try (ServerSocket socket = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
      return socket.getLocalPort();
    } catch (IOException e) {
      throw new ProviderException("there is no free port: " + e.getMessage(), e);
    }
  }
}
