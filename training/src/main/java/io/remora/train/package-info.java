// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * What a training loop needs beside libtorch: learning rates, clipping, checkpoints, metrics, data
 * and progress. Nothing here depends on where the device is, and nothing waits for the machine
 * unless its documentation says so.
 *
 * <pre>{@code
 * TrainingState state = new TrainingState().machine(machine).model(model).optimizer(optimizer);
 * Checkpoints checkpoints = new Checkpoints(folder.resolve("package"), 3);
 * LearningRateScheduler scheduler = LearningRateScheduler.cosineAnnealingLR(1e-3, steps, 0).warmUp(2);
 * try (RunningMean mean = new RunningMean()) {
 *   for (long step = checkpoints.restoreLatest(state).orElse(0); step < steps; step++) {
 *     try (TensorScope scope = TensorScope.open()) {
 *       scheduler.apply(optimizer, step);
 *       optimizer.zero_grad();
 *       Tensor loss = cross_entropy(model.forward(images), labels);
 *       loss.backward();
 *       Gradients.clip_grad_norm_(model.parameters(), 1);
 *       optimizer.step();
 *       mean.update(loss);
 *     }
 *     checkpoints.save(state, step + 1);
 *   }
 *   System.out.println(mean.value());
 * }
 * }</pre>
 */
package io.remora.train;
