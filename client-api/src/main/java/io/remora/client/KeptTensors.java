// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static java.util.Objects.requireNonNull;

import java.time.Duration;
import java.time.Instant;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;
import org.bytedeco.pytorch.Tensor;

/**
 * Tensors that a program has kept on a machine under a name.
 *
 * @param version what was kept, and when
 * @param tensors by name, in new memory of the machine
 * @param metadata the texts that were kept with them
 */
public record KeptTensors(
    Version version, Map<String, Tensor> tensors, Map<String, String> metadata) {

  /** How long tensors are kept unless the program says otherwise: a day. */
  public static final Duration DEFAULT_LEASE = Duration.ofDays(1);

  /**
   * What is kept under a name since its last {@link RemoteMachine#keep(String, Map)}.
   *
   * @param name under which the tensors are kept
   * @param keptAt by the node's clock
   * @param lease after which they may be deleted
   */
  public record Version(String name, Instant keptAt, Duration lease) {
    public Version {
      requireNonNull(name, "name");
      requireNonNull(keptAt, "keptAt");
      requireNonNull(lease, "lease");
    }
  }

  public KeptTensors {
    requireNonNull(version, "version");
    tensors = Collections.unmodifiableMap(new LinkedHashMap<>(tensors));
    metadata = Map.copyOf(metadata);
  }
}
