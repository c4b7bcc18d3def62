// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.node;

import akka.actor.typed.ActorRef;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Parser;
import io.remora.actors.internal.BatchMailbox;
import io.remora.actors.internal.ReceivedValues;
import io.remora.actors.internal.ReplayDifference;
import io.remora.actors.link.FrameHeader;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.LinkConnection;
import io.remora.actors.link.OutboundFrame;
import io.remora.actors.link.PooledBuffer;
import io.remora.actors.link.ValueHeader;
import io.remora.actors.link.proto.DirectNotes;
import io.remora.actors.link.proto.DirectProgress;
import io.remora.actors.link.proto.DirectToken;
import io.remora.actors.link.proto.Goodbye;
import io.remora.actors.link.proto.MemoryUsed;
import io.remora.actors.link.proto.Notice;
import io.remora.actors.link.proto.Refused;
import io.remora.actors.link.proto.SaveProgress;
import io.remora.actors.link.proto.SessionClosed;
import io.remora.actors.link.proto.SessionSaved;
import io.remora.actors.link.proto.StateForgotten;
import io.remora.actors.link.proto.Token;
import io.remora.actors.link.proto.Welcome;
import io.remora.runtime.ExecutionReport;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.SessionListener;
import io.remora.runtime.StorageBirth;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;

/**
 * Handles the node's frames on the thread that reads the connection. Acknowledgements and values go
 * to the sessions' listeners; all other frames go to the link's actor.
 */
final class LinkFrameReader implements LinkConnection.Handler {

  private final ActorRef<NodeLink.Command> actor;
  private final Map<Long, LinkedSession> sessions;
  private final Consumer<NodeLink.Event> owner;
  private ByteBuffer scratch = ByteBuffer.allocate(0);

  /**
   * @param sessions the link's sessions, by number; its actor may change the map at any time
   * @param owner receives, on the thread that reads, the changes that batches have made
   */
  LinkFrameReader(
      ActorRef<NodeLink.Command> actor,
      Map<Long, LinkedSession> sessions,
      Consumer<NodeLink.Event> owner) {
    this.actor = actor;
    this.sessions = sessions;
    this.owner = owner;
  }

  @Override
  public void onFrame(LinkConnection from, FrameHeader header, PooledBuffer payload) {
    switch (header.type()) {
      case ACK -> onAcknowledged(from, header, payload.bytes());
      case WELCOME -> tell(from, header, parse(header, Welcome.parser(), payload));
      case REFUSED -> tell(from, header, parse(header, Refused.parser(), payload));
      case SESSION_CLOSED -> tell(from, header, parse(header, SessionClosed.parser(), payload));
      case GOODBYE -> tell(from, header, parse(header, Goodbye.parser(), payload));
      case SESSION_OPENED -> tell(from, header, "");
      case NOTICE -> tell(from, header, parse(header, Notice.parser(), payload));
      case MEMORY_USED -> tell(from, header, parse(header, MemoryUsed.parser(), payload));
      case STATE_FORGOTTEN -> tell(from, header, parse(header, StateForgotten.parser(), payload));
      case TOKEN -> tell(from, header, parse(header, Token.parser(), payload));
      case DIRECT_TOKEN -> onDirectToken(header, parse(header, DirectToken.parser(), payload));
      case DIRECT_PROGRESS ->
          onDirectProgress(from, header, parse(header, DirectProgress.parser(), payload));
      case SESSION_SAVED -> tell(from, header, parse(header, SessionSaved.parser(), payload));
      case SAVE_PROGRESS -> tell(from, header, parse(header, SaveProgress.parser(), payload));
      default -> throw new ProtocolException("a node does not send " + header.type() + " frames");
    }
  }

  private void tell(LinkConnection from, FrameHeader header, Object message) {
    actor.tell(new LinkEvent.ControlFrame(from, header.type(), header.session(), message));
  }

  private <T> T parse(FrameHeader header, Parser<T> parser, PooledBuffer payload) {
    try {
      return parser.parseFrom(payload.bytes());
    } catch (InvalidProtocolBufferException e) {
      throw new ProtocolException("cannot read the payload of a " + header.type() + " frame", e);
    }
  }

  private void onDirectToken(FrameHeader header, DirectToken token) {
    LinkedSession session = sessions.get(header.session());
    if (session != null) {
      session.mailbox.direct().admitted(token.getToken(), session.nodeAddress);
    }
  }

  private void onDirectProgress(LinkConnection from, FrameHeader header, DirectProgress progress) {
    from.send(OutboundFrame.empty(FrameType.DIRECT_PROGRESS, header.session(), header.sequence()));
    LinkedSession session = sessions.get(header.session());
    if (session == null
        || !session.isNewProgress(header.sequence())
        || !session.mailbox.direct().isOpen()) {
      return;
    }
    // Tell the owner first: whoever waits for the progress may ask at once for its changes.
    session.mailbox.figures().failed((int) progress.getFailures());
    DirectNotes notes = progress.getNotes();
    tellStorages(
        header.session(),
        births(notes.getBornList()),
        births(progress.getRealizedList()),
        notes.getFreedList().stream().mapToLong(Long::longValue).toArray(),
        progress.getFreedList().stream().mapToLong(Long::longValue).toArray());
    session.mailbox.direct().progress(progress);
  }

  private static List<StorageBirth> births(List<Long> numbers) {
    if (numbers.size() % 3 != 0) {
      throw new ProtocolException(numbers.size() + " numbers in a list of storages");
    }
    List<StorageBirth> births = new ArrayList<>(numbers.size() / 3);
    for (int i = 0; i < numbers.size(); i += 3) {
      births.add(
          new StorageBirth(numbers.get(i), numbers.get(i + 1), numbers.get(i + 2).intValue()));
    }
    return births;
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
      if (!session.mailbox.recovery().isNews(acknowledged, report)) {
        confirm(from, session, header);
        return;
      }
      // Tell the owner first: a thread that waited for the batch may ask at once for its changes.
      if (!session.mailbox.direct().wasTold(header.sequence())) {
        ExecutionReport result = ExecutionReport.decode(report.duplicate().order(report.order()));
        session.mailbox.figures().failed(result.failures().size());
        tellStorages(
            header.session(),
            acknowledged.batch().born(),
            result.realized(),
            acknowledged.batch().freed(),
            result.freed());
      }
      SessionListener listener = session.mailbox.listener();
      if (listener != null) {
        listener.onSent(header.sequence(), acknowledged.sentNanos());
        listener.onExecuted(header.sequence(), report);
      }
    } catch (ReplayDifference e) {
      session.mailbox.lose(e); // at once: the program must not get what this node answers next
      actor.tell(new LinkEvent.SessionFailed(header.session(), e));
      return;
    } finally {
      acknowledged.release();
    }
    confirm(from, session, header);
  }

  private static void confirm(LinkConnection from, LinkedSession session, FrameHeader header) {
    if (session.acknowledged(header.sequence(), header.length())) {
      session.confirmTo(from);
    }
  }

  private void tellStorages(
      long session,
      List<StorageBirth> born,
      List<StorageBirth> realized,
      long[] freedByProgram,
      long[] freedByNode) {
    if (!born.isEmpty()
        || !realized.isEmpty()
        || freedByProgram.length != 0
        || freedByNode.length != 0) {
      owner.accept(
          new NodeLink.StoragesChanged(session, born, realized, freedByProgram, freedByNode));
    }
  }

  @Override
  public ByteBuffer valueDestination(FrameHeader header, ValueHeader value) {
    LinkedSession session = sessions.get(header.session());
    if (session == null) {
      return null;
    }
    ReceivedValues values = session.mailbox.recovery().values(header.sequence());
    if (!values.isNew(header, value)) {
      return null;
    }
    SessionListener listener = session.mailbox.listener();
    ByteBuffer destination = null;
    if (session.mailbox.recovery().isExecutedAgain(header.sequence())) {
      destination = scratch(value.length());
    } else if (listener != null) {
      destination = listener.valueDestination(value.request(), value.offset(), value.length());
    }
    values.arriving(value, destination);
    return destination;
  }

  @Override
  public void onValue(FrameHeader header, ValueHeader value) {
    LinkedSession session = sessions.get(header.session());
    if (session == null) {
      return;
    }
    session.received(value);
    session.mailbox.recovery().values(header.sequence()).received(value);
    if (session.mailbox.recovery().isExecutedAgain(header.sequence())) {
      return;
    }
    SessionListener listener = session.mailbox.listener();
    if (listener != null) {
      session.mailbox.figures().received(value.length());
      listener.onValueReceived(value.request(), value.offset(), value.length());
    }
  }

  /** Memory for bytes that are only compared. */
  private ByteBuffer scratch(int bytes) {
    if (scratch.capacity() < bytes) {
      scratch = ByteBuffer.allocateDirect(bytes);
    }
    return scratch.clear().limit(bytes);
  }

  @Override
  public void onClosed(LinkConnection from, Throwable cause) {
    actor.tell(new LinkEvent.ConnectionClosed(from, cause));
  }
}
