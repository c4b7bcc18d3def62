// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * Machines on Modal's GPUs: a sandbox with a node, reached over a raw TCP tunnel. {@code
 * RemoteMachine.builder().provider("modal")} uses it; its settings are {@code
 * remora.provider.modal}.
 */
package io.remora.provider.modal;
