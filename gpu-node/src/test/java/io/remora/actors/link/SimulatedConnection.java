// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import com.google.protobuf.ByteString;
import io.remora.actors.link.proto.SharedMemory;
import java.io.EOFException;
import java.io.IOException;
import java.net.SocketTimeoutException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import java.util.concurrent.Future;
import java.util.function.BooleanSupplier;

/**
 * One end of a connection in a simulated network. As over a socket, frames are gathered, written
 * and delivered in separate steps, and any of them may be the last. A frame that was not written
 * whole does not arrive.
 */
public final class SimulatedConnection implements LinkConnection, LinkLine {

  /** The world that a connection is in. */
  public interface World {

    /** Runs a task soon. */
    void soon(Runnable task);

    /** Runs a task after this time. */
    void after(Duration delay, Runnable task);

    /** A random number below {@code bound}. */
    int random(int bound);

    /** Notes what happens. */
    void note(String text);

    /** The dialling end has handled the acknowledgement of a batch. */
    void acknowledged(SimulatedConnection by, long sequence);
  }

  private record Frame(FrameType type, long session, long sequence, byte[] payload) {
    @Override
    public String toString() {
      return type + " " + session + "/" + sequence + " (" + payload.length + ")";
    }
  }

  private final World world;
  private final String side;
  private final boolean blocks;
  private SimulatedConnection peer;

  private String name;
  private LinkSettings settings;
  private Handler handler;

  private final Deque<OutboundSource> queue = new ArrayDeque<>();
  private List<OutboundFrame> gathered = List.of();
  private boolean writing;

  /** Written and not delivered: what is on the way to the peer. */
  private final Deque<Frame> onTheWay = new ArrayDeque<>();

  private boolean severed;
  private boolean stalled;
  private boolean closing;
  private boolean finishing;
  private boolean endOfOutput;
  private boolean vanished;
  private boolean handling;
  private Throwable cause;
  private long sent;
  private long received;

  private SimulatedConnection(World world, String side) {
    this.world = world;
    this.side = side;
    this.blocks = world.random(4) == 0;
  }

  /** Two ends of one connection; the dialling one first. */
  public static List<SimulatedConnection> pair(World world, String name) {
    SimulatedConnection one = new SimulatedConnection(world, name + ">");
    SimulatedConnection other = new SimulatedConnection(world, name + "<");
    one.peer = other;
    other.peer = one;
    return List.of(one, other);
  }

  @Override
  public LinkConnection start(String its, LinkSettings with, Handler to) {
    name = its;
    settings = with;
    handler = to;
    if (closing) {
      world.soon(this::ended);
    }
    world.soon(this::deliver);
    return this;
  }

  // Sending -------------------------------------------------------------------------------------

  @Override
  public void send(OutboundSource source) {
    queue.add(source);
    if (closing) {
      dropQueued();
    } else {
      write();
    }
  }

  @Override
  public void sendNow(OutboundSource source) {
    if (!queue.isEmpty() || writing || closing || world.random(8) == 0) {
      send(source);
      return;
    }
    writing = true;
    OutboundFrame frame = source.nextFrame();
    if (frame != null) {
      put(frame);
      frame.release();
    }
    writing = false;
    write();
  }

  private void write() {
    if (!writing && !queue.isEmpty()) {
      writing = true;
      world.soon(this::gather);
    }
  }

  private void gather() {
    if (closing) {
      return;
    }
    List<OutboundFrame> frames = new ArrayList<>();
    for (int left = 1 + world.random(4); left > 0 && !queue.isEmpty(); left--) {
      OutboundFrame frame = queue.poll().nextFrame();
      if (frame != null) {
        frames.add(frame);
      }
    }
    gathered = frames;
    world.soon(this::written);
  }

  private void written() {
    if (closing) {
      return;
    }
    List<OutboundFrame> frames = gathered;
    gathered = List.of();
    frames.forEach(this::put);
    frames.forEach(OutboundFrame::release);
    writing = false;
    write();
    if (finishing && queue.isEmpty() && !endOfOutput) {
      endOfOutput = true;
      world.soon(peer::deliver);
    }
  }

  private void put(OutboundFrame frame) {
    int bytes = 0;
    for (ByteBuffer part : frame.payload()) {
      bytes += part.remaining();
    }
    ByteBuffer payload = ByteBuffer.allocate(bytes);
    for (ByteBuffer part : frame.payload()) {
      payload.put(part);
    }
    Frame copy = new Frame(frame.type(), frame.session(), frame.sequence(), payload.array());
    sent += FrameHeader.BYTES + bytes;
    if (severed) {
      world.note(side + " lost " + copy);
      return;
    }
    onTheWay.add(copy);
    world.soon(peer::deliver);
  }

  @Override
  public void finish(OutboundFrame last, Duration limit) {
    finishing = true;
    send(last);
    world.after(limit, this::close);
  }

  private void dropQueued() {
    for (OutboundSource source = queue.poll(); source != null; source = queue.poll()) {
      source.onDropped();
    }
  }

  // Receiving -----------------------------------------------------------------------------------

  private void deliver() {
    if (handler == null || closing || handling || peer.stalled) {
      return;
    }
    Frame frame = peer.onTheWay.poll();
    if (frame != null) {
      handle(frame);
    } else if (peer.endOfOutput || (peer.closing && !peer.severed)) {
      closeBecause(new EOFException(name + " closed the connection"));
    }
  }

  private void handle(Frame frame) {
    received += FrameHeader.BYTES + frame.payload.length;
    if (finishing) {
      return;
    }
    world.note(side + " got " + frame);
    handling = true;
    try {
      FrameHeader header =
          new FrameHeader(frame.type, 0, frame.payload.length, frame.session, frame.sequence, 0);
      ByteBuffer bytes =
          ByteBuffer.allocateDirect(frame.payload.length)
              .order(ByteOrder.LITTLE_ENDIAN)
              .put(frame.payload)
              .flip();
      if (frame.type == FrameType.VALUE) {
        ValueHeader value = ValueHeader.read(bytes, frame.payload.length);
        ByteBuffer destination = handler.valueDestination(header, value);
        if (destination != null) {
          destination.put(destination.position(), bytes, bytes.position(), value.length());
          handler.onValue(header, value);
        }
      } else {
        PooledBuffer payload = new PooledBuffer(bytes, () -> wipe(bytes));
        handler.onFrame(this, header, payload);
        payload.release();
      }
      if (frame.type == FrameType.ACK) {
        world.acknowledged(peer, frame.sequence);
      }
    } catch (RuntimeException e) {
      closeBecause(e);
    } finally {
      handling = false;
    }
    if (!peer.onTheWay.isEmpty() || peer.endOfOutput || peer.closing) {
      world.soon(this::deliver);
    }
  }

  /** Makes later use of a released payload visible. */
  private static void wipe(ByteBuffer bytes) {
    for (int i = 0; i < bytes.capacity(); i++) {
      bytes.put(i, (byte) 0xA5);
    }
  }

  @Override
  public void await(Future<?> done, long nanos) {
    throw new UnsupportedOperationException("a simulated program never waits");
  }

  /** Now and then reads here, as a thread over a socket does that waits. */
  @Override
  public boolean readUntil(BooleanSupplier done, long nanos) {
    while (!done.getAsBoolean() && !handling && !closing && world.random(3) == 0) {
      if (peer.onTheWay.isEmpty() || peer.stalled) {
        return false;
      }
      deliver();
    }
    return done.getAsBoolean();
  }

  @Override
  public void lend() {}

  // The end -------------------------------------------------------------------------------------

  @Override
  public void close() {
    closeBecause(null);
  }

  @Override
  public void closeBecause(Throwable reason) {
    if (closing) {
      return;
    }
    closing = true;
    cause = finishing ? null : reason;
    world.note(side + " closes: " + reason);
    if (handler != null) {
      world.soon(this::ended);
    }
    world.soon(peer::deliver);
  }

  private void ended() {
    if (vanished) {
      return;
    }
    if (!peer.onTheWay.isEmpty() && !handling && !finishing && world.random(4) == 0) {
      handle(peer.onTheWay.poll()); // the reader was at it when the connection was closed
    }
    vanished = true;
    gathered.forEach(OutboundFrame::release);
    gathered = List.of();
    dropQueued();
    handler.onClosed(this, cause);
  }

  // Faults --------------------------------------------------------------------------------------

  /**
   * Cuts the line: some of what is on the way is lost, and each end notices it later.
   *
   * @param timeout after how long an end notices it that hears nothing
   */
  public void cut(Duration timeout) {
    for (SimulatedConnection end : List.of(this, peer)) {
      end.severed = true;
      end.loseSome();
      Duration notices = world.random(3) == 0 ? timeout : Duration.ofMillis(world.random(500));
      world.after(notices, () -> end.closeBecause(new IOException("the line was cut")));
    }
  }

  private void loseSome() {
    for (int lost = world.random(onTheWay.size() + 1); lost > 0; lost--) {
      world.note(side + " lost " + onTheWay.pollLast());
    }
  }

  /**
   * Delivers nothing that this end sends for this time; the peer gives up after {@code timeout}.
   */
  public void stall(Duration time, Duration timeout) {
    if (stalled || severed) {
      return;
    }
    stalled = true;
    if (time.compareTo(timeout) >= 0) {
      world.after(
          timeout,
          () -> peer.closeBecause(new SocketTimeoutException("nothing was heard for long")));
    }
    world.after(
        time,
        () -> {
          stalled = false;
          world.soon(peer::deliver);
        });
  }

  /** The process of this end is killed. It does and hears nothing more. */
  public void vanish() {
    closing = true;
    vanished = true;
    gathered = List.of();
    queue.clear();
    loseSome();
    if (!severed) {
      Duration notices = Duration.ofMillis(world.random(50));
      world.after(notices, () -> peer.closeBecause(new IOException("connection reset by peer")));
    }
  }

  // The rest ------------------------------------------------------------------------------------

  @Override
  public boolean isOpen() {
    return !closing;
  }

  @Override
  public String name() {
    return name;
  }

  @Override
  public boolean sendsWithoutBlocking() {
    return !blocks;
  }

  @Override
  public ByteString memoryChallenge() {
    return ByteString.EMPTY;
  }

  @Override
  public SharedMemory offerMemory(ByteString challenge) {
    return null;
  }

  @Override
  public boolean openMemory(SharedMemory offered) {
    return false;
  }

  @Override
  public boolean sharesMemory() {
    return false;
  }

  @Override
  public LinkSettings settings() {
    return settings;
  }

  @Override
  public long bytesSent() {
    return sent;
  }

  @Override
  public long bytesReceived() {
    return received;
  }

  @Override
  public String toString() {
    return side;
  }
}
