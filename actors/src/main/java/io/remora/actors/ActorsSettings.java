// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import com.typesafe.config.Config;
import io.remora.actors.link.LinkSettings;
import io.remora.metrics.HttpEndpoint;
import io.remora.recording.RecordingSettings;
import io.remora.state.DirectoryStateStore;
import java.net.InetSocketAddress;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Optional;

/**
 * Settings of the actors; {@code reference.conf} explains each of them.
 *
 * @param openTimeout default limit from opening a machine to ready, {@code
 *     remora.machine.open-timeout}
 * @param closeTimeout limit of closing a machine, {@code remora.machine.close-timeout}
 * @param exitReportWait how long to wait, after a link is lost, for the report that the node has
 *     ended, {@code remora.machine.exit-report-wait}
 * @param storageActorAfter the age at which a storage gets an actor, {@code
 *     remora.machine.storage-actor-after}
 * @param maxStorageActors storages of a machine that may have an actor at the same time, {@code
 *     remora.machine.max-storage-actors}
 * @param stashCapacity most commands that may wait while a machine opens or closes, {@code
 *     remora.machine.stash-capacity}
 * @param idleTimeout after how long without use a machine pauses by itself, {@code
 *     remora.machine.idle-timeout}; null for never
 * @param pauseTimeout limit of saving a machine's sessions, {@code remora.machine.pause-timeout}
 * @param resumeRetry how long a machine waits before it tries again to resume, {@code
 *     remora.machine.resume-retry}
 * @param forgetFailedAfter how long a machine that could not be opened stays failed, {@code
 *     remora.machine.forget-failed-after}
 * @param stateStore where paused machines' sessions are kept, {@code remora.state.store}
 * @param stateDirectory the folder of the store {@code directory}, {@code remora.state.directory}
 * @param seedNodes members to join the cluster by, {@code remora.cluster.seed-nodes}
 * @param clusterListen where this member listens for others, {@code remora.cluster.listen}
 * @param joinTimeout time limit for joining the cluster, {@code remora.cluster.join-timeout}
 * @param leaveTimeout time limit for leaving the cluster, {@code remora.cluster.leave-timeout}
 * @param clusterTls whether members of a cluster use TLS, {@code remora.cluster.tls}
 * @param embeddedCluster Akka's settings in the embedded cluster, {@code remora.cluster.embedded}
 * @param memberCluster settings that override them if there are other members, {@code
 *     remora.cluster.member}
 * @param http address of metrics and health of the embedded cluster's process, {@code
 *     remora.metrics.http}; empty for none
 * @param link settings of the links, {@code remora.link}
 * @param recovery how machines recover from the loss of their nodes, {@code remora.recovery}
 * @param recording whether and where sessions are recorded, {@code remora.recording}
 */
public record ActorsSettings(
    Duration openTimeout,
    Duration closeTimeout,
    Duration exitReportWait,
    Duration storageActorAfter,
    int maxStorageActors,
    int stashCapacity,
    Duration idleTimeout,
    Duration pauseTimeout,
    Duration resumeRetry,
    Duration forgetFailedAfter,
    String stateStore,
    Path stateDirectory,
    List<String> seedNodes,
    String clusterListen,
    Duration joinTimeout,
    Duration leaveTimeout,
    boolean clusterTls,
    Config embeddedCluster,
    Config memberCluster,
    Optional<InetSocketAddress> http,
    LinkSettings link,
    RecoverySettings recovery,
    RecordingSettings recording) {

  /** Checks the ranges. */
  public ActorsSettings {
    checkPositive(openTimeout, "remora.machine.open-timeout");
    checkPositive(closeTimeout, "remora.machine.close-timeout");
    checkPositive(exitReportWait, "remora.machine.exit-report-wait");
    checkPositive(storageActorAfter, "remora.machine.storage-actor-after");
    checkPositive(pauseTimeout, "remora.machine.pause-timeout");
    checkPositive(resumeRetry, "remora.machine.resume-retry");
    checkPositive(forgetFailedAfter, "remora.machine.forget-failed-after");
    if (idleTimeout != null) {
      checkPositive(idleTimeout, "remora.machine.idle-timeout");
    }
    seedNodes = List.copyOf(seedNodes);
    checkPositive(joinTimeout, "remora.cluster.join-timeout");
    if (maxStorageActors < 0) {
      throw new IllegalArgumentException("remora.machine.max-storage-actors must not be negative");
    }
    checkPositive(leaveTimeout, "remora.cluster.leave-timeout");
    if (stashCapacity < 1) {
      throw new IllegalArgumentException("remora.machine.stash-capacity must be at least 1");
    }
  }

  /**
   * Reads {@code remora.machine}, {@code remora.state}, {@code remora.cluster}, {@code
   * remora.metrics}, {@code remora.link}, {@code remora.recovery} and {@code remora.recording}.
   *
   * @param root the whole configuration, with the defaults of {@code reference.conf}
   * @throws IllegalArgumentException if a value is out of range; the message names the key
   */
  public static ActorsSettings from(Config root) {
    Config machine = root.getConfig("remora.machine");
    Config cluster = root.getConfig("remora.cluster");
    return new ActorsSettings(
        machine.getDuration("open-timeout"),
        machine.getDuration("close-timeout"),
        machine.getDuration("exit-report-wait"),
        machine.getDuration("storage-actor-after"),
        machine.getInt("max-storage-actors"),
        machine.getInt("stash-capacity"),
        machine.getString("idle-timeout").equals("off")
            ? null
            : machine.getDuration("idle-timeout"),
        machine.getDuration("pause-timeout"),
        machine.getDuration("resume-retry"),
        machine.getDuration("forget-failed-after"),
        root.getString("remora.state.store"),
        DirectoryStateStore.directory(root),
        cluster.getStringList("seed-nodes"),
        cluster.getString("listen"),
        cluster.getDuration("join-timeout"),
        cluster.getDuration("leave-timeout"),
        cluster.getBoolean("tls"),
        cluster.getConfig("embedded"),
        cluster.getConfig("member"),
        HttpEndpoint.address(root, "remora.metrics.http"),
        LinkSettings.from(root),
        RecoverySettings.from(root),
        RecordingSettings.from(root));
  }

  private static void checkPositive(Duration value, String key) {
    if (value.isZero() || value.isNegative()) {
      throw new IllegalArgumentException(key + " must be positive, but it is " + value);
    }
  }
}
