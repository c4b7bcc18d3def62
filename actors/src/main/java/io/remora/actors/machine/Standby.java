// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import io.remora.actors.MachineActor;
import io.remora.actors.internal.ReplayDifference;
import io.remora.actors.node.NodeLink;
import io.remora.provider.NodeUsage;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ProvisioningTimeoutException;
import io.remora.runtime.RemoraException;
import java.time.Duration;
import java.util.Optional;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * A machine's second node, which executes the same batches as the first ({@code
 * remora.recovery.mirror}). It restores the last checkpoint of each session and follows from there.
 * When the first node is lost, {@link Purpose.Recover} takes this one. Without a standby the
 * machine works as if there were none to be had. Only the actor's thread may use this class.
 */
final class Standby {

  private static final Logger log = LoggerFactory.getLogger(MachineActor.class);

  private final Machine machine;

  // The second node, from the request to the provider; null without one.
  private NodeAttempt node;
  private long askedNanos;
  private boolean asked;

  // It executes, or has executed, what the first node has.
  private boolean follows;
  private boolean hasFollowed;

  // Since the machine was opened: it will have no other; what its log has told.
  private boolean givenUp;
  private boolean toldOfNone;
  private boolean toldOfHosts;

  Standby(Machine machine) {
    this.machine = machine;
  }

  /** The machine is opened. */
  void reset() {
    asked = false;
    givenUp = false;
    toldOfNone = false;
    toldOfHosts = false;
  }

  /** Asks for a standby if there should be one, and makes it follow the sessions. */
  void keep() {
    if (!machine.recovery().mirror() || givenUp) {
      return;
    }
    if (!machine.hosts.isEmpty()) {
      tellOfHosts();
      end();
    } else if (node == null) {
      ask();
    } else if (node.up() == null && node.isLate()) {
      failed(
          new ProvisioningTimeoutException(
              "it was not connected within %d ms (the machine's open timeout)%s"
                  .formatted(machine.spec().openTimeout().toMillis(), node.latestNews())));
    } else {
      follow();
    }
  }

  private void tellOfHosts() {
    if (!toldOfHosts) {
      toldOfHosts = true;
      log.warn(
          "Machine {} has no standby (remora.recovery.mirror) while programs of other members of the cluster use it: it recovers by replay alone",
          machine.name);
    }
  }

  private void ask() {
    long now = machine.clock.getAsLong();
    Duration since = Duration.ofNanos(now - askedNanos);
    if (!asked || since.compareTo(machine.recovery().retry()) >= 0) {
      asked = true;
      askedNanos = now;
      hasFollowed = false;
      node = new NodeAttempt(machine, null);
    }
  }

  private void follow() {
    if (node.up() != null) {
      NodeAttempt its = node;
      machine.sessions.follow(
          its::tellLink,
          () ->
              machine.self.tell(
                  new MachineEvent.OfNode(its, NodeAttempt.FollowingChanged.INSTANCE)));
    }
    note();
  }

  /** Notes whether the standby follows all sessions. */
  private void note() {
    follows = node != null && node.isConnected() && machine.sessions.areFollowed();
    machine.figures.standby(follows);
    if (follows && !hasFollowed) {
      hasFollowed = true;
      toldOfNone = false;
      log.info(
          "Machine {} has a standby ({}), which follows {} session(s) after {} ms",
          machine.name,
          node.description(),
          machine.sessions.size(),
          Duration.ofNanos(machine.clock.getAsLong() - askedNanos).toMillis());
    }
  }

  // Its events ----------------------------------------------------------------------------------

  /** Handles an event of a node. Returns false if that is not the standby. */
  boolean on(MachineEvent.OfNode news) {
    if (node == null || news.from() != node) {
      return false;
    }
    NodeAttempt.Event event = news.event();
    if (event instanceof NodeAttempt.Arrived arrived) {
      node.take(arrived.node());
    } else if (event instanceof NodeAttempt.NotProvisioned not) {
      failed(NodeAttempt.failure(machine.spec(), not.cause()));
    } else if (event instanceof NodeAttempt.Exited exited) {
      failed(new NodeLostException("it ended: " + exited.exit()));
    } else if (event instanceof NodeAttempt.LinkStopped) {
      failed(new NodeLostException("its link failed; see the log"));
    } else if (event instanceof NodeAttempt.FollowingChanged) {
      follow();
    } else if (event instanceof NodeAttempt.OfLink link) {
      node.note(link.event());
      onLink(link.event());
    }
    return true;
  }

  private void onLink(NodeLink.Event event) {
    if (event instanceof NodeLink.Up up) {
      RemoraException unsuitable = Purpose.Return.unsuitable(machine, up);
      if (unsuitable == null) {
        follow();
      } else {
        failed(unsuitable);
      }
    } else if (event instanceof NodeLink.SessionReady ready) {
      machine.sessions.openedOnStandby(ready.session());
      note();
    } else if (event instanceof NodeLink.SessionEnded ended) {
      onSessionEnded(ended);
    } else if (event instanceof NodeLink.Lost lost) {
      failed(lost.cause());
    } else if (event instanceof NodeLink.Notice notice) {
      failed(new NodeLostException("it will end: " + notice.reason()));
    } else {
      note();
    }
  }

  private void onSessionEnded(NodeLink.SessionEnded ended) {
    if (ended.cause() instanceof ReplayDifference) {
      givenUp = true;
      log.error(
          "Machine {} continues on its first node, and has no standby any more: {}",
          machine.name,
          ended.cause().getMessage());
      end();
      return;
    }
    if (!machine.sessions.endedOnStandby(ended.session()) && ended.cause() != null) {
      log.warn(
          "Machine {}: its standby cannot follow session {} yet: {}",
          machine.name,
          ended.session(),
          ended.cause().getMessage());
    }
    note();
  }

  /** The standby is lost, or could not be had. Another is asked for later. */
  private void failed(RemoraException cause) {
    if (hasFollowed || !toldOfNone) {
      log.warn(
          "Machine {} has no standby, and asks for one every {} ms: {}",
          machine.name,
          machine.recovery().retry().toMillis(),
          cause.getMessage().lines().findFirst().orElse(""));
    }
    toldOfNone = true;
    end();
  }

  // The end -------------------------------------------------------------------------------------

  /** Whether the machine can continue on this node, or recover there. */
  boolean isUsable() {
    return node != null && node.canBecome();
  }

  /** Gives the node, and what it has of the sessions, to the machine. */
  NodeAttempt takeOver() {
    NodeAttempt taken = node;
    node = null;
    note();
    taken.waitAgain();
    return taken;
  }

  /** Ends the node, if there is one. */
  void end() {
    machine.sessions.leaveStandby();
    if (node == null) {
      return;
    }
    NodeAttempt former = node;
    node = null;
    note();
    if (former.node() == null) {
      former.drop();
    } else {
      machine.endFormerNode(former, new Askers<>());
    }
  }

  /** As {@link #end}, when the machine's actor has stopped. */
  void drop() {
    if (node != null) {
      node.drop();
      node = null;
    }
  }

  Optional<NodeUsage> usage() {
    return node == null ? Optional.empty() : node.usage();
  }
}
