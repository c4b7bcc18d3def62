// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.node;

import akka.actor.typed.Behavior;
import io.remora.actors.DeviceInfo;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.LinkConnection;
import io.remora.actors.link.OutboundFrame;
import io.remora.actors.link.proto.SessionProgress;
import io.remora.actors.link.proto.Welcome;
import io.remora.actors.node.LinkEvent.GiveUp;
import io.remora.actors.node.NodeLink.Command;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ProtocolException;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;

/** The node has welcomed the connection. Requests to the node are sent at once. */
final class Connected extends WithConnection {

  private final long sinceNanos;
  private final int vain;

  /**
   * @param vain number of attempts since the last connection that lasted
   */
  private Connected(Link link, LinkConnection connection, int vain) {
    super(link, connection);
    this.sinceNanos = link.clock.getAsLong();
    this.vain = vain;
  }

  /** Continues where the last connection stopped, after the node has answered the handshake. */
  static Connected begin(Link link, LinkConnection connection, Welcome welcome, Outage outage) {
    Connected connected = new Connected(link, connection, outage == null ? 0 : outage.vain());
    boolean first = !link.isUp();
    if (first) {
      link.up(welcome.getSecret());
    } else {
      link.owner.accept(
          new NodeLink.Restored(
              Duration.ofNanos(connected.sinceNanos - outage.sinceNanos), outage.attempts()));
    }
    connected.resume(welcome);
    if (first) {
      link.owner.accept(
          new NodeLink.Up(
              welcome.getNodeId(),
              welcome.getLibtorchVersion(),
              welcome.getDevicesList().stream()
                  .map(
                      device ->
                          new DeviceInfo(
                              device.getName(), device.getKind(), device.getMemoryBytes()))
                  .toList(),
              welcome.getComputeThreads()));
    }
    return connected;
  }

  /** Repeats unanswered requests and lets the sessions continue. */
  private void resume(Welcome welcome) {
    Map<Long, Long> received =
        welcome.getSessionsList().stream()
            .collect(
                Collectors.toMap(
                    SessionProgress::getSession,
                    SessionProgress::getLastReceivedSequence,
                    (one, other) -> other));
    link.forgetting.forEach(pause -> send(forgetFrame(pause)));
    link.tokensFor.forEach(unused -> send(OutboundFrame.empty(FrameType.ISSUE_TOKEN, 0, 0)));
    for (LinkedSession session : List.copyOf(link.sessions.values())) {
      if (!session.isOpen()) {
        send(session.openFrame());
      } else if (received.containsKey(session.number())) {
        resume(session, received.get(session.number()));
      } else {
        link.endSession(
            session.number(),
            new NodeLostException(
                "the node of machine %s does not have session %d any more; batch %d was acknowledged last"
                    .formatted(
                        link.machine,
                        session.number(),
                        session.mailbox.position().acknowledged())));
      }
    }
  }

  private void resume(LinkedSession session, long lastReceived) {
    try {
      session.reconnected(connection, lastReceived);
      if (session.wasTakenOver()) {
        link.owner.accept(new NodeLink.SessionReady(session.number()));
      }
    } catch (ProtocolException e) {
      connection.closeBecause(e);
    }
  }

  @Override
  void send(OutboundFrame frame) {
    connection.send(frame);
  }

  @Override
  Behavior<Command> onWelcome(Welcome welcome) {
    connection.closeBecause(new ProtocolException("a second WELCOME"));
    return this;
  }

  /** Confirms what was received and not confirmed yet, so that an idle node keeps nothing. */
  @Override
  Behavior<Command> onConfirmTick() {
    link.sessions.values().forEach(session -> session.confirmTo(connection));
    return this;
  }

  @Override
  Behavior<Command> broken(Throwable cause) {
    boolean lasted =
        link.clock.getAsLong() - sinceNanos > link.settings.redial().longest().toNanos();
    Outage outage = new Outage(cause, link.clock.getAsLong(), lasted ? 0 : vain);
    link.timers.startSingleTimer(GiveUp.INSTANCE, link.settings.giveUpAfter());
    link.owner.accept(new NodeLink.Broken(Link.text(cause)));
    return new Waiting(link, outage, cause);
  }
}
