// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import akka.actor.typed.ActorRef;
import akka.actor.typed.receptionist.ServiceKey;
import akka.pattern.StatusReply;
import java.util.List;

/**
 * What members of a cluster say to a node that has joined it. A node serves one machine at a time:
 * the one that has reserved it, until it is released or its machine's links have been gone for
 * {@code remora.node.orphan-timeout}. Nodes are found through the Receptionist under {@link
 * #SERVICE_KEY}; machines get theirs from the {@link NodeBroker}.
 */
public final class ClusterNode {

  /** The role of nodes in a cluster. */
  public static final String ROLE = "gpu";

  /** Where nodes of a cluster are found. */
  public static final ServiceKey<Command> SERVICE_KEY =
      ServiceKey.create(Command.class, "remora-node");

  private ClusterNode() {}

  /** What a node takes from the cluster. */
  public sealed interface Command extends RemoraMessage permits Describe, Reserve, Release {}

  /** Asks what the node is, and whom it serves. */
  public record Describe(ActorRef<Description> replyTo) implements Command {}

  /**
   * Takes the node for a machine, or gets a further token for the machine that has it. Error:
   * {@link io.remora.runtime.ResourceExhaustedException} if it serves another.
   *
   * @param machine the machine's name
   * @param opening names this opening of the machine: a machine that comes with another one starts
   *     again, and what it had on the node is freed
   */
  public record Reserve(String machine, String opening, ActorRef<StatusReply<Reservation>> replyTo)
      implements Command {}

  /**
   * Ends a machine's use of the node, as far as it has it: its links are ended, its sessions freed.
   */
  public record Release(String machine, String opening) implements Command {}

  /**
   * The way to a node that was reserved.
   *
   * @param address where machines dial it, as {@code host:port}
   * @param token serves for one link; not shown by {@link #toString}
   */
  public record Reservation(String address, String token) implements RemoraMessage {

    @Override
    public String toString() {
      return "Reservation(" + address + ")";
    }
  }

  /**
   * What a node is.
   *
   * @param node its actor
   * @param address where machines dial it, as {@code host:port}
   * @param libtorchVersion as libtorch says it
   * @param devices what it computes with
   * @param machine whom it serves; empty: it is free
   * @param opening which opening of that machine; empty: it is free
   * @param links links of machines to it
   * @param sessions open sessions
   */
  public record Description(
      ActorRef<Command> node,
      String address,
      String libtorchVersion,
      List<DeviceInfo> devices,
      String machine,
      String opening,
      int links,
      int sessions)
      implements RemoraMessage {

    /** Copies the devices. */
    public Description {
      devices = List.copyOf(devices);
    }

    /** Whether no machine has it. */
    public boolean isFree() {
      return machine.isEmpty();
    }

    /** Such as {@code 2 x NVIDIA H200 at 10.0.0.7:7070}. */
    public String summary() {
      return "%d x %s at %s"
          .formatted(devices.size(), devices.isEmpty() ? "?" : devices.get(0).name(), address);
    }
  }
}
