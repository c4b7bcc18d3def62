// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * Provider {@code process}: machines on nodes that a command starts ({@code ssh}, {@code docker},
 * {@code kubectl}, {@code srun}). Its settings are {@code remora.provider.process}.
 */
package io.remora.provider.process;
