// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.launch;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigException;
import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigParseOptions;
import com.typesafe.config.ConfigRenderOptions;
import com.typesafe.config.ConfigSyntax;
import com.typesafe.config.ConfigValue;
import com.typesafe.config.ConfigValueFactory;
import com.typesafe.config.ConfigValueType;
import io.remora.provider.LaunchToken;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;

/**
 * The environment variables of a node, for values that must not be arguments, which every user of
 * its computer could read. For a command such as {@code ssh}, which passes on its standard input to
 * the node but not its environment, they are one line of standard input.
 */
public final class NodeEnvironment {

  /** The launch token. */
  public static final String TOKEN = "REMORA_NODE_TOKEN";

  /** HOCON text that overrides the node's configuration. */
  public static final String CONFIG = "REMORA_NODE_CONFIG";

  /** The folder that libtorch is taken from where the command line names none. */
  public static final String TORCH_HOME = "REMORA_NODE_TORCH_HOME";

  /** The level of the node's own loggers. */
  public static final String LOG_LEVEL = "REMORA_NODE_LOG_LEVEL";

  /** The pattern of the log's lines. */
  public static final String LOG_PATTERN = "REMORA_NODE_LOG_PATTERN";

  /** The most bytes of the line: a pipe takes this many before anyone reads them. */
  public static final int MAX_LINE_BYTES = 60 * 1024;

  private static final String VARIABLE_PATTERN = "REMORA_NODE_[A-Z_]{1,64}";

  private NodeEnvironment() {}

  /**
   * The variables that every node gets, in a new map.
   *
   * @param config HOCON text, may be empty
   */
  public static Map<String, String> of(LaunchToken token, String config, NodeLog log) {
    Map<String, String> variables = new HashMap<>();
    variables.put(TOKEN, token.value());
    variables.put(CONFIG, config);
    variables.put(LOG_LEVEL, log.wantedLevel().toString());
    variables.put(LOG_PATTERN, NodeLog.PATTERN);
    return variables;
  }

  /**
   * A program's settings of nodes, links, stores and the models' hub as HOCON text for {@link #of},
   * so that its node has the same settings, whatever their source.
   *
   * @param config the program's whole configuration
   */
  public static String settings(Config config) {
    return config
        .withOnlyPath("remora.node")
        .withFallback(config.withOnlyPath("remora.hub"))
        .withFallback(config.withOnlyPath("remora.link"))
        .withFallback(config.withOnlyPath("remora.state"))
        .root()
        .render(ConfigRenderOptions.concise());
  }

  /**
   * The variables as the line that {@link #readLine} reads: a JSON object of strings, and a line
   * feed.
   *
   * @throws IllegalArgumentException if it would be longer than {@link #MAX_LINE_BYTES}
   */
  public static byte[] line(Map<String, String> variables) {
    String json =
        ConfigValueFactory.fromMap(variables).render(ConfigRenderOptions.concise()) + "\n";
    byte[] line = json.getBytes(StandardCharsets.UTF_8);
    if (line.length > MAX_LINE_BYTES) {
      throw new IllegalArgumentException(
          "the node's variables are too long: %d bytes, but at most %d fit. Shorten its settings"
              .formatted(line.length, MAX_LINE_BYTES));
    }
    return line;
  }

  /**
   * Reads the line, and nothing after it. Blocks until it has arrived.
   *
   * @throws IOException if the stream ends before, or cannot be read
   * @throws IllegalArgumentException if the line has another form; the message does not quote the
   *     line
   */
  public static Map<String, String> readLine(InputStream stream) throws IOException {
    ByteArrayOutputStream line = new ByteArrayOutputStream();
    for (int next = stream.read(); next != '\n'; next = stream.read()) {
      if (next < 0) {
        throw new IOException("standard input ended before the line with the node's variables");
      }
      if (line.size() == MAX_LINE_BYTES) {
        throw new IllegalArgumentException("longer than " + MAX_LINE_BYTES + " bytes");
      }
      line.write(next);
    }
    Map<String, String> variables = new HashMap<>();
    try {
      ConfigFactory.parseString(
              line.toString(StandardCharsets.UTF_8),
              ConfigParseOptions.defaults().setSyntax(ConfigSyntax.JSON))
          .root()
          .forEach((name, value) -> variables.put(checkedName(name), text(name, value)));
    } catch (ConfigException e) {
      // Leave out the cause: its message would quote the line.
      throw new IllegalArgumentException("not a JSON object of texts");
    }
    return variables;
  }

  private static String checkedName(String name) {
    if (!name.matches(VARIABLE_PATTERN)) {
      throw new IllegalArgumentException("it may set REMORA_NODE_… variables only");
    }
    return name;
  }

  private static String text(String name, ConfigValue value) {
    if (value.valueType() != ConfigValueType.STRING) {
      throw new IllegalArgumentException(name + " is not a text");
    }
    return (String) value.unwrapped();
  }
}
