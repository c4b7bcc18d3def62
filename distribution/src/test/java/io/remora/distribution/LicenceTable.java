// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.distribution;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.regex.MatchResult;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

/** The table in {@code docs/licences.md} of what a program or node runs with. */
final class LicenceTable {
  private static final String HEADING = "## What a program or node runs with";
  private static final Pattern JAR = Pattern.compile("(?<artifact>.+?)-(?<version>\\d.*)\\.jar");
  private static final Pattern ARTIFACT = Pattern.compile("`(?:[\\w.-]+:)?([\\w.*-]+)`");
  private static final Pattern VERSION = Pattern.compile("(?<![\\w.:-])\\d[\\w.-]*");
  private static final Pattern IDENTIFIER =
      Pattern.compile("Apache-2\\.0|BSD-[23]-Clause|MIT(?!-0)|LGPL-2\\.1|\\bGPL-3\\.0");

  /**
   * A row.
   *
   * @param artifacts the names of its artifacts, without groups
   * @param versions all versions that it names
   * @param licences the identifiers of its licences that demand a text beside the library
   */
  record Row(Set<String> artifacts, Set<String> versions, Set<String> licences) {}

  /** An artifact and its version, with the classifier if it has one. */
  record Jar(String artifact, String version) {
    static Jar of(String fileName) {
      Matcher jar = JAR.matcher(fileName);
      if (!jar.matches()) {
        throw new IllegalArgumentException(fileName + " has no version");
      }
      return new Jar(jar.group("artifact"), jar.group("version"));
    }
  }

  private final List<Row> rows;

  private LicenceTable(List<Row> rows) {
    this.rows = rows;
  }

  static LicenceTable read(Path page) throws IOException {
    List<Row> rows = new ArrayList<>();
    List<String> lines = Files.readAllLines(page);
    for (int i = lines.indexOf(HEADING) + 1; !isAfterTheTable(lines, i, rows); i++) {
      if (lines.get(i).startsWith("| ") && !lines.get(i).startsWith("| artifact ")) {
        rows.add(row(lines.get(i).split("\\|", -1)));
      }
    }
    return new LicenceTable(rows);
  }

  private static boolean isAfterTheTable(List<String> lines, int i, List<Row> rows) {
    return i == lines.size() || (!rows.isEmpty() && !lines.get(i).startsWith("|"));
  }

  private static Row row(String[] cells) {
    Set<String> artifacts = new TreeSet<>();
    for (String each : all(ARTIFACT, cells[1], 1)) {
      if (each.contains("*")) {
        String names = cells[1].substring(cells[1].indexOf('(') + 1, cells[1].indexOf(')'));
        for (String name : names.split(", ", -1)) {
          artifacts.add(each.replace("*", name));
        }
      } else if (!each.equals("linux-x86_64")) { // a classifier
        artifacts.add(each);
      }
    }
    return new Row(
        artifacts, all(VERSION, cells[1] + " " + cells[2], 0), all(IDENTIFIER, cells[3], 0));
  }

  private static Set<String> all(Pattern pattern, String text, int group) {
    return pattern
        .matcher(text)
        .results()
        .map((MatchResult each) -> each.group(group))
        .collect(Collectors.toCollection(TreeSet::new));
  }

  /** The names of all artifacts. */
  Set<String> artifacts() {
    return rows.stream()
        .flatMap(each -> each.artifacts().stream())
        .collect(Collectors.toCollection(TreeSet::new));
  }

  /** The rows that name this artifact with this version. */
  List<Row> rows(Jar jar) {
    return rows.stream()
        .filter(each -> each.artifacts().contains(jar.artifact()))
        .filter(each -> each.versions().stream().anyMatch(jar.version()::startsWith))
        .toList();
  }
}
