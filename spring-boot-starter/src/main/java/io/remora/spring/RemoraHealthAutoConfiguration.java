// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.spring;

import org.springframework.boot.actuate.autoconfigure.health.ConditionalOnEnabledHealthIndicator;
import org.springframework.boot.actuate.health.HealthIndicator;
import org.springframework.boot.autoconfigure.AutoConfiguration;
import org.springframework.boot.autoconfigure.condition.ConditionalOnBean;
import org.springframework.boot.autoconfigure.condition.ConditionalOnClass;
import org.springframework.boot.autoconfigure.condition.ConditionalOnMissingBean;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;

/** The machine's health, where the actuator is; {@code management.health.remora.enabled}. */
@AutoConfiguration(after = RemoraAutoConfiguration.class)
@ConditionalOnClass(
    name =
        "org.springframework.boot.actuate.autoconfigure.health.ConditionalOnEnabledHealthIndicator")
@ConditionalOnBean(LazyMachine.class)
public class RemoraHealthAutoConfiguration {

  /** Apart, because its annotation can be read only where the actuator is. */
  @Configuration(proxyBeanMethods = false)
  @ConditionalOnEnabledHealthIndicator("remora")
  static class Indicator {

    /** The indicator {@code remora}. */
    @Bean
    @ConditionalOnMissingBean(name = "remoraHealthIndicator")
    HealthIndicator remoraHealthIndicator(LazyMachine machine) {
      return new RemoraHealthIndicator(machine);
    }
  }
}
