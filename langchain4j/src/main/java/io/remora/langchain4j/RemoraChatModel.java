// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.langchain4j;

import dev.langchain4j.model.ModelProvider;
import dev.langchain4j.model.chat.ChatModel;
import dev.langchain4j.model.chat.listener.ChatModelListener;
import dev.langchain4j.model.chat.request.ChatRequest;
import dev.langchain4j.model.chat.request.ChatRequestParameters;
import dev.langchain4j.model.chat.response.ChatResponse;
import java.util.List;
import java.util.concurrent.atomic.AtomicBoolean;

/**
 * LangChain4j's chat model on a remote machine. Text only: tools, JSON formats, images and
 * penalties are refused by an {@code UnsupportedFeatureException}. A thread that is interrupted
 * while it waits gets an {@code IllegalStateException}. Thread-safe.
 */
public final class RemoraChatModel implements ChatModel {
  private final ChatRequests requests;

  private RemoraChatModel(Builder builder) {
    requests = new ChatRequests(builder);
  }

  /** A builder. */
  public static Builder builder() {
    return new Builder();
  }

  @Override
  public ChatResponse doChat(ChatRequest request) {
    RemoraLanguageModel.Request generated = requests.read(request);
    AtomicBoolean cancelled = new AtomicBoolean();
    RemoraLanguageModel model = requests.model();
    return requests.response(
        model
            .thread()
            .call(
                () -> model.generate(generated, part -> {}, cancelled::get),
                () -> cancelled.set(true)));
  }

  @Override
  public ChatRequestParameters defaultRequestParameters() {
    return requests.defaults();
  }

  @Override
  public List<ChatModelListener> listeners() {
    return requests.listeners();
  }

  @Override
  public ModelProvider provider() {
    return ModelProvider.OTHER;
  }

  /** Builds a {@link RemoraChatModel}. */
  public static final class Builder extends ChatModelBuilder<RemoraChatModel, Builder> {
    private Builder() {}

    @Override
    public RemoraChatModel build() {
      return new RemoraChatModel(this);
    }

    @Override
    Builder self() {
      return this;
    }
  }
}
