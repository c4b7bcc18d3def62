// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import akka.actor.typed.ActorRef;
import akka.actor.typed.receptionist.ServiceKey;
import akka.pattern.StatusReply;
import java.util.List;

/**
 * The messages of cluster members to a node that has joined the cluster. A node serves one machine
 * at a time: the machine that has reserved it, until the node is released or the machine has had no
 * link for {@code remora.node.orphan-timeout}. The Receptionist lists nodes under {@link
 * #SERVICE_KEY}. Machines get their nodes from the {@link NodeBroker}.
 */
public final class ClusterNode {

  /** The role of nodes in a cluster. */
  public static final String ROLE = "gpu";

  /** The Receptionist's key of the cluster's nodes. */
  public static final ServiceKey<Command> SERVICE_KEY =
      ServiceKey.create(Command.class, "remora-node");

  private ClusterNode() {}

  /** The commands of a node in a cluster. */
  public sealed interface Command extends RemoraMessage permits Describe, Reserve, Release {}

  /** Asks for the node's {@link Description}. */
  public record Describe(ActorRef<Description> replyTo) implements Command {}

  /**
   * Reserves the node for a machine, or gets a further token for the machine that has it. Error:
   * {@link io.remora.runtime.ResourceExhaustedException} if the node serves another machine.
   *
   * @param machine the machine's name
   * @param opening an id of this opening of the machine. If the id differs from the earlier one,
   *     the machine starts afresh, and its earlier sessions on the node are freed
   */
  public record Reserve(String machine, String opening, ActorRef<StatusReply<Reservation>> replyTo)
      implements Command {}

  /**
   * Ends a machine's use of the node, if it has the node: ends its links and frees its sessions.
   */
  public record Release(String machine, String opening) implements Command {}

  /**
   * The way to a reserved node.
   *
   * @param address the {@code host:port} for machines
   * @param token a token for one link; not shown by {@link #toString}
   */
  public record Reservation(String address, String token) implements RemoraMessage {

    @Override
    public String toString() {
      return "Reservation(" + address + ")";
    }
  }

  /**
   * The description of a node.
   *
   * @param node its actor
   * @param address the {@code host:port} for machines
   * @param libtorchVersion its version of libtorch
   * @param devices its devices
   * @param machine the machine that it serves; empty if free
   * @param opening the id of that machine's opening; empty if free
   * @param links number of machines' links to it
   * @param sessions number of open sessions
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

    /** Whether no machine has reserved the node. */
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
