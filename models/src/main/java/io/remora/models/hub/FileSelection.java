// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

import io.remora.models.ModelFiles;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import java.util.function.Predicate;
import java.util.regex.Pattern;

/** Selects files of a repository. */
@FunctionalInterface
public interface FileSelection {
  /** The selected ones of these paths, which are all paths of the repository. */
  List<String> select(List<String> paths);

  /** All files. */
  static FileSelection all() {
    return paths -> paths;
  }

  /**
   * By patterns like those of a shell, as {@code huggingface_hub} takes them: {@code *} stands for
   * any characters, {@code /} among them, {@code ?} for any one, {@code [ab]} and {@code [!ab]} for
   * one of a set or not of it. A pattern that ends with {@code /} means all below that directory.
   *
   * @param allow a file must match one of these; empty for all files
   * @param ignore and none of these
   */
  static FileSelection patterns(List<String> allow, List<String> ignore) {
    Predicate<String> allowed = allow.isEmpty() ? path -> true : anyOf(allow);
    Predicate<String> wanted = allowed.and(anyOf(ignore).negate());
    return paths -> paths.stream().filter(wanted).toList();
  }

  /**
   * Selects the files for loading a model's weights: those that {@link
   * ModelFiles#read(java.nio.file.Path, String)} would read, which are {@code .bin} only where a
   * directory has no safetensors, and all {@code *.json}: indices, configurations, tokenizers.
   *
   * @param variant such as {@code fp16}; "" for none
   */
  static FileSelection weights(String variant) {
    return paths -> {
      Set<String> wanted = new LinkedHashSet<>(ModelFiles.weightFiles(paths, variant));
      return paths.stream()
          .filter(path -> wanted.contains(path) || path.endsWith(".json"))
          .toList();
    };
  }

  private static Predicate<String> anyOf(List<String> patterns) {
    List<Pattern> compiled = patterns.stream().map(FilePattern::compile).toList();
    return path -> compiled.stream().anyMatch(pattern -> pattern.matcher(path).matches());
  }
}
