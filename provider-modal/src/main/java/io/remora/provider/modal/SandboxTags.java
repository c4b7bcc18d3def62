// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import io.remora.provider.RunningNode;
import io.remora.provider.modal.wire.SandboxInfo;
import io.remora.provider.modal.wire.SandboxTag;
import java.net.InetAddress;
import java.net.UnknownHostException;
import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.stream.Stream;

/**
 * The tags of Remora's sandboxes. They name the owner, and the time until which the owner counts as
 * alive, which the owner renews at intervals.
 */
final class SandboxTags {

  /** The tag that all of Remora's sandboxes have. */
  static final SandboxTag OURS = tag("remora", "node");

  private static final String MACHINE = "remora-machine";
  private static final String OWNER = "remora-owner";
  private static final String ALIVE_UNTIL = "remora-alive-until";
  private static final int MAX_LENGTH = 63;

  private SandboxTags() {}

  /** All tags of a machine's sandbox, renewed at {@code now}. */
  static List<SandboxTag> of(String machine, Instant now, Duration lease) {
    return List.of(
        OURS,
        tag(MACHINE, machine),
        tag(OWNER, owner()),
        tag(ALIVE_UNTIL, Long.toString(now.plus(lease).getEpochSecond())));
  }

  /** Reads a sandbox's tags. A sandbox without a readable time is not left over. */
  static RunningNode read(SandboxInfo sandbox, Instant now) {
    return new RunningNode(
        sandbox.getId(),
        value(sandbox, MACHINE),
        value(sandbox, OWNER),
        Instant.ofEpochMilli(Math.round(sandbox.getCreatedAt() * 1000)),
        Stream.of(value(sandbox, ALIVE_UNTIL))
            .filter(text -> text.matches("\\d{1,15}"))
            .anyMatch(text -> Instant.ofEpochSecond(Long.parseLong(text)).isBefore(now)));
  }

  private static String value(SandboxInfo sandbox, String name) {
    return sandbox.getTagsList().stream()
        .filter(tag -> tag.getTagName().equals(name))
        .map(SandboxTag::getTagValue)
        .findFirst()
        .orElse("");
  }

  private static String owner() {
    String host;
    try {
      host = InetAddress.getLocalHost().getHostName();
    } catch (UnknownHostException e) {
      host = "unknown";
    }
    String pid = "-" + ProcessHandle.current().pid();
    String clean = host.replaceAll("[^A-Za-z0-9._-]", "_");
    return clean.substring(0, Math.min(clean.length(), MAX_LENGTH - pid.length())) + pid;
  }

  /** A tag, shortened to Modal's limit: names of machines may be longer. */
  private static SandboxTag tag(String name, String value) {
    return SandboxTag.newBuilder()
        .setTagName(name)
        .setTagValue(value.substring(0, Math.min(value.length(), MAX_LENGTH)))
        .build();
  }
}
