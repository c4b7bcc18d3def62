// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import io.remora.actors.MachineActor;
import io.remora.actors.MachineRecord;
import io.remora.actors.node.NodeLink;
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
 * What a machine's latest pause has put into the state store, or may have, until it is deleted: one
 * name for the sessions of the machine's JVM, and one for each host's. For the actor's thread
 * alone.
 */
final class StoredPause {

  private static final Logger log = LoggerFactory.getLogger(MachineActor.class);

  private final Machine machine;
  private String pause = "";

  StoredPause(Machine machine) {
    this.machine = machine;
  }

  /** A pause begins: gives it a name. */
  String begin() {
    pause = "pause-" + machine.name + "-" + UUID.randomUUID();
    return pause;
  }

  /** Another member has paused the machine. */
  void recover(MachineRecord record) {
    pause = record.pause();
    machine.hosts.pausesOf(record);
  }

  /** Names what the sessions of this JVM are saved as; empty: nothing is. */
  String pause() {
    return pause;
  }

  boolean isEmpty() {
    return pause.isEmpty();
  }

  /** Whether this names something of the latest pause. */
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

  private List<String> take() {
    List<String> taken = names();
    pause = "";
    machine.hosts.forgetPauses();
    return taken;
  }

  /** Has the node delete it. */
  void deleteOn(NodeAttempt node) {
    take().forEach(name -> node.tellLink(new NodeLink.ForgetState(name)));
  }

  /** Deletes it without a node. Never fails: the log says what was not deleted. */
  CompletableFuture<Void> delete() {
    List<String> deleted = take();
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
