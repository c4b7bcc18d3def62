// SPDX-License-Identifier: AGPL-3.0-or-later
/** What tests of several modules, and fixtures that run as programs, do to real connections. */
package io.remora.actors.testkit;
