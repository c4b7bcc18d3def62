// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.node;

import akka.actor.Cancellable;
import akka.actor.typed.ActorRef;
import akka.actor.typed.Scheduler;
import io.remora.actors.link.LinkLine;
import io.remora.actors.link.LinkSettings;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.time.Duration;
import java.util.function.LongSupplier;
import scala.concurrent.ExecutionContext;

/**
 * Makes one line to a node on threads that may block. It reports {@link LinkEvent.Dialled} or
 * {@link LinkEvent.NotDialled}, with itself as the sender. Thread-safe.
 */
final class NodeDialler {

  private static final Duration AGAIN_AFTER = Duration.ofMillis(100);

  private final InetSocketAddress address;
  private final LinkSettings settings;
  private final LinkLine.Dialler dialler;
  private final LongSupplier clock;
  private final boolean once;
  private final ActorRef<NodeLink.Command> to;
  private final Scheduler scheduler;
  private final ExecutionContext blocking;
  private final long deadlineNanos;
  private volatile boolean abandoned;
  private LinkLine made;

  private NodeDialler(Link link, boolean once) {
    this.address = link.address;
    this.settings = link.settings;
    this.dialler = link.dialler;
    this.clock = link.clock;
    this.once = once;
    this.to = link.context.getSelf();
    this.scheduler = link.context.getSystem().scheduler();
    this.blocking = link.blocking;
    this.deadlineNanos = clock.getAsLong() + settings.connectTimeout().toNanos();
  }

  /**
   * Starts dialling.
   *
   * @param once whether to report the first failure; if not, it tries until {@code
   *     remora.link.connect-timeout}, since the node may be about to listen
   */
  static NodeDialler start(Link link, boolean once) {
    NodeDialler started = new NodeDialler(link, once);
    link.blocking.execute(started::dial);
    return started;
  }

  private void dial() {
    if (abandoned) {
      return;
    }
    try {
      long left = Math.max(deadlineNanos - clock.getAsLong(), 1_000_000);
      offer(dialler.dial(address, Duration.ofNanos(left), settings.tls()));
      to.tell(new LinkEvent.Dialled(this));
    } catch (IOException e) {
      if (once || deadlineNanos - clock.getAsLong() < AGAIN_AFTER.toNanos()) {
        to.tell(new LinkEvent.NotDialled(this, e));
      } else {
        Cancellable unused = scheduler.scheduleOnce(AGAIN_AFTER, this::dial, blocking);
      }
    } catch (RuntimeException e) {
      to.tell(new LinkEvent.NotDialled(this, e));
    }
  }

  private synchronized void offer(LinkLine line) {
    if (abandoned) {
      close(line);
    } else {
      made = line;
    }
  }

  /** Takes over the line that was made. */
  synchronized LinkLine take() {
    LinkLine taken = made;
    made = null;
    return taken;
  }

  /** Gives up the line: closes it, at once or as soon as it is made. */
  synchronized void abandon() {
    abandoned = true;
    if (made != null) {
      close(made);
      made = null;
    }
  }

  private static void close(LinkLine line) {
    try {
      line.close();
    } catch (IOException e) {
      // Do not report an abandoned line.
    }
  }
}
