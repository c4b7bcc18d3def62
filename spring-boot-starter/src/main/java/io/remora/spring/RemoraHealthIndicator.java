// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.spring;

import static java.util.Objects.requireNonNull;

import io.remora.actors.MachineInfo;
import io.remora.client.RemoteMachine;
import java.util.Optional;
import org.springframework.boot.actuate.health.AbstractHealthIndicator;
import org.springframework.boot.actuate.health.Health;

/**
 * The machine's health: UNKNOWN before it is opened, which asking for the health does not do. DOWN
 * when it has failed or was closed, OUT_OF_SERVICE while it is reconnecting, else UP: a paused
 * machine resumes at its next use.
 */
public final class RemoraHealthIndicator extends AbstractHealthIndicator {
  private final LazyMachine machine;

  /** The health of this machine. */
  public RemoraHealthIndicator(LazyMachine machine) {
    super("The machine's state cannot be read");
    this.machine = requireNonNull(machine, "machine");
  }

  @Override
  protected void doHealthCheck(Health.Builder builder) {
    Optional<RemoteMachine> opened = machine.opened();
    if (opened.isEmpty()) {
      builder.unknown().withDetail("state", "NOT_OPENED");
      return;
    }
    MachineInfo info = opened.get().info();
    switch (info.state()) {
      case FAILED, STOPPED -> builder.down();
      case RECONNECTING -> builder.outOfService();
      case PROVISIONING, CONNECTING, READY, PAUSING, PAUSED -> builder.up();
    }
    builder
        .withDetail("name", info.name())
        .withDetail("provider", info.provider())
        .withDetail("state", info.state().name())
        .withDetail("devices", info.devices().size());
    if (info.reason() != null && !info.reason().isEmpty()) {
      builder.withDetail("reason", info.reason());
    }
  }
}
