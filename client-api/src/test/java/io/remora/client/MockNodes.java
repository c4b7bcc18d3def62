// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.awaitility.Awaitility.await;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.time.Instant;
import java.util.Comparator;
import java.util.List;
import java.util.concurrent.TimeUnit;

/** The node processes of the mock provider, which are this JVM's children. */
final class MockNodes {

  private MockNodes() {}

  /** Waits until exactly one node runs: a former one may still be ending. */
  static ProcessHandle only() {
    return await().atMost(Awaited.LIMIT).until(MockNodes::all, nodes -> nodes.size() == 1).get(0);
  }

  /** Waits for a node, which may be one that is ending. */
  static ProcessHandle any() {
    return await()
        .atMost(Awaited.LIMIT)
        .until(
            () ->
                ProcessHandle.current()
                    .children()
                    .filter(ProcessHandle::isAlive)
                    .findAny()
                    .orElse(null),
            found -> found != null);
  }

  /** All nodes, in the order in which they were started. */
  static List<ProcessHandle> all() {
    return ProcessHandle.current()
        .children()
        .filter(ProcessHandle::isAlive)
        .sorted(Comparator.comparing(node -> node.info().startInstant().orElse(Instant.MAX)))
        .toList();
  }

  /**
   * Waits until there is none. A closed machine does not wait for a node that it has ordered and
   * that has not arrived.
   */
  static void awaitNone() {
    await().atMost(Awaited.LIMIT).until(() -> all().isEmpty());
  }

  /** Makes a node stand still. */
  static void stop(ProcessHandle node) {
    try {
      new ProcessBuilder("kill", "-STOP", Long.toString(node.pid())).start().waitFor();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  /** Kills a node and waits for its end. */
  static void kill(ProcessHandle node) {
    node.destroyForcibly();
    awaitEnd(node);
  }

  /** Waits for a node's end. */
  static void awaitEnd(ProcessHandle node) {
    node.onExit().orTimeout(Awaited.LIMIT.toSeconds(), TimeUnit.SECONDS).join();
  }
}
