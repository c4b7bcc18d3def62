// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * The contract of {@link io.remora.provider.MachineProvider} as tests: {@link
 * io.remora.provider.testkit.ProviderContractTest}. For test class paths.
 */
package io.remora.provider.testkit;
