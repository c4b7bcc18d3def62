// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.node;

import akka.actor.typed.Behavior;
import akka.actor.typed.PostStop;
import akka.actor.typed.javadsl.AbstractBehavior;
import akka.actor.typed.javadsl.Behaviors;
import akka.actor.typed.javadsl.Receive;
import io.remora.actors.internal.StandbyFeed;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.LinkTransport;
import io.remora.actors.link.OutboundFrame;
import io.remora.actors.node.LinkEvent.ConfirmTick;
import io.remora.actors.node.LinkEvent.ConnectionClosed;
import io.remora.actors.node.LinkEvent.ControlFrame;
import io.remora.actors.node.LinkEvent.Dialled;
import io.remora.actors.node.LinkEvent.GiveUp;
import io.remora.actors.node.LinkEvent.HandshakeTimedOut;
import io.remora.actors.node.LinkEvent.NotDialled;
import io.remora.actors.node.LinkEvent.Redial;
import io.remora.actors.node.LinkEvent.SessionFailed;
import io.remora.actors.node.NodeLink.CheckpointSession;
import io.remora.actors.node.NodeLink.CloseSession;
import io.remora.actors.node.NodeLink.Command;
import io.remora.actors.node.NodeLink.DeclineNotice;
import io.remora.actors.node.NodeLink.ForgetState;
import io.remora.actors.node.NodeLink.IssueToken;
import io.remora.actors.node.NodeLink.LeaveSessions;
import io.remora.actors.node.NodeLink.OpenSession;
import io.remora.actors.node.NodeLink.SaveSession;
import io.remora.actors.node.NodeLink.Shutdown;
import io.remora.actors.node.NodeLink.TakeOver;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ProviderException;
import io.remora.runtime.RemoraException;
import java.util.List;

/**
 * A state of a link. All states keep requests to the node. A connection that the node has welcomed
 * sends them at once; otherwise the next such connection begins with them.
 */
abstract class LinkBehavior extends AbstractBehavior<Command> {

  final Link link;

  LinkBehavior(Link link) {
    super(link.context);
    this.link = link;
  }

  @Override
  public Receive<Command> createReceive() {
    return newReceiveBuilder()
        .onMessage(OpenSession.class, this::onOpenSession)
        .onMessage(CloseSession.class, this::onCloseSession)
        .onMessage(SaveSession.class, this::onSaveSession)
        .onMessage(CheckpointSession.class, this::onCheckpointSession)
        .onMessage(ForgetState.class, this::onForgetState)
        .onMessage(IssueToken.class, this::onIssueToken)
        .onMessage(LeaveSessions.class, command -> onLeaveSessions())
        .onMessage(TakeOver.class, this::onTakeOver)
        .onMessage(DeclineNotice.class, command -> onDeclineNotice())
        .onMessage(Shutdown.class, command -> onShutdown())
        .onMessage(Dialled.class, this::onDialled)
        .onMessage(NotDialled.class, this::onNotDialled)
        .onMessage(ControlFrame.class, this::onControlFrame)
        .onMessage(ConnectionClosed.class, this::onConnectionClosed)
        .onMessage(HandshakeTimedOut.class, event -> onHandshakeTimedOut())
        .onMessage(Redial.class, event -> onRedial())
        .onMessage(GiveUp.class, event -> onGiveUp())
        .onMessage(SessionFailed.class, this::onSessionFailed)
        .onMessage(ConfirmTick.class, event -> onConfirmTick())
        .onSignal(PostStop.class, signal -> onPostStop())
        .build();
  }

  // What is asked of the node -------------------------------------------------------------------

  /** Sends a frame if the node has welcomed the connection. */
  void send(OutboundFrame frame) {}

  private Behavior<Command> onOpenSession(OpenSession command) {
    LinkedSession session =
        new LinkedSession(
            command.mailbox(), command.restoredFrom(), LinkTransport.text(link.address));
    link.sessions.put(session.number(), session);
    send(session.openFrame());
    return this;
  }

  private Behavior<Command> onCloseSession(CloseSession command) {
    LinkedSession session = link.sessions.get(command.session());
    if (session == null) {
      link.owner.accept(new NodeLink.SessionEnded(command.session(), null));
    } else {
      close(session);
    }
    return this;
  }

  private void close(LinkedSession session) {
    session.close();
    if (session.isOpen() && session.mailbox.isLost()) {
      send(session.closeFrame()); // no work is under way
    }
  }

  /** Without a connection nothing arrives, so the mailboxes may change at once. */
  Behavior<Command> onTakeOver(TakeOver command) {
    return takeOver(command.sessions()) ? this : Behaviors.stopped();
  }

  /** Returns false, after the link's last event, if a session cannot continue. */
  final boolean takeOver(List<StandbyFeed> sessions) {
    try {
      for (StandbyFeed feed : sessions) {
        LinkedSession session = link.sessions.get(feed.session());
        if (session != null && session.mailbox == feed.mailbox() && feed.takeOver()) {
          session.takenOver(feed.program());
        }
      }
      return true;
    } catch (NodeLostException e) {
      Behavior<Command> unused = lost(e);
      return false;
    }
  }

  private Behavior<Command> onSaveSession(SaveSession command) {
    LinkedSession session = link.sessions.get(command.session());
    if (session != null) {
      session.save(command.pause());
    }
    return this;
  }

  private Behavior<Command> onCheckpointSession(CheckpointSession command) {
    LinkedSession session = link.sessions.get(command.session());
    if (session != null) {
      send(session.checkpoint(command));
    }
    return this;
  }

  private Behavior<Command> onForgetState(ForgetState command) {
    link.sessions.values().forEach(session -> session.saved(command.pause()));
    link.forgetting.add(command.pause());
    send(forgetFrame(command.pause()));
    return this;
  }

  static OutboundFrame forgetFrame(String pause) {
    return OutboundFrame.control(
        FrameType.FORGET_STATE,
        0,
        io.remora.actors.link.proto.ForgetState.newBuilder().setPause(pause).build());
  }

  private Behavior<Command> onLeaveSessions() {
    link.sessions.values().forEach(session -> session.mailbox.disconnect());
    link.sessions.clear();
    link.owner.accept(NodeLink.SessionsLeft.INSTANCE);
    return this;
  }

  private Behavior<Command> onDeclineNotice() {
    send(OutboundFrame.empty(FrameType.NOTICE_DECLINED, 0, 0));
    return this;
  }

  private Behavior<Command> onIssueToken(IssueToken command) {
    link.tokensFor.add(command.replyTo());
    send(OutboundFrame.empty(FrameType.ISSUE_TOKEN, 0, 0));
    return this;
  }

  /** Closes a session that cannot continue. */
  private Behavior<Command> onSessionFailed(SessionFailed event) {
    LinkedSession session = link.sessions.get(event.session());
    if (session != null) {
      close(session);
      link.endSession(event.session(), event.cause());
    }
    return this;
  }

  // Connections ---------------------------------------------------------------------------------

  Behavior<Command> onDialled(Dialled event) {
    event.from().abandon();
    return this;
  }

  Behavior<Command> onNotDialled(NotDialled event) {
    return this;
  }

  Behavior<Command> onControlFrame(ControlFrame frame) {
    return this;
  }

  Behavior<Command> onConnectionClosed(ConnectionClosed event) {
    return this;
  }

  Behavior<Command> onHandshakeTimedOut() {
    return this;
  }

  Behavior<Command> onRedial() {
    return this;
  }

  Behavior<Command> onGiveUp() {
    return this;
  }

  Behavior<Command> onConfirmTick() {
    return this;
  }

  // The end -------------------------------------------------------------------------------------

  /** Stops the link. Without a connection it cannot say goodbye. */
  Behavior<Command> onShutdown() {
    return Behaviors.stopped();
  }

  /** Ends the link with an error. */
  final Behavior<Command> lost(RemoraException cause) {
    link.owner.accept(new NodeLink.Lost(cause));
    link.refuseTokens(cause);
    return Behaviors.stopped();
  }

  /** Ends the link because it was broken for too long. */
  final Behavior<Command> giveUp(Outage outage) {
    String tried = Link.text(outage.cause) + ", " + outage.tried(link.settings);
    return lost(
        link.isUp()
            ? new NodeLostException(
                "machine %s lost the link to its node at %s: %s%s"
                    .formatted(link.machine, link.address, tried, link.lastAcknowledged()),
                outage.cause)
            : new ProviderException(
                "the link of machine %s to its node at %s ended in the handshake: %s"
                    .formatted(link.machine, link.address, tried),
                outage.cause));
  }

  /** Releases the resources of this state when the actor stops. */
  void release() {}

  private Behavior<Command> onPostStop() {
    release();
    link.refuseTokens(new NodeLostException("the link of machine " + link.machine + " has ended"));
    return Behaviors.same();
  }
}
