// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import io.remora.actors.RemoraCluster;
import io.remora.actors.link.LinkTls;
import io.remora.models.ModelFiles;
import io.remora.node.Main;
import io.remora.provider.MachineProvider;
import io.remora.runtime.ProviderException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.TorchLibrary;
import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.net.URISyntaxException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.LocalDateTime;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import java.util.zip.ZipEntry;
import java.util.zip.ZipOutputStream;

/**
 * The jars of a node. The build of module gpu-node lists them; Remora's own modules are also
 * available as files.
 *
 * @param jars the jars' coordinates in a Maven repository
 */
record NodeJars(List<Jar> jars) {

  private static final String LIST = "jars.txt";
  private static final Pattern COORDINATES =
      Pattern.compile("\\s*([\\w.-]+):([\\w.-]+):jar(?::([\\w.-]+))?:([\\w.-]+)(?:\\s.*)?");

  private static final String OWN_GROUP = "io.remora";

  /** Jars that a node with a torch installation does not need, about a hundred megabytes. */
  private static final Set<String> LIBTORCH = Set.of("pytorch", "openblas");

  /** For each of a node's Remora modules, a class by which to find the module's files. */
  private static final Map<String, Class<?>> OWN =
      Map.of(
          "remora-core", RemoraException.class,
          "remora-link", LinkTls.class,
          "remora-provider-api", MachineProvider.class,
          "remora-runtime", TorchLibrary.class,
          "remora-models", ModelFiles.class,
          "remora-actors", RemoraCluster.class,
          "remora-gpu-node", Main.class);

  private static final LocalDateTime SAME_TIME = LocalDateTime.of(2026, 1, 1, 0, 0);

  /** One jar. */
  record Jar(String group, String artifact, String classifier, String version) {

    boolean isOwn() {
      return group.equals(OWN_GROUP);
    }

    boolean isNativeLibtorch() {
      return LIBTORCH.contains(artifact) && !classifier.isEmpty();
    }

    /** The jar's path below a Maven repository's URL. */
    String path() {
      return "%s/%s/%s/%s-%s%s.jar"
          .formatted(
              group.replace('.', '/'),
              artifact,
              version,
              artifact,
              version,
              classifier.isEmpty() ? "" : "-" + classifier);
    }
  }

  /** The jars of this program's node, without gpu-node's own. */
  static NodeJars listed() {
    try (InputStream list = Main.class.getResourceAsStream(LIST)) {
      if (list == null) {
        throw new ProviderException(
            "remora-gpu-node on the class path has no list of its jars (%s): was it built by Maven?"
                .formatted(LIST));
      }
      try (BufferedReader reader =
          new BufferedReader(new InputStreamReader(list, StandardCharsets.UTF_8))) {
        return parse(reader.lines());
      }
    } catch (IOException e) {
      throw new ProviderException("the list of a node's jars cannot be read: " + e, e);
    }
  }

  static NodeJars parse(Stream<String> lines) {
    List<Jar> jars = new ArrayList<>();
    lines.forEach(
        line -> {
          Matcher parts = COORDINATES.matcher(line);
          if (parts.matches()) {
            String classifier = parts.group(3) == null ? "" : parts.group(3);
            jars.add(new Jar(parts.group(1), parts.group(2), classifier, parts.group(4)));
          }
        });
    return new NodeJars(List.copyOf(jars));
  }

  /**
   * The jars' download URLs.
   *
   * @param ownVersion version of Remora's own jars; empty to leave them out
   * @param withLibtorch whether to include libtorch's native libraries
   */
  List<String> urls(String repository, String ownVersion, boolean withLibtorch) {
    List<String> urls = new ArrayList<>();
    String base = repository.endsWith("/") ? repository : repository + "/";
    for (Jar jar : jars) {
      if (!jar.isOwn() && (withLibtorch || !jar.isNativeLibtorch())) {
        urls.add(base + jar.path());
      }
    }
    if (!ownVersion.isEmpty()) {
      OWN.keySet().stream()
          .sorted()
          .forEach(name -> urls.add(base + new Jar(OWN_GROUP, name, "", ownVersion).path()));
    }
    return urls;
  }

  /**
   * Remora's own jars, built from this program's classes, by file name. The same classes give the
   * same bytes.
   */
  static Map<String, byte[]> own() {
    Map<String, byte[]> files = new LinkedHashMap<>();
    OWN.keySet().stream()
        .sorted()
        .forEach(name -> files.put(name + ".jar", contents(OWN.get(name))));
    return files;
  }

  private static byte[] contents(Class<?> ofModule) {
    try {
      Path place = Path.of(ofModule.getProtectionDomain().getCodeSource().getLocation().toURI());
      return Files.isDirectory(place) ? jarOf(place) : Files.readAllBytes(place);
    } catch (IOException | URISyntaxException | RuntimeException e) {
      throw new ProviderException(
          "the classes of %s cannot be read to be uploaded: set remora.provider.modal.image.node-archive or node-version (%s)"
              .formatted(ofModule.getName(), e),
          e);
    }
  }

  private static byte[] jarOf(Path folder) throws IOException {
    ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    try (ZipOutputStream jar = new ZipOutputStream(bytes);
        Stream<Path> files = Files.walk(folder)) {
      for (Path file : files.filter(Files::isRegularFile).sorted().toList()) {
        ZipEntry entry = new ZipEntry(folder.relativize(file).toString());
        entry.setTimeLocal(SAME_TIME);
        jar.putNextEntry(entry);
        Files.copy(file, jar);
        jar.closeEntry();
      }
    }
    return bytes.toByteArray();
  }
}
