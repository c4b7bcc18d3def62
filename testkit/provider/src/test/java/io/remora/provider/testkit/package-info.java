// SPDX-License-Identifier: AGPL-3.0-or-later
/** Tests that the mock provider keeps the contract. */
package io.remora.provider.testkit;
