// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.core;

import com.google.protobuf.DescriptorProtos.EnumValueOptions;
import io.remora.core.errors.ErrorKind;
import io.remora.core.errors.Errors;
import io.remora.runtime.AuthenticationException;
import io.remora.runtime.CrossMachineException;
import io.remora.runtime.ImageBuildException;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.ProviderException;
import io.remora.runtime.ProvisioningTimeoutException;
import io.remora.runtime.ReadTimeoutException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.RemoteOperationException;
import io.remora.runtime.ResourceExhaustedException;
import io.remora.runtime.RestoredException;
import io.remora.runtime.StaleReferenceException;
import io.remora.runtime.UnsupportedGpuException;
import java.util.Arrays;
import java.util.Collections;
import java.util.EnumMap;
import java.util.Map;
import java.util.Optional;
import java.util.function.Function;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/**
 * Java's classes of the kinds that {@code errors.proto} names: those of machines here, those of
 * models in a table beside their classes. Immutable.
 *
 * @param <E> what all of the table's classes extend
 */
public final class ErrorTable<E extends RemoraException> {

  /** What machines, links, providers and gateways raise. */
  public static final ErrorTable<RemoraException> MACHINES =
      new ErrorTable<>(
          Stream.of(
              RemoraException.class,
              RemoteOperationException.class,
              StaleReferenceException.class,
              CrossMachineException.class,
              NodeLostException.class,
              MachineStateException.class,
              ProtocolException.class,
              ReadTimeoutException.class,
              ProviderException.class,
              AuthenticationException.class,
              ResourceExhaustedException.class,
              ProvisioningTimeoutException.class,
              UnsupportedGpuException.class,
              ImageBuildException.class,
              RestoredException.class));

  private static final Map<String, ErrorKind> BY_NAME =
      Arrays.stream(ErrorKind.values())
          .filter(kind -> kind != ErrorKind.UNRECOGNIZED)
          .collect(Collectors.toUnmodifiableMap(ErrorKind::name, Function.identity()));

  private final Map<ErrorKind, Class<? extends E>> types;

  /**
   * A table of classes that have the simple names of their kinds, and public constructors that take
   * a message and a cause.
   */
  public ErrorTable(Stream<Class<? extends E>> types) {
    Map<ErrorKind, Class<? extends E>> byKind = new EnumMap<>(ErrorKind.class);
    types.forEach(type -> byKind.put(ErrorKind.valueOf(type.getSimpleName()), type));
    this.types = Collections.unmodifiableMap(byKind);
  }

  /** The kind of this name; empty if there is none. */
  public static Optional<ErrorKind> named(String name) {
    return Optional.ofNullable(BY_NAME.get(name));
  }

  /**
   * What another process is told that an exception is: the kind of its class or of the nearest one
   * above it that has a kind; for those that have none, that of {@link RemoraException}.
   */
  public static ErrorKind kindOf(Throwable error) {
    for (Class<?> type = error.getClass(); type != null; type = type.getSuperclass()) {
      ErrorKind kind = BY_NAME.get(type.getSimpleName());
      if (kind != null) {
        return kind;
      }
    }
    return ErrorKind.RemoraException;
  }

  /** The code of gRPC that a call to a gateway ends with. */
  public static int statusOf(ErrorKind kind) {
    EnumValueOptions options = kind.getValueDescriptor().getOptions();
    return options.hasExtension(Errors.status)
        ? options.getExtension(Errors.status)
        : statusOf(options.getExtension(Errors.base));
  }

  /** Its classes, by their kinds. */
  public Map<ErrorKind, Class<? extends E>> types() {
    return types;
  }

  /**
   * An exception of this kind; empty if the table has no class for it.
   *
   * @param cause may be null
   */
  public Optional<E> make(ErrorKind kind, String message, Throwable cause) {
    Class<? extends E> type = types.get(kind);
    if (type == null) {
      return Optional.empty();
    }
    try {
      return Optional.of(
          type.getConstructor(String.class, Throwable.class).newInstance(message, cause));
    } catch (ReflectiveOperationException e) {
      throw new IllegalStateException(type + " lacks the constructor that others have", e);
    }
  }
}
