// SPDX-License-Identifier: AGPL-3.0-or-later
/** The contract, kept by the mock provider. */
package io.remora.provider.testkit;
