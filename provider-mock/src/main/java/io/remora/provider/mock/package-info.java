// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * Machines on this computer, for development, tests and CI: a node in a child process, or in this
 * JVM. {@code RemoteMachine.open("mock")} uses it; its settings are {@code remora.provider.mock}.
 */
package io.remora.provider.mock;
