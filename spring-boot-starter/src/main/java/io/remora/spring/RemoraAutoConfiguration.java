// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.spring;

import com.typesafe.config.ConfigFactory;
import io.remora.client.RemoteMachine;
import java.util.List;
import org.springframework.beans.factory.ObjectProvider;
import org.springframework.boot.autoconfigure.AutoConfiguration;
import org.springframework.boot.autoconfigure.condition.ConditionalOnMissingBean;
import org.springframework.boot.autoconfigure.condition.ConditionalOnProperty;
import org.springframework.boot.context.properties.EnableConfigurationProperties;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Lazy;

/** A machine as a bean, where {@code remora.machine.provider} is set. */
@AutoConfiguration
@ConditionalOnProperty("remora.machine.provider")
@EnableConfigurationProperties(RemoraProperties.class)
public class RemoraAutoConfiguration {

  /** The machine, which opens at its first use and closes with the context. */
  @Bean(destroyMethod = "close")
  @ConditionalOnMissingBean
  public LazyMachine lazyMachine(
      RemoraProperties properties, ObjectProvider<MachineCustomizer> customizers) {
    return new LazyMachine(() -> builder(properties, customizers.orderedStream().toList()).open());
  }

  /**
   * The open machine. The context opens it when the first bean that has it injected is made: inject
   * a {@link LazyMachine}, or this one with {@code @Lazy} on the bean, to open it later.
   */
  @Bean(destroyMethod = "") // closed by its LazyMachine
  @Lazy
  @ConditionalOnMissingBean
  public RemoteMachine remoteMachine(LazyMachine machine) {
    return machine.get();
  }

  private static RemoteMachine.Builder builder(
      RemoraProperties properties, List<MachineCustomizer> customizers) {
    RemoteMachine.Builder builder =
        RemoteMachine.builder()
            .provider(properties.provider())
            .gpuCount(properties.gpuCount())
            .config(ConfigFactory.parseMap(properties.config(), "Spring's remora.machine.config"));
    if (properties.gpu() != null) {
      builder.gpu(properties.gpu());
    }
    if (properties.name() != null) {
      builder.name(properties.name());
    }
    if (properties.idleTimeout() != null) {
      builder.idleTimeout(properties.idleTimeout());
    }
    if (properties.openTimeout() != null) {
      builder.timeout(properties.openTimeout());
    }
    RemoraProperties.Gateway gateway = properties.gateway();
    if (gateway.address() != null) {
      builder.gateway(gateway.address(), gateway.token());
      if (gateway.certificate() != null) {
        builder.gatewayCertificate(gateway.certificate());
      }
    }
    customizers.forEach(each -> each.customize(builder));
    return builder;
  }
}
