// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.charset.StandardCharsets;
import java.util.List;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

/** With one token for each byte, the worst case of a byte-level vocabulary. */
@Tag("critical")
final class TokenTextTest {

  @Test
  void holdsUnfinishedCharactersBack() {
    TokenText text = new TokenText(TokenTextTest::decode, List.of());
    StringBuilder seen = new StringBuilder();
    for (byte each : "aé漢🦊!".getBytes(StandardCharsets.UTF_8)) {
      String certain = text.add(each & 0xff);
      assertThat(certain).doesNotContain("\uFFFD");
      seen.append(certain);
    }
    assertThat(seen).hasToString("aé漢🦊!");
    assertThat(text.finish()).isEmpty();
  }

  @Test
  void tellsAnUnfinishedCharacterAtTheEnd() {
    TokenText text = new TokenText(TokenTextTest::decode, List.of());
    assertThat(text.add('a')).isEqualTo("a");
    assertThat(text.add(0xc3)).isEmpty();
    assertThat(text.finish()).isEqualTo("\uFFFD");
  }

  @Test
  void endsBeforeAStopStringAndShowsNothingOfIt() {
    TokenText text = new TokenText(TokenTextTest::decode, List.of("<end>", "STOP"));
    StringBuilder seen = new StringBuilder();
    for (char each : "a <en b <end> c".toCharArray()) {
      seen.append(text.add(each));
      if (text.stopped()) {
        break;
      }
    }
    assertThat(text.stopped()).isTrue();
    assertThat(seen.append(text.finish())).hasToString("a <en b ");
  }

  @Test
  void releasesTheBeginningOfAStopStringThatIsNotGoingOn() {
    TokenText text = new TokenText(TokenTextTest::decode, List.of("\n\n"));
    assertThat(text.add('\n')).isEmpty();
    assertThat(text.add('x')).isEqualTo("\nx");
    assertThat(text.add('\n')).isEmpty();
    assertThat(text.finish()).isEqualTo("\n");
  }

  private static String decode(long[] tokens) {
    byte[] bytes = new byte[tokens.length];
    for (int i = 0; i < tokens.length; i++) {
      bytes[i] = (byte) tokens[i];
    }
    return new String(bytes, StandardCharsets.UTF_8);
  }
}
