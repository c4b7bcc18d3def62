// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import io.remora.actors.MachineActor;
import io.remora.actors.MachineRecord;
import io.remora.provider.MachineSpec;
import io.remora.state.StateStores;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.TimeUnit;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The saved state of a machine's latest pause that is, or may be, in the state store. It has one
 * name for the sessions of the machine's JVM, and one for each host's. Only the actor's thread may
 * use this class.
 */
final class StoredPause {

  private static final Logger log = LoggerFactory.getLogger(MachineActor.class);

  private final Machine machine;
  private String pause = "";

  StoredPause(Machine machine) {
    this.machine = machine;
  }

  /** Begins a pause and gives it a name. */
  String begin() {
    pause = "pause-" + machine.name + "-" + UUID.randomUUID();
    return pause;
  }

  /** Takes over the names of a pause by another member. */
  void recover(MachineRecord record) {
    pause = record.pause();
    machine.hosts.pausesOf(record);
  }

  /** The name under which the sessions of this JVM are saved; empty if nothing is saved. */
  String pause() {
    return pause;
  }

  boolean isEmpty() {
    return pause.isEmpty() && machine.sessions.unneeded().isEmpty();
  }

  /** Whether this name belongs to the latest pause. */
  boolean has(String name) {
    return names().contains(name);
  }

  private List<String> names() {
    List<String> names = new ArrayList<>(machine.hosts.pauses());
    if (!pause.isEmpty()) {
      names.add(pause);
    }
    return names;
  }

  private List<String> takeUnneeded() {
    giveUp();
    return new ArrayList<>(machine.sessions.unneeded().take());
  }

  private void giveUp() {
    machine.hosts.takeUnneeded().forEach(machine.sessions.unneeded()::add);
    if (!pause.isEmpty()) {
      machine.sessions.unneeded().add(pause);
    }
    pause = "";
  }

  /** Makes the node, or if it is lost the next one, delete the state that is no longer needed. */
  void deleteOn(NodeAttempt node) {
    giveUp();
    machine.sessions.unneeded().delete(node::tellLink);
  }

  /** Deletes the saved state without a node. Never fails; the log reports what was not deleted. */
  CompletableFuture<Void> delete() {
    List<String> deleted = takeUnneeded();
    deleted.addAll(takeUnneeded());
    MachineSpec of = machine.spec();
    return CompletableFuture.runAsync(
            () -> {
              try {
                for (String name : deleted) {
                  StateStores.open(machine.configuration(of)).delete(name);
                }
              } catch (IOException e) {
                throw new CompletionException(e);
              }
            },
            machine.blocking)
        .orTimeout(machine.settings.closeTimeout().toMillis(), TimeUnit.MILLISECONDS)
        .exceptionally(
            e -> {
              log.warn("Machine {}: its saved state {} was not deleted", machine.name, deleted, e);
              return null;
            });
  }
}
