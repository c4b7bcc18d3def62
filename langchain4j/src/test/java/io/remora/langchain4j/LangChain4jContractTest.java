// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.langchain4j;

import com.typesafe.config.ConfigFactory;
import dev.langchain4j.model.chat.ChatModel;
import dev.langchain4j.model.chat.StreamingChatModel;
import dev.langchain4j.model.chat.common.AbstractChatModelIT;
import dev.langchain4j.model.chat.common.AbstractChatModelListenerIT;
import dev.langchain4j.model.chat.common.AbstractStreamingChatModelIT;
import dev.langchain4j.model.chat.common.AbstractStreamingChatModelListenerIT;
import dev.langchain4j.model.chat.listener.ChatModelListener;
import dev.langchain4j.model.chat.request.ChatRequestParameters;
import dev.langchain4j.model.embedding.EmbeddingModel;
import dev.langchain4j.model.embedding.common.AbstractEmbeddingModelIT;
import dev.langchain4j.model.embedding.listener.EmbeddingModelListener;
import io.remora.client.RemoteMachine;
import java.io.IOException;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Nested;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/**
 * LangChain4j's own tests for integrations. Each method {@code supports…} that says no makes them
 * test that the model refuses a request instead. The model has learned the answers by heart.
 */
@Tag("full")
@Timeout(value = 180, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class LangChain4jContractTest {
  @TempDir private static Path folder;
  private static RemoteMachine machine;
  private static RemoraLanguageModel loaded;
  private static RemoraLanguageModel closed;

  @BeforeAll
  static void load() throws IOException {
    machine =
        RemoteMachine.builder()
            .provider("mock")
            .config(
                ConfigFactory.parseMap(
                    Map.of("remora.node.models.directories", List.of(folder.toString()))))
            .open();
    LearnedAnswers.write(folder, machine);
    loaded = RemoraLanguageModel.builder().machine(machine).modelName(folder.toString()).build();
    closed = RemoraLanguageModel.builder().machine(machine).modelName(folder.toString()).build();
    closed.close();
  }

  @AfterAll
  static void close() {
    loaded.close();
    machine.close();
  }

  @Nested
  final class Chat extends AbstractChatModelIT {
    @Override
    protected List<ChatModel> models() {
      return List.of(RemoraChatModel.builder().model(loaded).build());
    }

    @Override
    protected ChatModel createModelWith(ChatRequestParameters parameters) {
      return RemoraChatModel.builder().model(loaded).defaultRequestParameters(parameters).build();
    }

    @Override
    protected ChatRequestParameters createIntegrationSpecificParameters(int maxOutputTokens) {
      return parameters(maxOutputTokens); // Remora has none of its own
    }

    @Override
    protected boolean supportsModelNameParameter() {
      return false; // a model object has one loaded model
    }

    @Override
    protected boolean supportsTools() {
      return false; // the answers' texts are not parsed
    }

    @Override
    protected boolean supportsToolChoiceRequired() {
      return false; // no tools
    }

    @Override
    protected boolean supportsJsonResponseFormat() {
      return false; // generation follows no grammar
    }

    @Override
    protected boolean supportsJsonResponseFormatWithSchema() {
      return false; // generation follows no grammar
    }

    @Override
    protected boolean supportsJsonResponseFormatWithRawSchema() {
      return false; // generation follows no grammar
    }

    @Override
    protected boolean supportsSingleImageInputAsBase64EncodedString() {
      return false; // models of texts only
    }

    @Override
    protected boolean supportsSingleImageInputAsPublicURL() {
      return false; // models of texts only
    }
  }

  /** What {@link Chat} says of these features holds here, too. */
  @Nested
  final class Streaming extends AbstractStreamingChatModelIT {
    @Override
    protected List<StreamingChatModel> models() {
      return List.of(RemoraStreamingChatModel.builder().model(loaded).build());
    }

    @Override
    protected StreamingChatModel createModelWith(ChatRequestParameters parameters) {
      return RemoraStreamingChatModel.builder()
          .model(loaded)
          .defaultRequestParameters(parameters)
          .build();
    }

    @Override
    public StreamingChatModel createModelWith(ChatModelListener listener) {
      return RemoraStreamingChatModel.builder().model(loaded).listeners(List.of(listener)).build();
    }

    @Override
    protected ChatRequestParameters createIntegrationSpecificParameters(int maxOutputTokens) {
      return parameters(maxOutputTokens);
    }

    @Override
    protected boolean supportsModelNameParameter() {
      return false;
    }

    @Override
    protected boolean supportsTools() {
      return false;
    }

    @Override
    protected boolean supportsToolChoiceRequired() {
      return false;
    }

    @Override
    protected boolean supportsJsonResponseFormat() {
      return false;
    }

    @Override
    protected boolean supportsJsonResponseFormatWithSchema() {
      return false;
    }

    @Override
    protected boolean supportsJsonResponseFormatWithRawSchema() {
      return false;
    }

    @Override
    protected boolean supportsSingleImageInputAsBase64EncodedString() {
      return false;
    }

    @Override
    protected boolean supportsSingleImageInputAsPublicURL() {
      return false;
    }
  }

  @Nested
  final class ChatListener extends AbstractChatModelListenerIT {
    @Override
    protected ChatModel createModel(ChatModelListener listener) {
      return with(loaded, listener);
    }

    @Override
    protected ChatModel createFailingModel(ChatModelListener listener) {
      return with(closed, listener);
    }

    private ChatModel with(RemoraLanguageModel model, ChatModelListener listener) {
      return RemoraChatModel.builder()
          .model(model)
          .temperature(temperature())
          .topP(topP())
          .maxOutputTokens(maxTokens())
          .listeners(List.of(listener))
          .build();
    }

    @Override
    protected String modelName() {
      return folder.toString();
    }

    @Override
    protected Class<? extends Exception> expectedExceptionClass() {
      return IllegalStateException.class;
    }

    @Override
    protected boolean supportsTools() {
      return false;
    }
  }

  @Nested
  final class StreamingListener extends AbstractStreamingChatModelListenerIT {
    @Override
    protected StreamingChatModel createModel(ChatModelListener listener) {
      return with(loaded, listener);
    }

    @Override
    protected StreamingChatModel createFailingModel(ChatModelListener listener) {
      return with(closed, listener);
    }

    private StreamingChatModel with(RemoraLanguageModel model, ChatModelListener listener) {
      return RemoraStreamingChatModel.builder()
          .model(model)
          .temperature(temperature())
          .topP(topP())
          .maxOutputTokens(maxTokens())
          .listeners(List.of(listener))
          .build();
    }

    @Override
    protected String modelName() {
      return folder.toString();
    }

    @Override
    protected Class<? extends Exception> expectedExceptionClass() {
      return IllegalStateException.class;
    }

    @Override
    protected boolean supportsTools() {
      return false;
    }
  }

  @Nested
  final class Embeddings extends AbstractEmbeddingModelIT {
    @Override
    protected List<EmbeddingModel> models() {
      return List.of(RemoraEmbeddingModel.builder().model(loaded).build());
    }

    @Override
    protected EmbeddingModel modelWith(EmbeddingModelListener listener) {
      return RemoraEmbeddingModel.builder().model(loaded).listeners(List.of(listener)).build();
    }

    @Override
    protected EmbeddingModel failingModelWith(EmbeddingModelListener listener) {
      return RemoraEmbeddingModel.builder().model(closed).listeners(List.of(listener)).build();
    }

    @Override
    protected boolean supportsInputTypeParameter() {
      return false; // the model reads each text as it is
    }

    @Override
    protected boolean supportsDimensionsParameter() {
      return false; // a vector has the model's size
    }

    @Override
    protected boolean supportsImageInput() {
      return false; // models of texts only
    }
  }

  private static ChatRequestParameters parameters(int maxOutputTokens) {
    return ChatRequestParameters.builder().maxOutputTokens(maxOutputTokens).build();
  }
}
