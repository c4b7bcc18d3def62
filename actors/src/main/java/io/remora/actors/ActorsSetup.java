// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import static java.util.Objects.requireNonNull;

import akka.actor.setup.Setup;
import akka.actor.typed.ActorSystem;
import io.remora.actors.link.LinkLine;
import java.util.function.LongSupplier;

/**
 * What the actors of a system take from outside it. A system that was created without this setup
 * dials sockets and has the JVM's clock. Not for use by programs.
 */
public final class ActorsSetup extends Setup {

  private static final ActorsSetup DEFAULT =
      new ActorsSetup(LinkLine.Dialler.SOCKETS, System::nanoTime);

  private final LinkLine.Dialler dialler;
  private final LongSupplier nanoTime;

  /**
   * A setup to create an actor system with.
   *
   * @param dialler how links reach nodes
   * @param nanoTime the clock, as {@link System#nanoTime}; its time passes as that of the system's
   *     scheduler
   */
  public ActorsSetup(LinkLine.Dialler dialler, LongSupplier nanoTime) {
    this.dialler = requireNonNull(dialler, "dialler");
    this.nanoTime = requireNonNull(nanoTime, "nanoTime");
  }

  /** The setup that the system was created with, or the default. */
  public static ActorsSetup of(ActorSystem<?> system) {
    return system.settings().setup().get(ActorsSetup.class).orElse(DEFAULT);
  }

  /** How links reach nodes. */
  public LinkLine.Dialler dialler() {
    return dialler;
  }

  /** The clock. */
  public LongSupplier clock() {
    return nanoTime;
  }
}
