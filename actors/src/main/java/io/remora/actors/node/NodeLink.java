// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.node;

import akka.actor.typed.ActorRef;
import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.Behaviors;
import akka.pattern.StatusReply;
import io.remora.actors.DeviceInfo;
import io.remora.actors.internal.BatchMailbox;
import io.remora.actors.internal.StandbyFeed;
import io.remora.actors.link.LinkSettings;
import io.remora.actors.link.proto.SavedState;
import io.remora.provider.LaunchToken;
import io.remora.runtime.RemoraException;
import io.remora.runtime.StorageBirth;
import java.net.InetSocketAddress;
import java.time.Duration;
import java.util.List;
import java.util.function.Consumer;

/**
 * The machine's end of the link to its node. It connects, shakes hands, opens and closes sessions,
 * and reports the link's events to its owner. Bytes do not pass through the actor: the writer
 * thread sends batches from each session's mailbox to the socket, and the thread that reads passes
 * acknowledgements and values from the socket to the session's listener.
 *
 * <p>A link may need several connections, one after the other. When one breaks (closed, reset,
 * silent, damaged bytes), the link reports {@link Broken} and makes another connection, which
 * continues where the last one stopped. Batches that have not arrived and requests that the node
 * has not answered are sent again; answers that the node repeats are ignored. {@link Restored}
 * follows. If {@code remora.link.give-up-after} passes since the break without a connection, {@link
 * Lost} follows instead, and the link stops. A node that refuses the link or says goodbye, and one
 * that breaks the protocol, is lost at once.
 *
 * <p>This class has the link's protocol. Its states are {@link Dialling}, {@link Greeting} and
 * {@link Connected}; after a break, {@link Waiting} alternates with them. {@link Dismissed} and
 * {@link Parting} end the link.
 */
public final class NodeLink {

  private NodeLink() {}

  /**
   * Creates a link that starts dialling at once.
   *
   * @param machine the machine's name, for the node and for messages
   * @param owner receives the events, on any thread
   */
  public static Behavior<Command> create(
      String machine,
      InetSocketAddress address,
      LaunchToken token,
      LinkSettings settings,
      Consumer<Event> owner) {
    return create(machine, address, token, settings, false, owner);
  }

  /**
   * As the other.
   *
   * @param takesNotice whether the owner wants {@link Notice}s. It must answer each by moving to
   *     another node or by {@link DeclineNotice}: the node waits for it
   */
  public static Behavior<Command> create(
      String machine,
      InetSocketAddress address,
      LaunchToken token,
      LinkSettings settings,
      boolean takesNotice,
      Consumer<Event> owner) {
    return Behaviors.setup(
        context ->
            Behaviors.withTimers(
                timers ->
                    new Dialling(
                        new Link(
                            context, timers, machine, address, token, settings, takesNotice, owner),
                        null)));
  }

  /** The commands of the link. */
  public sealed interface Command
      permits OpenSession,
          CloseSession,
          SaveSession,
          CheckpointSession,
          ForgetState,
          IssueToken,
          LeaveSessions,
          TakeOver,
          DeclineNotice,
          Shutdown,
          LinkEvent {}

  /**
   * Opens a session; answered by {@link SessionReady} or {@link SessionEnded}. {@code restoredFrom}
   * is the key of its saved state; null for a new session.
   */
  public record OpenSession(BatchMailbox mailbox, SavedState restoredFrom) implements Command {}

  /**
   * Saves a session after the work submitted so far. Work submitted from now on waits in its
   * mailbox. Answered by {@link SessionSaved}; a session that is being closed answers only by
   * {@link SessionEnded}.
   */
  public record SaveSession(long session, String pause) implements Command {}

  /**
   * Saves a copy of a session, which meanwhile continues. Answered by {@link SessionSaved}, with
   * the last batch that is part of it; a session that is being closed answers only by {@link
   * SessionEnded}.
   *
   * @param base the last checkpoint that is kept, whose files the new one may share; "" if there is
   *     none
   */
  public record CheckpointSession(long session, String name, String base, boolean atMark)
      implements Command {}

  /** Deletes the saved state of a pause or a checkpoint. */
  public record ForgetState(String pause) implements Command {}

  /** Closes a session after the work that it has sent; answered by {@link SessionEnded}. */
  public record CloseSession(long session) implements Command {}

  /**
   * Asks the node for a token that admits another link of this machine, for example from another
   * JVM. The token can be used once, within the node's {@code remora.node.token-lifetime}. The
   * request waits while the link is broken. Error: the cause, if the link is lost.
   */
  public record IssueToken(ActorRef<StatusReply<LaunchToken>> replyTo) implements Command {}

  /**
   * Gives up all sessions, which are saved: another link takes them over. The node keeps them until
   * this link ends or has another connection, so {@link OpenSession} with the same saved state
   * takes them back. Answered by {@link SessionsLeft}, unless the link is lost.
   */
  public enum LeaveSessions implements Command {
    INSTANCE
  }

  /**
   * Continues sessions that this link's node has followed as a standby: the mailboxes of their
   * programs take the place of the standby's, on another connection to the node. Answered by {@link
   * SessionReady} for each.
   */
  public record TakeOver(List<StandbyFeed> sessions) implements Command {

    /** Copies the list. */
    public TakeOver {
      sessions = List.copyOf(sessions);
    }
  }

  /** Tells a node that has given notice that it need not wait for this link. */
  public enum DeclineNotice implements Command {
    INSTANCE
  }

  /** Says goodbye and stops. */
  public enum Shutdown implements Command {
    INSTANCE
  }

  /** The events that the link reports to its owner. */
  public sealed interface Event
      permits Up,
          Broken,
          Restored,
          Lost,
          SessionReady,
          SessionEnded,
          Saving,
          SessionSaved,
          SessionsLeft,
          Notice,
          MemoryUsed,
          StateForgotten,
          StoragesChanged {}

  /** The handshake is done. */
  public record Up(
      String nodeId, String libtorchVersion, List<DeviceInfo> devices, int computeThreads)
      implements Event {}

  /**
   * What the node uses of its memory has changed.
   *
   * @param devices by index
   * @param residentBytes of the node's process; 0 if not known
   */
  public record MemoryUsed(List<DeviceUse> devices, long residentBytes) implements Event {

    /**
     * Of a device, in bytes. All are 0 where libtorch's allocator reports nothing.
     *
     * @param allocated what the allocator has given to tensors
     * @param peak the most that it has ever given
     * @param reserved what it has taken from the device
     */
    public record DeviceUse(long allocated, long peak, long reserved) {}

    static MemoryUsed of(io.remora.actors.link.proto.MemoryUsed used) {
      return new MemoryUsed(
          used.getDevicesList().stream()
              .map(
                  each ->
                      new DeviceUse(
                          each.getAllocatedBytes(), each.getPeakBytes(), each.getReservedBytes()))
              .toList(),
          used.getResidentBytes());
    }
  }

  /** The connection is gone; the link is reconnecting. */
  public record Broken(String cause) implements Event {}

  /** The link has reconnected, and everything continues. */
  public record Restored(Duration after, int attempts) implements Event {}

  /** The link is lost, or could not be made. This is the last event. */
  public record Lost(RemoraException cause) implements Event {}

  /** The session is open and takes batches. */
  public record SessionReady(long session) implements Event {}

  /**
   * The session has ended or could not be opened. {@code cause} is null if it was closed on
   * request.
   */
  public record SessionEnded(long session, RemoraException cause) implements Event {}

  /**
   * How much of a session is saved, in bytes. {@link SessionSaved} follows.
   *
   * @param done what is saved
   * @param total about what the session has
   */
  public record Saving(long session, String pause, long done, long total) implements Event {}

  /**
   * A session was saved to the state store; or {@code failure} is not empty and has the reason why
   * not.
   */
  public record SessionSaved(long session, String pause, String failure, SavedState state)
      implements Event {}

  /** The link no longer uses the mailboxes of the sessions that it had. */
  public enum SessionsLeft implements Event {
    INSTANCE
  }

  /**
   * The node was told to end. It waits until the link has ended or is declined, for this time at
   * most.
   */
  public record Notice(String reason, Duration within) implements Event {}

  /** The node has deleted a saved state, or never had it. */
  public record StateForgotten(String name) implements Event {}

  /** An executed batch has changed storages. */
  @SuppressWarnings("ArrayRecordComponent") // never compared
  public record StoragesChanged(
      long session,
      List<StorageBirth> born,
      List<StorageBirth> realized,
      long[] freedByProgram,
      long[] freedByNode)
      implements Event {}
}
