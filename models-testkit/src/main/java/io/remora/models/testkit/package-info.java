// SPDX-License-Identifier: AGPL-3.0-or-later
/** A Hugging Face hub on this computer, for tests. */
package io.remora.models.testkit;
