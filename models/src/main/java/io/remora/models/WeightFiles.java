// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

/**
 * Which files of one directory count as its weights, told by their names; the rules are {@link
 * ModelFiles#read(java.nio.file.Path, String)}'s.
 *
 * @param indices that say in which file a tensor is; none where the files are taken as they are
 * @param files of weights; with an index, those that may be its shards
 */
record WeightFiles(List<String> indices, List<String> files) {
  /** One kind is taken, the first that is there. */
  private static final List<Set<String>> KINDS =
      List.of(Set.of("safetensors"), Set.of("bin"), Set.of("pt", "pth"), Set.of("ckpt", "pth.tar"));

  /** What transformers and diffusers call a model's weights. */
  private static final Set<String> STANDARD_NAMES =
      Set.of("model", "pytorch_model", "diffusion_pytorch_model");

  private static final Pattern LEFT_BY_TRAINERS =
      Pattern.compile("(training_args|optimizer|scheduler|scaler|rng_state).*");

  private static final Pattern FILE =
      Pattern.compile("(.+)\\.(safetensors|bin|pt|pth|ckpt|pth\\.tar)");
  private static final Pattern INDEX =
      Pattern.compile("(.+)\\.(safetensors|bin)\\.index(?:\\.([A-Za-z]\\w*))?\\.json");
  private static final Pattern VARIANT = Pattern.compile("(.+)\\.([A-Za-z]\\w*)");
  private static final Pattern SHARD = Pattern.compile("(.+)-(\\d{5})-of-(\\d{5})");

  /**
   * @param where what errors start with
   * @param paths of the files of one directory, which may have directories before their names
   */
  static Optional<WeightFiles> of(String where, Collection<String> paths, String variant) {
    List<Name> names = paths.stream().sorted().map(Name::parse).flatMap(Optional::stream).toList();
    for (Set<String> kind : KINDS) {
      List<Name> candidates = names.stream().filter(name -> kind.contains(name.ending)).toList();
      if (!candidates.isEmpty()) {
        return Optional.of(choose(where, ofVariant(where, candidates, variant)));
      }
    }
    return Optional.empty();
  }

  private static List<Name> ofVariant(String where, List<Name> names, String variant) {
    Map<String, List<Name>> variants =
        names.stream()
            .collect(Collectors.groupingBy(Name::variant, TreeMap::new, Collectors.toList()));
    if (variants.containsKey(variant)) {
      return variants.get(variant);
    }
    if (variants.containsKey("")) {
      return variants.get("");
    }
    if (variants.size() > 1) {
      throw new ModelFileException(
          "%s has weights only of the variants %s: name one of them"
              .formatted(where, variants.keySet()));
    }
    return names;
  }

  private static WeightFiles choose(String where, List<Name> names) {
    List<Name> indices = names.stream().filter(Name::isIndex).toList();
    List<Name> files = names.stream().filter(name -> !name.isIndex()).toList();
    if (!indices.isEmpty()) {
      List<Name> numbered = files.stream().filter(Name::isShard).toList();
      return new WeightFiles(paths(indices), paths(numbered.isEmpty() ? files : numbered));
    }
    List<Name> standard =
        files.stream().filter(name -> STANDARD_NAMES.contains(name.stem)).toList();
    List<Name> chosen = standard.isEmpty() ? files : standard;
    checkThatShardsAreComplete(where, chosen);
    return new WeightFiles(List.of(), paths(chosen));
  }

  private static void checkThatShardsAreComplete(String where, List<Name> names) {
    Map<String, List<Name>> series =
        names.stream()
            .filter(Name::isShard)
            .collect(Collectors.groupingBy(name -> name.stem + " of " + name.shards));
    for (List<Name> shards : series.values()) {
      Set<Integer> there = shards.stream().map(Name::shard).collect(Collectors.toSet());
      List<Integer> missing = new ArrayList<>();
      for (int i = 1; i <= shards.get(0).shards && missing.size() < 10; i++) {
        if (!there.contains(i)) {
          missing.add(i);
        }
      }
      if (!missing.isEmpty()) {
        throw new ModelFileException(
            "%s: in the series of %s these shards are missing: %s"
                .formatted(where, shards.get(0).path, missing));
      }
    }
  }

  private static List<String> paths(List<Name> names) {
    return names.stream().map(Name::path).toList();
  }

  /**
   * A file's name, taken apart.
   *
   * @param shard counted from 1, of {@code shards}; 0 for a file that is no shard, and for an index
   */
  private record Name(
      String path,
      String stem,
      String ending,
      String variant,
      int shard,
      int shards,
      boolean isIndex) {

    static Optional<Name> parse(String path) {
      String name = path.substring(path.lastIndexOf('/') + 1);
      if (LEFT_BY_TRAINERS.matcher(name).matches()) {
        return Optional.empty();
      }
      Matcher index = INDEX.matcher(name);
      Matcher file = FILE.matcher(name);
      boolean isIndex = index.matches();
      if (!isIndex && !file.matches()) {
        return Optional.empty();
      }
      Matcher matched = isIndex ? index : file;
      String stem = matched.group(1);
      String variant = isIndex && index.group(3) != null ? index.group(3) : "";
      int shard = 0;
      int shards = 0;
      // The variant comes before the shard's number in some versions of the libraries, after it
      // in others.
      for (int i = 0; i < 2; i++) {
        Matcher withVariant = VARIANT.matcher(stem);
        if (variant.isEmpty() && withVariant.matches()) {
          stem = withVariant.group(1);
          variant = withVariant.group(2);
        }
        Matcher numbered = SHARD.matcher(stem);
        if (numbered.matches()) {
          stem = numbered.group(1);
          shard = Integer.parseInt(numbered.group(2));
          shards = Integer.parseInt(numbered.group(3));
        }
      }
      return Optional.of(new Name(path, stem, matched.group(2), variant, shard, shards, isIndex));
    }

    boolean isShard() {
      return shards > 0;
    }
  }
}
