// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import static java.util.Objects.requireNonNull;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * How a model has learned to read conversations: the template of its tokenizer, a program in Jinja.
 * It gives the text that transformers' {@code apply_chat_template} gives. Thread-safe.
 */
public final class ChatTemplate {
  private static final List<String> SPECIAL_TOKENS =
      List.of(
          "bos_token",
          "eos_token",
          "unk_token",
          "sep_token",
          "pad_token",
          "cls_token",
          "mask_token");

  /**
   * A message of a conversation.
   *
   * @param role {@code system}, {@code user} or {@code assistant}; templates may know others
   */
  public record Message(String role, String content) {
    public Message {
      requireNonNull(role, "role");
      requireNonNull(content, "content");
    }
  }

  private final TemplateParser.Statement template;
  private final Map<String, String> specialTokens;

  private ChatTemplate(TemplateParser.Statement template, Map<String, String> specialTokens) {
    this.template = template;
    this.specialTokens = specialTokens;
  }

  /**
   * Reads a template.
   *
   * @param specialTokens the values of names such as {@code bos_token}
   * @throws IllegalArgumentException when it is wrong or uses what is not supported
   */
  public static ChatTemplate of(String jinja, Map<String, String> specialTokens) {
    return new ChatTemplate(TemplateParser.parse(jinja), Map.copyOf(specialTokens));
  }

  /**
   * The template of a model's folder: {@code chat_template.jinja}, or else the entry {@code
   * chat_template} of {@code tokenizer_config.json}. Of several, the one named {@code default}.
   *
   * @return empty if the model has none
   * @throws IllegalArgumentException when it is wrong or uses what is not supported
   * @throws UncheckedIOException when a file cannot be read
   */
  public static Optional<ChatTemplate> read(Path folder) {
    Path own = folder.resolve("chat_template.jinja");
    Path configuration = folder.resolve("tokenizer_config.json");
    try {
      JsonNode json =
          Files.exists(configuration)
              ? new ObjectMapper().readTree(configuration.toFile())
              : new ObjectMapper().createObjectNode();
      Optional<String> jinja =
          Files.exists(own) ? Optional.of(Files.readString(own)) : template(json);
      Map<String, String> special = new HashMap<>();
      for (String name : SPECIAL_TOKENS) {
        JsonNode token = json.path(name);
        JsonNode text = token.isObject() ? token.path("content") : token;
        if (text.isTextual()) {
          special.put(name, text.asText());
        }
      }
      return jinja.map(text -> of(text, special));
    } catch (IOException e) {
      throw new UncheckedIOException("Cannot read the chat template: " + e.getMessage(), e);
    }
  }

  private static Optional<String> template(JsonNode json) {
    JsonNode entry = json.path("chat_template");
    if (entry.isArray()) {
      return entry
          .valueStream()
          .filter(each -> each.path("name").asText().equals("default"))
          .map(each -> each.path("template").asText())
          .findFirst();
    }
    return entry.isTextual() ? Optional.of(entry.asText()) : Optional.empty();
  }

  /**
   * The text of a conversation, with special tokens as text. Encode it without adding others.
   *
   * @param addGenerationPrompt whether the text ends with the beginning of the assistant's next
   *     message
   * @throws IllegalArgumentException when the template refuses the conversation
   */
  public String render(List<Message> messages, boolean addGenerationPrompt) {
    StringBuilder text = new StringBuilder();
    TemplateScope scope = new TemplateScope(null, text);
    TemplateFunctions.global().forEach(scope::set);
    specialTokens.forEach(scope::set);
    List<Object> list = new ArrayList<>();
    for (Message each : messages) {
      Map<String, Object> map = new LinkedHashMap<>();
      map.put("role", each.role());
      map.put("content", each.content());
      list.add(map);
    }
    scope.set("messages", list);
    scope.set("tools", null);
    scope.set("documents", null);
    scope.set("add_generation_prompt", addGenerationPrompt);
    try {
      template.run(scope);
    } catch (StackOverflowError e) {
      throw new TemplateException("The chat template calls itself too often");
    } catch (ClassCastException | IndexOutOfBoundsException | ArithmeticException e) {
      throw new TemplateException("The chat template gives something a wrong value: " + e);
    }
    return text.toString();
  }
}
