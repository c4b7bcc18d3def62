// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.langchain4j;

import dev.langchain4j.model.ModelProvider;
import dev.langchain4j.model.chat.StreamingChatModel;
import dev.langchain4j.model.chat.listener.ChatModelListener;
import dev.langchain4j.model.chat.request.ChatRequest;
import dev.langchain4j.model.chat.request.ChatRequestParameters;
import dev.langchain4j.model.chat.response.PartialResponse;
import dev.langchain4j.model.chat.response.PartialResponseContext;
import dev.langchain4j.model.chat.response.StreamingChatResponseHandler;
import dev.langchain4j.model.chat.response.StreamingHandle;
import java.util.List;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * LangChain4j's streaming chat model on a remote machine, with the limits of {@link
 * RemoraChatModel}. A call throws an exception for what the model cannot do, and returns at once;
 * every other error goes to the handler's {@code onError}. The handler is called on the model's
 * thread, which computes nothing meanwhile. An exception of the handler goes to its {@code
 * onError}, and the text continues. A cancelled text ends after the next token, without another
 * call. Thread-safe.
 */
public final class RemoraStreamingChatModel implements StreamingChatModel {
  private static final Logger log = LoggerFactory.getLogger(RemoraStreamingChatModel.class);

  private final ChatRequests requests;

  private RemoraStreamingChatModel(Builder builder) {
    requests = new ChatRequests(builder);
  }

  /** A builder. */
  public static Builder builder() {
    return new Builder();
  }

  @Override
  public void doChat(ChatRequest request, StreamingChatResponseHandler handler) {
    RemoraLanguageModel.Request generated = requests.read(request);
    try {
      requests.model().thread().execute(() -> stream(generated, handler));
    } catch (IllegalStateException e) { // the model is closed
      tellError(handler, e);
    }
  }

  private void stream(RemoraLanguageModel.Request request, StreamingChatResponseHandler handler) {
    Handle handle = new Handle();
    PartialResponseContext context = new PartialResponseContext(handle);
    try {
      RemoraLanguageModel.Answer answer =
          requests
              .model()
              .generate(
                  request,
                  part ->
                      tell(
                          handler,
                          () -> handler.onPartialResponse(new PartialResponse(part), context)),
                  handle::isCancelled);
      if (!handle.isCancelled()) {
        tell(handler, () -> handler.onCompleteResponse(requests.response(answer)));
      }
    } catch (RuntimeException e) {
      tellError(handler, e);
    }
  }

  private static void tell(StreamingChatResponseHandler handler, Runnable call) {
    try {
      call.run();
    } catch (RuntimeException e) {
      tellError(handler, e);
    }
  }

  private static void tellError(StreamingChatResponseHandler handler, RuntimeException error) {
    try {
      handler.onError(error);
    } catch (RuntimeException e) {
      log.warn("A handler's onError threw an exception", e);
    }
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

  private static final class Handle implements StreamingHandle {
    private volatile boolean cancelled;

    @Override
    public void cancel() {
      cancelled = true;
    }

    @Override
    public boolean isCancelled() {
      return cancelled;
    }
  }

  /** Builds a {@link RemoraStreamingChatModel}. */
  public static final class Builder extends ChatModelBuilder<RemoraStreamingChatModel, Builder> {
    private Builder() {}

    @Override
    public RemoraStreamingChatModel build() {
      return new RemoraStreamingChatModel(this);
    }

    @Override
    Builder self() {
      return this;
    }
  }
}
