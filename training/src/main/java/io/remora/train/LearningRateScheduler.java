// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.train;

import java.util.List;
import org.bytedeco.pytorch.Optimizer;
import org.bytedeco.pytorch.OptimizerParamGroupVector;

/**
 * The learning rate of each step, as one of PyTorch's schedulers gives it. A scheduler is a
 * function of the step and has no state, so a training that resumes needs the number of its step
 * and nothing else.
 *
 * <pre>{@code
 * LearningRateScheduler scheduler = LearningRateScheduler.cosineAnnealingLR(3e-4, 990, 0).warmUp(10);
 * for (long step = 0; step < 1000; step++) {
 *   scheduler.apply(optimizer, step);
 *   …
 * }
 * }</pre>
 *
 * <p>The names, parameters and values are those of {@code torch.optim.lr_scheduler}, in PyTorch's
 * closed form. PyTorch computes some schedules from one step to the next, so its values may differ
 * from these in the last digits. The parameter {@code lr} is the rate that PyTorch takes from the
 * optimizer. Schedulers do not change a momentum ({@code cycle_momentum=False}).
 *
 * <p>All schedulers of this interface may be used by any thread. They throw {@link
 * IllegalArgumentException} for a negative step.
 */
@FunctionalInterface
public interface LearningRateScheduler {

  /**
   * The learning rate of a step.
   *
   * @param step the number of steps of the optimizer before this one; the first step is 0
   */
  double at(long step);

  /**
   * Sets the learning rate of all parameter groups. The call neither waits nor sends anything.
   *
   * @param optimizer any optimizer of bytedeco's binding
   */
  default void apply(Optimizer optimizer, long step) {
    try (OptimizerParamGroupVector groups = optimizer.param_groups()) {
      double rate = at(step);
      for (long i = 0; i < groups.size(); i++) {
        groups.get(i).options().set_lr(rate);
      }
    }
  }

  /**
   * Sets the learning rate of each parameter group by a scheduler of its own.
   *
   * @param schedulers one for each group, in the order of the groups
   * @throws IllegalArgumentException if there are more or fewer groups than schedulers
   */
  static void apply(
      Optimizer optimizer, List<? extends LearningRateScheduler> schedulers, long step) {
    try (OptimizerParamGroupVector groups = optimizer.param_groups()) {
      if (groups.size() != schedulers.size()) {
        throw new IllegalArgumentException(
            "The optimizer has %d parameter groups, but there are %d schedulers"
                .formatted(groups.size(), schedulers.size()));
      }
      for (int i = 0; i < schedulers.size(); i++) {
        groups.get(i).options().set_lr(schedulers.get(i).at(step));
      }
    }
  }

  /**
   * This schedule after a linear rise from 0 to its first rate: step {@code s} has the rate {@code
   * at(0) * s / steps} while {@code s < steps}, and {@code at(s - steps)} after that. With {@link
   * #cosineAnnealingLR} this is the schedule of {@code get_cosine_schedule_with_warmup} in
   * transformers.
   *
   * @param steps the length of the rise, 0 or more
   */
  default LearningRateScheduler warmUp(long steps) {
    require(steps >= 0, "steps must not be negative", steps);
    return step -> checked(step) < steps ? at(0) * ((double) step / steps) : at(step - steps);
  }

  /** The same rate for all steps. */
  static LearningRateScheduler constant(double lr) {
    return step -> {
      checked(step);
      return lr;
    };
  }

  /**
   * PyTorch's {@code ConstantLR}: {@code lr * factor} for the first steps, then {@code lr}.
   *
   * @param factor PyTorch's default is 1/3
   * @param totalIters the number of steps with the factor; PyTorch's default is 5
   */
  static LearningRateScheduler constantLR(double lr, double factor, long totalIters) {
    require(factor >= 0 && factor <= 1, "factor must be 0 to 1", factor);
    require(totalIters >= 0, "totalIters must not be negative", totalIters);
    return step -> checked(step) < totalIters ? lr * factor : lr;
  }

  /**
   * PyTorch's {@code StepLR}: {@code lr * gamma ** (step // stepSize)}.
   *
   * @param stepSize steps until the next decay, at least 1
   * @param gamma PyTorch's default is 0.1
   */
  static LearningRateScheduler stepLR(double lr, long stepSize, double gamma) {
    require(stepSize >= 1, "stepSize must be at least 1", stepSize);
    return step -> {
      long decays = checked(step) / stepSize;
      return lr * Math.pow(gamma, (double) decays);
    };
  }

  /** PyTorch's {@code ExponentialLR}: {@code lr * gamma ** step}. */
  static LearningRateScheduler exponentialLR(double lr, double gamma) {
    return step -> lr * Math.pow(gamma, (double) checked(step));
  }

  /**
   * PyTorch's {@code CosineAnnealingLR}: {@code etaMin + (lr - etaMin) * (1 + cos(pi * step /
   * tMax)) / 2}. After {@code tMax} steps the rate rises again, as in PyTorch.
   *
   * @param tMax steps from {@code lr} to {@code etaMin}, at least 1
   * @param etaMin the lowest rate; PyTorch's default is 0
   */
  static LearningRateScheduler cosineAnnealingLR(double lr, long tMax, double etaMin) {
    require(tMax >= 1, "tMax must be at least 1", tMax);
    return step -> etaMin + (lr - etaMin) * (1 + Math.cos(Math.PI * checked(step) / tMax)) / 2;
  }

  /**
   * PyTorch's {@code LinearLR}: {@code lr} times a factor that goes linearly from {@code
   * startFactor} to {@code endFactor} and stays there.
   *
   * @param startFactor above 0, at most 1; PyTorch's default is 1/3
   * @param endFactor 0 to 1; PyTorch's default is 1
   * @param totalIters steps until {@code endFactor}, at least 1; PyTorch's default is 5
   */
  static LearningRateScheduler linearLR(
      double lr, double startFactor, double endFactor, long totalIters) {
    require(startFactor > 0 && startFactor <= 1, "startFactor must be above 0 to 1", startFactor);
    require(endFactor >= 0 && endFactor <= 1, "endFactor must be 0 to 1", endFactor);
    require(totalIters >= 1, "totalIters must be at least 1", totalIters);
    return step ->
        lr
            * (startFactor
                + (endFactor - startFactor) * Math.min(totalIters, checked(step)) / totalIters);
  }

  /** {@link #oneCycleLR(double, long, OneCycle)} with PyTorch's defaults. */
  static LearningRateScheduler oneCycleLR(double maxLr, long totalSteps) {
    return oneCycleLR(maxLr, totalSteps, OneCycle.DEFAULTS);
  }

  /**
   * PyTorch's {@code OneCycleLR}: the rate rises from {@code maxLr / divFactor} to {@code maxLr},
   * then falls to {@code maxLr / divFactor / finalDivFactor}. It throws {@link
   * IllegalArgumentException} for a step after the last.
   *
   * @param maxLr the highest rate
   * @param totalSteps the number of steps, at least 1
   */
  static LearningRateScheduler oneCycleLR(double maxLr, long totalSteps, OneCycle cycle) {
    require(totalSteps >= 1, "totalSteps must be at least 1", totalSteps);
    double first = maxLr / cycle.divFactor;
    double last = first / cycle.finalDivFactor;
    // The ends of the phases, and the rates at the ends, as in PyTorch's OneCycleLR.
    double rise = cycle.pctStart * totalSteps - 1;
    double[] ends =
        cycle.threePhase
            ? new double[] {0, rise, 2 * cycle.pctStart * totalSteps - 2, totalSteps - 1.0}
            : new double[] {0, rise, totalSteps - 1.0};
    double[] rates =
        cycle.threePhase
            ? new double[] {first, maxLr, first, last}
            : new double[] {first, maxLr, last};
    return step -> {
      if (checked(step) >= totalSteps) {
        throw new IllegalArgumentException(
            "Step %d is after the last of oneCycleLR, which has %d steps"
                .formatted(step, totalSteps));
      }
      int phase = 1;
      while (phase < ends.length - 1 && step > ends[phase]) {
        phase++;
      }
      double length = ends[phase] - ends[phase - 1];
      double share = length == 0 ? 1 : (step - ends[phase - 1]) / length;
      return cycle.annealing.between(rates[phase - 1], rates[phase], share);
    };
  }

  /** How a rate of {@link #oneCycleLR} goes from one value to another. */
  enum Annealing {
    /** Along half a cosine. */
    COS {
      @Override
      double between(double from, double to, double share) {
        return to + (from - to) / 2 * (Math.cos(Math.PI * share) + 1);
      }
    },
    /** Along a line. */
    LINEAR {
      @Override
      double between(double from, double to, double share) {
        return (to - from) * share + from;
      }
    };

    abstract double between(double from, double to, double share);
  }

  /**
   * The parameters of {@link #oneCycleLR}.
   *
   * @param pctStart the share of the steps in which the rate rises, 0 to 1; PyTorch's default is
   *     0.3
   * @param annealing PyTorch's {@code anneal_strategy}; its default is {@link Annealing#COS}
   * @param divFactor the highest rate divided by the first; PyTorch's default is 25
   * @param finalDivFactor the first rate divided by the last; PyTorch's default is 1e4
   * @param threePhase whether the rate falls to the first rate as fast as it has risen, and then to
   *     the last; PyTorch's default is false
   */
  record OneCycle(
      double pctStart,
      Annealing annealing,
      double divFactor,
      double finalDivFactor,
      boolean threePhase) {

    /** PyTorch's defaults. */
    public static final OneCycle DEFAULTS = new OneCycle(0.3, Annealing.COS, 25, 1e4, false);

    public OneCycle {
      require(pctStart >= 0 && pctStart <= 1, "pctStart must be 0 to 1", pctStart);
      require(divFactor > 0, "divFactor must be above 0", divFactor);
      require(finalDivFactor > 0, "finalDivFactor must be above 0", finalDivFactor);
    }
  }

  private static long checked(long step) {
    require(step >= 0, "step must not be negative", step);
    return step;
  }

  private static void require(boolean right, String rule, Object value) {
    if (!right) {
      throw new IllegalArgumentException(rule + ", but is " + value);
    }
  }
}
