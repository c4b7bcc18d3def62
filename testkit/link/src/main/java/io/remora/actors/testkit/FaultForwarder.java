// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.testkit;

import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Deque;
import java.util.EnumMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.BooleanSupplier;

/**
 * A port on loopback that passes TCP connections on to another, and does to them what networks do:
 * cuts, resets, stalls in one or both directions, slowness, damaged, repeated and late bytes,
 * refused connections. Faults concern all connections there are at a time. Thread-safe.
 */
public final class FaultForwarder implements AutoCloseable {

  /** Which way bytes go. */
  public enum Direction {
    /** From whoever dialled the forwarder to the target: from the machine to its node. */
    UP,
    /** Back. */
    DOWN
  }

  private static final int CHUNK_BYTES = 64 * 1024;
  private static final int SLOW_CHUNK_BYTES = 4 * 1024;
  private static final long MOST_HELD_BYTES = 64L * 1024 * 1024;
  private static final int CONNECT_MILLIS = 5_000;

  private final InetSocketAddress target;
  private final ServerSocket server;
  private final ReentrantLock lock = new ReentrantLock();
  private final Condition changed = lock.newCondition();

  // Guarded by the lock.
  private final List<Connection> connections = new ArrayList<>();
  private final Map<Direction, Way> ways = new EnumMap<>(Direction.class);
  private int made;
  private int answered;
  private boolean refusing;
  private boolean closed;

  /** What happens to bytes of one direction. */
  private static final class Way {
    boolean stalled;
    long bytesPerSecond = Long.MAX_VALUE;
    long delayNanos;
    long corruptIn = -1;
    boolean duplicate;
    long passed;
  }

  /** Opens a port that leads to {@code target}. */
  public FaultForwarder(InetSocketAddress target) {
    this.target = target;
    for (Direction direction : Direction.values()) {
      ways.put(direction, new Way());
    }
    try {
      server = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
    } catch (IOException e) {
      throw new IllegalStateException("no port for a forwarder", e);
    }
    daemon(this::accept);
  }

  /** What to dial instead of the target. */
  public InetSocketAddress address() {
    return new InetSocketAddress(server.getInetAddress(), server.getLocalPort());
  }

  /** How many connections were made to the target so far. */
  public int connections() {
    return locked(() -> made);
  }

  /** How many connections are open. */
  public int open() {
    return locked(
        () -> {
          connections.removeIf(connection -> connection.caller.isClosed());
          return connections.size();
        });
  }

  /** How many bytes went this way so far. */
  public long passed(Direction direction) {
    return locked(() -> ways.get(direction).passed);
  }

  // Faults --------------------------------------------------------------------------------------

  /** Closes all connections, in the middle of whatever they carry. */
  public void cut() {
    locked(() -> end(false));
  }

  /** As {@link #cut}, with resets instead of orderly ends. */
  public void reset() {
    locked(() -> end(true));
  }

  /** From now on connections are closed as soon as they are made, or not any more. */
  public void refuse(boolean on) {
    locked(
        () -> {
          refusing = on;
        });
  }

  /** Holds all bytes that go these ways, of connections to come too; nobody is told. */
  public void stall(Direction... directions) {
    locked(() -> Arrays.stream(directions).forEach(each -> ways.get(each).stalled = true));
  }

  /** Ends stalls, delays and slowness; what was held is sent. */
  public void heal() {
    locked(
        () ->
            ways.values()
                .forEach(
                    way -> {
                      way.stalled = false;
                      way.bytesPerSecond = Long.MAX_VALUE;
                      way.delayNanos = 0;
                    }));
  }

  /**
   * Keeps all bytes for so long before they are sent, each way, as a long line does: later bytes
   * follow in the same intervals. Bytes that were on their way keep the delay that they had.
   */
  public void delay(Duration duration) {
    locked(() -> ways.values().forEach(way -> way.delayNanos = duration.toNanos()));
  }

  /** Lets so many bytes a second through, each way. */
  public void slow(long bytesPerSecond) {
    locked(() -> ways.values().forEach(way -> way.bytesPerSecond = bytesPerSecond));
  }

  /** Flips a bit of the byte that goes this way after so many others. */
  public void corrupt(Direction direction, long after) {
    locked(
        () -> {
          ways.get(direction).corruptIn = after;
        });
  }

  /** Sends the next piece of the stream that goes this way twice. */
  public void duplicate(Direction direction) {
    locked(
        () -> {
          ways.get(direction).duplicate = true;
        });
  }

  /**
   * Breaks the connections for who dialled, and holds what is on its way up until the next
   * connection has had an answer: then it arrives over the old one.
   */
  public void breakLate() {
    locked(
        () -> {
          connections.forEach(connection -> connection.lateUntil = answered);
          connections.forEach(connection -> closeQuietly(connection.answers));
        });
  }

  @Override
  public void close() throws IOException {
    server.close();
    locked(
        () -> {
          closed = true;
          end(false);
        });
  }

  // Passing on ----------------------------------------------------------------------------------

  private final class Connection {

    final Socket caller;
    final Socket called;
    final AutoCloseable answers;
    // Bytes up go on when more connections than these have been answered; -1: at once.
    int lateUntil = -1;
    boolean answeredOnce;
    int directionsFinished;
    boolean failed;

    Connection(Socket caller, Socket called) {
      this.caller = caller;
      this.called = called;
      this.answers = caller::shutdownOutput;
    }

    /** Both directions have ended in order: nothing comes any more. */
    private void finished() {
      locked(
          () -> {
            directionsFinished++;
            if (directionsFinished == Direction.values().length) {
              closeQuietly(caller);
              closeQuietly(called);
            }
          });
    }

    void pass(Direction direction) {
      Passage passage = new Passage(this, direction);
      daemon(passage::take);
      daemon(passage::give);
    }

    /** One of its sockets has failed: nothing passes any more. */
    private void fail() {
      closeQuietly(caller);
      closeQuietly(called);
      locked(
          () -> {
            failed = true;
          });
    }
  }

  /**
   * What has been read and not been sent.
   *
   * @param bytes null for the end of the stream
   * @param due the time at which the delay is over
   */
  private record Piece(byte[] bytes, long due) {}

  /** One direction of a connection. A thread reads, another one sends; between them pieces wait. */
  private final class Passage {

    final Connection connection;
    final Direction direction;
    final Socket from;
    final Socket to;
    // Guarded by the lock. Without a delay there is one piece at most.
    final Deque<Piece> pieces = new ArrayDeque<>();
    long heldBytes;

    Passage(Connection connection, Direction direction) {
      this.connection = connection;
      this.direction = direction;
      this.from = direction == Direction.UP ? connection.caller : connection.called;
      this.to = direction == Direction.UP ? connection.called : connection.caller;
    }

    void take() {
      byte[] buffer = new byte[CHUNK_BYTES];
      try {
        InputStream in = from.getInputStream();
        int count = 0;
        while (count >= 0 && awaitRoom()) {
          count = in.read(buffer, 0, chunk(direction));
          hold(count < 0 ? null : Arrays.copyOf(buffer, count));
        }
      } catch (IOException e) {
        connection.fail();
      }
    }

    private boolean awaitRoom() {
      return awaiting(
          () ->
              connection.failed
                  || pieces.isEmpty()
                  || (ways.get(direction).delayNanos > 0 && heldBytes < MOST_HELD_BYTES),
          () -> !connection.failed);
    }

    private void hold(byte[] bytes) {
      locked(
          () -> {
            pieces.add(new Piece(bytes, System.nanoTime() + ways.get(direction).delayNanos));
            heldBytes += bytes == null ? 0 : bytes.length;
          });
    }

    void give() {
      try {
        OutputStream out = to.getOutputStream();
        while (awaiting(() -> connection.failed || !pieces.isEmpty(), () -> !connection.failed)) {
          Piece piece = locked(pieces::peek);
          if (piece.bytes() == null) {
            to.shutdownOutput();
            connection.finished();
            return;
          }
          int times = awaitTurn(direction, connection, piece);
          for (int i = 0; i < times; i++) {
            out.write(piece.bytes());
          }
          locked(
              () -> {
                pieces.remove();
                heldBytes -= piece.bytes().length;
              });
        }
      } catch (IOException e) {
        connection.fail();
      }
    }

    /** Waits for {@code condition} and then returns {@code result}; false if interrupted. */
    private boolean awaiting(BooleanSupplier condition, BooleanSupplier result) {
      lock.lock();
      try {
        while (!condition.getAsBoolean()) {
          changed.await();
        }
        return result.getAsBoolean();
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
        return false;
      } finally {
        lock.unlock();
      }
    }
  }

  private int chunk(Direction direction) {
    return locked(
        () ->
            ways.get(direction).bytesPerSecond == Long.MAX_VALUE ? CHUNK_BYTES : SLOW_CHUNK_BYTES);
  }

  /** Waits until these bytes may be sent, and damages them; how often they are to be sent. */
  private int awaitTurn(Direction direction, Connection connection, Piece piece) {
    lock.lock();
    try {
      Way way = ways.get(direction);
      byte[] bytes = piece.bytes();
      int count = bytes.length;
      long delay = piece.due() - System.nanoTime();
      while (delay > 0 && way.delayNanos > 0 && !closed && !connection.failed) {
        changed.awaitNanos(delay);
        delay = piece.due() - System.nanoTime();
      }
      if (way.bytesPerSecond != Long.MAX_VALUE) {
        long nanos = TimeUnit.SECONDS.toNanos(count) / way.bytesPerSecond;
        while (nanos > 0 && way.bytesPerSecond != Long.MAX_VALUE && !closed) {
          nanos = changed.awaitNanos(nanos);
        }
      }
      while (!closed
          && (connection.lateUntil < 0
              ? way.stalled
              : direction == Direction.UP && connection.lateUntil >= answered)) {
        changed.await();
      }
      if (direction == Direction.DOWN && !connection.answeredOnce) {
        connection.answeredOnce = true;
        answered++;
        changed.signalAll();
      }
      way.passed += count;
      if (way.corruptIn >= 0 && way.corruptIn < count) {
        bytes[(int) way.corruptIn] ^= 0x20;
        way.corruptIn = -1;
      } else if (way.corruptIn >= 0) {
        way.corruptIn -= count;
      }
      boolean twice = way.duplicate;
      way.duplicate = false;
      return twice ? 2 : 1;
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      return 0;
    } finally {
      lock.unlock();
    }
  }

  private void accept() {
    while (true) {
      try {
        Socket caller = server.accept();
        if (locked(() -> refusing || closed)) {
          closeQuietly(caller);
          continue;
        }
        Socket called = new Socket();
        try {
          called.connect(target, CONNECT_MILLIS);
        } catch (IOException e) {
          closeQuietly(caller);
          continue;
        }
        caller.setTcpNoDelay(true);
        called.setTcpNoDelay(true);
        Connection connection = new Connection(caller, called);
        locked(
            () -> {
              connections.add(connection);
              made++;
            });
        connection.pass(Direction.UP);
        connection.pass(Direction.DOWN);
      } catch (IOException e) {
        if (server.isClosed()) {
          return;
        }
      }
    }
  }

  private void end(boolean withReset) {
    for (Connection connection : connections) {
      for (Socket socket : List.of(connection.caller, connection.called)) {
        if (withReset) {
          try {
            socket.setSoLinger(true, 0);
          } catch (IOException e) {
            // It is closed already.
          }
        }
        closeQuietly(socket);
      }
    }
    connections.clear();
  }

  private interface Value<T> {
    T get();
  }

  private <T> T locked(Value<T> value) {
    lock.lock();
    try {
      return value.get();
    } finally {
      lock.unlock();
    }
  }

  private void locked(Runnable change) {
    lock.lock();
    try {
      change.run();
      changed.signalAll();
    } finally {
      lock.unlock();
    }
  }

  private static void closeQuietly(AutoCloseable socket) {
    try {
      socket.close();
    } catch (Exception e) {
      // It is closed all the same.
    }
  }

  private static void daemon(Runnable body) {
    Thread thread = new Thread(body, "fault-forwarder");
    thread.setDaemon(true);
    thread.start();
  }
}
