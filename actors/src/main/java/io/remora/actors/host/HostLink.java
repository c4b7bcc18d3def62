// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.host;

import akka.actor.typed.ActorRef;
import com.typesafe.config.Config;
import com.typesafe.config.ConfigException;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.RecoverySettings;
import io.remora.actors.host.HostEvent.LinkStopped;
import io.remora.actors.host.HostEvent.OfLink;
import io.remora.actors.host.SessionHost.Way;
import io.remora.actors.link.LinkSettings;
import io.remora.actors.link.LinkTransport;
import io.remora.actors.node.NodeLink;
import io.remora.provider.LaunchToken;
import io.remora.recording.RecordingSettings;
import io.remora.runtime.ProviderException;
import io.remora.runtime.RemoraException;
import java.util.function.Supplier;

/**
 * A host's link to the machine's node. Its events reach the host's mailbox as {@link OfLink} with
 * this link, so that {@link HostBehavior} can drop, in one place, events of a former link.
 */
final class HostLink {

  private enum Line {
    NEW,
    MADE,
    LOST
  }

  private final Host host;
  private final Way way;
  private final LinkSettings settings;
  private final RecoverySettings recovery;
  private final RecordingSettings recording;
  private final ActorRef<NodeLink.Command> actor;
  private Line line = Line.NEW;

  /**
   * Starts to make a link.
   *
   * @throws ProviderException if the machine's settings cannot be used in this JVM
   */
  HostLink(Host host, Way way) {
    this.host = host;
    this.way = way;
    Config config = config(host, way);
    this.settings = read(host, () -> LinkSettings.from(config));
    this.recovery = read(host, () -> RecoverySettings.from(config));
    this.recording = read(host, () -> RecordingSettings.from(config));
    this.actor =
        host.context.spawn(
            NodeLink.create(
                host.machine,
                LinkTransport.address(way.address()),
                LaunchToken.of(way.token()),
                settings,
                event -> host.self.tell(new OfLink(this, event))),
            "link-" + host.nextLink());
    host.context.watchWith(actor, new LinkStopped(this));
  }

  private static Config config(Host host, Way way) {
    return read(
        host,
        () ->
            ConfigFactory.parseString(way.settings())
                .withFallback(host.context.getSystem().settings().config())
                .resolve());
  }

  private static <T> T read(Host host, Supplier<T> settings) {
    try {
      return settings.get();
    } catch (RemoraException | ConfigException | IllegalArgumentException e) {
      throw new ProviderException(
          "this program cannot be linked to machine %s with its settings: %s"
              .formatted(host.machine, e.getMessage()),
          e);
    }
  }

  Way way() {
    return way;
  }

  LinkSettings settings() {
    return settings;
  }

  RecoverySettings recovery() {
    return recovery;
  }

  RecordingSettings recording() {
    return recording;
  }

  void tell(NodeLink.Command command) {
    actor.tell(command);
  }

  /** Notes the link's state from its event. */
  void note(NodeLink.Event event) {
    if (event instanceof NodeLink.Up) {
      line = Line.MADE;
    } else if (event instanceof NodeLink.Lost) {
      line = Line.LOST;
    }
  }

  /** Notes that the link's actor has stopped. */
  void noteStop() {
    line = Line.LOST;
  }

  /** Whether the link was made. It may be reconnecting. */
  boolean isMade() {
    return line == Line.MADE;
  }

  /**
   * Makes the link say goodbye; {@link LinkStopped} follows.
   *
   * @return false if the link is lost
   */
  boolean sayGoodbye() {
    if (line == Line.LOST) {
      drop();
      return false;
    }
    tell(NodeLink.Shutdown.INSTANCE);
    return true;
  }

  /** Stops the link without a goodbye. */
  void drop() {
    host.context.unwatch(actor);
    host.context.stop(actor);
  }
}
