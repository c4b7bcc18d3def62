// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigValueFactory;
import io.remora.actors.link.LinkCertificate;
import io.remora.actors.link.LinkTls;
import io.remora.node.Main;
import io.remora.provider.GpuType;
import io.remora.provider.LaunchToken;
import io.remora.provider.MachineSpec;
import io.remora.provider.launch.NodeEnvironment;
import io.remora.provider.launch.NodeLog;
import io.remora.provider.modal.wire.GPUConfig;
import io.remora.provider.modal.wire.NetworkAccess;
import io.remora.provider.modal.wire.PortSpec;
import io.remora.provider.modal.wire.PortSpecs;
import io.remora.provider.modal.wire.Resources;
import io.remora.provider.modal.wire.Sandbox;
import io.remora.provider.modal.wire.SchedulerPlacement;
import io.remora.provider.modal.wire.VolumeMount;
import io.remora.state.DirectoryStateStore;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The definition of one node's launch: its sandbox, its command line and its environment. The
 * secrets are created here and appear only in the environment.
 */
final class SandboxLaunch {

  private static final Logger log = LoggerFactory.getLogger(SandboxLaunch.class);

  /** The mount point of the volume of paused machines. */
  static final String STATE_FOLDER = "/remora-state";

  private static final String TLS_VARIABLE = "REMORA_NODE_TLS_CERTIFICATE";
  private static final String STORE = "remora.state.store";
  private static final Duration CERTIFICATE_MARGIN = Duration.ofDays(1);

  /** A shell expression that finds the torch folder without loading torch. */
  private static final String TORCH_HOME =
      "\"$(python3 -c 'import importlib.util as u;"
          + " print(u.find_spec(\"torch\").submodule_search_locations[0])')\"";

  /**
   * A shell command that finds the sandbox's address in Modal's private network, for the cluster's
   * port.
   */
  private static final String I6PN =
      "REMORA_I6PN_ADDRESS=$(getent ahostsv6 i6pn.modal.local | awk '{print $1; exit}')"
          + " && export REMORA_I6PN_ADDRESS"
          + " && export JDK_JAVA_OPTIONS=\"-Dremora.cluster.listen=[$REMORA_I6PN_ADDRESS]:%d\"\n";

  private static final String LIFE_TIME = "remora.node.life-time";

  /** From the sandbox's creation, with which Modal begins to count, to the node's start. */
  private static final Duration START_MARGIN = Duration.ofMinutes(2);

  private final MachineSpec spec;
  private final ModalSettings settings;
  private final Config config;
  private final NodeLog nodeLog;
  private final LaunchToken token = LaunchToken.random();
  private final LinkCertificate nodeCertificate;
  private final LinkCertificate ownCertificate;

  SandboxLaunch(MachineSpec spec, ModalSettings settings, Config config, NodeLog nodeLog) {
    this.spec = spec;
    this.settings = settings;
    this.config = config;
    this.nodeLog = nodeLog;
    Duration validity = settings.sandbox().lifeTime().plus(CERTIFICATE_MARGIN);
    this.nodeCertificate = LinkCertificate.ephemeral("remora-node", validity);
    this.ownCertificate = LinkCertificate.ephemeral("remora-machine", validity);
  }

  LaunchToken token() {
    return token;
  }

  /** The link's TLS settings; empty to use the program's configuration. */
  Optional<LinkTls> tls() {
    return settings.node().environment().containsKey(TLS_VARIABLE)
        ? Optional.empty()
        : Optional.of(LinkTls.pinned(ownCertificate, nodeCertificate.pin()));
  }

  /** Modal's name of the GPUs. */
  String gpu() {
    String name = settings.gpu();
    if (name.isEmpty()) {
      name = spec.gpuType() == null ? settings.defaultGpu() : spec.gpuType().displayName();
    }
    String upper = name.toUpperCase(Locale.ROOT);
    try {
      GpuType.parse(upper);
    } catch (IllegalArgumentException e) {
      log.warn("Machine {}: {} is passed on to Modal: {}", spec.name(), upper, e.getMessage());
    }
    return upper;
  }

  /** The node's environment variables, including secrets. */
  Map<String, String> environment() {
    Config forNode = config.withoutPath("remora.link.tls");
    if (!forNode.hasPath(LIFE_TIME) || forNode.getDuration(LIFE_TIME).isZero()) {
      forNode = set(forNode, LIFE_TIME, lifeOfNode().toMillis() + " ms");
    }
    boolean inFolder = config.getString(STORE).equals(DirectoryStateStore.NAME);
    if (inFolder && settings.sandbox().stateVolume().isEmpty()) {
      // There is no such store, so a pause fails with a message. Otherwise the saved state would be
      // lost with the sandbox.
      forNode = set(forNode, STORE, "none, for remora.provider.modal.state-volume is empty");
    } else if (inFolder) {
      forNode = set(forNode, "remora.state.directory", STATE_FOLDER);
    }
    Map<String, String> variables =
        new HashMap<>(NodeEnvironment.of(token, NodeEnvironment.settings(forNode), nodeLog));
    if (tls().isPresent()) {
      variables.putAll(LinkTls.launchEnvironment(nodeCertificate, ownCertificate.pin()));
    }
    variables.putAll(settings.node().environment());
    return variables;
  }

  /** The sandbox's time, less what may pass before its node is up. */
  private Duration lifeOfNode() {
    Duration whole = settings.sandbox().lifeTime();
    Duration half = whole.dividedBy(2);
    return half.compareTo(START_MARGIN) < 0 ? half : whole.minus(START_MARGIN);
  }

  private static Config set(Config config, String key, String value) {
    return config.withValue(key, ConfigValueFactory.fromAnyRef(value));
  }

  /**
   * The sandbox's definition.
   *
   * @param volumeId empty for no volume
   */
  Sandbox definition(String imageId, String secretId, String volumeId) {
    ModalSettings.Sandbox wanted = settings.sandbox();
    Sandbox.Builder sandbox =
        Sandbox.newBuilder()
            .addAllEntrypointArgs(command())
            .setImageId(imageId)
            .addSecretIds(secretId)
            .setResources(
                Resources.newBuilder()
                    .setMilliCpu((int) Math.round(wanted.cpu() * 1000))
                    .setMemoryMb(wanted.memoryMib())
                    .setGpuConfig(
                        GPUConfig.newBuilder().setCount(spec.gpuCount()).setGpuType(gpu())))
            .setTimeoutSecs((int) wanted.lifeTime().toSeconds())
            .setIdleTimeoutSecs((int) wanted.idleTimeout().toSeconds())
            .setOpenPorts(
                PortSpecs.newBuilder()
                    .addPorts(PortSpec.newBuilder().setPort(wanted.port()).setUnencrypted(true)))
            .setNetworkAccess(
                NetworkAccess.newBuilder()
                    .setNetworkAccessType(NetworkAccess.NetworkAccessType.OPEN))
            .addAllInboundCidrAllowlist(wanted.inboundCidrs())
            .setI6PnEnabled(wanted.i6pn())
            .setCloudProviderStr(wanted.cloud());
    if (!wanted.regions().isEmpty()) {
      sandbox.setSchedulerPlacement(
          SchedulerPlacement.newBuilder().addAllRegions(wanted.regions()));
    }
    if (!volumeId.isEmpty()) {
      sandbox.addVolumeMounts(
          VolumeMount.newBuilder()
              .setVolumeId(volumeId)
              .setMountPath(STATE_FOLDER)
              .setAllowBackgroundCommits(true));
    }
    return sandbox.build();
  }

  /** A shell command that becomes the node, with its output and log in one stream. */
  private List<String> command() {
    ModalSettings.Node node = settings.node();
    boolean findTorch = node.torchHome().equals("auto");
    String script =
        (settings.sandbox().i6pn() ? I6PN.formatted(settings.sandbox().i6pnPort()) : "")
            + "exec \"$@\" "
            + (findTorch ? "--torch-home " + TORCH_HOME + " " : "")
            + "2>&1";
    List<String> command = new ArrayList<>(List.of("/bin/sh", "-c", script, "remora-node"));
    command.add(node.java());
    command.addAll(node.jvmOptions());
    command.addAll(List.of("-cp", node.classPath(), Main.class.getName()));
    command.addAll(List.of("--listen", "0.0.0.0:" + settings.sandbox().port()));
    command.addAll(List.of("--device", node.device()));
    command.addAll(List.of("--gpu-count", Integer.toString(spec.gpuCount())));
    if (spec.gpuType() != null && !node.device().equals("cuda")) {
      command.addAll(List.of("--gpu-type", spec.gpuType().displayName()));
    }
    if (!findTorch && !node.torchHome().isEmpty()) {
      command.addAll(List.of("--torch-home", node.torchHome()));
    }
    command.addAll(node.arguments());
    return command;
  }
}
