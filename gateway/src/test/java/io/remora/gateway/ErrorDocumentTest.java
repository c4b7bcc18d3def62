// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway;

import static org.assertj.core.api.Assertions.assertThat;

import io.grpc.Status;
import io.remora.core.ErrorTable;
import io.remora.core.errors.ErrorKind;
import io.remora.gateway.protocol.ErrorTrailer;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

/** The table of errors in docs/gateway.md agrees with errors.proto and the gateway's code. */
@Tag("critical")
class ErrorDocumentTest {

  private static final Path DOCUMENT = Path.of("..", "docs", "gateway.md");
  private static final Path SOURCES = Path.of("src", "main", "java");

  private static final Pattern ROW = Pattern.compile("\\| ([A-Z_, ]+) \\|[^|]+\\| ([\\w, ]+) \\|");
  private static final Pattern ANSWER =
      Pattern.compile("Status\\.Code\\.([A-Z_]+),\\s*ErrorKind\\.(\\w+)");

  @Test
  void theTableHasEveryErrorWithItsStatus() throws IOException {
    Set<String> said = new TreeSet<>(ofErrorsProto());
    said.addAll(ofTheCode());

    assertThat(ofTheDocument()).containsExactlyElementsOf(said);
  }

  @Test
  void theTrailerIsTheOneInTheDocument() throws IOException {
    assertThat(Files.readString(DOCUMENT)).contains("the trailer `" + ErrorTrailer.NAME + "`");
  }

  private static Set<String> ofTheDocument() throws IOException {
    String section = Files.readString(DOCUMENT).split("\n## Errors\n", 2)[1].split("\n## ", 2)[0];
    return ROW.matcher(section)
        .results()
        .flatMap(
            row ->
                Stream.of(row.group(1).split(", "))
                    .flatMap(
                        status ->
                            Stream.of(row.group(2).split(", ")).map(name -> status + " " + name)))
        .collect(Collectors.toCollection(TreeSet::new));
  }

  /** The kinds that the failure of a call can have, with the status of each. */
  private static List<String> ofErrorsProto() {
    return Stream.concat(
            ErrorTable.MACHINES.types().keySet().stream(),
            Stream.of(ErrorKind.IllegalArgumentException))
        .map(kind -> Status.fromCodeValue(ErrorTable.statusOf(kind)).getCode() + " " + kind)
        .toList();
  }

  /** The kinds to which the gateway's code gives a status itself. */
  private static List<String> ofTheCode() throws IOException {
    try (Stream<Path> files = Files.walk(SOURCES)) {
      StringBuilder code = new StringBuilder();
      for (Path file : files.filter(Files::isRegularFile).toList()) {
        code.append(Files.readString(file));
      }
      List<String> answers =
          ANSWER
              .matcher(code)
              .results()
              .map(answer -> answer.group(1) + " " + answer.group(2))
              .toList();
      assertThat(answers).hasSizeGreaterThan(10);
      return answers;
    }
  }
}
