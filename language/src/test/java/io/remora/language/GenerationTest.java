// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import static org.assertj.core.api.Assertions.assertThat;
import static org.bytedeco.pytorch.global.torch.manual_seed;

import io.remora.client.RemoteMachine;
import io.remora.runtime.TorchLibrary;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.LongStream;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.LongOptional;
import org.bytedeco.pytorch.NoGradGuard;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Tag("fast")
@Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class GenerationTest {
  private static final LlamaConfig CONFIG = SmallModel.CONFIG;
  private static final long[] PROMPT = {5, 17, 3, 42, 99, 0, 8};

  private static RemoteMachine machine;
  private static Place there;
  private static LanguageModel model;

  @BeforeAll
  static void open() {
    TorchLibrary.bytedeco().setComputeThreads(1);
    machine = RemoteMachine.open("mock");
    there = new Place.Machine(machine);
    model = LanguageModel.random(CONFIG, there, 0.3);
  }

  @AfterAll
  static void close() {
    machine.close();
  }

  @Test
  void cachedStepsChooseWhatTheWholeTextChooses() {
    List<Long> tokens = generate(there, model, greedy(200, 1));

    // 207 tokens: more than the first span of the cache.
    assertThat(tokens).hasSize(200).isEqualTo(nextOfEach(tokens));
  }

  @Test
  void readingTokensInBlocksChangesNone() {
    List<Long> tokens = generate(there, model, greedy(50, 1));

    assertThat(generate(there, model, greedy(50, 16))).isEqualTo(tokens);
    assertThat(new HashSet<>(tokens)).hasSizeGreaterThan(1);
  }

  @Test
  void readsNothingButTokens() {
    Generation.Plan plan = greedy(64, 32);
    generate(there, model, plan); // the machine has been asked for the shapes that only it knows
    long before = machine.statistics().blockingReads();

    generate(there, model, plan);

    assertThat(machine.statistics().blockingReads() - before).isZero();
  }

  @Test
  void samplesAsOnTheLocalCpu() {
    Place.Local here = new Place.Local();
    LanguageModel local = LanguageModel.random(CONFIG, here, 0.3);
    manual_seed(7);
    List<Long> locally = generate(here, local, sampled(here));
    machine.manualSeed(7);
    List<Long> remotely = generate(there, model, sampled(there));
    machine.manualSeed(8);
    List<Long> otherwise = generate(there, model, sampled(there));

    assertThat(remotely).isEqualTo(locally).isNotEqualTo(otherwise);
  }

  @Test
  void endsWhenTheListenerHasHadEnough() {
    List<Long> tokens = new ArrayList<>();

    generation(there, model)
        .run(
            PROMPT,
            greedy(400, 4),
            (token, logProbability) -> {
              tokens.add(token);
              return tokens.size() < 6;
            });

    assertThat(tokens).hasSize(6);
  }

  @Test
  void keepsNothingOnTheMachine() {
    generate(there, model, sampledPlan(there, 1));
    double before = storages();
    List<Double> meanwhile = new ArrayList<>();
    AtomicInteger count = new AtomicInteger();

    generation(there, model)
        .run(
            PROMPT,
            sampledPlan(there, 1201),
            (token, logProbability) -> {
              if (count.incrementAndGet() % 300 == 0) {
                meanwhile.add(storages());
              }
              return true;
            });

    assertThat(meanwhile).hasSize(4).containsOnly(meanwhile.get(0));
    assertThat(storages()).isEqualTo(before);
  }

  private static double storages() {
    machine.synchronize();
    return machine.stats().get("storages");
  }

  /**
   * What the model chooses after the prompt and after each of these tokens except the last, in one
   * call.
   */
  private static List<Long> nextOfEach(List<Long> tokens) {
    long[] text =
        LongStream.concat(
                LongStream.of(PROMPT),
                tokens.stream().mapToLong(Long::longValue).limit(tokens.size() - 1L))
            .toArray();
    try (PointerScope temporaries = new PointerScope();
        NoGradGuard noGradients = new NoGradGuard()) {
      Tensor input = Tensor.create(text).view(1, text.length).to(there.device(), ScalarType.Long);
      Tensor scores = model.scores(input);
      Tensor chosen =
          scores
              .argmax(new LongOptional(-1), false)
              .view(text.length)
              .narrow(0, PROMPT.length - 1L, tokens.size())
              .cpu();
      long[] values = new long[tokens.size()];
      chosen.data_ptr_long().get(values);
      return LongStream.of(values).boxed().toList();
    }
  }

  private static Generation.Plan greedy(int tokens, int block) {
    return new Generation.Plan(Sampler.greedy(), tokens, block, false);
  }

  private static Generation.Plan sampled(Place place) {
    return sampledPlan(place, 30);
  }

  private static Generation.Plan sampledPlan(Place place, int tokens) {
    return new Generation.Plan(new Sampler(0.9, 40, 0.95, place.generator()), tokens, 1, true);
  }

  private static Generation generation(Place place, LanguageModel model) {
    return new Generation(model, place);
  }

  private static List<Long> generate(Place place, LanguageModel model, Generation.Plan plan) {
    List<Long> tokens = new ArrayList<>();
    generation(place, model).run(PROMPT, plan, (token, logProbability) -> tokens.add(token));
    return tokens;
  }
}
