// SPDX-License-Identifier: AGPL-3.0-or-later

/** Programs a user of Remora would start from. */
package io.remora.examples;
