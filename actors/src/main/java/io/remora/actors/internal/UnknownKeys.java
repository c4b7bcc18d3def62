// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigObject;
import com.typesafe.config.ConfigUtil;
import com.typesafe.config.ConfigValue;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.TreeSet;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Finds keys below {@code remora} that no {@code reference.conf} has. They have no effect, and most
 * are typing errors.
 */
public final class UnknownKeys {

  private static final Logger log = LoggerFactory.getLogger(UnknownKeys.class);
  private static final String ROOT = "remora";

  /** Below these paths are Akka's own keys. */
  private static final List<String> FREE =
      List.of(
          "remora.cluster.embedded",
          "remora.cluster.member",
          "remora.gateway.dispatcher",
          "remora.gateway.http",
          "remora.gateway.process",
          "remora.node.session-dispatcher");

  /** Below these paths each name is that of a module, which may be in another process. */
  private static final Set<String> OPEN = Set.of(ROOT, "remora.provider");

  private UnknownKeys() {}

  /**
   * Warns of the unknown keys of a configuration, one line each.
   *
   * @param root the whole configuration
   */
  public static void warn(Config root) {
    find(root).forEach(log::warn);
  }

  /** A sentence for each unknown key, with the most similar known key. */
  static List<String> find(Config root) {
    List<String> found = new ArrayList<>();
    if (root.hasPath(ROOT)) {
      find(ROOT, root.getObject(ROOT), ConfigFactory.defaultReference(), found);
    }
    return found;
  }

  private static void find(String path, ConfigObject object, Config reference, List<String> found) {
    Config known = reference.hasPathOrNull(path) ? reference.getConfig(path) : null;
    for (Map.Entry<String, ConfigValue> entry : object.entrySet()) {
      String name = ConfigUtil.quoteString(entry.getKey());
      String plain = entry.getKey().matches("[A-Za-z0-9_-]+") ? entry.getKey() : name;
      String key = path + "." + plain;
      if (FREE.contains(key)) {
        continue;
      }
      if (known != null && known.root().containsKey(entry.getKey())) {
        if (entry.getValue() instanceof ConfigObject below
            && known.root().get(entry.getKey()) instanceof ConfigObject ours
            && !ours.isEmpty()) {
          find(key, below, reference, found);
        }
        continue;
      }
      Optional<String> nearest = nearest(key, keys(reference));
      if (!OPEN.contains(path) || nearest.isPresent()) {
        found.add(
            "The setting %s (%s) is unknown and has no effect%s"
                .formatted(
                    key,
                    entry.getValue().origin().description(),
                    nearest.map(each -> ": did you mean %s?".formatted(each)).orElse("")));
      }
    }
  }

  private static Collection<String> keys(Config reference) {
    Set<String> keys = new TreeSet<>();
    collect(ROOT, reference.getObject(ROOT), keys);
    return keys;
  }

  private static void collect(String path, ConfigObject object, Set<String> keys) {
    object.forEach(
        (name, value) -> {
          String key = path + "." + name;
          keys.add(key);
          if (value instanceof ConfigObject below && !FREE.contains(key)) {
            collect(key, below, keys);
          }
        });
  }

  /** The known key with the fewest different letters, if there are few. */
  private static Optional<String> nearest(String key, Collection<String> keys) {
    int most = Math.max(2, (key.length() - ROOT.length()) / 5);
    return keys.stream()
        .map(each -> Map.entry(each, distance(key, each)))
        .filter(each -> each.getValue() <= most)
        .min(Comparator.comparingInt(Map.Entry::getValue))
        .map(Map.Entry::getKey);
  }

  /** Letters to insert, delete or replace. */
  private static int distance(String one, String other) {
    int[] row = new int[other.length() + 1];
    for (int j = 0; j < row.length; j++) {
      row[j] = j;
    }
    for (int i = 1; i <= one.length(); i++) {
      int diagonal = row[0];
      row[0] = i;
      for (int j = 1; j < row.length; j++) {
        int change = diagonal + (one.charAt(i - 1) == other.charAt(j - 1) ? 0 : 1);
        diagonal = row[j];
        row[j] = Math.min(change, 1 + Math.min(row[j], row[j - 1]));
      }
    }
    return row[other.length()];
  }
}
