// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * Recordings: files of what a session has done, which {@code remora replay} executes again. {@link
 * io.remora.recording.SessionRecorder} writes one beside a session, {@link
 * io.remora.recording.RecordingReader} reads one, and {@link io.remora.recording.Replay} executes
 * it.
 */
package io.remora.recording;
