// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import com.typesafe.config.ConfigFactory;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.TensorIdentity;
import io.remora.runtime.TorchLibrary;
import java.util.Objects;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch;
import org.bytedeco.pytorch.global.torch.DeviceType;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** Questions about remote tensors and devices. All methods may be called from any thread. */
public final class Remora {

  private static final Logger log = LoggerFactory.getLogger(Remora.class);

  /** What the program has said; null while it has said nothing. */
  private static volatile Boolean remoteExecution;

  private Remora() {}

  /**
   * The id of a remote tensor's storage: 1, 2, 3 … in the order in which this process made them,
   * never used twice. Tensors that are views of each other have the same one.
   *
   * @throws IllegalArgumentException when the tensor is not on a remote device
   */
  public static long storageId(Tensor tensor) {
    return TensorIdentity.storageId(requireRemote(tensor));
  }

  /**
   * A 64-bit FNV-1a hash of shape, strides, dtype, offset and storage id: the name under which a
   * tensor appears in logs. It is computed when asked for, not kept. The storage id of a tensor
   * that is not on a remote device counts as 0.
   *
   * @throws IllegalArgumentException when the tensor is undefined
   */
  public static long metadataHash(Tensor tensor) {
    return TensorIdentity.metadataHash(requireDefined(tensor));
  }

  /**
   * Whether remote machines can be used from this process: true when libtorch and Remora's native
   * core load here. The reason why not is logged.
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
   * The remote device on which this thread makes tensors when it names the device type alone:
   * {@code new Device("remora")}.
   *
   * @throws MachineStateException when no machine is open
   */
  public static Device currentDevice() {
    if (deviceCount() == 0) {
      throw new MachineStateException(
          "There is no current remote device: no machine is open. Open one with RemoteMachine.open");
    }
    return new Device(DeviceType.PrivateUse1, (byte) TensorIdentity.currentDevice());
  }

  /**
   * Makes a device the one on which this thread makes tensors when it names the device type alone.
   *
   * @param device a device of an open machine
   * @throws IllegalArgumentException when it is not a remote device
   * @throws MachineStateException when it belongs to no open machine
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
   * Says that values never decide the output shapes of an operator of another library. Without it,
   * and without a Meta kernel, each call of the operator waits for the node; with it, a call waits
   * once for each new combination of argument shapes. Must be called before the operator's first
   * call in the process. {@code remora.node.operator-libraries} gives a node such libraries.
   *
   * @param operator its name with its library, such as {@code "torchvision::roi_align"}, for all
   *     overloads
   * @throws IllegalArgumentException when the name has no library
   */
  public static void declareFixedShapes(String operator) {
    TorchLibrary.bytedeco().declareFixedShapes(operator);
  }

  /**
   * From now on machines that are opened run in this process, whatever their provider: the same
   * semantics without another process or machine, for tests and for finding mistakes. Needs {@code
   * remora-provider-mock} on the class path. Machines that are open stay as they are. {@code
   * remora.client.remote-execution = off} says the same from the start.
   */
  public static void disableRemoteExecution() {
    remoteExecution = Boolean.FALSE;
  }

  /** From now on machines that are opened are what their provider gives. */
  public static void enableRemoteExecution() {
    remoteExecution = Boolean.TRUE;
  }

  /** Whether machines that are opened are what their provider gives. */
  public static boolean isRemoteExecutionEnabled() {
    return isRemoteExecutionEnabled(ClientSettings.from(ConfigFactory.load()));
  }

  /** What the program said last, else the settings. */
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
