// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.awaitility.Awaitility.await;
import static org.bytedeco.pytorch.global.torch.full;
import static org.bytedeco.pytorch.global.torch.manual_seed;
import static org.bytedeco.pytorch.global.torch.zeros;

import io.remora.runtime.RemoteOperationException;
import java.nio.file.Path;
import java.time.Duration;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** Two programs, each in its own process, on one machine through a gateway. */
@Tag("full")
@Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class SeveralProgramsTest {

  private static final Duration LIMIT = Duration.ofSeconds(30);
  private static final long SEED = 5;

  @TempDir private Path directory;

  @Test
  void knowNothingOfEachOther() throws Exception {
    try (TestGateway gateway = TestGateway.start("");
        RemoteMachine machine =
            RemoteMachine.builder().provider("mock").gateway(gateway.address(), null).open();
        PointerScope everything = new PointerScope()) { // so that no storage is freed meanwhile
      machine.manualSeed(SEED);
      Tensor first = drawnOn(machine);
      Tensor mine = full(new long[] {1000}, new Scalar(1.0)).to(machine.device(), ScalarType.Float);
      Tensor failed = failedOn(machine);
      assertThat(mine.sum().item_float()).isEqualTo(1000f);
      long storage = Remora.storageId(mine);

      ProgramRunner.Outcome other =
          new ProgramRunner(directory)
              .run(
                  "io.remora.client.OtherProgram",
                  PROGRAM
                      .replace("ADDRESS", gateway.address())
                      .replace("MACHINE", machine.name())
                      .replace("STORAGE", Long.toString(storage)));

      assertThat(other.output()).as(other.errors()).contains("2000.0 own failure alike as seeded");
      assertThat(other.exitCode()).as(other.errors()).isZero();
      // Exactly the other program's storages are gone.
      await().atMost(LIMIT).until(() -> machine.stats().get("sessions") == 1);
      await()
          .atMost(LIMIT)
          .until(() -> machine.stats().get("storages") == machine.statistics().liveStorages());
      assertThat(mine.sum().item_float()).isEqualTo(1000f);
      assertThatThrownBy(() -> failed.sum().item_float())
          .isInstanceOf(RemoteOperationException.class);
      // The other program has drawn numbers meanwhile; this program's sequence continues where it
      // was.
      Tensor second = drawnOn(machine);
      manual_seed(SEED);
      assertThat(first.cpu().equal(zeros(100).uniform_())).isTrue();
      assertThat(second.cpu().equal(zeros(100).uniform_())).isTrue();
    }
  }

  private static Tensor failedOn(RemoteMachine machine) {
    Tensor values = zeros(3).to(machine.device(), ScalarType.Float);
    values.index_select(0, Tensor.create(1L).to(machine.device(), ScalarType.Long));
    return values.index_select(0, Tensor.create(99L).to(machine.device(), ScalarType.Long));
  }

  private static Tensor drawnOn(RemoteMachine machine) {
    return zeros(100).to(machine.device(), ScalarType.Float).uniform_();
  }

  /** Opens a session on the other program's machine, and makes a storage of the same number. */
  private static final String PROGRAM =
      """
      package io.remora.client;

      import static org.bytedeco.pytorch.global.torch.*;

      import com.typesafe.config.ConfigFactory;
      import io.remora.recording.RecordingSettings;
      import io.remora.runtime.*;
      import java.util.*;
      import org.bytedeco.javacpp.PointerScope;
      import org.bytedeco.pytorch.*;
      import org.bytedeco.pytorch.global.torch.ScalarType;

      final class OtherProgram {
        public static void main(String[] arguments) {
          ClientSettings settings = ClientSettings.from(ConfigFactory.load());
          GatewayHost host =
              new GatewayHost(
                  "MACHINE", GatewayAddress.parse("ADDRESS", null), settings, RecordingSettings.OFF);
          Map<String, Double> before = host.stats();
          MachineSession session =
              MachineSession.open("MACHINE", 1, SessionSettings.from(ConfigFactory.load()));
          host.connect(session);
          PointerScope everything = new PointerScope(); // so that no storage is freed meanwhile
          Device device = session.device(0);
          Tensor mine = ones(1000).mul(new Scalar(2.0)).to(device, ScalarType.Float);
          while (Remora.storageId(mine) < STORAGE) {
            mine.close();
            mine = ones(1000).mul(new Scalar(2.0)).to(device, ScalarType.Float);
          }
          boolean same = Remora.storageId(mine) == STORAGE;
          System.out.print(mine.sum().item_float());

          mine.index_select(0, Tensor.create(1L).to(device, ScalarType.Long));
          Tensor failed = mine.index_select(0, Tensor.create(1000L).to(device, ScalarType.Long));
          try {
            failed.sum().item_float();
          } catch (RemoteOperationException e) {
            System.out.print(" own failure");
          }
          failed.close();
          session.synchronize(); // throws unread failures, but not the other program's

          long deadline = System.nanoTime() + 30_000_000_000L;
          Map<String, Double> now = host.stats();
          // Its own storages and the other program's are all the storages there are.
          while (now.get("storages") - before.get("storages") != session.statistics().liveStorages()
              && System.nanoTime() < deadline) {
            Thread.onSpinWait();
            now = host.stats();
          }
          boolean adds =
              now.get("storages") - before.get("storages") == session.statistics().liveStorages()
                  && now.get("storage.bytes") - before.get("storage.bytes") >= 4000
                  && now.get("sessions") == 2;
          System.out.print(same && adds ? " alike" : " " + same + now + before);

          session.generator(0).set_current_seed(77);
          manual_seed(77);
          Tensor drawn = zeros(10).to(device, ScalarType.Float).uniform_();
          System.out.println(drawn.cpu().equal(zeros(10).uniform_()) ? " as seeded" : " otherwise");
          everything.close();
          session.close();
          host.disconnect();
          host.release();
        }
      }
      """;
}
