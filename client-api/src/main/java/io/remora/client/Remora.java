// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import com.typesafe.config.ConfigFactory;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.ProgramClassPath;
import io.remora.runtime.RemoraException;
import io.remora.runtime.StaleReferenceException;
import io.remora.runtime.TensorIdentity;
import io.remora.runtime.TorchLibrary;
import java.util.Objects;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch;
import org.bytedeco.pytorch.global.torch.DeviceType;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** Questions about remote tensors and devices. All methods may be called from any thread. */
public final class Remora {

  private static final Logger log = LoggerFactory.getLogger(Remora.class);

  /** The program's choice; null until it makes one. */
  private static volatile Boolean remoteExecution;

  private Remora() {}

  /**
   * The id of a remote tensor's storage: 1, 2, 3 … in the order in which this process created the
   * storages. An id is never reused. Views of the same tensor have the same id.
   *
   * @throws IllegalArgumentException when the tensor is not on a remote device
   */
  public static long storageId(Tensor tensor) {
    return TensorIdentity.storageId(requireRemote(tensor));
  }

  /**
   * A 64-bit FNV-1a hash of shape, strides, dtype, offset and storage id. Logs name tensors by it.
   * It is computed on each call. The storage id of a tensor that is not on a remote device counts
   * as 0.
   *
   * @throws IllegalArgumentException when the tensor is undefined
   */
  public static long metadataHash(Tensor tensor) {
    return TensorIdentity.metadataHash(requireDefined(tensor));
  }

  /**
   * Starts reading a tensor of any open machine and returns at once, like {@link
   * RemoteMachine#read}. A tensor that is not on a remote device is copied.
   *
   * @return a stage with the same values in a CPU tensor, which the caller closes, or with the
   *     error that a blocking read would have thrown
   * @throws IllegalArgumentException when the tensor is undefined
   * @throws StaleReferenceException when the tensor's machine is closed
   */
  public static CompletionStage<Tensor> read(Tensor tensor) {
    if (!requireDefined(tensor).is_privateuseone()) {
      return CompletableFuture.completedStage(tensor.detach().cpu().clone());
    }
    Device device = tensor.device();
    return OpenMachines.of(device)
        .orElseThrow(
            () ->
                new StaleReferenceException(
                    "The machine of the tensor on %s is closed. Read a tensor before its machine is closed."
                        .formatted(device.str().getString())))
        .read(tensor);
  }

  /**
   * Whether remote machines can be used from this process: true when libtorch and Remora's native
   * core can be loaded. If they cannot, the reason is logged.
   */
  public static boolean isAvailable() {
    try {
      TorchLibrary.bytedeco();
      return true;
    } catch (RemoraException | LinkageError e) {
      log.warn("Remora is not available: {}", e.getMessage(), e);
      return false;
    }
  }

  /** How many remote devices are open in this process: the devices of all its open machines. */
  public static int deviceCount() {
    return OpenMachines.deviceCount();
  }

  /**
   * The remote device on which this thread creates tensors when it names only the device type:
   * {@code new Device("remora")}.
   *
   * @throws MachineStateException when no machine is open
   */
  public static Device currentDevice() {
    if (deviceCount() == 0) {
      throw new MachineStateException(
          "There is no current remote device: no machine is open. Open one with "
              + "RemoteMachine.open");
    }
    return new Device(DeviceType.PrivateUse1, (byte) TensorIdentity.currentDevice());
  }

  /**
   * Sets the device on which this thread creates tensors when it names only the device type.
   *
   * @param device a device of an open machine
   * @throws IllegalArgumentException when the device is not remote
   * @throws MachineStateException when the device belongs to no open machine
   */
  public static void setCurrentDevice(Device device) {
    Objects.requireNonNull(device, "device");
    if (!device.is_privateuseone()) {
      throw new IllegalArgumentException(
          "The device is " + device.str().getString() + ", not a remote device");
    }
    if (!OpenMachines.hasDevice(device)) {
      throw new MachineStateException(
          "No machine is open on " + device.str().getString() + ": use machine.device()");
    }
    torch.getPrivateUse1Hooks().setCurrentDevice(device.index());
  }

  /**
   * Declares that the output shapes of an operator of another library never depend on tensor
   * values. Without this declaration, and without a Meta kernel, every call of the operator waits
   * for the node. With it, only the first call with each combination of argument shapes waits. Must
   * be called before the operator's first call in the process. {@code
   * remora.node.operator-libraries} makes a node load such libraries.
   *
   * @param operator its name with its library, such as {@code "torchvision::roi_align"}, for all
   *     overloads
   * @throws IllegalArgumentException when the name has no library
   */
  public static void declareFixedShapes(String operator) {
    TorchLibrary.bytedeco().declareFixedShapes(operator);
  }

  /**
   * Makes machines that are opened from now on run in this process, whatever their provider. The
   * semantics are the same, without another process or machine: useful for tests and debugging.
   * Needs {@code remora-provider-mock} on the class path. Machines that are already open do not
   * change. {@code remora.client.remote-execution = off} has the same effect from the start.
   */
  public static void disableRemoteExecution() {
    remoteExecution = Boolean.FALSE;
  }

  /** Makes machines that are opened from now on come from their provider again. */
  public static void enableRemoteExecution() {
    remoteExecution = Boolean.TRUE;
  }

  /** Whether newly opened machines come from their provider; if not, they run in this process. */
  public static boolean isRemoteExecutionEnabled() {
    return isRemoteExecutionEnabled(
        ClientSettings.from(ProgramClassPath.configuration(ConfigFactory.empty())));
  }

  /** The program's last choice, or else the setting. */
  static boolean isRemoteExecutionEnabled(ClientSettings settings) {
    Boolean said = remoteExecution;
    return said == null ? settings.remoteExecution() : said;
  }

  private static Tensor requireDefined(Tensor tensor) {
    if (!Objects.requireNonNull(tensor, "tensor").defined()) {
      throw new IllegalArgumentException("The tensor is undefined");
    }
    return tensor;
  }

  private static Tensor requireRemote(Tensor tensor) {
    if (!requireDefined(tensor).is_privateuseone()) {
      throw new IllegalArgumentException(
          "The tensor is on "
              + tensor.device().str().getString()
              + ", not on a remote device: only remote tensors have storage ids");
    }
    return tensor;
  }
}
