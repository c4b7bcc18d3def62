// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import static org.bytedeco.pytorch.global.torch.full;
import static org.bytedeco.pytorch.global.torch.zeros;

import java.time.Duration;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.NoGradGuard;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;

/**
 * Continues a text, token by token.
 *
 * <p>On a remote device only tokens are read, and a read never holds up the device. The chosen
 * token stays on the device as the next step's input, and the position is counted there as well. A
 * block of tokens is read while the device works on the next block. The price is that up to two
 * blocks are computed for nothing when the text ends.
 */
public final class Generation {
  private static final Duration LIMIT = Duration.ofMinutes(10);

  /**
   * How to continue.
   *
   * @param sampler chooses tokens
   * @param mostTokens the most tokens to add
   * @param block how many tokens are read at a time, 1 or more
   * @param withProbabilities whether the tokens' probabilities are wanted
   */
  public record Plan(Sampler sampler, int mostTokens, int block, boolean withProbabilities) {}

  /** Receives the tokens. */
  public interface Listener {
    /**
     * The next token.
     *
     * @param logProbability the logarithm of its probability; NaN if the plan does not ask for it
     * @return whether to continue
     */
    boolean onToken(long token, float logProbability);
  }

  /** A block of tokens that is being read. */
  private record Block(CompletionStage<Tensor> tokens, CompletionStage<Tensor> probabilities) {

    /** Passes the tokens to the listener; false if it wants no more. */
    boolean tell(Listener listener) {
      try (Tensor values = await(tokens);
          Tensor logarithms = probabilities == null ? null : await(probabilities)) {
        for (long i = 0; i < values.numel(); i++) {
          float logarithm = logarithms == null ? Float.NaN : logarithms.data_ptr_float().get(i);
          if (!listener.onToken(values.data_ptr_long().get(i), logarithm)) {
            return false;
          }
        }
        return true;
      }
    }

    void drop() {
      tokens.thenAccept(Tensor::close);
      if (probabilities != null) {
        probabilities.thenAccept(Tensor::close);
      }
    }

    private static Tensor await(CompletionStage<Tensor> stage) {
      try {
        return stage.toCompletableFuture().get(LIMIT.toSeconds(), TimeUnit.SECONDS);
      } catch (ExecutionException e) {
        throw e.getCause() instanceof RuntimeException cause
            ? cause
            : new IllegalStateException(e.getCause());
      } catch (TimeoutException e) {
        throw new IllegalStateException("No token in " + LIMIT.toMinutes() + " minutes", e);
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
        throw new IllegalStateException("Interrupted while waiting for a token", e);
      }
    }
  }

  private final LlamaConfig config;
  private final LlamaForCausalLM model;
  private final Place place;
  private final ScalarType dtype;

  /** A generation with a model on this place's device. */
  public Generation(LanguageModel model, Place place) {
    this.config = model.config();
    this.model = model.module();
    this.place = place;
    this.dtype = model.dtype();
  }

  /**
   * Continues a prompt until the listener wants no more or the plan's number of tokens is reached.
   *
   * @param prompt tokens, at least one
   */
  public void run(long[] prompt, Plan plan, Listener listener) {
    try (PointerScope everything = new PointerScope();
        NoGradGuard noGradients = new NoGradGuard()) {
      Steps steps = new Steps(prompt, plan);
      Block earlier = null;
      for (int made = 0; made < plan.mostTokens(); ) {
        int count = Math.min(plan.block(), plan.mostTokens() - made);
        Block block = steps.next(count);
        if (earlier != null && !earlier.tell(listener)) {
          block.drop();
          return;
        }
        earlier = block;
        made += count;
      }
      if (earlier != null) {
        earlier.tell(listener);
      }
    }
  }

  /** The state between steps, all of it on the device. */
  private final class Steps {
    private final Plan plan;
    private final PositionTable table;
    private final KeyValueCache cache;
    private final Tensor prompt;
    private final Tensor token;
    private final Tensor position;
    private final Tensor tokens;
    private final Tensor probabilities;
    private long length;

    Steps(long[] prompt, Plan plan) {
      this.plan = plan;
      long most = (long) prompt.length + plan.mostTokens();
      cache = new KeyValueCache(config, 1, most, Place.options(place.device(), dtype));
      table = new PositionTable(config, cache.capacity(), place.device(), dtype);
      this.prompt =
          Tensor.create(prompt).to(place.device(), ScalarType.Long).view(1, prompt.length);
      token = zeros(new long[] {1, 1}, Place.options(place.device(), ScalarType.Long));
      position =
          full(
              new long[] {1},
              new Scalar((long) prompt.length),
              Place.options(place.device(), ScalarType.Long));
      tokens = zeros(new long[] {plan.block()}, Place.options(place.device(), ScalarType.Long));
      probabilities =
          zeros(new long[] {plan.block()}, Place.options(place.device(), ScalarType.Float));
    }

    /** Computes {@code count} tokens, and starts reading them. */
    Block next(int count) {
      for (int i = 0; i < count; i++) {
        try (PointerScope temporaries = new PointerScope()) {
          Tensor scores = scores();
          Tensor chosen = plan.sampler().next(scores);
          token.copy_(chosen);
          tokens.narrow(0, i, 1).copy_(chosen.view(1));
          if (plan.withProbabilities()) {
            probabilities.narrow(0, i, 1).copy_(Sampler.logProbability(scores, chosen).view(1));
          }
        }
      }
      try (PointerScope temporaries = new PointerScope()) {
        return new Block(
            place.read(tokens.narrow(0, 0, count)),
            plan.withProbabilities() ? place.read(probabilities.narrow(0, 0, count)) : null);
      }
    }

    /** Scores of the token after the prompt or after the last token, {@code [1, vocabulary]}. */
    private Tensor scores() {
      if (length == 0) {
        length = prompt.size(1);
        return model.last(prompt, table.at(table.first(length), KeyValueCache.span(length)), cache);
      }
      length++;
      Tensor scores = model.last(token, table.at(position, KeyValueCache.span(length)), cache);
      position.add_(new Scalar(1L));
      return scores;
    }
  }
}
