// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.spring.sample;

import static org.bytedeco.pytorch.global.torch.ones;

import io.remora.client.RemoteMachine;
import io.remora.client.TensorScope;
import io.remora.spring.LazyMachine;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.stereotype.Service;

/** The application of docs/spring-boot.md. */
@SpringBootApplication
public class SampleApplication {

  public static void main(String[] arguments) {
    SpringApplication.run(SampleApplication.class, arguments);
  }

  /** Computes on the machine, which opens at the first sum. */
  @Service
  public static class Sums {
    private final LazyMachine machine;

    public Sums(LazyMachine machine) {
      this.machine = machine;
    }

    public double ofOnes(long count) {
      RemoteMachine open = machine.get();
      try (TensorScope scope = TensorScope.open()) {
        return ones(count).to(open.device(), ScalarType.Float).sum().item_float();
      }
    }
  }
}
