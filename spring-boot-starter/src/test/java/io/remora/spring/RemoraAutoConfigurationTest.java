// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.spring;

import static org.assertj.core.api.Assertions.assertThat;

import io.micrometer.core.instrument.MeterRegistry;
import io.remora.actors.MachineState;
import io.remora.client.RemoteMachine;
import io.remora.spring.sample.SampleApplication;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.atomic.AtomicReference;
import java.util.regex.Pattern;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.actuate.autoconfigure.metrics.CompositeMeterRegistryAutoConfiguration;
import org.springframework.boot.actuate.autoconfigure.metrics.MetricsAutoConfiguration;
import org.springframework.boot.actuate.autoconfigure.metrics.export.simple.SimpleMetricsExportAutoConfiguration;
import org.springframework.boot.actuate.health.HealthIndicator;
import org.springframework.boot.actuate.health.Status;
import org.springframework.boot.autoconfigure.AutoConfigurations;
import org.springframework.boot.test.context.FilteredClassLoader;
import org.springframework.boot.test.context.runner.ApplicationContextRunner;
import org.springframework.context.ConfigurableApplicationContext;

@Tag("fast")
@Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class RemoraAutoConfigurationTest {
  private static final String[] MACHINE = {
    "remora.machine.provider=mock",
    "remora.machine.name=of-spring",
    "remora.machine.gpu-count=2",
    "remora.machine.config[remora.provider.mock.mode]=in-jvm"
  };

  private final ApplicationContextRunner withoutActuator =
      new ApplicationContextRunner()
          .withConfiguration(
              AutoConfigurations.of(
                  RemoraAutoConfiguration.class,
                  RemoraHealthAutoConfiguration.class,
                  RemoraMetricsAutoConfiguration.class));

  private final ApplicationContextRunner contexts =
      withoutActuator.withConfiguration(
          AutoConfigurations.of(
              MetricsAutoConfiguration.class,
              CompositeMeterRegistryAutoConfiguration.class,
              SimpleMetricsExportAutoConfiguration.class));

  @BeforeAll
  static void keepTheTestsLogging() {
    System.setProperty("org.springframework.boot.logging.LoggingSystem", "none");
  }

  @Test
  void hasNoMachineWithoutAProvider() {
    contexts.run(
        context ->
            assertThat(context)
                .hasNotFailed()
                .doesNotHaveBean(LazyMachine.class)
                .doesNotHaveBean("remoraHealthIndicator"));
  }

  @Test
  void opensTheMachineAtItsFirstUseAndClosesItWithTheContext() {
    AtomicReference<RemoteMachine> machine = new AtomicReference<>();
    contexts
        .withPropertyValues(MACHINE)
        .run(
            context -> {
              LazyMachine lazy = context.getBean(LazyMachine.class);
              HealthIndicator health = context.getBean(HealthIndicator.class);
              MeterRegistry meters = context.getBean(MeterRegistry.class);
              assertThat(health.health().getStatus()).isEqualTo(Status.UNKNOWN);
              assertThat(lazy.opened()).isEmpty();

              machine.set(context.getBean(RemoteMachine.class));

              assertThat(machine.get().name()).isEqualTo("of-spring");
              assertThat(machine.get().deviceCount()).isEqualTo(2);
              assertThat(lazy.opened()).contains(machine.get());
              assertThat(health.health().getStatus()).isEqualTo(Status.UP);
              assertThat(health.health().getDetails())
                  .containsEntry("name", "of-spring")
                  .containsEntry("state", "READY")
                  .containsEntry("devices", 2);
              assertThat(meters.get("remora.machines").tag("state", "ready").gauge().value())
                  .isEqualTo(1);
              assertThat(meters.find("remora.storages").tag("machine", "of-spring").gauges())
                  .isNotEmpty();
            });

    assertThat(machine.get().state()).isEqualTo(MachineState.STOPPED);
  }

  @Test
  void reportsAClosedMachineAsDown() {
    contexts
        .withPropertyValues(MACHINE)
        .run(
            context -> {
              context.getBean(RemoteMachine.class).close();
              assertThat(context.getBean(HealthIndicator.class).health().getStatus())
                  .isEqualTo(Status.DOWN);
            });
  }

  @Test
  void letsBeansChangeTheBuilder() {
    contexts
        .withPropertyValues(MACHINE)
        .withBean(MachineCustomizer.class, () -> builder -> builder.name("customized").gpuCount(1))
        .run(
            context -> {
              RemoteMachine machine = context.getBean(RemoteMachine.class);
              assertThat(machine.name()).isEqualTo("customized");
              assertThat(machine.deviceCount()).isEqualTo(1);
            });
  }

  @Test
  void neverOpensAMachineThatNothingUses() {
    contexts
        .withPropertyValues("remora.machine.provider=no-such-provider")
        .run(context -> assertThat(context).hasNotFailed());
  }

  @Test
  void needsNoActuator() {
    withoutActuator
        .withClassLoader(new FilteredClassLoader("org.springframework.boot.actuate"))
        .withPropertyValues(MACHINE)
        .run(context -> assertThat(context).hasNotFailed().hasSingleBean(LazyMachine.class));
  }

  @Test
  void keepsTheGatewaysTokenOutOfTexts() {
    contexts
        .withPropertyValues(MACHINE)
        .withPropertyValues(
            "remora.machine.gateway.address=localhost:7000", "remora.machine.gateway.token=secret")
        .run(
            context -> {
              RemoraProperties properties = context.getBean(RemoraProperties.class);
              assertThat(properties.gateway().token()).isEqualTo("secret");
              assertThat(properties.toString()).contains("localhost:7000").doesNotContain("secret");
            });
  }

  @Test
  void theSampleRuns() {
    try (ConfigurableApplicationContext context =
        SpringApplication.run(
            SampleApplication.class,
            "--spring.main.banner-mode=off",
            "--remora.machine.provider=mock")) {
      assertThat(context.getBean(LazyMachine.class).opened()).isEmpty();
      assertThat(context.getBean(SampleApplication.Sums.class).ofOnes(1000)).isEqualTo(1000);
      assertThat(context.getBean(MeterRegistry.class).find("remora.machines").gauges())
          .isNotEmpty();
    }
  }

  @Test
  void theGuideHasTheSampleAndAllProperties() throws IOException {
    String guide = Files.readString(Path.of("../docs/spring-boot.md"));
    String sample =
        Files.readString(Path.of("src/test/java/io/remora/spring/sample/SampleApplication.java"));
    assertThat(guide).contains(sample.substring(sample.indexOf("@SpringBootApplication")));
    String metadata =
        new String(
            RemoraProperties.class
                .getResourceAsStream("/META-INF/spring-configuration-metadata.json")
                .readAllBytes(),
            StandardCharsets.UTF_8);
    List<String> described =
        Pattern.compile(
                "\"name\": \"(remora\\.machine\\.[a-z.-]+)\",\\s*\"type\"[^}]*\"description\"")
            .matcher(metadata)
            .results()
            .map(entry -> entry.group(1))
            .toList();
    List<String> listed =
        Pattern.compile("^\\| `(remora\\.machine\\.[a-z.-]+)` ", Pattern.MULTILINE)
            .matcher(guide)
            .results()
            .map(row -> row.group(1))
            .toList();
    assertThat(listed).hasSize(10).containsExactlyInAnyOrderElementsOf(described);
  }
}
