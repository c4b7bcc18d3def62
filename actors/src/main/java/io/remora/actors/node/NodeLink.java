// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.node;

import static java.util.Objects.requireNonNull;

import akka.actor.typed.ActorRef;
import akka.actor.typed.Behavior;
import akka.actor.typed.DispatcherSelector;
import akka.actor.typed.PostStop;
import akka.actor.typed.javadsl.AbstractBehavior;
import akka.actor.typed.javadsl.ActorContext;
import akka.actor.typed.javadsl.Behaviors;
import akka.actor.typed.javadsl.Receive;
import akka.actor.typed.javadsl.TimerScheduler;
import akka.pattern.StatusReply;
import com.google.protobuf.ByteString;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Parser;
import io.remora.actors.DeviceInfo;
import io.remora.actors.internal.BatchMailbox;
import io.remora.actors.internal.MachineFigures;
import io.remora.actors.link.DamagedFrameException;
import io.remora.actors.link.FrameHeader;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.LinkChannel;
import io.remora.actors.link.LinkConnection;
import io.remora.actors.link.LinkSettings;
import io.remora.actors.link.LinkTransport;
import io.remora.actors.link.OutboundFrame;
import io.remora.actors.link.PooledBuffer;
import io.remora.actors.link.ValueHeader;
import io.remora.actors.link.proto.Goodbye;
import io.remora.actors.link.proto.Hello;
import io.remora.actors.link.proto.Reason;
import io.remora.actors.link.proto.Refused;
import io.remora.actors.link.proto.SavedState;
import io.remora.actors.link.proto.SessionClosed;
import io.remora.actors.link.proto.SessionPosition;
import io.remora.actors.link.proto.SessionProgress;
import io.remora.actors.link.proto.StateForgotten;
import io.remora.actors.link.proto.Token;
import io.remora.actors.link.proto.Welcome;
import io.remora.core.ProgramLibtorch;
import io.remora.provider.LaunchToken;
import io.remora.runtime.AuthenticationException;
import io.remora.runtime.Batch;
import io.remora.runtime.ExecutionReport;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.ProviderException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.SessionListener;
import io.remora.runtime.StorageBirth;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.SocketTimeoutException;
import java.nio.ByteBuffer;
import java.security.SecureRandom;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Queue;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentMap;
import java.util.concurrent.ThreadLocalRandom;
import java.util.function.Consumer;
import java.util.stream.Collectors;

/**
 * The machine's end of the link to its node. It dials, shakes hands, opens and closes sessions, and
 * tells its owner what becomes of the link. It decides nothing about bytes: batches go from each
 * session's mailbox to the socket on the writer thread, acknowledgements and values go from the
 * socket to the session's listener on the reader thread.
 *
 * <p>A link may need several connections, one after the other: when one breaks (closed, reset,
 * silent, damaged bytes), the link tells {@link Broken} and makes another, on which everything goes
 * on where it was. Batches that have not arrived are sent again, and so is what was asked of the
 * node and not answered; what the node has said before is ignored. {@link Restored} follows, or,
 * when {@code remora.link.give-up-after} has passed since the break, {@link Lost}, and the link
 * stops. A node that refuses the link or says goodbye, and one that breaks the protocol, is lost at
 * once.
 */
public final class NodeLink extends AbstractBehavior<NodeLink.Command> {

  private static final Duration DIAL_AGAIN_AFTER = Duration.ofMillis(100);
  private static final Duration GOODBYE_LIMIT = Duration.ofSeconds(2);

  // Protocol ------------------------------------------------------------------------------------

  /** What the link takes. */
  public sealed interface Command
      permits OpenSession, CloseSession, SaveSession, ForgetState, IssueToken, Shutdown, Internal {}

  /**
   * Opens a session; answered by {@link SessionReady} or {@link SessionEnded}. {@code restoredFrom}
   * is where it was saved; null: it is new.
   */
  public record OpenSession(BatchMailbox mailbox, SavedState restoredFrom) implements Command {}

  /**
   * Has a session saved after what was submitted so far; what is submitted from now on waits in its
   * mailbox. Answered by {@link SessionSaved}; of one that is being closed by {@link SessionEnded}
   * alone.
   */
  public record SaveSession(long session, String pause) implements Command {}

  /** Has deleted what was saved for a pause. */
  public record ForgetState(String pause) implements Command {}

  /** Closes a session after what it has sent; answered by {@link SessionEnded}. */
  public record CloseSession(long session) implements Command {}

  /**
   * Asks the node for a token that lets another link of this machine in, from another JVM for
   * example: once, and only if it comes within the node's {@code remora.node.token-lifetime}. Waits
   * while the link is broken. Errors: what the link is lost for.
   */
  public record IssueToken(ActorRef<StatusReply<LaunchToken>> replyTo) implements Command {}

  /** Says goodbye and stops. */
  public enum Shutdown implements Command {
    INSTANCE
  }

  /** What the link tells its owner. */
  public sealed interface Event
      permits Up,
          Broken,
          Restored,
          Lost,
          SessionReady,
          SessionEnded,
          SessionSaved,
          StoragesChanged {}

  /** The handshake is done. */
  public record Up(
      String nodeId, String libtorchVersion, List<DeviceInfo> devices, int computeThreads)
      implements Event {}

  /** The connection is gone, and another is being made. */
  public record Broken(String cause) implements Event {}

  /** There is another connection: everything goes on. */
  public record Restored(Duration after, int attempts) implements Event {}

  /** There is no link (any more); the last event. */
  public record Lost(RemoraException cause) implements Event {}

  /** The session takes batches. */
  public record SessionReady(long session) implements Event {}

  /** There is no such session (any more). {@code cause} is null if it was closed as asked. */
  public record SessionEnded(long session, RemoraException cause) implements Event {}

  /** Whether a session is in the state store: {@code failure} says why not, or is empty. */
  public record SessionSaved(long session, String pause, String failure, SavedState state)
      implements Event {}

  /** What an executed batch has changed. */
  @SuppressWarnings("ArrayRecordComponent") // never compared
  public record StoragesChanged(
      long session,
      List<StorageBirth> born,
      List<StorageBirth> realized,
      long[] freedByProgram,
      long[] freedByNode)
      implements Event {}

  private sealed interface Internal extends Command
      permits Dialled,
          NotDialled,
          ControlFrame,
          ConnectionClosed,
          HandshakeTimedOut,
          Redial,
          GiveUp,
          ConfirmTick {}

  private record Dialled(LinkChannel channel) implements Internal {}

  private record NotDialled(Throwable cause) implements Internal {}

  private record ControlFrame(FrameType type, long session, Object message) implements Internal {}

  private record ConnectionClosed(Throwable cause) implements Internal {}

  private enum HandshakeTimedOut implements Internal {
    INSTANCE
  }

  private enum Redial implements Internal {
    INSTANCE
  }

  private enum GiveUp implements Internal {
    INSTANCE
  }

  private enum ConfirmTick implements Internal {
    INSTANCE
  }

  // State ---------------------------------------------------------------------------------------

  private final String machine;
  private final InetSocketAddress address;
  private final LaunchToken token;
  private final LinkSettings settings;
  private final Consumer<Event> owner;
  private final TimerScheduler<Command> timers;

  /** Read by the reader thread too. */
  private final ConcurrentMap<Long, LinkedSession> sessions = new ConcurrentHashMap<>();

  private final ByteString id = randomId();
  private final Set<String> forgetting = new LinkedHashSet<>();
  private final Queue<ActorRef<StatusReply<LaunchToken>>> tokensFor = new ArrayDeque<>();

  private Dial dial;
  private LinkConnection connection;
  private long connections;
  // Whether the connection that there is has passed its handshake.
  private boolean welcomed;
  private long welcomedNanos;
  // The link's own, from the first welcome on.
  private ByteString secret = ByteString.EMPTY;
  private boolean up;
  private boolean shuttingDown;
  private RemoraException goodbye;

  // Since the break, if there is one.
  private boolean broken;
  private long brokenNanos;
  private Throwable brokenBy;
  private Throwable lastFailure;
  private int attempts;
  // Attempts since a connection that lasted: the next wait depends on them.
  private int vainAttempts;

  /**
   * A link that starts dialling at once.
   *
   * @param machine the machine's name, for the node and for messages
   * @param owner hears the events, on any thread
   */
  public static Behavior<Command> create(
      String machine,
      InetSocketAddress address,
      LaunchToken token,
      LinkSettings settings,
      Consumer<Event> owner) {
    return Behaviors.setup(
        context ->
            Behaviors.withTimers(
                timers -> new NodeLink(context, timers, machine, address, token, settings, owner)));
  }

  private NodeLink(
      ActorContext<Command> context,
      TimerScheduler<Command> timers,
      String machine,
      InetSocketAddress address,
      LaunchToken token,
      LinkSettings settings,
      Consumer<Event> owner) {
    super(context);
    this.timers = timers;
    this.machine = requireNonNull(machine, "machine");
    this.address = requireNonNull(address, "address");
    this.token = requireNonNull(token, "token");
    this.settings = requireNonNull(settings, "settings");
    this.owner = requireNonNull(owner, "owner");
    context.setLoggerName(NodeLink.class);
    timers.startTimerWithFixedDelay(ConfirmTick.INSTANCE, settings.heartbeatInterval());
    startDialling();
  }

  @Override
  public Receive<Command> createReceive() {
    return newReceiveBuilder()
        .onMessage(Dialled.class, this::onDialled)
        .onMessage(NotDialled.class, this::onNotDialled)
        .onMessage(ControlFrame.class, this::onControlFrame)
        .onMessage(ConnectionClosed.class, this::onConnectionClosed)
        .onMessage(HandshakeTimedOut.class, this::onHandshakeTimedOut)
        .onMessage(Redial.class, this::onRedial)
        .onMessage(GiveUp.class, this::onGiveUp)
        .onMessage(ConfirmTick.class, this::onConfirmTick)
        .onMessage(OpenSession.class, this::onOpenSession)
        .onMessage(CloseSession.class, this::onCloseSession)
        .onMessage(SaveSession.class, this::onSaveSession)
        .onMessage(ForgetState.class, this::onForgetState)
        .onMessage(IssueToken.class, this::onIssueToken)
        .onMessage(Shutdown.class, this::onShutdown)
        .onSignal(PostStop.class, this::onPostStop)
        .build();
  }

  // Connection ----------------------------------------------------------------------------------

  private void startDialling() {
    Dial next = new Dial(broken);
    dial = next;
    ActorRef<Command> self = getContext().getSelf();
    CompletableFuture<Void> unused =
        CompletableFuture.runAsync(
            () -> next.run(self),
            getContext().getSystem().dispatchers().lookup(DispatcherSelector.blocking()));
  }

  private Behavior<Command> onDialled(Dialled event) {
    if (!dial.take(event.channel()) || shuttingDown) {
      closeQuietly(event.channel());
      return this;
    }
    welcomed = false;
    connection =
        LinkConnection.start(
            event.channel(), "node of machine " + machine, settings, new FrameHandler());
    timers.startSingleTimer(HandshakeTimedOut.INSTANCE, settings.handshakeTimeout());
    Hello.Builder hello =
        Hello.newBuilder()
            .setProtocolVersion(FrameHeader.PROTOCOL_VERSION)
            .setLibtorchVersion(ProgramLibtorch.version())
            .setMachine(machine)
            .setLink(id)
            .setConnection(++connections);
    if (secret.isEmpty()) {
      hello.setToken(token.value());
    } else {
      hello.setSecret(secret);
    }
    for (LinkedSession session : sessions.values()) {
      hello.addSessions(
          SessionPosition.newBuilder()
              .setSession(session.mailbox.session())
              .setLastAcknowledgedSequence(session.mailbox.lastAcknowledgedSequence()));
    }
    connection.send(OutboundFrame.control(FrameType.HELLO, 0, hello.build()));
    return this;
  }

  private Behavior<Command> onNotDialled(NotDialled event) {
    if (shuttingDown) {
      return Behaviors.stopped();
    }
    if (broken) {
      return redialLater(event.cause());
    }
    return lost(
        new ProviderException(
            "machine "
                + machine
                + " cannot reach its node at "
                + address
                + ": "
                + text(event.cause()),
            event.cause()));
  }

  private Behavior<Command> onHandshakeTimedOut(HandshakeTimedOut event) {
    connection.closeBecause(
        new SocketTimeoutException(
            "the node did not answer the handshake within %d ms (remora.link.handshake-timeout)"
                .formatted(settings.handshakeTimeout().toMillis())));
    return this;
  }

  private Behavior<Command> onConnectionClosed(ConnectionClosed event) {
    connection = null;
    timers.cancel(HandshakeTimedOut.INSTANCE);
    if (shuttingDown) {
      return Behaviors.stopped();
    }
    if (goodbye != null) {
      return lost(goodbye);
    }
    Throwable cause = event.cause();
    if (cause instanceof IOException || cause instanceof DamagedFrameException) {
      return redial(cause);
    }
    String what = up ? " lost the link to its node: " : " could not shake hands with its node: ";
    String message = "machine " + machine + what + text(cause);
    return lost(
        up
            ? new NodeLostException(message + lastAcknowledged(), cause)
            : cause instanceof ProtocolException
                ? new ProtocolException(message, cause)
                : new ProviderException(message, cause));
  }

  /** The connection is gone; what it carried is safe on both sides. */
  private Behavior<Command> redial(Throwable cause) {
    sessions.values().forEach(session -> session.mailbox.disconnect());
    long now = System.nanoTime();
    if (!broken) {
      if (now - welcomedNanos > settings.redialMaxBackoff().toNanos()) {
        vainAttempts = 0;
      }
      broken = true;
      brokenNanos = now;
      brokenBy = cause;
      attempts = 0;
      timers.startSingleTimer(GiveUp.INSTANCE, settings.giveUpAfter());
      if (up) {
        owner.accept(new Broken(text(cause)));
      }
    }
    return redialLater(cause);
  }

  private Behavior<Command> redialLater(Throwable failure) {
    lastFailure = failure;
    if (vainAttempts == 0) {
      timers.startSingleTimer(Redial.INSTANCE, Duration.ZERO);
    } else {
      double wait =
          Math.min(
              (double) settings.redialMinBackoff().toNanos() * Math.pow(2, vainAttempts - 1.0),
              (double) settings.redialMaxBackoff().toNanos());
      wait *= 1 + settings.redialRandomFactor() * ThreadLocalRandom.current().nextDouble();
      timers.startSingleTimer(Redial.INSTANCE, Duration.ofNanos((long) wait));
    }
    vainAttempts++;
    return this;
  }

  private Behavior<Command> onRedial(Redial event) {
    if (!shuttingDown) {
      attempts++;
      startDialling();
    }
    return this;
  }

  private Behavior<Command> onGiveUp(GiveUp event) {
    String tried =
        "and made no other within %d ms and %d attempts (remora.link.give-up-after)"
            .formatted(settings.giveUpAfter().toMillis(), attempts);
    String last = lastFailure == brokenBy ? "" : "; at last: " + text(lastFailure);
    if (!up) {
      return lost(
          new ProviderException(
              "the link of machine %s to its node at %s ended in the handshake: %s, %s%s"
                  .formatted(machine, address, text(brokenBy), tried, last),
              brokenBy));
    }
    return lost(
        new NodeLostException(
            "machine %s lost the link to its node at %s: %s, %s%s%s"
                .formatted(machine, address, text(brokenBy), tried, last, lastAcknowledged()),
            brokenBy));
  }

  /** What is known to be executed, for messages. */
  private String lastAcknowledged() {
    return sessions.values().stream()
        .map(
            session ->
                "; of session %d batch %d was acknowledged last"
                    .formatted(
                        session.mailbox.session(), session.mailbox.lastAcknowledgedSequence()))
        .collect(Collectors.joining());
  }

  private Behavior<Command> lost(RemoraException cause) {
    if (!shuttingDown) {
      owner.accept(new Lost(cause));
    }
    refuseTokens(cause);
    return Behaviors.stopped();
  }

  private Behavior<Command> onShutdown(Shutdown command) {
    shuttingDown = true;
    if (connection == null) {
      return Behaviors.stopped();
    }
    Goodbye message = Goodbye.newBuilder().setReason(Reason.REASON_CLOSED).build();
    connection.finish(OutboundFrame.control(FrameType.GOODBYE, 0, message), GOODBYE_LIMIT);
    return this;
  }

  private Behavior<Command> onPostStop(PostStop signal) {
    dial.abandon();
    if (connection != null && !shuttingDown) {
      connection.close();
    }
    refuseTokens(new NodeLostException("the link of machine " + machine + " has ended"));
    return this;
  }

  // Sessions ------------------------------------------------------------------------------------

  private Behavior<Command> onOpenSession(OpenSession command) {
    LinkedSession session = new LinkedSession(command.mailbox(), command.restoredFrom());
    sessions.put(session.mailbox.session(), session);
    if (isConnected()) {
      sendOpen(session);
    }
    return this;
  }

  private void sendOpen(LinkedSession session) {
    var message = io.remora.actors.link.proto.OpenSession.newBuilder();
    if (session.restoredFrom != null) {
      message.setRestoredFrom(session.restoredFrom);
    }
    connection.send(
        OutboundFrame.control(FrameType.OPEN_SESSION, session.mailbox.session(), message.build()));
  }

  private Behavior<Command> onSaveSession(SaveSession command) {
    LinkedSession session = sessions.get(command.session());
    if (session != null && !session.isClosing()) {
      session.save(command.pause());
      session.mailbox.hold(saveFrame(session));
    }
    return this;
  }

  private static OutboundFrame saveFrame(LinkedSession session) {
    return OutboundFrame.control(
        FrameType.SAVE_SESSION,
        session.mailbox.session(),
        io.remora.actors.link.proto.SaveSession.newBuilder().setPause(session.saving()).build());
  }

  private Behavior<Command> onForgetState(ForgetState command) {
    sessions.values().forEach(session -> session.saved(command.pause()));
    forgetting.add(command.pause());
    if (isConnected()) {
      sendForget(command.pause());
    }
    return this;
  }

  private void sendForget(String pause) {
    connection.send(
        OutboundFrame.control(
            FrameType.FORGET_STATE,
            0,
            io.remora.actors.link.proto.ForgetState.newBuilder().setPause(pause).build()));
  }

  private Behavior<Command> onCloseSession(CloseSession command) {
    LinkedSession session = sessions.get(command.session());
    if (session == null) {
      owner.accept(new SessionEnded(command.session(), null));
    } else {
      session.close();
      session.mailbox.sendAfterAll(closeFrame(session));
    }
    return this;
  }

  private static OutboundFrame closeFrame(LinkedSession session) {
    return OutboundFrame.empty(FrameType.CLOSE_SESSION, session.mailbox.session(), 0);
  }

  private Behavior<Command> onIssueToken(IssueToken command) {
    tokensFor.add(command.replyTo());
    if (isConnected()) {
      connection.send(OutboundFrame.empty(FrameType.ISSUE_TOKEN, 0, 0));
    }
    return this;
  }

  private void refuseTokens(RemoraException cause) {
    tokensFor.forEach(replyTo -> replyTo.tell(StatusReply.error(cause)));
    tokensFor.clear();
  }

  private boolean isConnected() {
    return connection != null && welcomed;
  }

  /** What came and is not confirmed yet is, so that an idle node keeps nothing. */
  private Behavior<Command> onConfirmTick(ConfirmTick tick) {
    if (isConnected()) {
      sessions.values().forEach(session -> confirm(connection, session));
    }
    return this;
  }

  private static void confirm(LinkConnection to, LinkedSession session) {
    long received = session.confirm();
    if (received != 0) {
      to.send(OutboundFrame.empty(FrameType.RECEIVED, session.mailbox.session(), received));
    }
  }

  private Behavior<Command> onControlFrame(ControlFrame frame) {
    if (frame.message() instanceof Welcome welcome) {
      onWelcome(welcome);
    } else if (frame.message() instanceof Refused refused) {
      return onRefused(frame.session(), refused);
    } else if (frame.message() instanceof SessionClosed closed) {
      onSessionClosed(frame.session(), closed);
    } else if (frame.message() instanceof io.remora.actors.link.proto.SessionSaved saved) {
      onSessionSaved(frame.session(), saved);
    } else if (frame.message() instanceof StateForgotten forgotten) {
      forgetting.remove(forgotten.getPause());
    } else if (frame.message() instanceof Token issued) {
      onToken(issued);
    } else if (frame.message() instanceof Goodbye message) {
      onGoodbye(message);
    } else if (frame.type() == FrameType.SESSION_OPENED) {
      onSessionOpened(frame.session());
    }
    return this;
  }

  private void onWelcome(Welcome welcome) {
    if (welcomed) {
      connection.closeBecause(new ProtocolException("a second WELCOME"));
      return;
    }
    if (secret.isEmpty() && welcome.getSecret().isEmpty()) {
      connection.closeBecause(new ProtocolException("a first WELCOME without the link's secret"));
      return;
    }
    if (secret.isEmpty()) {
      secret = welcome.getSecret();
    }
    welcomed = true;
    welcomedNanos = System.nanoTime();
    timers.cancel(HandshakeTimedOut.INSTANCE);
    timers.cancel(GiveUp.INSTANCE);
    if (up) {
      owner.accept(new Restored(Duration.ofNanos(welcomedNanos - brokenNanos), attempts));
    }
    broken = false;
    goOn(welcome);
    if (!up) {
      up = true;
      owner.accept(
          new Up(
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
  }

  /** Asks again for what was not answered, and lets the sessions go on where they were. */
  private void goOn(Welcome welcome) {
    Map<Long, Long> received =
        welcome.getSessionsList().stream()
            .collect(
                Collectors.toMap(
                    SessionProgress::getSession,
                    SessionProgress::getLastReceivedSequence,
                    (one, other) -> other));
    forgetting.forEach(this::sendForget);
    for (int i = 0; i < tokensFor.size(); i++) {
      connection.send(OutboundFrame.empty(FrameType.ISSUE_TOKEN, 0, 0));
    }
    for (LinkedSession session : List.copyOf(sessions.values())) {
      long number = session.mailbox.session();
      if (!session.isOpen()) {
        sendOpen(session);
      } else if (received.containsKey(number)) {
        goOn(session, received.get(number));
      } else {
        endSession(
            number,
            new NodeLostException(
                "the node of machine %s does not have session %d any more; batch %d was acknowledged last"
                    .formatted(machine, number, session.mailbox.lastAcknowledgedSequence())));
      }
    }
  }

  private void goOn(LinkedSession session, long lastReceived) {
    try {
      session.mailbox.reconnect(connection, lastReceived);
    } catch (ProtocolException e) {
      connection.closeBecause(e);
      return;
    }
    sendLast(session);
  }

  /** What is to come behind all batches. */
  private static void sendLast(LinkedSession session) {
    if (session.isClosing()) {
      session.mailbox.sendAfterAll(closeFrame(session));
    } else if (session.saving() != null) {
      session.mailbox.sendAfterAll(saveFrame(session));
    }
  }

  private Behavior<Command> onRefused(long session, Refused refused) {
    String text = refused.getMessage();
    if (session != 0) {
      confirmEnd(session);
      endSession(
          session,
          new ProviderException("the node of machine " + machine + " refused a session: " + text));
      return this;
    }
    String message = "the node of machine " + machine + " refused the link: " + text;
    if (up) {
      return lost(new NodeLostException(message + lastAcknowledged()));
    }
    return lost(
        switch (refused.getReason()) {
          case REASON_TOKEN -> new AuthenticationException(message);
          case REASON_PROTOCOL_VERSION, REASON_LIBTORCH_VERSION, REASON_MALFORMED ->
              new ProtocolException(message);
          default -> new ProviderException(message);
        });
  }

  private void onSessionOpened(long number) {
    LinkedSession session = sessions.get(number);
    if (session == null) {
      connection.closeBecause(
          new ProtocolException("the node opened session " + number + ", which nobody asked for"));
      return;
    }
    if (session.isOpen()) {
      return;
    }
    session.opened();
    session.mailbox.connect(connection);
    sendLast(session);
    owner.accept(new SessionReady(number));
  }

  private void onSessionSaved(long number, io.remora.actors.link.proto.SessionSaved saved) {
    LinkedSession session = sessions.get(number);
    if (session != null) {
      session.saved(saved.getPause());
    }
    owner.accept(new SessionSaved(number, saved.getPause(), saved.getFailure(), saved.getState()));
  }

  private void onToken(Token issued) {
    ActorRef<StatusReply<LaunchToken>> replyTo = tokensFor.poll();
    if (replyTo == null) {
      connection.closeBecause(new ProtocolException("a token that nobody asked for"));
      return;
    }
    replyTo.tell(StatusReply.success(LaunchToken.of(issued.getToken())));
  }

  private void onSessionClosed(long session, SessionClosed closed) {
    String message =
        "the node of machine " + machine + " ended session " + session + ": " + closed.getMessage();
    confirmEnd(session);
    endSession(
        session,
        switch (closed.getReason()) {
          case REASON_CLOSED -> null;
          case REASON_MALFORMED -> new ProtocolException(message);
          default -> new NodeLostException(message);
        });
  }

  private void endSession(long session, RemoraException cause) {
    if (sessions.remove(session) != null) {
      owner.accept(new SessionEnded(session, cause));
    }
  }

  /** The node keeps what a session has to say until this is known. */
  private void confirmEnd(long session) {
    connection.send(OutboundFrame.empty(FrameType.RECEIVED, session, FrameType.END));
  }

  private void onGoodbye(Goodbye message) {
    goodbye =
        new NodeLostException(
            "the node of machine %s ended the link: %s"
                .formatted(
                    machine,
                    message.getMessage().isEmpty() ? message.getReason() : message.getMessage()));
  }

  private static ByteString randomId() {
    byte[] bytes = new byte[16];
    new SecureRandom().nextBytes(bytes);
    return ByteString.copyFrom(bytes);
  }

  private static String text(Throwable cause) {
    if (cause == null) {
      return "closed";
    }
    return cause.getMessage() == null ? cause.toString() : cause.getMessage();
  }

  private static void closeQuietly(LinkChannel channel) {
    try {
      channel.close();
    } catch (IOException e) {
      // Nobody is to hear of a connection that nobody wants.
    }
  }

  /** Makes the connection on a thread that may block. */
  private final class Dial {

    private final boolean once;
    private volatile boolean abandoned;
    private LinkChannel made;

    /**
     * @param once whether to tell of the first failure; else it goes on until {@code
     *     remora.link.connect-timeout}
     */
    Dial(boolean once) {
      this.once = once;
    }

    void run(ActorRef<Command> self) {
      long deadline = System.nanoTime() + settings.connectTimeout().toNanos();
      while (!abandoned) {
        long left = deadline - System.nanoTime();
        try {
          LinkChannel channel =
              LinkTransport.dial(
                  address, Duration.ofNanos(Math.max(left, 1_000_000)), settings.tls());
          offer(channel);
          self.tell(new Dialled(channel));
          return;
        } catch (IOException e) {
          // The node may be about to listen.
          if (once || deadline - System.nanoTime() < DIAL_AGAIN_AFTER.toNanos() || !pause()) {
            self.tell(new NotDialled(e));
            return;
          }
        } catch (RuntimeException e) {
          self.tell(new NotDialled(e));
          return;
        }
      }
    }

    private boolean pause() {
      try {
        Thread.sleep(DIAL_AGAIN_AFTER.toMillis());
        return true;
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
        return false;
      }
    }

    private synchronized void offer(LinkChannel channel) {
      if (abandoned) {
        closeQuietly(channel);
      } else {
        made = channel;
      }
    }

    /** The actor takes the connection over; false if it was closed. */
    synchronized boolean take(LinkChannel channel) {
      boolean mine = made == channel;
      made = null;
      return mine;
    }

    synchronized void abandon() {
      abandoned = true;
      if (made != null) {
        closeQuietly(made);
      }
    }
  }

  /** What the reader thread does. */
  private final class FrameHandler implements LinkConnection.Handler {

    private final ActorRef<Command> self = getContext().getSelf();

    @Override
    public void onFrame(LinkConnection from, FrameHeader header, PooledBuffer payload) {
      switch (header.type()) {
        case ACK -> onAcknowledged(from, header, payload.bytes());
        case WELCOME -> tell(header, parse(header, Welcome.parser(), payload));
        case REFUSED -> tell(header, parse(header, Refused.parser(), payload));
        case SESSION_CLOSED -> tell(header, parse(header, SessionClosed.parser(), payload));
        case GOODBYE -> tell(header, parse(header, Goodbye.parser(), payload));
        case SESSION_OPENED -> tell(header, "");
        case STATE_FORGOTTEN -> tell(header, parse(header, StateForgotten.parser(), payload));
        case TOKEN -> tell(header, parse(header, Token.parser(), payload));
        case SESSION_SAVED ->
            tell(header, parse(header, io.remora.actors.link.proto.SessionSaved.parser(), payload));
        default -> throw new ProtocolException("a node does not send " + header.type() + " frames");
      }
    }

    private void tell(FrameHeader header, Object message) {
      self.tell(new ControlFrame(header.type(), header.session(), message));
    }

    private <T> T parse(FrameHeader header, Parser<T> parser, PooledBuffer payload) {
      try {
        return parser.parseFrom(payload.bytes());
      } catch (InvalidProtocolBufferException e) {
        throw new ProtocolException("cannot read the payload of a " + header.type() + " frame", e);
      }
    }

    private void onAcknowledged(LinkConnection from, FrameHeader header, ByteBuffer report) {
      LinkedSession session = sessions.get(header.session());
      if (session == null) {
        return;
      }
      BatchMailbox.Acknowledged acknowledged = session.mailbox.acknowledge(header.sequence());
      if (acknowledged == null) {
        return;
      }
      try {
        // First the owner: whoever has waited for the batch may ask at once what it has changed.
        tellStorages(
            header.session(),
            acknowledged.batch(),
            report.duplicate().order(report.order()),
            session.mailbox.figures());
        SessionListener listener = session.mailbox.listener();
        if (listener != null) {
          listener.onExecuted(header.sequence(), report);
        }
      } finally {
        acknowledged.release();
      }
      if (session.acknowledged(header.sequence(), header.length())) {
        confirm(from, session);
      }
    }

    private void tellStorages(
        long session, Batch batch, ByteBuffer report, MachineFigures figures) {
      ExecutionReport result = ExecutionReport.decode(report);
      figures.failed(result.failures().size());
      if (batch.born().isEmpty()
          && batch.freed().length == 0
          && result.realized().isEmpty()
          && result.freed().length == 0) {
        return;
      }
      owner.accept(
          new StoragesChanged(
              session, batch.born(), result.realized(), batch.freed(), result.freed()));
    }

    @Override
    public ByteBuffer valueDestination(FrameHeader header, ValueHeader value) {
      LinkedSession session = sessions.get(header.session());
      if (session == null || !session.isNew(header, value)) {
        return null;
      }
      SessionListener listener = session.mailbox.listener();
      ByteBuffer destination =
          listener == null
              ? null
              : listener.valueDestination(value.request(), value.offset(), value.length());
      if (destination == null) {
        session.unwanted(value);
      }
      return destination;
    }

    @Override
    public void onValue(FrameHeader header, ValueHeader value) {
      LinkedSession session = sessions.get(header.session());
      if (session == null) {
        return;
      }
      session.received(value);
      SessionListener listener = session.mailbox.listener();
      if (listener != null) {
        session.mailbox.figures().received(value.length());
        listener.onValueReceived(value.request(), value.offset(), value.length());
      }
    }

    @Override
    public void onClosed(LinkConnection from, Throwable cause) {
      self.tell(new ConnectionClosed(cause));
    }
  }
}
