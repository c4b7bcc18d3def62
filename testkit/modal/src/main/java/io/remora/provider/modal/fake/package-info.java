// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * A server that behaves like Modal's control plane, for tests and for trying the provider out
 * without an account: {@link io.remora.provider.modal.fake.FakeModal}. Its sandboxes are processes
 * of this computer.
 */
package io.remora.provider.modal.fake;
