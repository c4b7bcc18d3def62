// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.langchain4j;

import static java.util.Objects.requireNonNull;

import dev.langchain4j.data.message.AiMessage;
import dev.langchain4j.data.message.ChatMessage;
import dev.langchain4j.data.message.Content;
import dev.langchain4j.data.message.SystemMessage;
import dev.langchain4j.data.message.TextContent;
import dev.langchain4j.data.message.UserMessage;
import dev.langchain4j.exception.UnsupportedFeatureException;
import dev.langchain4j.model.chat.listener.ChatModelListener;
import dev.langchain4j.model.chat.request.ChatRequest;
import dev.langchain4j.model.chat.request.ChatRequestParameters;
import dev.langchain4j.model.chat.request.ResponseFormat;
import dev.langchain4j.model.chat.request.ResponseFormatType;
import dev.langchain4j.model.chat.response.ChatResponse;
import dev.langchain4j.model.chat.response.ChatResponseMetadata;
import dev.langchain4j.model.output.FinishReason;
import dev.langchain4j.model.output.TokenUsage;
import io.remora.language.ChatTemplate;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.UUID;

/**
 * What LangChain4j's requests mean for a model, and what its answers mean for LangChain4j. What a
 * model cannot do is refused before anything is computed. Thread-safe.
 */
final class ChatRequests {
  private static final int MOST_TOKENS = 512;

  private final RemoraLanguageModel model;
  private final ChatTemplate template;
  private final ChatRequestParameters defaults;
  private final List<ChatModelListener> listeners;

  ChatRequests(ChatModelBuilder<?, ?> builder) {
    model = requireNonNull(builder.model, "model");
    template = model.chatTemplate();
    listeners = List.copyOf(builder.listeners);
    defaults =
        ChatRequestParameters.builder()
            .modelName(model.name())
            .temperature(0.0)
            .maxOutputTokens(MOST_TOKENS)
            .build()
            .overrideWith(builder.parameters)
            .overrideWith(
                ChatRequestParameters.builder()
                    .temperature(builder.temperature)
                    .topK(builder.topK)
                    .topP(builder.topP)
                    .maxOutputTokens(builder.maxOutputTokens)
                    .stopSequences(builder.stopSequences)
                    .build());
    check(defaults);
  }

  RemoraLanguageModel model() {
    return model;
  }

  ChatRequestParameters defaults() {
    return defaults;
  }

  List<ChatModelListener> listeners() {
    return listeners;
  }

  /**
   * What to generate for a request, whose parameters are complete.
   *
   * @throws UnsupportedFeatureException when the model cannot do what the request asks for
   */
  RemoraLanguageModel.Request read(ChatRequest request) {
    ChatRequestParameters parameters = request.parameters();
    check(parameters);
    List<ChatTemplate.Message> messages = new ArrayList<>();
    request.messages().forEach(each -> messages.add(message(each)));
    return new RemoraLanguageModel.Request(
        template.render(messages, true),
        parameters.temperature(),
        parameters.topK() == null ? 0 : parameters.topK(),
        parameters.topP() == null ? 1 : parameters.topP(),
        parameters.maxOutputTokens(),
        parameters.stopSequences() == null ? List.of() : parameters.stopSequences());
  }

  private void check(ChatRequestParameters parameters) {
    String name = parameters.modelName();
    refuse(name != null && !name.equals(model.name()), "modelName '" + name + "'");
    refuse(parameters.frequencyPenalty() != null, "frequencyPenalty");
    refuse(parameters.presencePenalty() != null, "presencePenalty");
    refuse(parameters.toolChoice() != null, "ToolChoice." + parameters.toolChoice());
    List<?> tools = parameters.toolSpecifications();
    refuse(tools != null && !tools.isEmpty(), "tools");
    ResponseFormat format = parameters.responseFormat();
    refuse(format != null && format.type() == ResponseFormatType.JSON, "JSON response format");
    Integer most = parameters.maxOutputTokens();
    if (most != null && most < 1) {
      throw new IllegalArgumentException("maxOutputTokens must be 1 or more, but is " + most);
    }
  }

  private static void refuse(boolean asked, String what) {
    if (asked) {
      throw new UnsupportedFeatureException(what + " is not supported by Remora's models");
    }
  }

  private static ChatTemplate.Message message(ChatMessage message) {
    if (message instanceof SystemMessage system) {
      return new ChatTemplate.Message("system", system.text());
    }
    if (message instanceof AiMessage ai) {
      refuse(ai.hasToolExecutionRequests(), "a message with tool calls");
      return new ChatTemplate.Message("assistant", ai.text() == null ? "" : ai.text());
    }
    if (message instanceof UserMessage user) {
      List<String> texts = new ArrayList<>();
      for (Content content : user.contents()) {
        refuse(
            !(content instanceof TextContent),
            content.type().name().toLowerCase(Locale.ROOT) + " content");
        texts.add(((TextContent) content).text());
      }
      return new ChatTemplate.Message("user", String.join("\n", texts));
    }
    throw new UnsupportedFeatureException(
        "A message of type " + message.type() + " is not supported by Remora's models");
  }

  /** LangChain4j's form of an answer. */
  ChatResponse response(RemoraLanguageModel.Answer answer) {
    return ChatResponse.builder()
        .aiMessage(AiMessage.from(answer.text()))
        .metadata(
            ChatResponseMetadata.builder()
                .id(UUID.randomUUID().toString())
                .modelName(model.name())
                .tokenUsage(new TokenUsage(answer.promptTokens(), answer.newTokens()))
                .finishReason(answer.ended() ? FinishReason.STOP : FinishReason.LENGTH)
                .build())
        .build();
  }
}
