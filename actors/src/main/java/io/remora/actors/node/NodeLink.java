// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.node;

import akka.actor.typed.ActorRef;
import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.Behaviors;
import akka.pattern.StatusReply;
import io.remora.actors.DeviceInfo;
import io.remora.actors.internal.BatchMailbox;
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
 *
 * <p>Here is its protocol. Its states are {@link Dialling}, {@link Greeting}, {@link Connected}
 * and, after a break, {@link Waiting} in turns; {@link Dismissed} and {@link Parting} end it.
 */
public final class NodeLink {

  private NodeLink() {}

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
                timers ->
                    new Dialling(
                        new Link(context, timers, machine, address, token, settings, owner),
                        null)));
  }

  /** What the link takes. */
  public sealed interface Command
      permits OpenSession,
          CloseSession,
          SaveSession,
          ForgetState,
          IssueToken,
          Shutdown,
          LinkEvent {}

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

  /** There is another connection: everything continues. */
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
}
