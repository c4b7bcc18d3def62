// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Optional;

/**
 * The files of a commit, as the hub lists them and as {@code huggingface_hub} keeps the list in the
 * cache ({@code trees/COMMIT.json}).
 */
record HubTree(List<Entry> entries) {
  private static final ObjectMapper JSON = new ObjectMapper();
  private static final int FORMAT_VERSION = 1;
  private static final int MAX_FILES = 1_000_000;
  private static final long MAX_FILE_BYTES = 1L << 42;

  /**
   * A file.
   *
   * @param blob git's SHA-1 of git's object: the file, or a pointer to it
   * @param sha256 SHA-256 of the file itself if git has a pointer
   * @param xet the file's hash in another storage, kept for Python's client
   */
  record Entry(
      String path, long bytes, String blob, Optional<String> sha256, Optional<String> xet) {
    HubFile file() {
      return new HubFile(path, bytes, sha256.orElse(blob));
    }
  }

  HubTree {
    entries = entries.stream().sorted(Comparator.comparing(Entry::path)).toList();
  }

  List<HubFile> files() {
    return entries.stream().map(Entry::file).toList();
  }

  /** Adds the files of one page of the hub's listing. */
  static void addPage(JsonNode page, List<Entry> entries) {
    if (!page.isArray()) {
      throw new HubException("The hub's listing of files is not a list: is HF_ENDPOINT a hub?");
    }
    for (JsonNode item : page) {
      if (item.path("type").asText().equals("file")) {
        JsonNode lfs = item.path("lfs");
        entries.add(
            entry(
                item.path("path").asText(),
                lfs.path("size").asLong(item.path("size").asLong(-1)),
                item.path("oid").asText(),
                text(lfs.path("oid")),
                text(item.path("xetHash"))));
      }
    }
    if (entries.size() > MAX_FILES) {
      throw new HubException("The hub lists more than " + MAX_FILES + " files");
    }
  }

  /** The stored list; empty if it has another version or is damaged. */
  static Optional<HubTree> read(byte[] kept) {
    try {
      JsonNode root = JSON.readTree(kept);
      if (root.path("format_version").asInt() != FORMAT_VERSION || !root.path("files").isObject()) {
        return Optional.empty();
      }
      List<Entry> entries = new ArrayList<>();
      root.path("files")
          .properties()
          .forEach(
              file -> {
                JsonNode info = file.getValue();
                entries.add(
                    entry(
                        file.getKey(),
                        info.path("lfs_size").asLong(info.path("size").asLong(-1)),
                        info.path("blob_id").asText(),
                        text(info.path("lfs_sha256")),
                        text(info.path("xet_hash"))));
              });
      return Optional.of(new HubTree(entries));
    } catch (IOException | HubException e) {
      return Optional.empty();
    }
  }

  byte[] write() {
    ObjectNode root = JSON.createObjectNode().put("format_version", FORMAT_VERSION);
    ObjectNode files = root.putObject("files");
    for (Entry entry : entries) {
      ObjectNode info =
          files.putObject(entry.path).put("size", entry.bytes).put("blob_id", entry.blob);
      entry.sha256.ifPresent(sha256 -> info.put("lfs_sha256", sha256).put("lfs_size", entry.bytes));
      entry.xet.ifPresent(xet -> info.put("xet_hash", xet));
    }
    return root.toPrettyString().getBytes(StandardCharsets.UTF_8);
  }

  private static Entry entry(
      String path, long bytes, String blob, Optional<String> sha256, Optional<String> xet) {
    HubNames.checkPath(path);
    HubNames.checkEtag(sha256.orElse(blob));
    if (bytes < 0 || bytes > MAX_FILE_BYTES) {
      throw new HubException("The hub gave no size, or an impossible size, for the file " + path);
    }
    return new Entry(path, bytes, blob, sha256, xet);
  }

  private static Optional<String> text(JsonNode node) {
    return node.isTextual() ? Optional.of(node.asText()) : Optional.empty();
  }
}
