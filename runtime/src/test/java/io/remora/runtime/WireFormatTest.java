// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import static org.assertj.core.api.Assertions.assertThat;

import io.remora.core.WireFormat;
import java.io.IOException;
import java.lang.reflect.Field;
import java.lang.reflect.Modifier;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

/** Java's numbers of the wire format are the native core's. */
@Tag("critical")
class WireFormatTest {

  @Test
  void recordsAreThoseOfTheCore() throws Exception {
    assertThat(values("enum class Record : uint8_t \\{(.*?)\\};"))
        .containsAllEntriesOf(constants(WireFormat.Records.class));
  }

  @Test
  void questionsAreThoseOfTheCore() throws Exception {
    assertThat(values("enum class Question : uint8_t \\{(.*?)\\};"))
        .isEqualTo(constants(WireFormat.Questions.class));
  }

  @Test
  void eventsAreThoseOfTheCore() throws Exception {
    assertThat(values("enum class Event : uint8_t \\{(.*?)\\};"))
        .isEqualTo(constants(WireFormat.Events.class));
  }

  @Test
  void limitsAndTheVersionAreThoseOfTheCore() throws Exception {
    assertThat(values("namespace remora \\{(.*?)enum class Record"))
        .containsAllEntriesOf(constants(WireFormat.class));
  }

  /** Names and values in a part of the header: {@code kLargeValue = 5} is LARGE_VALUE. */
  private static Map<String, Integer> values(String part) throws IOException {
    String header = Files.readString(Path.of("src/main/cpp/common/wire.h"));
    Matcher found = Pattern.compile(part, Pattern.DOTALL).matcher(header);
    assertThat(found.find()).as(part).isTrue();
    Map<String, Integer> values = new TreeMap<>();
    Matcher constant =
        Pattern.compile("\\bk(\\w+) = (0x[0-9A-F]+|[0-9]+)(?: \\* ([0-9]+))?[,;]")
            .matcher(found.group(1));
    while (constant.find()) {
      int factor = constant.group(3) == null ? 1 : Integer.parseInt(constant.group(3));
      String name = constant.group(1).replaceAll("(?<=[a-z])(?=[A-Z])", "_");
      values.put(
          name.toUpperCase(Locale.ROOT), Math.toIntExact(Long.decode(constant.group(2)) * factor));
    }
    return values;
  }

  private static Map<String, Integer> constants(Class<?> type) throws IllegalAccessException {
    Map<String, Integer> values = new TreeMap<>();
    for (Field field : type.getFields()) {
      if (Modifier.isStatic(field.getModifiers())) {
        values.put(field.getName(), field.getInt(null));
      }
    }
    assertThat(values).isNotEmpty();
    return values;
  }
}
