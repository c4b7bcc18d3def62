// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.LongAdder;
import java.util.function.ToLongFunction;

/**
 * The counters of this process's nodes, which share libtorch and its memory. Counting costs a few
 * additions per batch. Thread-safe.
 */
final class NodeFigures {

  /** The counters of this process. */
  static final NodeFigures PROCESS = new NodeFigures();

  private final AtomicInteger owners = new AtomicInteger();
  private final Set<OfSession> sessions = ConcurrentHashMap.newKeySet();
  private final LongAdder batches = new LongAdder();
  private final LongAdder batchBytes = new LongAdder();
  private final LongAdder executionNanos = new LongAdder();

  /** The figures of an open session. The session's thread writes them, others read them. */
  final class OfSession implements AutoCloseable {

    private final SessionInbox inbox;
    private volatile long storages;
    private volatile long storageBytes;

    private OfSession(SessionInbox inbox) {
      this.inbox = inbox;
    }

    void executed(long bytes, long nanos) {
      batches.increment();
      batchBytes.add(bytes);
      executionNanos.add(nanos);
    }

    void setStorages(long count) {
      storages = count;
    }

    void setStorageBytes(long bytes) {
      storageBytes = bytes;
    }

    @Override
    public void close() {
      sessions.remove(this);
    }
  }

  OfSession sessionOpened(SessionInbox inbox) {
    OfSession session = new OfSession(inbox);
    sessions.add(session);
    return session;
  }

  void ownerArrived() {
    owners.incrementAndGet();
  }

  void ownerGone() {
    owners.decrementAndGet();
  }

  long owners() {
    return owners.get();
  }

  long sessions() {
    return sessions.size();
  }

  long batches() {
    return batches.sum();
  }

  long batchBytes() {
    return batchBytes.sum();
  }

  long executionNanos() {
    return executionNanos.sum();
  }

  long queuedBytes() {
    return sum(session -> session.inbox.waitingBytes());
  }

  long storages() {
    return sum(session -> session.storages);
  }

  long storageBytes() {
    return sum(session -> session.storageBytes);
  }

  private long sum(ToLongFunction<OfSession> figure) {
    return sessions.stream().mapToLong(figure).sum();
  }
}
