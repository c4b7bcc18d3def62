// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import static org.assertj.core.api.Assertions.assertThat;

import io.remora.core.ErrorTable;
import io.remora.core.errors.ErrorKind;
import io.remora.core.errors.OperatorError;
import io.remora.runtime.internal.NativeErrors;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Set;
import java.util.TreeSet;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** The native core's names of errors are those of {@code errors.proto}. */
@Tag("fast")
class NativeErrorsTest {
  private static final Path SOURCES = Path.of("src/main/cpp");

  @Test
  void theNativeCoreRaisesWhatTheTableNames() throws Exception {
    Set<String> raised = literals(SOURCES, "(\\w+Exception)");
    assertThat(raised).contains("RemoraException", "StaleReferenceException");
    assertThat(raised).allSatisfy(name -> assertThat(ErrorTable.named(name)).isPresent());
  }

  @Test
  void theClassesOfFailuresAreThoseOfTheTable() throws Exception {
    assertThat(literals(SOURCES.resolve("node"), "(\\w+Error)"))
        .isEqualTo(
            Arrays.stream(OperatorError.values())
                .filter(error -> error != OperatorError.UNRECOGNIZED)
                .map(OperatorError::name)
                .collect(Collectors.toCollection(TreeSet::new)));
  }

  static Stream<ErrorKind> kinds() {
    return ErrorTable.MACHINES.types().keySet().stream();
  }

  @ParameterizedTest
  @MethodSource("kinds")
  void aTextOfTheNativeCoreBecomesTheExceptionThatItNames(ErrorKind kind) {
    Throwable translated =
        NativeErrors.translate(new RuntimeException(kind.name() + ": what is wrong"));
    assertThat(translated)
        .isExactlyInstanceOf(ErrorTable.MACHINES.types().get(kind))
        .hasMessage("what is wrong");
  }

  @Test
  void aTextThatNamesNoKindStaysWhatItIs() {
    RuntimeException plain = new RuntimeException("SomeException: what is wrong");
    assertThat(NativeErrors.translate(plain)).isSameAs(plain);
    RuntimeException argument = new RuntimeException("IllegalArgumentException: a size");
    assertThat(NativeErrors.translate(argument)).isSameAs(argument);
  }

  /** The string literals of the sources below a folder that are wholly of this form. */
  private static Set<String> literals(Path folder, String form) throws IOException {
    Pattern literal = Pattern.compile('"' + form + '"');
    Set<String> found = new TreeSet<>();
    try (Stream<Path> files = Files.walk(folder)) {
      for (Path file : files.filter(Files::isRegularFile).toList()) {
        literal
            .matcher(Files.readString(file))
            .results()
            .map(each -> each.group(1))
            .forEach(found::add);
      }
    }
    return found;
  }
}
