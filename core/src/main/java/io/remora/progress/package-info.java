// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * The progress of what takes longer than a moment: opening a machine, a model's download, a pause.
 */
package io.remora.progress;
