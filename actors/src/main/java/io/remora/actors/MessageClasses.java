// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

/**
 * Names the classes that a module sends between JVMs of the cluster. Implementations are found by
 * {@link java.util.ServiceLoader}; every member must have the same ones, with the same numbers.
 *
 * <p>Numbers below 100 are the serializer's own, 100 to 199 belong to this module, 200 to 299 to
 * Remora's other modules, 300 and up are free.
 */
public interface MessageClasses {

  /** Tells all classes to {@code registry}: messages and what is in their fields. */
  void register(Registry registry);

  /** Takes the classes. */
  interface Registry {

    /**
     * Adds a class; records, enums and plain classes need nothing more.
     *
     * @param number its number on the wire, which must never change its meaning
     * @throws IllegalArgumentException if the number is taken
     */
    void add(int number, Class<?> type);
  }
}
