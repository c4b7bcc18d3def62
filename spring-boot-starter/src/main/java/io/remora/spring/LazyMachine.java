// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.spring;

import static java.util.Objects.requireNonNull;

import io.remora.client.RemoteMachine;
import java.util.Optional;
import java.util.function.Supplier;

/**
 * A machine that is opened when it is asked for the first time. Closed with the application
 * context, which closes the machine if it is open. Thread-safe.
 */
public final class LazyMachine implements Supplier<RemoteMachine>, AutoCloseable {
  private final Supplier<RemoteMachine> opener;
  private final Object opening = new Object();
  private volatile RemoteMachine machine;
  private boolean closed;

  /** A machine that this opens, once, unless it fails: then the next {@link #get} tries again. */
  public LazyMachine(Supplier<RemoteMachine> opener) {
    this.opener = requireNonNull(opener, "opener");
  }

  /**
   * The machine. The first call opens it and waits; so do other calls meanwhile.
   *
   * @throws IllegalStateException when this is closed
   * @throws RuntimeException when the machine cannot be opened, as {@link
   *     RemoteMachine.Builder#open} says
   */
  @Override
  public RemoteMachine get() {
    RemoteMachine open = machine;
    if (open != null) {
      return open;
    }
    synchronized (opening) {
      if (closed) {
        throw new IllegalStateException("The machine was closed with its application context");
      }
      if (machine == null) {
        machine = opener.get();
      }
      return machine;
    }
  }

  /** The machine, if something has asked for it. Never waits. */
  public Optional<RemoteMachine> opened() {
    return Optional.ofNullable(machine);
  }

  /**
   * Closes the machine if it is open, after everything recorded has been executed.
   *
   * @throws RuntimeException what {@link RemoteMachine#close} throws
   */
  @Override
  public void close() {
    RemoteMachine open;
    synchronized (opening) {
      closed = true;
      open = machine;
    }
    if (open != null) {
      open.close();
    }
  }
}
