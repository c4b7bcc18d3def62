// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

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
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Parser;
import io.remora.actors.internal.BatchMailbox;
import io.remora.actors.internal.ProgramLibtorch;
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
import io.remora.actors.link.proto.Welcome;
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
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentMap;
import java.util.function.Consumer;

/**
 * The machine's end of the link to its node. It dials, shakes hands, opens and closes sessions, and
 * tells its owner what becomes of the link. It decides nothing about bytes: batches go from each
 * session's mailbox to the socket on the writer thread, acknowledgements and values go from the
 * socket to the session's listener on the reader thread.
 *
 * <p>One NodeLink is one connection. When that ends, the link tells {@link Lost} and stops; the
 * sessions' mailboxes still hold, in order, every batch that the node has not acknowledged.
 */
public final class NodeLink extends AbstractBehavior<NodeLink.Command> {

  private static final Duration DIAL_AGAIN_AFTER = Duration.ofMillis(100);
  private static final Duration GOODBYE_LIMIT = Duration.ofSeconds(2);

  // Protocol ------------------------------------------------------------------------------------

  /** What the link takes. */
  public sealed interface Command
      permits OpenSession, CloseSession, SaveSession, ForgetState, Shutdown, Internal {}

  /**
   * Opens a session; answered by {@link SessionReady} or {@link SessionEnded}. {@code restoredFrom}
   * is where it was saved; null: it is new.
   */
  record OpenSession(BatchMailbox mailbox, SavedState restoredFrom) implements Command {}

  /**
   * Has a session saved after what was submitted so far; what is submitted from now on waits in its
   * mailbox. Answered by {@link SessionSaved}.
   */
  record SaveSession(long session, String pause) implements Command {}

  /** Has deleted what was saved for a pause. */
  record ForgetState(String pause) implements Command {}

  /** Closes a session after what it has sent; answered by {@link SessionEnded}. */
  record CloseSession(long session) implements Command {}

  /** Says goodbye and stops. */
  enum Shutdown implements Command {
    INSTANCE
  }

  /** What the link tells its owner. */
  public sealed interface Event
      permits Up, Lost, SessionReady, SessionEnded, SessionSaved, StoragesChanged {}

  /** The handshake is done. */
  record Up(String nodeId, String libtorchVersion, List<DeviceInfo> devices, int computeThreads)
      implements Event {}

  /** There is no link (any more); the last event. */
  record Lost(RemoraException cause) implements Event {}

  /** The session takes batches. */
  record SessionReady(long session) implements Event {}

  /** There is no such session (any more). {@code cause} is null if it was closed as asked. */
  record SessionEnded(long session, RemoraException cause) implements Event {}

  /** Whether a session is in the state store: {@code failure} says why not, or is empty. */
  record SessionSaved(long session, String pause, String failure, SavedState state)
      implements Event {}

  /** What an executed batch has changed. */
  @SuppressWarnings("ArrayRecordComponent") // never compared
  record StoragesChanged(
      long session,
      List<StorageBirth> born,
      List<StorageBirth> realized,
      long[] freedByProgram,
      long[] freedByNode)
      implements Event {}

  private sealed interface Internal extends Command
      permits Dialled, NotDialled, ControlFrame, ConnectionClosed, HandshakeTimedOut {}

  private record Dialled(LinkChannel channel) implements Internal {}

  private record NotDialled(Throwable cause) implements Internal {}

  private record ControlFrame(FrameType type, long session, Object message) implements Internal {}

  private record ConnectionClosed(Throwable cause) implements Internal {}

  private enum HandshakeTimedOut implements Internal {
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
  private final ConcurrentMap<Long, BatchMailbox> sessions = new ConcurrentHashMap<>();

  private final Dial dial = new Dial();
  private LinkConnection connection;
  private boolean up;
  private boolean shuttingDown;
  private RemoraException goodbye;

  /**
   * A link that starts dialling at once.
   *
   * @param machine the machine's name, for the node and for messages
   * @param owner hears the events, on any thread
   */
  static Behavior<Command> create(
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
        .onMessage(OpenSession.class, this::onOpenSession)
        .onMessage(CloseSession.class, this::onCloseSession)
        .onMessage(SaveSession.class, this::onSaveSession)
        .onMessage(ForgetState.class, this::onForgetState)
        .onMessage(Shutdown.class, this::onShutdown)
        .onSignal(PostStop.class, this::onPostStop)
        .build();
  }

  // Connection ----------------------------------------------------------------------------------

  private void startDialling() {
    ActorRef<Command> self = getContext().getSelf();
    CompletableFuture<Void> unused =
        CompletableFuture.runAsync(
            () -> dial.run(self),
            getContext().getSystem().dispatchers().lookup(DispatcherSelector.blocking()));
  }

  private Behavior<Command> onDialled(Dialled event) {
    if (!dial.take(event.channel()) || shuttingDown) {
      closeQuietly(event.channel());
      return this;
    }
    connection =
        LinkConnection.start(
            event.channel(), "node of machine " + machine, settings, new FrameHandler());
    timers.startSingleTimer(HandshakeTimedOut.INSTANCE, settings.handshakeTimeout());
    Hello.Builder hello =
        Hello.newBuilder()
            .setProtocolVersion(FrameHeader.PROTOCOL_VERSION)
            .setLibtorchVersion(ProgramLibtorch.version())
            .setMachine(machine)
            .setToken(token.value());
    for (BatchMailbox mailbox : sessions.values()) {
      hello.addSessions(
          SessionPosition.newBuilder()
              .setSession(mailbox.session())
              .setLastAcknowledgedSequence(mailbox.lastAcknowledgedSequence()));
    }
    connection.send(OutboundFrame.control(FrameType.HELLO, 0, hello.build()));
    return this;
  }

  private Behavior<Command> onNotDialled(NotDialled event) {
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
    return lost(
        new ProviderException(
            "the node of machine %s at %s did not answer the handshake within %d ms (remora.link.handshake-timeout)"
                .formatted(machine, address, settings.handshakeTimeout().toMillis())));
  }

  private Behavior<Command> onConnectionClosed(ConnectionClosed event) {
    if (shuttingDown) {
      return Behaviors.stopped();
    }
    if (goodbye != null) {
      return lost(goodbye);
    }
    if (!up) {
      return lost(
          new ProviderException(
              "the link of machine " + machine + " ended in the handshake: " + text(event.cause()),
              event.cause()));
    }
    return lost(
        new NodeLostException(
            "machine " + machine + " lost the link to its node: " + text(event.cause()),
            event.cause()));
  }

  private Behavior<Command> lost(RemoraException cause) {
    if (!shuttingDown) {
      owner.accept(new Lost(cause));
    }
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
    return this;
  }

  // Sessions ------------------------------------------------------------------------------------

  private Behavior<Command> onOpenSession(OpenSession command) {
    BatchMailbox mailbox = command.mailbox();
    sessions.put(mailbox.session(), mailbox);
    var message = io.remora.actors.link.proto.OpenSession.newBuilder();
    if (command.restoredFrom() != null) {
      message.setRestoredFrom(command.restoredFrom());
    }
    connection.send(
        OutboundFrame.control(FrameType.OPEN_SESSION, mailbox.session(), message.build()));
    return this;
  }

  private Behavior<Command> onSaveSession(SaveSession command) {
    BatchMailbox mailbox = sessions.get(command.session());
    if (mailbox != null) {
      mailbox.hold(
          OutboundFrame.control(
              FrameType.SAVE_SESSION,
              command.session(),
              io.remora.actors.link.proto.SaveSession.newBuilder()
                  .setPause(command.pause())
                  .build()));
    }
    return this;
  }

  private Behavior<Command> onForgetState(ForgetState command) {
    connection.send(
        OutboundFrame.control(
            FrameType.FORGET_STATE,
            0,
            io.remora.actors.link.proto.ForgetState.newBuilder()
                .setPause(command.pause())
                .build()));
    return this;
  }

  private Behavior<Command> onCloseSession(CloseSession command) {
    BatchMailbox mailbox = sessions.get(command.session());
    if (mailbox == null) {
      owner.accept(new SessionEnded(command.session(), null));
    } else {
      mailbox.sendAfterAll(OutboundFrame.empty(FrameType.CLOSE_SESSION, command.session(), 0));
    }
    return this;
  }

  private Behavior<Command> onControlFrame(ControlFrame frame) {
    if (frame.message() instanceof Welcome welcome) {
      onWelcome(welcome);
    } else if (frame.message() instanceof Refused refused) {
      return onRefused(frame.session(), refused);
    } else if (frame.message() instanceof SessionClosed closed) {
      onSessionClosed(frame.session(), closed);
    } else if (frame.message() instanceof io.remora.actors.link.proto.SessionSaved saved) {
      owner.accept(
          new SessionSaved(
              frame.session(), saved.getPause(), saved.getFailure(), saved.getState()));
    } else if (frame.message() instanceof Goodbye message) {
      onGoodbye(message);
    } else if (frame.type() == FrameType.SESSION_OPENED) {
      onSessionOpened(frame.session());
    }
    return this;
  }

  private void onWelcome(Welcome welcome) {
    if (up) {
      connection.closeBecause(new ProtocolException("a second WELCOME"));
      return;
    }
    up = true;
    timers.cancel(HandshakeTimedOut.INSTANCE);
    List<DeviceInfo> devices =
        welcome.getDevicesList().stream()
            .map(
                device ->
                    new DeviceInfo(device.getName(), device.getKind(), device.getMemoryBytes()))
            .toList();
    owner.accept(
        new Up(
            welcome.getNodeId(),
            welcome.getLibtorchVersion(),
            devices,
            welcome.getComputeThreads()));
  }

  private Behavior<Command> onRefused(long session, Refused refused) {
    String text = refused.getMessage();
    if (session != 0) {
      endSession(
          session,
          new ProviderException("the node of machine " + machine + " refused a session: " + text));
      return this;
    }
    String message = "the node of machine " + machine + " refused the link: " + text;
    return lost(
        switch (refused.getReason()) {
          case REASON_TOKEN -> new AuthenticationException(message);
          case REASON_PROTOCOL_VERSION, REASON_LIBTORCH_VERSION, REASON_MALFORMED ->
              new ProtocolException(message);
          default -> new ProviderException(message);
        });
  }

  private void onSessionOpened(long session) {
    BatchMailbox mailbox = sessions.get(session);
    if (mailbox == null) {
      connection.closeBecause(
          new ProtocolException("the node opened session " + session + ", which nobody asked for"));
      return;
    }
    mailbox.connect(connection);
    owner.accept(new SessionReady(session));
  }

  private void onSessionClosed(long session, SessionClosed closed) {
    String message =
        "the node of machine " + machine + " ended session " + session + ": " + closed.getMessage();
    endSession(
        session,
        switch (closed.getReason()) {
          case REASON_CLOSED -> null;
          case REASON_MALFORMED -> new ProtocolException(message);
          default -> new NodeLostException(message);
        });
  }

  private void endSession(long session, RemoraException cause) {
    sessions.remove(session);
    owner.accept(new SessionEnded(session, cause));
  }

  private void onGoodbye(Goodbye message) {
    goodbye =
        new NodeLostException(
            "the node of machine %s ended the link: %s"
                .formatted(
                    machine,
                    message.getMessage().isEmpty() ? message.getReason() : message.getMessage()));
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

    private volatile boolean abandoned;
    private LinkChannel made;

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
          if (deadline - System.nanoTime() < DIAL_AGAIN_AFTER.toNanos() || !pause()) {
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
        case ACK -> onAcknowledged(header, payload.bytes());
        case WELCOME -> tell(header, parse(header, Welcome.parser(), payload));
        case REFUSED -> tell(header, parse(header, Refused.parser(), payload));
        case SESSION_CLOSED -> tell(header, parse(header, SessionClosed.parser(), payload));
        case GOODBYE -> tell(header, parse(header, Goodbye.parser(), payload));
        case SESSION_OPENED -> tell(header, "");
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

    private void onAcknowledged(FrameHeader header, ByteBuffer report) {
      BatchMailbox mailbox = sessions.get(header.session());
      if (mailbox == null) {
        return;
      }
      BatchMailbox.Acknowledged acknowledged = mailbox.acknowledge(header.sequence());
      try {
        SessionListener listener = mailbox.listener();
        if (listener != null) {
          listener.onExecuted(header.sequence(), report.duplicate().order(report.order()));
        }
        tellStorages(header.session(), acknowledged.batch(), report);
      } finally {
        acknowledged.release();
      }
    }

    private void tellStorages(long session, Batch batch, ByteBuffer report) {
      ExecutionReport result = ExecutionReport.decode(report);
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
      SessionListener listener = listener(header);
      return listener == null
          ? null
          : listener.valueDestination(value.request(), value.offset(), value.length());
    }

    @Override
    public void onValue(FrameHeader header, ValueHeader value) {
      SessionListener listener = listener(header);
      if (listener != null) {
        listener.onValueReceived(value.request(), value.offset(), value.length());
      }
    }

    private SessionListener listener(FrameHeader header) {
      BatchMailbox mailbox = sessions.get(header.session());
      return mailbox == null ? null : mailbox.listener();
    }

    @Override
    public void onClosed(LinkConnection from, Throwable cause) {
      self.tell(new ConnectionClosed(cause));
    }
  }
}
