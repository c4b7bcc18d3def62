// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * A machine's actor. {@link io.remora.actors.machine.MachineProtocol} has its messages, {@link
 * io.remora.actors.machine.MachineBehavior} is one of its states, and {@link
 * io.remora.actors.machine.Stage} is the table of the transitions. A program uses {@link
 * io.remora.actors.MachineActor}, not this package.
 */
package io.remora.actors.machine;
