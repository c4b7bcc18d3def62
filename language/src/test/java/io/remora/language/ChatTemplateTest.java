// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.remora.language.ChatTemplate.Message;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** A Python test compares whole templates with transformers. */
@Tag("critical")
@Timeout(value = 60, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class ChatTemplateTest {
  private static final List<Message> CONVERSATION =
      List.of(
          new Message("system", "Be brief."),
          new Message("user", " Hi "),
          new Message("assistant", "Hello"),
          new Message("user", "Why?"));

  @TempDir private Path folder;

  @Test
  void writesChatMl() {
    String template =
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n'"
            + " + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
            + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
    assertThat(ChatTemplate.of(template, Map.of()).render(CONVERSATION.subList(0, 2), true))
        .isEqualTo(
            """
            <|im_start|>system
            Be brief.<|im_end|>
            <|im_start|>user
             Hi <|im_end|>
            <|im_start|>assistant
            """);
  }

  @Test
  void keepsNamesOfLoopsAndOfNamespacesApart() {
    String template =
        """
        {%- set ns = namespace(count=0, last='none') -%}
        {%- set seen = 'outside' -%}
        {%- for message in messages if message.role == 'user' -%}
          {%- set seen = message.role -%}
          {%- set ns.count = ns.count + 1 -%}
          {%- set ns.last = message.content | trim -%}
          {{ loop.index }}/{{ loop.length }}{{ ', ' if not loop.last }}
        {%- endfor %}
        {{ ns.count }} {{ ns.last }} {{ seen }}
        """;
    assertThat(ChatTemplate.of(template, Map.of()).render(CONVERSATION, false))
        .isEqualTo("1/2, 2/22 Why? outside");
  }

  @Test
  void computesAsPython() {
    Map<String, String> values = new LinkedHashMap<>();
    values.put("messages[0]['role']", "system");
    values.put("messages[-1].content", "Why?");
    values.put("messages[1:] == messages[1:4]", "True");
    values.put("messages | length", "4");
    values.put("'ab'[::-1]", "ba");
    values.put("1 + 2 * 3 - 7 // 2", "4");
    values.put("-7 % 3", "2");
    values.put("[1, 'a', none, true, 1.5]", "[1, 'a', None, True, 1.5]");
    values.put("{'a': [1]}", "{'a': [1]}");
    values.put("not x is defined and tools is none", "True");
    values.put("x | default('d')", "d");
    values.put("'a' if false else 'b'", "b");
    values.put("'b' in 'abc' and 'z' not in 'abc'", "True");
    values.put("1 < 2 <= 2", "True");
    values.put("' a  b '.strip().split()", "['a', 'b']");
    values.put("'a</think>b'.split('</think>')[-1]", "b");
    values.put(
        "messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join('+')",
        " Hi +Why?");
    values.put("['b', 'B', 'a', 'b'] | unique | list", "['b', 'a']");
    values.put("['b', 'B'] | unique(case_sensitive=true) | join", "bB");
    values.put(
        "messages | unique(attribute='role') | map(attribute='content') | join",
        "Be brief. Hi Hello");
    values.put("tools | selectattr('type', 'equalto', 'x') | list | length", "0");
    values.put("tools | map(attribute='type') | list", "[]");
    values.put("'x' * 3", "xxx");
    values.put("bos_token ~ eos_token", "<s>");
    values.put("range(3) | list", "[0, 1, 2]");
    values.put("'s' is string and 3 is odd", "True");
    values.put("{'a': 1}.items() | list | length", "1");
    values.put("{'a': {'b': 'é\"'}} | tojson", "{\"a\": {\"b\": \"é\\\"\"}}");
    values.put("[1, 2] | tojson(indent=2)", "[\n  1,\n  2\n]");
    values.forEach(
        (expression, value) ->
            assertThat(
                    ChatTemplate.of("{{ " + expression + " }}", Map.of("bos_token", "<s>"))
                        .render(CONVERSATION, false))
                .as(expression)
                .isEqualTo(value));
  }

  @Test
  void trimsWhiteSpaceAsTransformersDoes() {
    String template =
        "a\n  {% if true %}\n  b\n  {% endif %}\nc {#- no -#} d\n{%- if true +%}\ne{% endif %}\n";
    assertThat(ChatTemplate.of(template, Map.of()).render(CONVERSATION, false))
        .isEqualTo("a\n  b\ncd\ne");
  }

  @Test
  void callsMacros() {
    String template =
        "{% macro turn(role, text='none') %}[{{ role }}: {{ text }}]{% endmacro %}"
            + "{{ turn('a') }}{{ turn('b', text='c') }}";
    assertThat(ChatTemplate.of(template, Map.of()).render(CONVERSATION, false))
        .isEqualTo("[a: none][b: c]");
  }

  @Test
  void readsTheTemplateOfAFolder() throws IOException {
    assertThat(ChatTemplate.read(folder)).isEmpty();
    Files.writeString(
        folder.resolve("tokenizer_config.json"),
        """
        {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": [
          {"name": "tool_use", "template": "no"},
          {"name": "default", "template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"}]}
        """);
    assertThat(ChatTemplate.read(folder).orElseThrow().render(CONVERSATION, false))
        .isEqualTo("<s>Be brief.</s>");
    Files.writeString(folder.resolve("chat_template.jinja"), "own");
    assertThat(ChatTemplate.read(folder).orElseThrow().render(CONVERSATION, false))
        .isEqualTo("own");
  }

  @Test
  void saysWhyItDoesNotRender() {
    assertFails("{{ raise_exception('roles must alternate') }}", "roles must alternate");
    assertFails("{% include 'other' %}", "block 'include'");
    assertFails("{{ 1 | urlize }}", "filter 'urlize'");
    assertFails("{{ 1 is prime }}", "test 'prime'");
    assertFails("{{ 'a'.encode() }}", "'encode'");
    assertFails("{{ missing.part }}", "'part' of what is not there");
    assertFails("{% if true %}", "the end of the template");
    assertFails("{{ 1 + }}", "where a value must be");
    assertFails("{{ {}.x.y }}", "'y' of what is not there");
  }

  @Test
  void endsTemplatesThatWouldNotEnd() {
    assertFails("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "too often");
    assertFails(
        "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
        "million steps");
    assertFails("{{ 'abcdefgh' * 99999999 }}", "16 MiB");
    assertFails("{{ " + "(".repeat(5000) + "1" + ")".repeat(5000) + " }}", "nested too deeply");
  }

  private static void assertFails(String template, String reason) {
    assertThatThrownBy(() -> ChatTemplate.of(template, Map.of()).render(CONVERSATION, false))
        .isInstanceOf(TemplateException.class)
        .hasMessageContaining(reason);
  }
}
