// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.typesafe.config.ConfigFactory;
import io.remora.models.hub.DownloadListener;
import io.remora.models.hub.FileSelection;
import io.remora.models.hub.HubClient;
import io.remora.models.hub.HubSettings;
import io.remora.models.hub.HubSnapshot;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Optional;
import java.util.Set;

/**
 * The files of a model that this program reads itself: its configuration and its tokenizer. The
 * machine loads the weights from the hub or the folder; they are never sent here.
 *
 * @param source what the machine loads: a folder, or a repository of the hub
 * @param revision of the repository: the commit that the files here are of
 * @param folder where the files are
 */
public record ModelFolder(String source, Optional<String> revision, Path folder) {
  private static final List<String> FILES =
      List.of(
          "adapter_config.json",
          "chat_template.jinja",
          "config.json",
          "generation_config.json",
          "tokenizer*.json",
          "modules.json",
          "*_Pooling/config.json");

  /**
   * Finds a model.
   *
   * @param model a folder, or else a repository of the hub, whose small files are downloaded
   * @param revision branch, tag or commit of the repository
   */
  public static ModelFolder of(String model, String revision) {
    Path folder = Path.of(model);
    if (Files.isDirectory(folder)) {
      return new ModelFolder(folder.toAbsolutePath().toString(), Optional.empty(), folder);
    }
    try (HubClient hub = new HubClient(HubSettings.from(ConfigFactory.load(), System.getenv()))) {
      HubSnapshot snapshot =
          hub.download(
              model, revision, FileSelection.patterns(FILES, List.of()), DownloadListener.none());
      return new ModelFolder(model, Optional.of(snapshot.commit()), snapshot.folder());
    }
  }

  /** The model's shape, from {@code config.json}. */
  public LlamaConfig config() {
    return LlamaConfig.read(folder.resolve("config.json"));
  }

  /**
   * Tokens that end a text, according to {@code generation_config.json} and {@code config.json}.
   */
  public Set<Long> endTokens() {
    Set<Long> tokens = new LinkedHashSet<>(config().endTokens());
    Path file = folder.resolve("generation_config.json");
    if (Files.exists(file)) {
      try {
        JsonNode json = new ObjectMapper().readTree(file.toFile());
        tokens.addAll(LlamaConfig.numbers(json.path("eos_token_id")));
      } catch (IOException e) {
        throw new UncheckedIOException("Cannot read " + file + ": " + e.getMessage(), e);
      }
    }
    return tokens;
  }

  /** The model's tokenizer, which the caller closes. */
  public TextTokenizer tokenizer() {
    return TextTokenizer.read(folder.resolve("tokenizer.json"));
  }

  /**
   * How the model has learned to read conversations; empty if it has no template.
   *
   * @throws IllegalArgumentException when the template uses what is not supported
   */
  public Optional<ChatTemplate> chatTemplate() {
    return ChatTemplate.read(folder);
  }

  /** Copies the files to another folder, which becomes a complete model once weights are added. */
  public void copyTo(Path target) throws IOException {
    for (String name :
        List.of(
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json")) {
      if (Files.exists(folder.resolve(name))) {
        Files.copy(folder.resolve(name), target.resolve(name), StandardCopyOption.REPLACE_EXISTING);
      }
    }
  }
}
