// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.langchain4j;

import static java.util.Objects.requireNonNull;

import dev.langchain4j.model.chat.listener.ChatModelListener;
import dev.langchain4j.model.chat.request.ChatRequestParameters;
import dev.langchain4j.model.chat.request.DefaultChatRequestParameters;
import java.util.List;

/**
 * What the builders of both chat models have in common. A request's own parameters take precedence.
 * Not thread-safe.
 *
 * @param <M> the model
 * @param <B> the builder
 */
public abstract class ChatModelBuilder<M, B extends ChatModelBuilder<M, B>> {
  RemoraLanguageModel model;
  ChatRequestParameters parameters = DefaultChatRequestParameters.EMPTY;
  Double temperature;
  Integer topK;
  Double topP;
  Integer maxOutputTokens;
  List<String> stopSequences;
  List<ChatModelListener> listeners = List.of();

  ChatModelBuilder() {}

  /** The loaded model. Required. It needs a chat template. */
  public B model(RemoraLanguageModel model) {
    this.model = requireNonNull(model, "model");
    return self();
  }

  /**
   * 0, the default, always takes the likeliest token; higher values draw more freely, with the
   * machine's generator.
   */
  public B temperature(double temperature) {
    this.temperature = temperature;
    return self();
  }

  /** Draws among this many of the likeliest tokens. Default: among all. */
  public B topK(int topK) {
    this.topK = topK;
    return self();
  }

  /** Draws among the likeliest tokens that together have this share of probability. Default: 1. */
  public B topP(double topP) {
    this.topP = topP;
    return self();
  }

  /** The most tokens of an answer, 512 by default. The model's room for a text limits it, too. */
  public B maxOutputTokens(int maxOutputTokens) {
    this.maxOutputTokens = maxOutputTokens;
    return self();
  }

  /** Texts that end an answer and are not part of it. */
  public B stopSequences(List<String> stopSequences) {
    this.stopSequences = List.copyOf(stopSequences);
    return self();
  }

  /** Parameters of requests that do not set them; those of the methods above take precedence. */
  public B defaultRequestParameters(ChatRequestParameters parameters) {
    this.parameters = requireNonNull(parameters, "parameters");
    return self();
  }

  /** What is told of requests, answers and errors. */
  public B listeners(List<ChatModelListener> listeners) {
    this.listeners = List.copyOf(listeners);
    return self();
  }

  /**
   * The model.
   *
   * @throws IllegalArgumentException when the loaded model has no chat template
   * @throws dev.langchain4j.exception.UnsupportedFeatureException when the parameters ask for what
   *     the model cannot do
   */
  public abstract M build();

  abstract B self();
}
