// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.recording;

import static java.util.Objects.requireNonNull;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigException;
import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigParseOptions;
import com.typesafe.config.ConfigRenderOptions;
import com.typesafe.config.ConfigSyntax;
import com.typesafe.config.ConfigValueFactory;
import io.remora.actors.DeviceInfo;
import io.remora.actors.MachineInfo;
import io.remora.runtime.Batch;
import io.remora.runtime.ProtocolException;
import java.time.Instant;
import java.time.format.DateTimeParseException;
import java.time.temporal.ChronoUnit;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;

/**
 * What a recording is of.
 *
 * @param wireVersion version of the batches
 * @param remora version of Remora; empty if it was not packaged
 * @param date when the recording began
 * @param machine the machine's name
 * @param provider its provider
 * @param torch the node's libtorch
 * @param computeThreads the node's compute threads; 0 if not known
 * @param devices the machine's devices, each as KIND NAME
 * @param values whether uploaded values, and checksums of values that were read, are in the file
 */
public record RecordingHeader(
    int wireVersion,
    String remora,
    Instant date,
    String machine,
    String provider,
    String torch,
    int computeThreads,
    List<String> devices,
    boolean values)
    implements Recorded {

  /** Copies the list. */
  public RecordingHeader {
    requireNonNull(date, "date");
    devices = List.copyOf(devices);
  }

  /** The header of a recording that begins now. */
  public static RecordingHeader of(MachineInfo machine, boolean values) {
    return new RecordingHeader(
        Batch.WIRE_VERSION,
        Objects.requireNonNullElse(
            RecordingHeader.class.getPackage().getImplementationVersion(), ""),
        Instant.now().truncatedTo(ChronoUnit.SECONDS),
        machine.name(),
        machine.provider(),
        machine.libtorchVersion(),
        machine.computeThreads(),
        machine.devices().stream().map(RecordingHeader::describe).toList(),
        values);
  }

  private static String describe(DeviceInfo device) {
    return device.kind() + " " + device.name();
  }

  /** Whether the machine computed on CUDA. */
  public boolean onCuda() {
    return devices.stream().anyMatch(device -> device.startsWith("cuda "));
  }

  String toJson() {
    Map<String, Object> fields = new LinkedHashMap<>();
    fields.put("wire-version", wireVersion);
    fields.put("remora", remora);
    fields.put("date", date.toString());
    fields.put("machine", machine);
    fields.put("provider", provider);
    fields.put("torch", torch);
    fields.put("compute-threads", computeThreads);
    fields.put("devices", devices);
    fields.put("values", values);
    return ConfigValueFactory.fromMap(fields).render(ConfigRenderOptions.concise());
  }

  /** Reads what {@link #toJson} has written. */
  static RecordingHeader parse(String json) {
    try {
      Config fields =
          ConfigFactory.parseString(
              json, ConfigParseOptions.defaults().setSyntax(ConfigSyntax.JSON));
      return new RecordingHeader(
          fields.getInt("wire-version"),
          fields.getString("remora"),
          Instant.parse(fields.getString("date")),
          fields.getString("machine"),
          fields.getString("provider"),
          fields.getString("torch"),
          fields.getInt("compute-threads"),
          fields.getStringList("devices"),
          fields.getBoolean("values"));
    } catch (ConfigException | DateTimeParseException e) {
      throw new ProtocolException("its header cannot be read: " + e.getMessage(), e);
    }
  }
}
