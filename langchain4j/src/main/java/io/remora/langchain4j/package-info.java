// SPDX-License-Identifier: AGPL-3.0-or-later

/**
 * LangChain4j's models on remote machines: {@link io.remora.langchain4j.RemoraLanguageModel} is
 * loaded by a machine once, {@link io.remora.langchain4j.RemoraChatModel}, {@link
 * io.remora.langchain4j.RemoraStreamingChatModel} and {@link
 * io.remora.langchain4j.RemoraEmbeddingModel} use it.
 */
package io.remora.langchain4j;
