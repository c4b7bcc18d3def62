// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * Reads the structure of model files: their tensors, and the file and position of each tensor's
 * bytes. Only {@link io.remora.models.PlainBytes} reads a tensor's data, if the file's layout
 * differs from memory. No class calls libtorch.
 *
 * <p>{@link io.remora.models.ModelFiles} reads a folder as the Hugging Face libraries lay it out;
 * {@link io.remora.models.SafetensorsFile} and {@link io.remora.models.TorchCheckpoint} read one
 * file, {@link io.remora.models.SafetensorsWriter} lays one out. All input counts as hostile: a
 * file is either refused with a {@link io.remora.models.ModelFileException} or described correctly.
 */
package io.remora.models;
