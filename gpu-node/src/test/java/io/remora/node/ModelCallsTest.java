// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.awaitility.Awaitility.await;

import com.google.protobuf.InvalidProtocolBufferException;
import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.models.proto.CancelLoad;
import io.remora.actors.models.proto.Load;
import io.remora.actors.models.proto.NodeAnswer;
import io.remora.actors.models.proto.Save;
import io.remora.actors.models.proto.TensorToSave;
import io.remora.runtime.NodeCall;
import io.remora.runtime.NodeCallAnswer;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.RemoraException;
import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.OptionalLong;
import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** A session's answers to calls about models, including malformed calls. */
@Tag("critical")
@Timeout(60)
class ModelCallsTest {

  private static final Duration LIMIT = Duration.ofSeconds(40);

  private final ModelCalls calls = calls("hub = off");

  private static ModelCalls calls(String settings) {
    Config config =
        ConfigFactory.parseString("remora.node.models { " + settings + " }")
            .withFallback(ConfigFactory.load());
    return new NodeModels(NodeSettings.from(config).models(), config).session("machine", "test");
  }

  @AfterEach
  void close() {
    calls.close();
  }

  private NodeCallAnswer answer(byte[] payload) {
    return answer(calls, payload);
  }

  private static NodeCallAnswer answer(ModelCalls calls, byte[] payload) {
    return calls.answer(
        new NodeCall(
            ByteBuffer.wrap(payload), "cpu", 0, OptionalLong.empty(), Duration.ofSeconds(5)));
  }

  private NodeAnswer ask(io.remora.actors.models.proto.NodeCall.Builder call) {
    return ask(calls, call);
  }

  private static NodeAnswer ask(
      ModelCalls calls, io.remora.actors.models.proto.NodeCall.Builder call) {
    try {
      return NodeAnswer.parseFrom(answer(calls, call.build().toByteArray()).payload());
    } catch (InvalidProtocolBufferException e) {
      throw new AssertionError(e);
    }
  }

  private static io.remora.actors.models.proto.NodeCall.Builder load(long id, String source) {
    return io.remora.actors.models.proto.NodeCall.newBuilder()
        .setLoad(Load.newBuilder().setId(id).setSource(source));
  }

  private static io.remora.actors.models.proto.NodeCall.Builder save(String path) {
    return io.remora.actors.models.proto.NodeCall.newBuilder()
        .setSave(
            Save.newBuilder()
                .setPath(path)
                .addTensors(
                    TensorToSave.newBuilder().setName("w").setDtype("float32").addSizes(4)));
  }

  @Test
  void allowsNothingThatIsNotConfigured() {
    await().atMost(LIMIT).until(() -> ask(load(1, "org/model")).hasError());
    await().atMost(LIMIT).until(() -> ask(load(2, "/etc")).hasError());

    assertThat(ask(save("/tmp/model.safetensors")).getError().getMessage())
        .contains("remora.node.models.save-directories");
  }

  @Test
  void saysWhatALoadHasFailedForAndForgetsIt() {
    await()
        .atMost(LIMIT)
        .untilAsserted(
            () ->
                assertThat(ask(load(1, "org/model")).getError().getMessage())
                    .contains("remora.node.models.hub"));
    assertThat(
            ask(io.remora.actors.models.proto.NodeCall.newBuilder()
                    .setCancelLoad(CancelLoad.newBuilder().setId(1)))
                .hasCancelled())
        .as("there is nothing to cancel")
        .isTrue();
  }

  @Test
  void hasAsManyLoadsUnderWayAsAreAllowed() throws IOException {
    // A hub that accepts connections and never answers.
    try (ServerSocket silent = new ServerSocket(0, 50, InetAddress.getLoopbackAddress())) {
      String hub = "http://127.0.0.1:" + silent.getLocalPort();
      try (ModelCalls two = calls("max-loads = 2, endpoints = [\"" + hub + "\"]")) {
        assertThat(ask(two, waiting(1, hub)).hasProgress()).isTrue();
        assertThat(ask(two, waiting(2, hub)).hasProgress()).isTrue();

        assertThat(ask(two, waiting(3, hub)).getError().getMessage())
            .contains("remora.node.models.max-loads");
        assertThat(
                ask(
                        two,
                        io.remora.actors.models.proto.NodeCall.newBuilder()
                            .setCancelLoad(CancelLoad.newBuilder().setId(2)))
                    .hasCancelled())
            .isTrue();
        assertThat(ask(two, waiting(3, hub)).hasProgress()).isTrue();
      }
    }
  }

  private static io.remora.actors.models.proto.NodeCall.Builder waiting(long id, String hub) {
    return io.remora.actors.models.proto.NodeCall.newBuilder()
        .setLoad(Load.newBuilder().setId(id).setSource("org/model").setEndpoint(hub));
  }

  @Test
  void aMalformedCallIsAProtocolError() {
    assertThatThrownBy(() -> answer(new byte[] {(byte) 0xFF, 1}))
        .isInstanceOf(ProtocolException.class);
    assertThatThrownBy(() -> answer(new byte[0])).isInstanceOf(ProtocolException.class);

    long seed = System.nanoTime();
    Random random = new Random(seed);
    byte[][] sound = {
      load(1, "org/model").build().toByteArray(),
      load(1, "/etc").build().toByteArray(),
      save("/tmp/x.safetensors").build().toByteArray()
    };
    int refused = 0;
    for (int round = 0; round < 3_000; round++) {
      byte[] bytes = sound[round % sound.length].clone();
      for (int flips = 1 + random.nextInt(3); flips > 0; flips--) {
        bytes[random.nextInt(bytes.length)] ^= (byte) (1 << random.nextInt(8));
      }
      try {
        answer(bytes);
      } catch (RemoraException e) {
        refused++;
      }
    }
    assertThat(refused).as("seed %d", seed).isPositive();
  }
}
