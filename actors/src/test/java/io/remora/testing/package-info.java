// SPDX-License-Identifier: AGPL-3.0-or-later
/** What the tests of several modules use: this module's test jar. */
package io.remora.testing;
