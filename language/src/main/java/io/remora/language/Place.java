// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import static org.bytedeco.pytorch.global.torch.getDefaultCPUGenerator;

import io.remora.client.RemoteMachine;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.DeviceOptional;
import org.bytedeco.pytorch.Generator;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorOptions;
import org.bytedeco.pytorch.global.torch.ScalarType;

/**
 * Where a model runs: a remote machine's first device or, for comparison, the local CPU. This
 * interface has only what differs between the two; models, generation and training depend on
 * devices alone.
 */
public sealed interface Place {

  Device device();

  /** The device's random generator. */
  Generator generator();

  /**
   * Starts reading a tensor, as {@link RemoteMachine#read} does. The receiver closes the result.
   */
  CompletionStage<Tensor> read(Tensor tensor);

  /** A remote machine. */
  record Machine(RemoteMachine machine) implements Place {
    @Override
    public Device device() {
      return machine.device();
    }

    @Override
    public Generator generator() {
      return machine.generator(0);
    }

    @Override
    public CompletionStage<Tensor> read(Tensor tensor) {
      return machine.read(tensor);
    }
  }

  /** This computer's CPU, in this process. */
  record Local() implements Place {
    @Override
    public Device device() {
      return new Device("cpu");
    }

    @Override
    public Generator generator() {
      return getDefaultCPUGenerator();
    }

    @Override
    public CompletionStage<Tensor> read(Tensor tensor) {
      Tensor copy = tensor.detach().clone();
      copy.retainReference();
      return CompletableFuture.completedFuture(copy);
    }
  }

  /** For tensors of this dtype on this device. */
  static TensorOptions options(Device device, ScalarType dtype) {
    return new TensorOptions(dtype).device(new DeviceOptional(device));
  }
}
