// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.spring;

import io.remora.client.RemoteMachine;

/** A bean that changes the machine's builder after the properties, before the machine is opened. */
@FunctionalInterface
public interface MachineCustomizer {

  /** Sets what properties cannot, such as the program's actor system. */
  void customize(RemoteMachine.Builder builder);
}
