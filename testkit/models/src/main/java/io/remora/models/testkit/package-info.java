// SPDX-License-Identifier: AGPL-3.0-or-later
/** For tests: a Hugging Face hub on this computer, and model files that other programs wrote. */
package io.remora.models.testkit;
