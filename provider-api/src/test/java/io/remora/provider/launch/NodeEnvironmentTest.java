// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.launch;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.remora.provider.LaunchToken;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.SequenceInputStream;
import java.util.Map;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("critical")
class NodeEnvironmentTest {

  @Test
  void goesThroughOneLineAndLeavesWhatIsBehindIt() throws IOException {
    Map<String, String> variables =
        NodeEnvironment.of(
            LaunchToken.random(), "remora.node { a = \"ü\\n\" }", new NodeLog("line"));
    variables.put("REMORA_NODE_TLS_PRIVATE_KEY", "-----BEGIN\nabc=\n-----END\n");

    byte[] line = NodeEnvironment.line(variables);
    InputStream stream =
        new SequenceInputStream(
            new ByteArrayInputStream(line), new ByteArrayInputStream("rest".getBytes(UTF_8)));

    assertThat(new String(line, UTF_8).indexOf('\n'))
        .as("one line")
        .isEqualTo(new String(line, UTF_8).length() - 1);
    assertThat(NodeEnvironment.readLine(stream)).isEqualTo(variables);
    assertThat(stream.readAllBytes()).isEqualTo("rest".getBytes(UTF_8));
  }

  @Test
  void refusesToBeLongerThanAPipeTakes() {
    Map<String, String> variables =
        Map.of(NodeEnvironment.CONFIG, "x".repeat(NodeEnvironment.MAX_LINE_BYTES));

    assertThatThrownBy(() -> NodeEnvironment.line(variables))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("too long");
  }
}
