// SPDX-License-Identifier: AGPL-3.0-or-later

/**
 * Programs for language models: {@link io.remora.examples.language.Generate} continues a text,
 * {@link io.remora.examples.language.FineTune} trains on one. Names of modules and parameters are
 * those of the transformers library, so that its checkpoints fit.
 */
package io.remora.examples.language;
