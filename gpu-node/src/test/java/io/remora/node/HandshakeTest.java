// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static org.assertj.core.api.Assertions.assertThat;

import io.remora.actors.link.FrameHeader;
import io.remora.actors.link.proto.Hello;
import io.remora.actors.link.proto.Reason;
import io.remora.actors.link.proto.Refused;
import io.remora.actors.link.proto.Welcome;
import io.remora.provider.LaunchToken;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("critical")
class HandshakeTest {

  private static final LaunchToken TOKEN = LaunchToken.random();

  private final Handshake handshake =
      new Handshake(
          TOKEN, Welcome.newBuilder().setNodeId("node").setLibtorchVersion("2.10.0").build());

  @Test
  void acceptsTheRightTokenAndVersions() {
    assertThat(handshake.refusal(hello().build())).isEmpty();
  }

  @Test
  void acceptsAnotherPatchOfTheSameLibtorch() {
    assertThat(handshake.refusal(hello().setLibtorchVersion("2.10.1+cu130").build())).isEmpty();
  }

  @Test
  void acceptsAMachineThatDoesNotKnowItsLibtorchYet() {
    assertThat(handshake.refusal(hello().clearLibtorchVersion().build())).isEmpty();
  }

  @Test
  void refusesAnotherTokenBeforeAnythingElse() {
    Refused refused =
        refusal(
            hello()
                .setToken(LaunchToken.random().value())
                .setProtocolVersion(FrameHeader.PROTOCOL_VERSION + 1));

    assertThat(refused.getReason()).isEqualTo(Reason.REASON_TOKEN);
    assertThat(refused.getMessage()).contains("REMORA_NODE_TOKEN").doesNotContain(TOKEN.value());
  }

  @Test
  void refusesNoToken() {
    assertThat(refusal(hello().clearToken()).getReason()).isEqualTo(Reason.REASON_TOKEN);
  }

  @Test
  void refusesAnotherProtocolVersionNamingBoth() {
    Refused refused = refusal(hello().setProtocolVersion(FrameHeader.PROTOCOL_VERSION + 1));

    assertThat(refused.getReason()).isEqualTo(Reason.REASON_PROTOCOL_VERSION);
    assertThat(refused.getMessage())
        .contains("version " + FrameHeader.PROTOCOL_VERSION)
        .contains("machine " + (FrameHeader.PROTOCOL_VERSION + 1));
  }

  @Test
  void refusesAnotherMinorOfLibtorchNamingBoth() {
    Refused refused = refusal(hello().setLibtorchVersion("2.9.1"));

    assertThat(refused.getReason()).isEqualTo(Reason.REASON_LIBTORCH_VERSION);
    assertThat(refused.getMessage()).contains("2.10.0").contains("2.9.1").contains("--torch-home");
  }

  @Test
  void hidesItsToken() {
    assertThat(handshake.toString()).doesNotContain(TOKEN.value());
  }

  private Refused refusal(Hello.Builder hello) {
    return handshake.refusal(hello.build()).orElseThrow();
  }

  private static Hello.Builder hello() {
    return Hello.newBuilder()
        .setProtocolVersion(FrameHeader.PROTOCOL_VERSION)
        .setLibtorchVersion("2.10.0")
        .setMachine("test")
        .setToken(TOKEN.value());
  }
}
