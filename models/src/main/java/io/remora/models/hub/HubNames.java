// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

/** Names that come from a program or from the hub and become parts of paths and addresses. */
final class HubNames {
  private static final Pattern REPOSITORY =
      Pattern.compile("(?:[A-Za-z0-9_][\\w.-]{0,95}/)?[A-Za-z0-9_][\\w.-]{0,95}");
  private static final Pattern COMMIT = Pattern.compile("[0-9a-f]{40}");
  private static final Pattern ETAG = Pattern.compile("[0-9A-Za-z_-][0-9A-Za-z._-]{0,127}");
  private static final Pattern UNPRINTABLE = Pattern.compile("[\\p{Cntrl}\\\\]");
  private static final int MAX_NAME_BYTES = 255;

  private HubNames() {}

  static void checkRepository(String repository) {
    if (!REPOSITORY.matcher(repository).matches()
        || repository.contains("--")
        || repository.contains("..")) {
      throw new IllegalArgumentException(
          "A repository's name has the form owner/name, with letters, digits, '-', '_' and '.', not: "
              + repository);
    }
  }

  static void checkRevision(String revision) {
    if (!isRelativePath(revision) || revision.startsWith("-")) {
      throw new IllegalArgumentException(
          "Not a possible name of a branch, tag or commit: " + revision);
    }
  }

  static boolean isCommit(String revision) {
    return COMMIT.matcher(revision).matches();
  }

  static void checkCommit(String commit) {
    if (!isCommit(commit)) {
      throw new HubException("The hub gave an invalid commit: \"" + shown(commit) + "\"");
    }
  }

  /** A file's path must stay below the repository's folder. */
  static void checkPath(String path) {
    if (!isRelativePath(path)) {
      throw new HubException(
          "The hub lists a file whose path is invalid or leads out of its folder: \"%s\""
              .formatted(shown(path)));
    }
  }

  /** An ETag becomes a file's name. */
  static void checkEtag(String etag) {
    if (!ETAG.matcher(etag).matches()) {
      throw new HubException("The hub gave an invalid ETag: \"" + shown(etag) + "\"");
    }
  }

  /** One part of an address. */
  static String encoded(String part) {
    return URLEncoder.encode(part, StandardCharsets.UTF_8).replace("+", "%20");
  }

  static String encodedPath(String path) {
    return Arrays.stream(path.split("/")).map(HubNames::encoded).collect(Collectors.joining("/"));
  }

  private static boolean isRelativePath(String path) {
    return path.length() <= 4096
        && !UNPRINTABLE.matcher(path).find()
        && Arrays.stream(path.split("/", -1))
            .allMatch(
                name ->
                    !name.isEmpty()
                        && !name.equals(".")
                        && !name.equals("..")
                        && name.getBytes(StandardCharsets.UTF_8).length <= MAX_NAME_BYTES);
  }

  private static String shown(String text) {
    String start = text.substring(0, Math.min(text.length(), 200));
    return UNPRINTABLE.matcher(start).replaceAll("?");
  }
}
