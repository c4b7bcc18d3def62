// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

/**
 * Registers the classes that a module sends between JVMs of the cluster. {@link
 * java.util.ServiceLoader} finds the implementations. Every member must have the same ones, with
 * the same numbers.
 *
 * <p>Numbers below 100 are the serializer's own, 100 to 199 belong to this module, 200 to 299 to
 * Remora's other modules, 300 and up are free.
 */
public interface MessageClasses {

  /** Adds all classes to {@code registry}: messages and the classes of their fields. */
  void register(Registry registry);

  /** Receives the classes. */
  interface Registry {

    /**
     * Adds a class. Records, enums and plain classes need no further code.
     *
     * @param number its number on the wire, which must never change its meaning
     * @throws IllegalArgumentException if the number is taken
     */
    void add(int number, Class<?> type);
  }
}
