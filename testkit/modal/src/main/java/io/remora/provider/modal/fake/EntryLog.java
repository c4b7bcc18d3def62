// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal.fake;

import akka.NotUsed;
import akka.japi.Pair;
import akka.stream.javadsl.Source;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.TimeUnit;

/**
 * The output of a sandbox or build, in numbered entries. Each stream to a reader has only a few
 * entries; for more, the reader asks again from the last one. Thread-safe.
 */
final class EntryLog {

  /** The first position. */
  static final String START = "0-0";

  /** The most entries kept; the oldest are dropped first. */
  private static final int MOST_ENTRIES = 10_000;

  /**
   * A piece of text.
   *
   * @param id the position after it
   * @param last whether this is the last entry; its text may be empty
   */
  record Entry(String id, String text, boolean last) {}

  private final List<String> entries = new ArrayList<>();
  private int dropped;
  private boolean ended;
  private CompletableFuture<Void> changed = new CompletableFuture<>();

  synchronized void add(String text) {
    if (!ended) {
      entries.add(text);
      if (entries.size() > MOST_ENTRIES) {
        entries.remove(0);
        dropped++;
      }
      wake();
    }
  }

  synchronized void end() {
    ended = true;
    wake();
  }

  synchronized String text() {
    return String.join("", entries);
  }

  /** The entries after {@code after}, for {@code limit} and up to {@code most} entries. */
  Source<Entry, NotUsed> stream(String after, Duration limit, int most) {
    long end = System.nanoTime() + limit.toNanos();
    return Source.unfoldAsync(
            position(after),
            position ->
                position < 0
                    ? CompletableFuture.completedFuture(Optional.empty())
                    : next(position, end)
                        .thenApply(
                            next ->
                                next.map(
                                    entry ->
                                        Pair.create(
                                            entry.last() ? -1 : position(entry.id()), entry))))
        .take(most);
  }

  private CompletionStage<Optional<Entry>> next(int position, long endNanos) {
    CompletableFuture<Void> wait;
    synchronized (this) {
      int index = Math.max(0, position - dropped);
      if (index < entries.size()) {
        return CompletableFuture.completedFuture(
            Optional.of(new Entry(id(dropped + index + 1), entries.get(index), false)));
      }
      if (ended) {
        return CompletableFuture.completedFuture(Optional.of(new Entry(id(position), "", true)));
      }
      wait = changed.copy();
    }
    long left = endNanos - System.nanoTime();
    if (left <= 0) {
      return CompletableFuture.completedFuture(Optional.empty());
    }
    return wait.completeOnTimeout(null, left, TimeUnit.NANOSECONDS)
        .thenCompose(nothing -> next(position, endNanos));
  }

  private void wake() {
    CompletableFuture<Void> waiting = changed;
    changed = new CompletableFuture<>();
    waiting.complete(null);
  }

  private static String id(int position) {
    return position + "-0";
  }

  private static int position(String id) {
    int dash = id.indexOf('-');
    try {
      return id.isEmpty() ? 0 : Integer.parseInt(id.substring(0, dash));
    } catch (RuntimeException e) {
      throw Refusals.invalid("no entry has the id " + id);
    }
  }
}
