// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.examples;

import static org.assertj.core.api.Assertions.assertThat;

import com.typesafe.config.ConfigFactory;
import io.remora.actors.testkit.FaultForwarder;
import io.remora.actors.testkit.FaultForwarder.Direction;
import io.remora.client.RemoteMachine;
import io.remora.provider.modal.fake.FakeModal;
import io.remora.runtime.TorchLibrary;
import java.io.PrintWriter;
import java.io.Writer;
import java.time.Duration;
import java.util.concurrent.atomic.AtomicInteger;
import org.bytedeco.pytorch.Device;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Trains on digits on a machine at Modal whose tunnel breaks repeatedly. */
@Timeout(value = 300, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class ModalDigitsTest {

  private static final String SETTINGS =
      """
      remora.provider.modal {
        image.name = "remora-node:test"
        node {
          jvm-options = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx512m"]
          arguments = ["--compute-threads", "1"]
        }
      }
      """;

  /** Bytes; an epoch sends more. */
  private static final long CUT_AFTER = 128 * 1024;

  @Test
  @Tag("full")
  void lossesHaveTheSameBitsWhenTheTunnelIsCutMeanwhile() throws Exception {
    trainAndCompare(DigitsModel.Kind.MLP, 2, 3);
  }

  @Test
  @Tag("full")
  void aLongTrainingHasTheSameBitsWhenTheTunnelIsCutAgainAndAgain() throws Exception {
    trainAndCompare(DigitsModel.Kind.CONV, 10, 20);
  }

  private static void trainAndCompare(DigitsModel.Kind kind, int epochs, int mostCuts)
      throws Exception {
    TorchLibrary.bytedeco().setComputeThreads(1);
    DigitsTrainer.Plan plan = new DigitsTrainer.Plan(epochs, 32, 0.003, 0);
    float[] undisturbed = train(plan, new Device("cpu"), kind);
    try (FakeModal modal = FakeModal.start()) {
      modal.publishImage("remora-node:test");
      try (RemoteMachine machine =
          RemoteMachine.builder()
              .provider("modal")
              .timeout(Duration.ofSeconds(90))
              .config(ConfigFactory.parseString(modal.settings() + SETTINGS))
              .open()) {
        FaultForwarder tunnel = modal.running().get(0).tunnel();
        AtomicInteger cuts = new AtomicInteger();
        Thread cutter = new Thread(() -> cut(tunnel, cuts, mostCuts), "cutter");
        cutter.start();
        try {
          do { // again if the cutter did not come to cut before it was over
            float[] losses = train(plan, machine.device(), kind);
            assertThat(LossComparison.of(undisturbed, losses).identical()).isTrue();
          } while (cuts.get() == 0 || tunnel.connections() == 1);
        } finally {
          cutter.interrupt();
          cutter.join();
        }
        assertThat(modal.sandboxes()).as("the same sandbox all the time").hasSize(1);
      }
      assertThat(modal.running()).isEmpty();
      assertThat(modal.violations()).isEmpty();
    }
  }

  /** Cuts after every {@link #CUT_AFTER} bytes, so that data is in transit at every cut. */
  private static void cut(FaultForwarder tunnel, AtomicInteger cuts, int most) {
    long next = CUT_AFTER;
    try {
      while (cuts.get() < most) {
        if (tunnel.passed(Direction.UP) >= next) {
          next = tunnel.passed(Direction.UP) + CUT_AFTER;
          if (cuts.getAndIncrement() % 2 == 0) {
            tunnel.cut();
          } else {
            tunnel.reset();
          }
        }
        Thread.sleep(1);
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  private static float[] train(DigitsTrainer.Plan plan, Device device, DigitsModel.Kind kind) {
    return new DigitsTrainer(plan, device, kind.toString(), new PrintWriter(Writer.nullWriter()))
        .train(kind)
        .losses();
  }
}
