// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * A machine's actor: {@link io.remora.actors.machine.MachineProtocol} is what it is told and tells,
 * {@link io.remora.actors.machine.MachineBehavior} a state of it, and {@link
 * io.remora.actors.machine.Stage} says which state may follow which. A program uses {@link
 * io.remora.actors.MachineActor}, not this package.
 */
package io.remora.actors.machine;
