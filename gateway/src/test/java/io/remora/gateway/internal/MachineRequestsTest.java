// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway.internal;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import akka.grpc.GrpcServiceException;
import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.gateway.GatewaySettings;
import io.remora.gateway.v1.OpenRequest;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

/** Where a gateway writes recordings for its programs. */
@Tag("fast")
final class MachineRequestsTest {

  @Test
  void recordsNothingForItsProgramsByDefault() {
    assertThatThrownBy(() -> file("", "run.remora"))
        .isInstanceOf(GrpcServiceException.class)
        .hasMessageContaining("remora.gateway.record-directory");
  }

  @Test
  void writesInItsFolderOnly() {
    assertThat(file("/srv/recordings", "run.remora")).isEqualTo("/srv/recordings/run.remora");
    assertThat(file("/srv/recordings", "a/../run")).isEqualTo("/srv/recordings/run");
    assertThat(file("/srv/recordings", "/srv/recordings/run")).isEqualTo("/srv/recordings/run");
    assertThat(file("/", "/home/me/run")).isEqualTo("/home/me/run");

    for (String outside :
        new String[] {"../run", "/etc/passwd", "a/../../run", "/srv/recordings-2/run", "."}) {
      assertThatThrownBy(() -> file("/srv/recordings", outside))
          .as(outside)
          .isInstanceOf(GrpcServiceException.class)
          .hasMessageContaining("writes recordings in /srv/recordings only");
    }
  }

  /** The file of a request in the settings of its machine. */
  private static String file(String directory, String name) {
    Config config =
        ConfigFactory.parseString("remora.gateway.record-directory = \"%s\"".formatted(directory))
            .withFallback(ConfigFactory.load());
    OpenRequest request = OpenRequest.newBuilder().setProvider("mock").setRecord(name).build();
    return ConfigFactory.parseString(
            MachineRequests.spec(request, GatewaySettings.from(config), config).settings())
        .getString("remora.recording.file");
  }
}
