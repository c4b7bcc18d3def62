// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import akka.actor.typed.ActorRef;
import akka.actor.typed.ActorSystem;
import akka.actor.typed.DispatcherSelector;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.LinkChannel;
import io.remora.actors.link.LinkConnection;
import io.remora.actors.link.LinkLine;
import io.remora.actors.link.LinkSettings;
import io.remora.actors.link.LinkTls;
import io.remora.actors.link.LinkTransport;
import io.remora.actors.link.OutboundFrame;
import io.remora.actors.link.proto.MemoryUsed;
import io.remora.actors.link.proto.Notice;
import io.remora.actors.link.proto.Reason;
import io.remora.actors.link.proto.SavedState;
import io.remora.actors.link.proto.StateForgotten;
import io.remora.provider.LaunchToken;
import io.remora.runtime.RemoraException;
import io.remora.runtime.TensorTransfers;
import io.remora.state.StateStores;
import java.io.Closeable;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetSocketAddress;
import java.nio.channels.AsynchronousCloseException;
import java.nio.channels.ClosedChannelException;
import java.nio.channels.ServerSocketChannel;
import java.time.Duration;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The link port: accepts connections on a thread of its own and hands those that pass their
 * handshake to the {@link NodeActor}. Whatever a peer sends, the port stays open. Thread-safe.
 */
final class LinkServer implements AutoCloseable {

  private static final Logger log = LoggerFactory.getLogger(LinkServer.class);

  /** How often to check for expired tickets. */
  private static final Duration EXPIRE_INTERVAL = Duration.ofSeconds(5);

  /** How late a machine may learn what came and went over a direct connection. */
  private static final Duration PROGRESS_INTERVAL = Duration.ofMillis(50);

  private final Closeable port;
  private final InetSocketAddress address;
  private final Handshake handshake;
  private final NodeSettings settings;
  private final LinkSettings linkSettings;
  private final long maxQueuedBytes;
  private final ActorRef<NodeActor.Command> node;
  private final ActorSystem<?> system;
  private final Map<OwnerConnection, LinkConnection> connections = new ConcurrentHashMap<>();
  private final StateWrites writes = new StateWrites();
  private volatile boolean closed;

  private final Object noticeLock = new Object();

  // Guarded by it: the notice that was given; null if none was.
  private String noticeReason;
  private long noticeEndNanos;

  /**
   * A server whose lines others bring.
   *
   * @param port closed with the server
   * @param address what machines dial
   * @param node the node's actor
   */
  LinkServer(
      Closeable port,
      InetSocketAddress address,
      Handshake handshake,
      NodeSettings settings,
      LinkSettings linkSettings,
      ActorRef<NodeActor.Command> node,
      ActorSystem<?> system) {
    this.port = port;
    this.address = address;
    this.node = node;
    this.handshake = handshake;
    this.settings = settings;
    this.linkSettings = linkSettings;
    // A machine has at most its in-flight limit under way. The rest is room for the frames'
    // overhead.
    this.maxQueuedBytes = 2 * linkSettings.maxInFlightBytes() + linkSettings.maxFrameBytes();
    this.system = system;
  }

  /**
   * Opens the port. Connections from now on wait until the server is started.
   *
   * @throws NodeStartException if the address is not allowed or cannot be bound
   */
  static ServerSocketChannel open(InetSocketAddress listen, LinkTls tls) {
    try {
      return LinkTransport.listen(listen, tls);
    } catch (IOException e) {
      throw new NodeStartException(
          NodeStartException.Kind.LISTEN,
          "the link port %s cannot be opened: %s. Choose another with --listen; port 0 takes any free one"
              .formatted(text(listen), e.getMessage()),
          e);
    } catch (RemoraException e) {
      throw new NodeStartException(NodeStartException.Kind.LISTEN, e.getMessage(), e);
    }
  }

  /**
   * Starts to accept connections.
   *
   * @param listening the open port; closed with the server
   * @throws NodeStartException if the port is already closed
   */
  static LinkServer start(
      ServerSocketChannel listening,
      Handshake handshake,
      NodeSettings settings,
      LinkSettings linkSettings,
      ActorSystem<NodeActor.Command> system) {
    try {
      LinkServer server =
          new LinkServer(
              listening,
              (InetSocketAddress) listening.getLocalAddress(),
              handshake,
              settings,
              linkSettings,
              system,
              system);
      system
          .scheduler()
          .scheduleWithFixedDelay(
              EXPIRE_INTERVAL, EXPIRE_INTERVAL, TensorTransfers::expire, system.executionContext());
      Thread thread = new Thread(() -> server.acceptAll(listening), "remora-node-accept");
      thread.setDaemon(true);
      thread.start();
      return server;
    } catch (IOException e) {
      throw new NodeStartException(
          NodeStartException.Kind.LISTEN, "the link port was closed: " + e.getMessage(), e);
    }
  }

  /** Tells machines from now on what the node uses of its memory, until the server is closed. */
  void tellMemory(Supplier<MemoryUsed> memory) {
    if (closed) {
      return;
    }
    List<OwnerLink> links = handshake.links();
    if (!links.isEmpty()) {
      MemoryUsed used = memory.get();
      links.forEach(link -> link.tellMemory(used));
    }
    system
        .scheduler()
        .scheduleOnce(MemoryWatch.INTERVAL, () -> tellMemory(memory), system.executionContext());
  }

  /** The address that machines dial. */
  InetSocketAddress address() {
    return address;
  }

  /** Closes the port, says goodbye to the connections and closes them. Does not wait. */
  @Override
  public void close() {
    closed = true;
    try {
      port.close();
    } catch (IOException e) {
      log.debug("Closing the link port failed", e);
    }
    connections
        .values()
        .forEach(
            connection ->
                OwnerConnection.sayGoodbye(
                    connection, Reason.REASON_SHUTTING_DOWN, "the node is ending"));
  }

  /** Creates a token that admits one more link. */
  LaunchToken issueToken() {
    return handshake.issueToken();
  }

  // Notice --------------------------------------------------------------------------------------

  /**
   * Tells the machines that want to know it that the node was told to end, and waits until each has
   * moved to another node or does not want to.
   *
   * @param reason why the node ends
   * @param limit how long to wait at most
   * @return how many machines it has told
   */
  int giveNotice(String reason, Duration limit) throws InterruptedException {
    long endNanos = System.nanoTime() + limit.toNanos();
    synchronized (noticeLock) {
      noticeReason = reason;
      noticeEndNanos = endNanos;
    }
    int told = 0;
    for (OwnerLink link : handshake.links()) {
      told += repeatNotice(link) ? 1 : 0;
    }
    synchronized (noticeLock) {
      for (long left = limit.toNanos();
          left > 0 && handshake.links().stream().anyMatch(OwnerLink::isMoving);
          left = endNanos - System.nanoTime()) {
        TimeUnit.NANOSECONDS.timedWait(noticeLock, left);
      }
    }
    return told;
  }

  /** Tells a link of the notice that was given, if one was. Returns whether it was told. */
  boolean repeatNotice(OwnerLink link) {
    Notice notice;
    synchronized (noticeLock) {
      if (noticeReason == null) {
        return false;
      }
      long left = TimeUnit.NANOSECONDS.toMillis(noticeEndNanos - System.nanoTime());
      notice =
          Notice.newBuilder().setReason(noticeReason).setWithinMillis(Math.max(0, left)).build();
    }
    return link.giveNotice(notice);
  }

  void noticeDeclined(OwnerLink link) {
    link.declineNotice();
    linksChanged();
  }

  private void linksChanged() {
    synchronized (noticeLock) {
      noticeLock.notifyAll();
    }
  }

  /** Ends all links with a goodbye and frees their sessions. */
  void endLinks(String why) {
    for (OwnerLink link : handshake.revokeAll()) {
      link.end();
      node.tell(new NodeActor.LinkEnded(link));
    }
    connections
        .values()
        .forEach(connection -> OwnerConnection.sayGoodbye(connection, Reason.REASON_CLOSED, why));
  }

  void ownerArrived(OwnerConnection connection, OwnerLink link) {
    node.tell(new NodeActor.OwnerArrived(connection, link));
  }

  /** Called when a connection has ended that carried {@code link}; null if it carried none. */
  void connectionClosed(OwnerConnection connection, OwnerLink link) {
    connections.remove(connection);
    if (link != null) {
      node.tell(new NodeActor.OwnerGone(connection, link));
    }
  }

  /** The machine has said goodbye. */
  void linkEnded(OwnerLink link) {
    forget(link);
    link.end();
    node.tell(new NodeActor.LinkEnded(link));
  }

  /** The link cannot come back. */
  void forget(OwnerLink link) {
    handshake.forget(link);
    linksChanged();
  }

  /** Opens a session of this link, or sends again that it is open. */
  void openSession(
      OwnerLink link, LinkConnection connection, long session, SavedState restoredFrom) {
    link.open(
        connection,
        session,
        restoredFrom,
        maxQueuedBytes,
        settings.maxUnconfirmedBytes(),
        task -> system.scheduler().scheduleOnce(PROGRESS_INTERVAL, task, system.executionContext()),
        (inbox, outbox) ->
            node.tell(new NodeActor.OpenSession(link, session, inbox, outbox, restoredFrom)));
  }

  /** What the node is writing to the store. */
  StateWrites writes() {
    return writes;
  }

  /** How long a token for a direct connection may wait to be used. */
  Duration tokenLifetime() {
    return settings.tokenLifetime();
  }

  /** Whether a direct connection leaves room for connections of machines. */
  boolean hasRoomForDirect() {
    return 2 * connections.keySet().stream().filter(OwnerConnection::isDirect).count()
        < settings.maxConnections();
  }

  /** Deletes the saved state of a pause in the background, and confirms this on the connection. */
  void forgetState(String pause, LinkConnection connection) {
    CompletableFuture<Void> unused =
        CompletableFuture.runAsync(
            () -> {
              writes.forget(pause);
              try {
                StateStores.open(system.settings().config()).delete(pause);
              } catch (IOException | RuntimeException e) {
                log.warn("The saved state {} cannot be deleted: {}", pause, e.toString());
              }
              connection.send(
                  OutboundFrame.control(
                      FrameType.STATE_FORGOTTEN,
                      0,
                      StateForgotten.newBuilder().setPause(pause).build()));
            },
            system.dispatchers().lookup(DispatcherSelector.blocking()));
  }

  /**
   * Called when another node has begun to fetch a tensor; sets the time limit for that transfer.
   */
  void transferStarted(LinkConnection connection) {
    system
        .scheduler()
        .scheduleOnce(settings.transfer().timeout(), connection::close, system.executionContext());
  }

  private void acceptAll(ServerSocketChannel listening) {
    while (!closed) {
      try {
        LinkChannel channel = LinkTransport.accept(listening, linkSettings.tls());
        serve(channel, text(channel.remoteAddress()));
      } catch (AsynchronousCloseException e) {
        return;
      } catch (ClosedChannelException e) {
        if (!listening.isOpen()) {
          return;
        }
      } catch (IOException | UncheckedIOException e) {
        log.warn("Accepting a connection failed: {}", e.getMessage());
        pause();
      }
    }
  }

  /** Serves a line of this peer until its connection ends. */
  void serve(LinkLine line, String peer) throws IOException {
    if (connections.size() >= settings.maxConnections() && !closeOldestInHandshake()) {
      log.warn(
          "Closed a connection from {}: there are {} already (remora.node.max-connections)",
          peer,
          connections.size());
      line.close();
      return;
    }
    OwnerConnection owner = new OwnerConnection(this, peer, handshake);
    LinkConnection connection = line.start(peer, linkSettings, owner);
    connections.put(owner, connection);
    if (owner.isClosed()) {
      // The connection ended before it was in the map.
      connections.remove(owner);
      return;
    }
    if (closed) {
      connection.close();
      return;
    }
    system
        .scheduler()
        .scheduleOnce(
            linkSettings.handshakeTimeout(),
            () -> owner.checkHandshake(connection, linkSettings.handshakeTimeout()),
            system.executionContext());
  }

  /**
   * Closes the oldest connection that is still in its handshake, to make room for one that may be
   * an owner's. Returns false if there is none.
   */
  private boolean closeOldestInHandshake() {
    Optional<OwnerConnection> oldest =
        connections.keySet().stream()
            .filter(OwnerConnection::isInHandshake)
            .min(Comparator.comparingLong(OwnerConnection::age).reversed());
    oldest.ifPresent(
        owner -> {
          log.warn(
              "Closing a connection from {} before its handshake: newer ones wait (remora.node.max-connections = {})",
              owner.name(),
              settings.maxConnections());
          LinkConnection connection = connections.remove(owner);
          if (connection != null) {
            connection.close();
          }
        });
    return oldest.isPresent();
  }

  /**
   * Waits briefly, so that a lasting failure such as too many open files does not occupy a whole
   * core.
   */
  private static void pause() {
    try {
      Thread.sleep(100);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  /** As HOST:PORT. */
  static String text(InetSocketAddress address) {
    return address.isUnresolved()
        ? address.toString()
        : address.getAddress().getHostAddress() + ":" + address.getPort();
  }
}
