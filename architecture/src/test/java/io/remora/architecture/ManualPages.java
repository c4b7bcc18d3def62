// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.architecture;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;

/** The programs in the manual's pages. */
final class ManualPages {

  /** A fenced block, with the comment above it that says how it is tested. */
  private static final Pattern BLOCK =
      Pattern.compile(
          "(?:^ *<!-- test: ([^\\n]*) -->\\n)?^( *)```(\\w+)\\n(.*?)^\\2```",
          Pattern.DOTALL | Pattern.MULTILINE);

  private ManualPages() {}

  /**
   * A program.
   *
   * @param place its page and the line of its first line
   * @param test what the comment {@code <!-- test: … -->} right above it says; empty without one
   * @param text its lines
   */
  record Program(String place, String test, String text) {}

  /** The programs in a language, in the order of the pages and of the programs in each. */
  static List<Program> programs(String language) throws IOException {
    List<Program> programs = new ArrayList<>();
    for (Path page : pages()) {
      String text = Files.readString(page);
      Matcher block = BLOCK.matcher(text);
      while (block.find()) {
        if (block.group(3).equals(language)) {
          long line = text.substring(0, block.start(4)).lines().count() + 1;
          programs.add(
              new Program(
                  "%s:%d".formatted(Modules.ROOT.relativize(page), line),
                  block.group(1) == null ? "" : block.group(1),
                  block.group(4)));
        }
      }
    }
    return programs;
  }

  private static List<Path> pages() throws IOException {
    List<Path> pages = new ArrayList<>();
    for (String folder : List.of("", "examples", "client-api/python")) {
      try (Stream<Path> files = Files.list(Modules.ROOT.resolve(folder))) {
        files.filter(ManualPages::isPage).sorted().forEach(pages::add);
      }
    }
    try (Stream<Path> files = Files.walk(Modules.ROOT.resolve("docs"))) {
      files.filter(ManualPages::isPage).sorted().forEach(pages::add);
    }
    return pages;
  }

  private static boolean isPage(Path file) {
    return file.toString().endsWith(".md");
  }
}
