// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.langchain4j;

import static org.assertj.core.api.Assertions.assertThat;

import io.remora.client.LoadOptions;
import io.remora.client.RemoteMachine;
import io.remora.language.FusedAdamW;
import io.remora.language.LanguageModel;
import io.remora.language.ModelFolder;
import io.remora.language.Place;
import io.remora.language.TokenBlocks;
import io.remora.language.Trainer;
import io.remora.models.testkit.SmallLanguageModel;
import io.remora.train.LearningRateScheduler;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.stream.LongStream;
import org.bytedeco.javacpp.PointerScope;

/**
 * A small model that a machine has taught some conversations by heart: those of LangChain4j's
 * tests. It has a token for each byte; the byte 0 ends a text.
 */
final class LearnedAnswers {
  private static final int BLOCK = 144;
  private static final int STEPS = 100;
  private static final int MOST_STEPS = 3000;
  private static final float LEARNED = 0.02f;

  private static final String TEMPLATE =
      "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
          + "{% if add_generation_prompt %}assistant: {% endif %}";

  private static final List<String> CONVERSATIONS =
      List.of(
          """
          user: What is the capital of Germany?
          assistant: The capital of Germany is Berlin.""",
          """
          user: What is the capital of Germany? How much is 2 + 2?
          assistant: The capital of Germany is Berlin, and 2 + 2 is 4.""",
          """
          system: Translate messages from user into German
          user: Translate: 'I love you'
          assistant: Ich liebe dich.""",
          """
          user: Hi, my favorite color is green
          assistant: Hi, nice to meet you
          user: What is my favorite color?
          assistant: Your favorite color is green.""",
          """
          user: Say 'Hello World'
          assistant: Hello World""",
          """
          user: Tell me a long story about animals
          assistant: A fox met a crow, and the crow had a piece of cheese.""");

  private LearnedAnswers() {}

  /** Writes the model into a folder that the machine may read. */
  static void write(Path folder, RemoteMachine machine) throws IOException {
    Path untaught = folder.resolve("untaught");
    SmallLanguageModel.write(untaught);
    Path config = untaught.resolve("config.json");
    Files.writeString(
        config, Files.readString(config).replaceFirst("\\{", "{\"eos_token_id\": 0, "));
    Files.writeString(untaught.resolve("chat_template.jinja"), TEMPLATE);
    ModelFolder source = ModelFolder.of(untaught.toString(), "main");
    try (PointerScope everything = new PointerScope()) {
      LanguageModel model =
          LanguageModel.load(machine, source.config(), source.source(), LoadOptions.defaults());
      machine.manualSeed(0);
      Place place = new Place.Machine(machine);
      Trainer trainer =
          new Trainer(
              model,
              model.weights(),
              new TokenBlocks(tokens(), BLOCK, CONVERSATIONS.size(), place),
              new Trainer.Plan(
                  LearningRateScheduler.cosineAnnealingLR(1e-2, MOST_STEPS, 1e-3).warmUp(20),
                  1,
                  1,
                  FusedAdamW.Options.withWeightDecay(0)),
              place,
              STEPS);
      float loss = Float.MAX_VALUE;
      while (loss > LEARNED) {
        assertThat(trainer.done()).as("steps, with the loss %s", loss).isLessThan(MOST_STEPS);
        for (int i = 0; i < STEPS; i++) {
          trainer.step();
        }
        loss = trainer.losses()[STEPS - 1];
      }
      machine.save(model.weights(), folder.resolve("model.safetensors"), Map.of("format", "pt"));
    }
    source.copyTo(folder);
  }

  /** Each conversation fills a block. */
  private static long[] tokens() {
    return CONVERSATIONS.stream()
        .map(each -> Arrays.copyOf(each.getBytes(StandardCharsets.UTF_8), BLOCK))
        .flatMapToLong(LearnedAnswers::asTokens)
        .toArray();
  }

  private static LongStream asTokens(byte[] bytes) {
    return LongStream.range(0, bytes.length).map(i -> bytes[(int) i] & 0xff);
  }
}
