// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;

import com.google.protobuf.DescriptorProtos.EnumValueOptions;
import io.grpc.Status;
import io.remora.core.ErrorTable;
import io.remora.core.errors.ErrorKind;
import io.remora.core.errors.Errors;
import io.remora.models.hub.GatedRepositoryException;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.RemoraException;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** The table in errors.proto agrees with Java's classes. */
@Tag("fast")
class ErrorTableTest {

  static Stream<ErrorKind> kinds() {
    return Arrays.stream(ErrorKind.values()).filter(kind -> kind != ErrorKind.UNRECOGNIZED);
  }

  private static Map<ErrorKind, Class<?>> types() {
    Map<ErrorKind, Class<?>> types = new HashMap<>(ErrorTable.MACHINES.types());
    types.putAll(MachineModels.ERRORS.types());
    types.put(ErrorKind.GatedRepositoryException, GatedRepositoryException.class);
    types.put(ErrorKind.IllegalArgumentException, IllegalArgumentException.class);
    return types;
  }

  @ParameterizedTest
  @MethodSource("kinds")
  void aKindHasAClassOfItsNameThatExtendsItsBases(ErrorKind kind) {
    assertThat(types().get(kind)).isNotNull();
    assertThat(types().get(kind).getSimpleName()).isEqualTo(kind.name());
    EnumValueOptions options = kind.getValueDescriptor().getOptions();
    if (options.hasExtension(Errors.base)) {
      assertThat(types().get(kind).getSuperclass())
          .isEqualTo(types().get(options.getExtension(Errors.base)));
    }
  }

  @ParameterizedTest
  @MethodSource("kinds")
  void aGatewaysErrorBecomesTheExceptionThatItNames(ErrorKind kind) {
    RuntimeException error = GatewayErrors.named(kind.name(), "what is wrong", null);
    boolean ofMachines =
        kind == ErrorKind.IllegalArgumentException || ErrorTable.MACHINES.types().containsKey(kind);
    assertThat(error)
        .isExactlyInstanceOf(ofMachines ? types().get(kind) : RemoraException.class)
        .hasMessage("what is wrong");
  }

  @Test
  void aGatewaysErrorOfAnotherNameIsAPlainOne() {
    assertThat(GatewayErrors.named("SomethingNewException", "what is wrong", null))
        .isExactlyInstanceOf(RemoraException.class);
  }

  @Test
  void theKindOfAnExceptionIsThatOfItsClassOrOfTheNearestAboveIt() {
    assertThat(ErrorTable.kindOf(new NodeLostException("x")))
        .isEqualTo(ErrorKind.NodeLostException);
    assertThat(ErrorTable.kindOf(new ProtocolException("x") {}))
        .isEqualTo(ErrorKind.ProtocolException);
    assertThat(ErrorTable.kindOf(new NumberFormatException("x")))
        .isEqualTo(ErrorKind.IllegalArgumentException);
    assertThat(ErrorTable.kindOf(new OutOfMemoryError("x"))).isEqualTo(ErrorKind.RemoraException);
  }

  @Test
  void aKindWithoutAStatusHasThatOfItsBase() {
    assertThat(status(ErrorKind.NodeLostException)).isEqualTo(Status.Code.ABORTED);
    assertThat(status(ErrorKind.AuthenticationException)).isEqualTo(Status.Code.PERMISSION_DENIED);
    assertThat(status(ErrorKind.ImageBuildException)).isEqualTo(Status.Code.FAILED_PRECONDITION);
    assertThat(status(ErrorKind.HubUnreachableException)).isEqualTo(Status.Code.INTERNAL);
  }

  private static Status.Code status(ErrorKind kind) {
    return Status.fromCodeValue(ErrorTable.statusOf(kind)).getCode();
  }
}
