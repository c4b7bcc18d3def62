// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import com.typesafe.config.Config;
import io.remora.actors.link.LinkSettings;
import java.time.Duration;

/**
 * Settings of the actors; {@code reference.conf} says what each means.
 *
 * @param openTimeout default limit from opening a machine to ready, {@code
 *     remora.machine.open-timeout}
 * @param closeTimeout limit of closing a machine, {@code remora.machine.close-timeout}
 * @param exitReportWait how long a lost link waits for the news that the node ended, {@code
 *     remora.machine.exit-report-wait}
 * @param storageActorAfter from what age a storage has an actor, {@code
 *     remora.machine.storage-actor-after}
 * @param stashCapacity commands that wait while a machine opens or closes, {@code
 *     remora.machine.stash-capacity}
 * @param joinTimeout limit of starting the embedded cluster, {@code remora.cluster.join-timeout}
 * @param embeddedCluster Akka's settings in the embedded cluster, {@code remora.cluster.embedded}
 * @param link settings of the links, {@code remora.link}
 */
public record ActorsSettings(
    Duration openTimeout,
    Duration closeTimeout,
    Duration exitReportWait,
    Duration storageActorAfter,
    int stashCapacity,
    Duration joinTimeout,
    Config embeddedCluster,
    LinkSettings link) {

  /** Checks the ranges. */
  public ActorsSettings {
    checkPositive(openTimeout, "remora.machine.open-timeout");
    checkPositive(closeTimeout, "remora.machine.close-timeout");
    checkPositive(exitReportWait, "remora.machine.exit-report-wait");
    checkPositive(storageActorAfter, "remora.machine.storage-actor-after");
    checkPositive(joinTimeout, "remora.cluster.join-timeout");
    if (stashCapacity < 1) {
      throw new IllegalArgumentException("remora.machine.stash-capacity must be at least 1");
    }
  }

  /**
   * Reads {@code remora.machine}, {@code remora.cluster} and {@code remora.link}.
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
        machine.getInt("stash-capacity"),
        cluster.getDuration("join-timeout"),
        cluster.getConfig("embedded"),
        LinkSettings.from(root));
  }

  private static void checkPositive(Duration value, String key) {
    if (value.isZero() || value.isNegative()) {
      throw new IllegalArgumentException(key + " must be positive, but it is " + value);
    }
  }
}
