// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SortedMap;
import java.util.SortedSet;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/**
 * The weights in a model's folder, directory by directory, as the libraries transformers and
 * diffusers lay them out.
 *
 * @param folder the model's folder
 * @param directories by path relative to the folder, with {@code /} between names and "" for the
 *     folder itself; only directories that have weights
 */
public record ModelFiles(Path folder, SortedMap<String, Weights> directories) {
  private static final int MAX_DEPTH = 16;
  private static final long MAX_INDEX_BYTES = 100_000_000;
  private static final int MAX_TENSORS = 1_000_000;
  private static final Pattern SHARD_NAME = Pattern.compile("[^/\\\\]+\\.(safetensors|bin)");

  /**
   * The weights of one directory.
   *
   * @param files those that were read, sorted
   * @param tensors by name
   * @param metadata of the files that are safetensors, joined
   */
  public record Weights(
      List<Path> files, Map<String, TensorEntry> tensors, Map<String, String> metadata) {}

  /** {@link #read(Path, String)} without a variant. */
  public static ModelFiles read(Path folder) {
    return read(folder, "");
  }

  /**
   * Reads the descriptions of the tensors in all weight files. In each directory the first of these
   * kinds that exists counts, and the others are ignored:
   *
   * <ol>
   *   <li>safetensors: {@code *.safetensors.index.json} with its shards; else {@code
   *       model.safetensors} or {@code diffusion_pytorch_model.safetensors}; else all {@code
   *       *.safetensors}
   *   <li>what {@code torch.save} wrote: {@code *.bin.index.json} with its shards; else {@code
   *       pytorch_model.bin} or {@code diffusion_pytorch_model.bin}; else all {@code *.bin}
   *   <li>all {@code *.pt} and {@code *.pth}
   *   <li>all {@code *.ckpt} and {@code *.pth.tar}
   * </ol>
   *
   * <p>The format of a file is decided by its content, not by its name.
   *
   * <p>Files that a trainer writes beside the weights are ignored: files with these endings whose
   * names begin with training_args, optimizer, scheduler, scaler or rng_state. Hidden directories
   * are ignored, too.
   *
   * <p>Where several files count, their tensors are joined; the shards of a numbered series must
   * all be there. With an index every tensor must be in the shard that the index names.
   *
   * <p>A file's variant is the text after the last dot before its ending and its shard's number, if
   * that text begins with a letter: fp16 in {@code model.fp16.safetensors}, {@code
   * model.fp16-00001-of-00002.safetensors} and {@code model.safetensors.index.fp16.json}. Of one
   * kind, the files with the requested variant count. If there are none, those without a variant
   * count. If there are none of these either, all files count, provided that they have the same
   * variant.
   *
   * @param variant such as {@code fp16}; "" for none
   * @throws ModelFileException when a file is damaged, a shard is missing, a tensor is not in its
   *     shard, a name is in several files of one directory, only other variants are there, or no
   *     file of weights is there at all
   */
  public static ModelFiles read(Path folder, String variant) {
    return read(folder, filesBelow(folder), variant);
  }

  /**
   * Reads one file, whatever it is called: safetensors, one that {@code torch.save} wrote, or an
   * index, whose name ends with {@code .json}, with its shards.
   *
   * @throws ModelFileException when the file has none of these formats, or is damaged
   */
  public static ModelFiles readFile(Path file) {
    Path folder = file.toAbsolutePath().getParent();
    String name = file.getFileName().toString();
    return new ModelFiles(
        folder,
        new TreeMap<>(
            Map.of(
                "",
                read(
                    folder,
                    name.endsWith(".json")
                        ? new WeightFiles(List.of(name), List.of())
                        : new WeightFiles(List.of(), List.of(name))))));
  }

  /**
   * {@link #read(Path, String)} as if only these files were there.
   *
   * @param files relative to the folder, with {@code /} between names
   */
  public static ModelFiles read(Path folder, Collection<String> files, String variant) {
    SortedMap<String, Weights> directories = new TreeMap<>();
    byDirectory(files)
        .forEach(
            (directory, paths) ->
                WeightFiles.of(folder.resolve(directory).toString(), paths, variant)
                    .ifPresent(chosen -> directories.put(directory, read(folder, chosen))));
    if (directories.isEmpty()) {
      throw new ModelFileException(
          "No file of weights (safetensors, or written by torch.save) in " + folder);
    }
    return new ModelFiles(folder, directories);
  }

  /**
   * The files of a model that {@link #read(Path, String)} would read, including indices, for
   * fetching them. An index's shards are recognised by their numbers.
   *
   * @param paths relative to the model's folder, with {@code /} between names
   * @throws ModelFileException as {@link #read(Path, String)}, as far as names tell
   */
  public static List<String> weightFiles(Collection<String> paths, String variant) {
    List<String> files = new ArrayList<>();
    byDirectory(paths)
        .forEach(
            (directory, inIt) ->
                WeightFiles.of("/" + directory, inIt, variant)
                    .ifPresent(
                        chosen -> {
                          files.addAll(chosen.indices());
                          files.addAll(chosen.files());
                        }));
    return files;
  }

  private static List<String> filesBelow(Path folder) {
    // Links to files are followed: the hub's cache is made of them. Links to directories are not.
    try {
      Path begin = folder.toRealPath();
      try (Stream<Path> files = Files.walk(begin, MAX_DEPTH)) {
        return files
            .filter(Files::isRegularFile)
            .map(file -> begin.relativize(file).toString())
            .filter(path -> !path.startsWith(".") && !path.contains("/."))
            .toList();
      }
    } catch (IOException | UncheckedIOException e) {
      throw new ModelFileException("Cannot read the model's folder " + folder + ": " + e, e);
    }
  }

  private static Map<String, List<String>> byDirectory(Collection<String> paths) {
    return paths.stream()
        .collect(
            Collectors.groupingBy(
                path -> path.substring(0, Math.max(0, path.lastIndexOf('/'))),
                TreeMap::new,
                Collectors.toList()));
  }

  private static Weights read(Path folder, WeightFiles chosen) {
    SortedSet<Path> files = new TreeSet<>();
    Map<String, TensorEntry> tensors = new LinkedHashMap<>();
    Map<String, String> metadata = new HashMap<>();
    for (String index : chosen.indices()) {
      Path indexFile = folder.resolve(index);
      shards(indexFile)
          .forEach(
              (shard, names) -> {
                Path file = indexFile.resolveSibling(shard);
                if (!Files.isRegularFile(file)) {
                  throw new ModelFileException(
                      "%s: the shard %s is missing".formatted(indexFile, file));
                }
                files.add(file);
                Content content = Content.of(file);
                metadata.putAll(content.metadata);
                for (String name : names) {
                  TensorEntry tensor = content.tensors.get(name);
                  if (tensor == null) {
                    throw new ModelFileException(
                        "%s: tensor \"%s\" is not in its shard %s"
                            .formatted(indexFile, name, file));
                  }
                  add(tensors, tensor);
                }
              });
    }
    if (chosen.indices().isEmpty()) {
      for (String path : chosen.files()) {
        Path file = folder.resolve(path);
        files.add(file);
        Content content = Content.of(file);
        metadata.putAll(content.metadata);
        content.tensors.values().forEach(tensor -> add(tensors, tensor));
      }
    }
    return new Weights(
        List.copyOf(files), Collections.unmodifiableMap(tensors), Map.copyOf(metadata));
  }

  private static void add(Map<String, TensorEntry> tensors, TensorEntry tensor) {
    TensorEntry other = tensors.putIfAbsent(tensor.name(), tensor);
    if (other != null) {
      throw new ModelFileException(
          "Tensor \"%s\" is in %s and in %s: leave one of the files out"
              .formatted(tensor.name(), other.storage().file(), tensor.storage().file()));
    }
  }

  /** The contents of one file. */
  private record Content(Map<String, TensorEntry> tensors, Map<String, String> metadata) {

    /**
     * The file's first bytes decide the format; its name decides only the error for a file that has
     * neither.
     */
    static Content of(Path file) {
      if (isTorch(file)) {
        return new Content(TorchCheckpoint.open(file).tensors(), Map.of());
      }
      SafetensorsFile safetensors = SafetensorsFile.open(file);
      return new Content(safetensors.tensors(), safetensors.metadata());
    }

    private static boolean isTorch(Path file) {
      try (FileInput input = new FileInput(file)) {
        return TorchCheckpoint.isOne(input)
            || !(file.toString().endsWith(".safetensors") || SafetensorsFile.isOne(input));
      }
    }
  }

  /** An index's names of tensors, by the shard that they are in. */
  private static SortedMap<String, List<String>> shards(Path index) {
    Map<String, String> weightMap = new LinkedHashMap<>();
    byte[] json = FileInput.readSmall(index, MAX_INDEX_BYTES);
    try (JsonInput input = new JsonInput(index.toString(), json)) {
      input.document(
          key -> {
            if (key.equals("weight_map")) {
              input.map("weight_map", MAX_TENSORS, weightMap);
            } else {
              input.skip();
            }
          });
      SortedMap<String, List<String>> shards = new TreeMap<>();
      weightMap.forEach(
          (name, shard) -> {
            if (!SHARD_NAME.matcher(shard).matches()) {
              throw input.error("\"" + shard + "\" is not the name of a file next to the index");
            }
            shards.computeIfAbsent(shard, any -> new ArrayList<>()).add(name);
          });
      if (shards.isEmpty()) {
        throw input.error("its weight_map is missing or empty");
      }
      return shards;
    }
  }
}
