// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.langchain4j;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import com.typesafe.config.ConfigFactory;
import dev.langchain4j.agent.tool.ToolSpecification;
import dev.langchain4j.data.embedding.Embedding;
import dev.langchain4j.data.message.AiMessage;
import dev.langchain4j.data.message.ImageContent;
import dev.langchain4j.data.message.SystemMessage;
import dev.langchain4j.data.message.UserMessage;
import dev.langchain4j.data.segment.TextSegment;
import dev.langchain4j.exception.UnsupportedFeatureException;
import dev.langchain4j.model.chat.listener.ChatModelListener;
import dev.langchain4j.model.chat.listener.ChatModelResponseContext;
import dev.langchain4j.model.chat.request.ChatRequest;
import dev.langchain4j.model.chat.request.ChatRequestParameters;
import dev.langchain4j.model.chat.request.ResponseFormat;
import dev.langchain4j.model.chat.response.ChatResponse;
import dev.langchain4j.model.chat.response.PartialResponse;
import dev.langchain4j.model.chat.response.PartialResponseContext;
import dev.langchain4j.model.chat.response.StreamingChatResponseHandler;
import dev.langchain4j.model.output.FinishReason;
import dev.langchain4j.model.output.Response;
import io.remora.client.RemoteMachine;
import io.remora.models.testkit.SmallLanguageModel;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/**
 * What the models do beyond LangChain4j's own tests ({@link LangChain4jContractTest}), on a model
 * of random weights.
 */
@Tag("fast")
@Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class RemoraModelsTest {
  private static final String QUESTION = "What is the capital of Germany?";

  @TempDir private static Path folder;
  private static RemoteMachine machine;
  private static RemoraLanguageModel loaded;

  @BeforeAll
  static void load() throws IOException {
    SmallLanguageModel.write(folder);
    Files.writeString(
        folder.resolve("chat_template.jinja"),
        "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
            + "{% if add_generation_prompt %}assistant: {% endif %}");
    machine =
        RemoteMachine.builder()
            .provider("mock")
            .config(
                ConfigFactory.parseMap(
                    Map.of("remora.node.models.directories", List.of(folder.toString()))))
            .open();
    loaded = RemoraLanguageModel.builder().machine(machine).modelName(folder.toString()).build();
  }

  @AfterAll
  static void close() {
    loaded.close();
    machine.close();
  }

  private static RemoraChatModel.Builder chat() {
    return RemoraChatModel.builder().model(loaded).maxOutputTokens(40);
  }

  @Test
  void answersWithTextUsageAndReason() {
    ChatResponse response =
        chat().build().chat(SystemMessage.from("Be brief."), UserMessage.from(QUESTION));

    assertThat(response.aiMessage().text()).isNotBlank();
    assertThat(response.finishReason()).isEqualTo(FinishReason.LENGTH);
    // One token for each byte.
    String prompt = "system: Be brief.\nuser: " + QUESTION + "\nassistant: ";
    assertThat(response.tokenUsage().inputTokenCount()).isEqualTo(prompt.length());
    assertThat(response.tokenUsage().outputTokenCount()).isEqualTo(40);
    assertThat(response.tokenUsage().totalTokenCount()).isEqualTo(prompt.length() + 40);
    assertThat(response.metadata().id()).isNotBlank();
    assertThat(response.modelName()).isEqualTo(folder.toString());
  }

  @Test
  void remembersTheConversation() {
    RemoraChatModel model = chat().build();
    List<String> answers =
        Stream.of("Hi", "Hello")
            .map(
                earlier ->
                    model
                        .chat(
                            UserMessage.from("I am Klaus"),
                            AiMessage.from(earlier),
                            UserMessage.from("Who am I?"))
                        .aiMessage()
                        .text())
            .toList();
    assertThat(answers.get(0)).isNotEqualTo(answers.get(1));
  }

  @Test
  void endsBeforeAStopSequence() {
    String whole = chat().build().chat(QUESTION);
    String stop = whole.substring(whole.length() / 2, whole.length() / 2 + 2);

    ChatResponse response =
        chat().stopSequences(List.of(stop)).build().chat(UserMessage.from(QUESTION));

    assertThat(response.aiMessage().text()).isEqualTo(whole.substring(0, whole.indexOf(stop)));
    assertThat(response.finishReason()).isEqualTo(FinishReason.STOP);
  }

  @Test
  void letsARequestOverrideTheModelsParameters() {
    ChatResponse response =
        chat()
            .temperature(0.5)
            .build()
            .chat(
                ChatRequest.builder()
                    .messages(UserMessage.from(QUESTION))
                    .parameters(
                        ChatRequestParameters.builder().temperature(0.0).maxOutputTokens(5).build())
                    .build());

    assertThat(response.tokenUsage().outputTokenCount()).isEqualTo(5);
    assertThat(chat().build().chat(QUESTION)).startsWith(response.aiMessage().text());
  }

  @Test
  void drawsWithTheMachinesGenerator() {
    RemoraChatModel model = chat().temperature(1.5).topK(50).topP(0.99).build();
    machine.manualSeed(1);
    String first = model.chat(QUESTION);
    machine.manualSeed(1);
    String same = model.chat(QUESTION);
    String other = model.chat(QUESTION);

    assertThat(same).isEqualTo(first);
    assertThat(other).isNotEqualTo(first);
  }

  @Test
  void refusesWhatItCannotDo() {
    RemoraChatModel model = chat().build();
    assertRefused(ChatRequestParameters.builder().modelName("other").build(), "modelName");
    assertRefused(
        ChatRequestParameters.builder().frequencyPenalty(0.5).build(), "frequencyPenalty");
    assertRefused(ChatRequestParameters.builder().presencePenalty(0.5).build(), "presencePenalty");
    assertRefused(
        ChatRequestParameters.builder()
            .toolSpecifications(ToolSpecification.builder().name("weather").build())
            .build(),
        "tools");
    assertRefused(
        ChatRequestParameters.builder().responseFormat(ResponseFormat.JSON).build(), "JSON");
    assertThatThrownBy(
            () -> model.chat(UserMessage.from(ImageContent.from("https://example.org/cat.png"))))
        .isExactlyInstanceOf(UnsupportedFeatureException.class)
        .hasMessageContaining("image")
        .hasMessageContaining("not supported");
    assertThatThrownBy(() -> model.chat("x".repeat(600)))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("room for 512");
  }

  private static void assertRefused(ChatRequestParameters parameters, String name) {
    ChatRequest request =
        ChatRequest.builder().messages(UserMessage.from(QUESTION)).parameters(parameters).build();
    assertThatThrownBy(() -> chat().build().chat(request))
        .isExactlyInstanceOf(UnsupportedFeatureException.class)
        .hasMessageContaining(name)
        .hasMessageContaining("not supported");
    assertThatThrownBy(() -> chat().defaultRequestParameters(parameters).build())
        .isExactlyInstanceOf(UnsupportedFeatureException.class)
        .hasMessageContaining(name);
  }

  /** Collects what a streaming model says. */
  private static class Collector implements StreamingChatResponseHandler {
    final StringBuilder parts = new StringBuilder();
    final Set<Thread> threads = ConcurrentHashMap.newKeySet();
    final CompletableFuture<ChatResponse> response = new CompletableFuture<>();
    int count;

    @Override
    public void onPartialResponse(String part) {
      threads.add(Thread.currentThread());
      parts.append(part);
      count++;
    }

    @Override
    public void onCompleteResponse(ChatResponse complete) {
      threads.add(Thread.currentThread());
      response.complete(complete);
    }

    @Override
    public void onError(Throwable error) {
      response.completeExceptionally(error);
    }
  }

  @Test
  void streamsWhatTheChatModelAnswers() throws Exception {
    Collector collector = new Collector();

    RemoraStreamingChatModel.builder()
        .model(loaded)
        .maxOutputTokens(40)
        .build()
        .chat(QUESTION, collector);

    ChatResponse response = collector.response.get(60, TimeUnit.SECONDS);
    assertThat(response.aiMessage().text()).isEqualTo(chat().build().chat(QUESTION));
    assertThat(collector.parts).hasToString(response.aiMessage().text());
    assertThat(collector.count).isGreaterThan(1);
    assertThat(collector.threads).hasSize(1).doesNotContain(Thread.currentThread());
  }

  @Test
  void endsACancelledStream() throws Exception {
    CountDownLatch cancelled = new CountDownLatch(1);
    Collector collector =
        new Collector() {
          @Override
          public void onPartialResponse(PartialResponse part, PartialResponseContext context) {
            context.streamingHandle().cancel();
            cancelled.countDown();
            super.onPartialResponse(part.text());
          }
        };

    RemoraStreamingChatModel.builder().model(loaded).build().chat(QUESTION, collector);
    assertThat(cancelled.await(60, TimeUnit.SECONDS)).isTrue();
    chat().build().chat(QUESTION); // the thread has finished with the stream

    assertThat(collector.count).isLessThanOrEqualTo(2);
    assertThat(collector.response).isNotDone();
  }

  @Test
  void reportsErrorsOfAStreamToItsHandler() {
    Collector collector = new Collector();
    RemoraStreamingChatModel.builder().model(loaded).build().chat("x".repeat(600), collector);
    assertThat(collector.response)
        .failsWithin(60, TimeUnit.SECONDS)
        .withThrowableThat()
        .withMessageContaining("room for 512");
  }

  @Test
  void tellsListeners() {
    List<ChatResponse> told = new ArrayList<>();
    ChatModelListener listener =
        new ChatModelListener() {
          @Override
          public void onResponse(ChatModelResponseContext context) {
            told.add(context.chatResponse());
          }
        };
    ChatResponse response =
        chat().listeners(List.of(listener)).build().chat(UserMessage.from(QUESTION));
    assertThat(told).containsExactly(response);
  }

  @Test
  void stopsWhenTheWaitingThreadIsInterrupted() throws InterruptedException {
    CompletableFuture<Throwable> failure = new CompletableFuture<>();
    RemoraChatModel model = chat().maxOutputTokens(400).build();
    Thread waiting =
        new Thread(
            () -> {
              Thread.currentThread().interrupt();
              try {
                model.chat(QUESTION);
              } catch (IllegalStateException e) {
                failure.complete(e);
              }
            });
    waiting.start();
    waiting.join(60_000);
    assertThat(failure).isCompletedWithValueMatching(e -> e.getMessage().contains("Interrupted"));
    assertThat(chat().build().chat(QUESTION)).isNotBlank();
  }

  @Test
  void embedsTextsInOneRead() {
    RemoraEmbeddingModel model = RemoraEmbeddingModel.builder().model(loaded).build();
    List<TextSegment> texts = Stream.of("one", "two", "one").map(TextSegment::from).toList();
    model.embedAll(texts); // the machine has been asked for the shapes that only it knows
    long before = machine.statistics().blockingReads();

    Response<List<Embedding>> response = model.embedAll(texts);

    assertThat(machine.statistics().blockingReads() - before).isEqualTo(1);
    List<float[]> vectors = response.content().stream().map(Embedding::vector).toList();
    assertThat(vectors).hasSize(3).allMatch(vector -> vector.length == model.dimension());
    assertThat(vectors.get(0)).isEqualTo(vectors.get(2)).isNotEqualTo(vectors.get(1));
    assertThat(norm(vectors.get(0))).isCloseTo(1, within(1e-5));
    assertThat(response.tokenUsage().inputTokenCount()).isEqualTo(9);
    assertThat(model.embed("two").content().vector())
        .containsExactly(vectors.get(1), within(1e-5f));
    assertThat(model.embedAll(List.of()).content()).isEmpty();
  }

  @Test
  void poolsAsTheModelsFilesSay() throws IOException {
    float[] last =
        RemoraEmbeddingModel.builder()
            .model(loaded)
            .pooling(RemoraEmbeddingModel.Pooling.LAST)
            .normalized(false)
            .build()
            .embed("text")
            .content()
            .vector();
    Path pooling = Files.createDirectories(folder.resolve("1_Pooling")).resolve("config.json");
    Path modules = folder.resolve("modules.json");
    try {
      Files.writeString(
          pooling, "{\"pooling_mode_mean_tokens\": false, \"pooling_mode_lasttoken\": true}");
      Files.writeString(modules, "[{\"type\": \"sentence_transformers.models.Pooling\"}]");
      assertThat(
              RemoraEmbeddingModel.builder().model(loaded).build().embed("text").content().vector())
          .isEqualTo(last);
      Files.writeString(pooling, "{\"pooling_mode_max_tokens\": true}");
      assertThatThrownBy(() -> RemoraEmbeddingModel.builder().model(loaded).build())
          .hasMessageContaining("'max'");
    } finally {
      Files.delete(pooling);
      Files.delete(modules);
    }
    assertThat(norm(last)).isNotCloseTo(1, within(1e-3));
  }

  @Test
  void freesTheModelWhenItIsClosed() {
    machine.synchronize();
    double before = machine.stats().get("storages");
    RemoraLanguageModel another =
        RemoraLanguageModel.builder().machine(machine).modelName(folder.toString()).build();
    RemoraChatModel model = RemoraChatModel.builder().model(another).maxOutputTokens(3).build();
    assertThat(model.chat(QUESTION)).isEqualTo(chat().maxOutputTokens(3).build().chat(QUESTION));

    another.close();
    another.close();

    machine.synchronize();
    assertThat(machine.stats().get("storages")).isLessThanOrEqualTo(before);
    assertThatThrownBy(() -> model.chat(QUESTION)).hasMessageContaining("closed");
  }

  private static double norm(float[] vector) {
    double sum = 0;
    for (float each : vector) {
      sum += each * each;
    }
    return Math.sqrt(sum);
  }
}
