// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.node;

import akka.actor.typed.ActorRef;
import io.remora.actors.link.LinkChannel;
import io.remora.actors.link.LinkSettings;
import io.remora.actors.link.LinkTransport;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;

/**
 * Makes one connection to a node on a thread that may block. It reports {@link LinkEvent.Dialled}
 * or {@link LinkEvent.NotDialled}, with itself as the sender. Thread-safe.
 */
final class NodeDialler {

  private static final Duration AGAIN_AFTER = Duration.ofMillis(100);

  private final InetSocketAddress address;
  private final LinkSettings settings;
  private final boolean once;
  private final ActorRef<NodeLink.Command> to;
  private volatile boolean abandoned;
  private LinkChannel made;

  private NodeDialler(
      InetSocketAddress address,
      LinkSettings settings,
      boolean once,
      ActorRef<NodeLink.Command> to) {
    this.address = address;
    this.settings = settings;
    this.once = once;
    this.to = to;
  }

  /**
   * Starts dialling.
   *
   * @param once whether to report the first failure; if not, it tries until {@code
   *     remora.link.connect-timeout}, since the node may be about to listen
   */
  static NodeDialler start(
      InetSocketAddress address,
      LinkSettings settings,
      boolean once,
      ActorRef<NodeLink.Command> to,
      Executor blocking) {
    NodeDialler dialler = new NodeDialler(address, settings, once, to);
    CompletableFuture<Void> unused = CompletableFuture.runAsync(dialler::run, blocking);
    return dialler;
  }

  private void run() {
    long deadline = System.nanoTime() + settings.connectTimeout().toNanos();
    while (!abandoned) {
      long left = deadline - System.nanoTime();
      try {
        offer(
            LinkTransport.dial(
                address, Duration.ofNanos(Math.max(left, 1_000_000)), settings.tls()));
        to.tell(new LinkEvent.Dialled(this));
        return;
      } catch (IOException e) {
        if (once || deadline - System.nanoTime() < AGAIN_AFTER.toNanos() || !pause()) {
          to.tell(new LinkEvent.NotDialled(this, e));
          return;
        }
      } catch (RuntimeException e) {
        to.tell(new LinkEvent.NotDialled(this, e));
        return;
      }
    }
  }

  private static boolean pause() {
    try {
      Thread.sleep(AGAIN_AFTER.toMillis());
      return true;
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      return false;
    }
  }

  private synchronized void offer(LinkChannel channel) {
    if (abandoned) {
      close(channel);
    } else {
      made = channel;
    }
  }

  /** Takes over the connection that was made. */
  synchronized LinkChannel take() {
    LinkChannel taken = made;
    made = null;
    return taken;
  }

  /** Gives up the connection: closes it, at once or as soon as it is made. */
  synchronized void abandon() {
    abandoned = true;
    if (made != null) {
      close(made);
      made = null;
    }
  }

  private static void close(LinkChannel channel) {
    try {
      channel.close();
    } catch (IOException e) {
      // Do not report an abandoned connection.
    }
  }
}
