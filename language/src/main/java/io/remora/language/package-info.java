// SPDX-License-Identifier: AGPL-3.0-or-later

/**
 * Language models of the Llama family as ordinary libtorch modules, on remote machines or the local
 * CPU. {@link io.remora.language.ModelFolder} finds a model, {@link io.remora.language.Generation}
 * continues a text, {@link io.remora.language.Trainer} trains on one, {@link
 * io.remora.language.LoraAdapter} adapts a model by a few weights. Names of modules and parameters
 * are those of the transformers library, so that its checkpoints fit.
 */
package io.remora.language;
