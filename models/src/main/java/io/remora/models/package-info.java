// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * Model files: which tensors are in them, and where in which file their bytes lie. Nothing here
 * reads a tensor's data but {@link io.remora.models.PlainBytes}, where the file does not have it as
 * memory does; nothing calls libtorch.
 *
 * <p>{@link io.remora.models.ModelFiles} reads a folder as the Hugging Face libraries lay it out;
 * {@link io.remora.models.SafetensorsFile} and {@link io.remora.models.TorchCheckpoint} read one
 * file, {@link io.remora.models.SafetensorsWriter} lays one out. All input is taken for hostile: a
 * file is refused with a {@link io.remora.models.ModelFileException} or described truly.
 */
package io.remora.models;
