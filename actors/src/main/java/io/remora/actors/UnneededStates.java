// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import io.remora.actors.node.NodeLink;
import java.util.Collection;
import java.util.HashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.Consumer;

/**
 * The names of a machine's saved states that may be in the store and that nobody needs any more.
 * The node deletes them. A name stays until the node has answered. Only the actor that owns the
 * {@link SessionTable} may use it.
 */
public final class UnneededStates {

  private final Set<String> names = new LinkedHashSet<>();

  /** How often the present node was asked to delete each of them and has not answered. */
  private final Map<String, Integer> asked = new HashMap<>();

  UnneededStates() {}

  /** A saved state that may be in the store is no longer needed. */
  public void add(String name) {
    names.add(name);
  }

  void addAll(Collection<String> more) {
    names.addAll(more);
  }

  /** Whether there are any. */
  public boolean isEmpty() {
    return names.isEmpty();
  }

  /** Makes the node delete what it was not asked to delete yet. */
  public void delete(Consumer<NodeLink.Command> link) {
    for (String name : names) {
      if (!asked.containsKey(name)) {
        ask(name, link);
      }
    }
  }

  /** Makes the node delete a state that it has saved after it was given up. */
  public void deleteLate(String name, Consumer<NodeLink.Command> link) {
    add(name);
    ask(name, link);
  }

  private void ask(String name, Consumer<NodeLink.Command> link) {
    asked.merge(name, 1, Integer::sum);
    link.accept(new NodeLink.ForgetState(name));
  }

  /** Notes that the node has deleted a saved state. */
  public void deleted(String name) {
    if (asked.merge(name, -1, Integer::sum) <= 0) {
      asked.remove(name);
      names.remove(name);
    }
  }

  /** The machine has another node, which was asked to delete nothing. */
  void otherNode() {
    asked.clear();
  }

  /** Takes the names out; the caller deletes the states. */
  public List<String> take() {
    List<String> taken = List.copyOf(names);
    names.clear();
    asked.clear();
    return taken;
  }
}
