// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * Files of a model's repository on a Hugging Face hub, fetched into the cache that Python's {@code
 * huggingface_hub} uses, too. {@link io.remora.models.hub.HubClient} is the entry.
 */
package io.remora.models.hub;
