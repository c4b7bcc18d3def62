// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static org.assertj.core.api.Assertions.assertThat;

import com.google.protobuf.ByteString;
import io.remora.actors.link.FrameHeader;
import io.remora.actors.link.proto.Hello;
import io.remora.actors.link.proto.Reason;
import io.remora.actors.link.proto.Refused;
import io.remora.actors.link.proto.Welcome;
import io.remora.provider.LaunchToken;
import java.time.Duration;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("critical")
class HandshakeTest {

  private static final LaunchToken TOKEN = LaunchToken.random();

  private final Handshake handshake =
      new Handshake(
          TOKEN,
          Duration.ofMinutes(1),
          Welcome.newBuilder().setNodeId("node").setLibtorchVersion("2.10.0").build());

  @Test
  void acceptsTheRightTokenAndVersions() {
    Handshake.Verdict verdict = handshake.judge(hello().build());

    assertThat(verdict.refusal()).isNull();
    assertThat(verdict.link().name()).isEqualTo("test");
    assertThat(verdict.welcome().getSecret().size()).isEqualTo(32);
  }

  @Test
  void acceptsAnotherPatchOfTheSameLibtorch() {
    assertThat(handshake.judge(hello().setLibtorchVersion("2.10.1+cu130").build()).refusal())
        .isNull();
  }

  @Test
  void acceptsAMachineThatDoesNotKnowItsLibtorchYet() {
    assertThat(handshake.judge(hello().clearLibtorchVersion().build()).refusal()).isNull();
  }

  @Test
  void takesTheTokenUntilTheLinkHasShownItsSecret() {
    Handshake.Verdict first = handshake.judge(hello().build());
    Handshake.Verdict again = handshake.judge(hello().setConnection(2).build());
    ByteString secret = first.welcome().getSecret();

    assertThat(again.link()).isSameAs(first.link());
    assertThat(again.welcome().getSecret()).as("the welcome was lost").isEqualTo(secret);
    assertThat(refusal(hello().setLink(link(2))).getMessage()).contains("was used already");

    Handshake.Verdict later = handshake.judge(hello().clearToken().setSecret(secret).build());
    assertThat(later.link()).isSameAs(first.link());
    assertThat(later.welcome().getSecret()).isEmpty();
    Refused replayed = refusal(hello());
    assertThat(replayed.getReason()).isEqualTo(Reason.REASON_TOKEN);
    assertThat(replayed.getMessage()).contains("was used already").doesNotContain(TOKEN.value());
  }

  @Test
  void letsOneLinkInForEachTokenItIssues() {
    handshake.judge(hello().build());
    LaunchToken issued = handshake.issueToken();

    assertThat(handshake.judge(hello().setLink(link(2)).setToken(issued.value()).build()).refusal())
        .isNull();
    assertThat(refusal(hello().setLink(link(3)).setToken(issued.value())).getMessage())
        .contains("was used already");
  }

  @Test
  void forgetsTokensThatAreNotUsedInTime() throws Exception {
    Handshake hasty = new Handshake(TOKEN, Duration.ofNanos(1), Welcome.getDefaultInstance());
    LaunchToken issued = hasty.issueToken();

    Refused refused = hasty.judge(hello().setToken(issued.value()).build()).refusal();

    assertThat(refused.getMessage()).contains("the token is not this node's");
  }

  @Test
  void refusesAnotherSecretAndAnUnknownLink() {
    ByteString secret = handshake.judge(hello().build()).welcome().getSecret();

    Refused wrong = refusal(hello().clearToken().setSecret(ByteString.copyFrom(new byte[32])));
    assertThat(wrong.getReason()).isEqualTo(Reason.REASON_TOKEN);
    assertThat(wrong.getMessage()).contains("secret");
    Refused unknown = refusal(hello().clearToken().setSecret(secret).setLink(link(2)));
    assertThat(unknown.getReason()).isEqualTo(Reason.REASON_UNKNOWN_LINK);
    assertThat(unknown.getMessage()).contains("remora.node.session-lease");
  }

  @Test
  void refusesALinkWithoutAnId() {
    assertThat(refusal(hello().clearLink()).getReason()).isEqualTo(Reason.REASON_MALFORMED);
    assertThat(handshake.judge(hello().build()).refusal()).as("the token still serves").isNull();
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
    Handshake.Verdict verdict = handshake.judge(hello().build());

    assertThat(handshake.toString()).doesNotContain(TOKEN.value());
    assertThat(verdict.link().toString()).isEqualTo("OwnerLink(test)");
  }

  private Refused refusal(Hello.Builder hello) {
    Refused refused = handshake.judge(hello.build()).refusal();
    assertThat(refused).isNotNull();
    return refused;
  }

  private static Hello.Builder hello() {
    return Hello.newBuilder()
        .setProtocolVersion(FrameHeader.PROTOCOL_VERSION)
        .setLibtorchVersion("2.10.0")
        .setMachine("test")
        .setLink(link(1))
        .setConnection(1)
        .setToken(TOKEN.value());
  }

  private static ByteString link(int number) {
    byte[] id = new byte[16];
    id[0] = (byte) number;
    return ByteString.copyFrom(id);
  }
}
