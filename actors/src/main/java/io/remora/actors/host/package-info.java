// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * The sessions of a JVM on a machine whose actor is on another member of the cluster. {@link
 * io.remora.actors.host.SessionHost} has the messages of the actor, {@link
 * io.remora.actors.host.HostBehavior} is one of its states, and {@link io.remora.actors.host.Stage}
 * is the table of the transitions. Not for use by programs, which use {@link
 * io.remora.actors.LocalSessions}.
 */
package io.remora.actors.host;
