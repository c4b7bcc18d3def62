// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.mock;

import com.typesafe.config.Config;
import io.remora.provider.LaunchToken;
import io.remora.provider.MachineSpec;
import io.remora.provider.ProviderContext;
import io.remora.provider.launch.NodeEnvironment;
import io.remora.provider.launch.NodeLog;
import io.remora.provider.launch.NodeProcess;
import io.remora.provider.mock.NodeLaunch.Command;
import io.remora.runtime.ProviderException;
import java.net.InetSocketAddress;

/**
 * A child process that becomes a {@link ChildNode}.
 *
 * @param settings the provider's settings
 * @param nodeSettings the node's settings, in HOCON
 * @param token the node's launch token
 * @param command what was started
 * @param process the process
 * @param nodeLog the node's log
 */
record StartingChild(
    MockSettings settings,
    String nodeSettings,
    LaunchToken token,
    Command command,
    NodeProcess process,
    NodeLog nodeLog) {

  /**
   * Starts the process.
   *
   * @param config the machine's configuration
   * @throws ProviderException if that fails
   */
  static StartingChild start(MachineSpec spec, MockSettings settings, Config config) {
    String nodeSettings = NodeEnvironment.settings(config);
    LaunchToken token = LaunchToken.random();
    NodeLog nodeLog = new NodeLog(spec.name());
    Command command = NodeLaunch.command(spec, settings, token, nodeSettings, nodeLog);
    try {
      NodeProcess process = NodeProcess.start(spec, command.builder(), new byte[0], nodeLog);
      return new StartingChild(settings, nodeSettings, token, command, process, nodeLog);
    } catch (RuntimeException e) {
      command.close();
      throw e;
    }
  }

  /** Whether the process runs and was started with these settings. */
  boolean runsWith(MockSettings otherSettings, Config otherConfig) {
    return process.isAlive()
        && settings.equals(otherSettings)
        && nodeSettings.equals(NodeEnvironment.settings(otherConfig));
  }

  /**
   * Blocks until the node has printed its address.
   *
   * @throws ProviderException if it does not; the process is then ended
   */
  ChildNode await(ProviderContext context) {
    context.progress().accept("started child process %d".formatted(process.pid()));
    try (command) {
      InetSocketAddress address =
          process.awaitAddress(
              settings.startTimeout(), "remora.provider.mock.start-timeout", context);
      command.archiveClasses(nodeSettings, nodeLog);
      return new ChildNode(process, address, token, settings.stopTimeout());
    }
  }

  /** Ends the process. Returns at once. */
  void end() {
    process.end(settings.stopTimeout(), command::close);
  }
}
