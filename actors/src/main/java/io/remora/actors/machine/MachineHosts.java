// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.ActorRef;
import io.remora.actors.MachineRecord;
import io.remora.actors.host.SessionHost;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.Stream;

/**
 * A machine's {@link SessionHost}s, which have sessions on it for the programs of other JVMs. Only
 * the actor's thread may use this class.
 */
final class MachineHosts {

  /** How long to wait for a host to connect to the node before sending it the way again. */
  static final Duration WAY_AGAIN_AFTER = Duration.ofSeconds(15);

  private final Map<ActorRef<SessionHost.Command>, Host> hosts = new HashMap<>();
  private final List<String> pauses = new ArrayList<>();

  /** The same of a predecessor, for hosts that have not joined this actor yet. */
  private final List<String> inherited = new ArrayList<>();

  private int lastNumber;

  private static final class Host {

    final int number;
    boolean linked;
    long wayNanos;
    long idleMillis;
    String pause = "";
    boolean saved;
    boolean restored;

    Host(int number) {
      this.number = number;
    }
  }

  boolean isEmpty() {
    return hosts.isEmpty();
  }

  Set<ActorRef<SessionHost.Command>> all() {
    return Set.copyOf(hosts.keySet());
  }

  boolean has(ActorRef<SessionHost.Command> ref) {
    return hosts.containsKey(ref);
  }

  void add(ActorRef<SessionHost.Command> ref) {
    hosts.put(ref, new Host(++lastNumber));
  }

  /** Removes a host. Returns whether it was there. */
  boolean remove(ActorRef<SessionHost.Command> ref) {
    return hosts.remove(ref) != null;
  }

  void clear() {
    hosts.clear();
  }

  void tell(SessionHost.FromMachine news) {
    hosts.keySet().forEach(host -> host.tell(news));
  }

  void present(ActorRef<SessionHost.Command> ref, boolean linked, long idleMillis) {
    Host host = hosts.get(ref);
    host.linked = linked;
    host.idleMillis = idleMillis;
  }

  boolean areIdle(Duration timeout) {
    return hosts.values().stream().allMatch(host -> host.idleMillis >= timeout.toMillis());
  }

  /** Whether the host needs the way to the node. If so, the caller must send it. */
  boolean wantsWay(ActorRef<SessionHost.Command> ref) {
    Host host = hosts.get(ref);
    long now = System.nanoTime();
    if (host.linked || (host.wayNanos != 0 && now - host.wayNanos < WAY_AGAIN_AFTER.toNanos())) {
      return false;
    }
    host.wayNanos = now;
    return true;
  }

  // Pausing -------------------------------------------------------------------------------------

  /** Makes each host save its sessions, under a name of its own. */
  void save(String pause, boolean byItself, ActorRef<MachineProtocol.FromHost> replyTo) {
    hosts.keySet().forEach(ref -> save(ref, pause, byItself, replyTo));
  }

  /** The same for a host that joins later. */
  void save(
      ActorRef<SessionHost.Command> ref,
      String pause,
      boolean byItself,
      ActorRef<MachineProtocol.FromHost> replyTo) {
    Host host = hosts.get(ref);
    host.saved = false;
    host.pause = pause + "-" + host.number;
    pauses.add(host.pause);
    ref.tell(new SessionHost.Save(host.pause, byItself, replyTo));
  }

  /** Whether the host has joined and was asked to save for this pause. */
  boolean isSaving(ActorRef<SessionHost.Command> ref, String pause) {
    return has(ref) && hosts.get(ref).pause.equals(pause);
  }

  void saved(ActorRef<SessionHost.Command> ref) {
    hosts.get(ref).saved = true;
  }

  boolean areSaved() {
    return hosts.values().stream().allMatch(host -> host.saved);
  }

  /** The names of the hosts' saved states that are in the state store. */
  List<String> pauses() {
    return Stream.concat(pauses.stream(), inherited.stream()).toList();
  }

  void pausesOf(MachineRecord record) {
    inherited.addAll(record.hostPauses());
  }

  /**
   * Takes the names of the saved states that the hosts no longer need after a pause. Those of a
   * predecessor are kept until the next pause: a host joins a new actor with its next heartbeat,
   * which may be after the machine has resumed.
   */
  List<String> takeUnneeded() {
    List<String> taken = List.copyOf(pauses);
    pauses.clear();
    pauses.addAll(inherited);
    inherited.clear();
    return taken;
  }

  // Resuming ------------------------------------------------------------------------------------

  /** Starts restoring: there is a new node, and no host is linked to it yet. */
  void beginRestore() {
    for (Host host : hosts.values()) {
      host.restored = false;
      host.wayNanos = 0;
    }
  }

  void restored(ActorRef<SessionHost.Command> ref) {
    hosts.get(ref).restored = true;
  }

  boolean areRestored() {
    return hosts.values().stream().allMatch(host -> host.restored);
  }
}
