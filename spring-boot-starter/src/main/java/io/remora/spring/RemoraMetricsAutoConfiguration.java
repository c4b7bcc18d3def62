// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.spring;

import io.remora.metrics.RemoraMetrics;
import org.springframework.boot.autoconfigure.AutoConfiguration;
import org.springframework.boot.autoconfigure.condition.ConditionalOnBean;
import org.springframework.boot.autoconfigure.condition.ConditionalOnMissingBean;
import org.springframework.context.annotation.Bean;

/** Remora's meters, which the actuator binds to the context's Micrometer registries. */
@AutoConfiguration(after = RemoraAutoConfiguration.class)
@ConditionalOnBean(LazyMachine.class)
public class RemoraMetricsAutoConfiguration {

  /** The meters of all machines of this JVM. */
  @Bean
  @ConditionalOnMissingBean
  public RemoraMetrics remoraMetrics() {
    return new RemoraMetrics();
  }
}
