// SPDX-License-Identifier: AGPL-3.0-or-later

/**
 * Spring Boot's auto-configuration of a machine: {@link io.remora.spring.RemoraProperties} names
 * it, the beans {@link io.remora.spring.LazyMachine} and {@link io.remora.client.RemoteMachine} are
 * it, and the actuator shows its health and its metrics.
 */
package io.remora.spring;
