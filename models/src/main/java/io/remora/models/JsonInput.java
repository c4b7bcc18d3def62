// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.core.StreamReadConstraints;
import com.fasterxml.jackson.core.StreamReadFeature;
import java.io.IOException;
import java.util.Arrays;
import java.util.Map;

/**
 * JSON from a file that is not trusted, token by token: no duplicate keys, limits on depth, names,
 * strings and numbers, and no data after the end. Every violation is a {@link ModelFileException}
 * that starts with the file.
 */
final class JsonInput implements AutoCloseable {
  private static final JsonFactory FACTORY =
      JsonFactory.builder()
          .enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION)
          .streamReadConstraints(
              StreamReadConstraints.builder()
                  .maxNestingDepth(16)
                  .maxNameLength(4096)
                  .maxStringLength(16 << 20)
                  .maxNumberLength(20)
                  .build())
          .build();

  private final String source;
  private final JsonParser parser;

  /**
   * @param source what errors start with
   */
  JsonInput(String source, byte[] json) {
    this.source = source;
    requireUtf8(json);
    try {
      parser = FACTORY.createParser(json);
    } catch (IOException e) {
      throw malformed(e);
    }
  }

  /** The parser would take a byte order mark, and UTF-16 and UTF-32; the formats do not. */
  private void requireUtf8(byte[] json) {
    for (int i = 0; i < Math.min(4, json.length); i++) {
      if (json[i] == 0 || json[0] < 0) {
        throw error("it is not UTF-8 text, or begins with a byte order mark");
      }
    }
  }

  /** Reads one value, an object, calling {@code field} with each key, to read its value. */
  void object(String what, ObjectField field) {
    expect(JsonToken.START_OBJECT, what);
    while (next() != JsonToken.END_OBJECT) {
      try {
        field.read(parser.currentName());
      } catch (IOException e) {
        throw malformed(e);
      }
    }
  }

  /** Reads a whole document, an object. */
  void document(ObjectField field) {
    object("The whole", field);
    if (next() != null) {
      throw error("there is text after the end of the object");
    }
  }

  String string(String what) {
    expect(JsonToken.VALUE_STRING, what);
    try {
      return parser.getText();
    } catch (IOException e) {
      throw malformed(e);
    }
  }

  /** Reads an array of integers from 0 to 2^63 - 1. */
  long[] sizes(String what, int atMost) {
    expect(JsonToken.START_ARRAY, what);
    long[] sizes = new long[atMost];
    int count = 0;
    while (next() != JsonToken.END_ARRAY) {
      if (count == atMost) {
        throw error(what + " has more than " + atMost + " numbers");
      }
      sizes[count++] = size(what);
    }
    return Arrays.copyOf(sizes, count);
  }

  void map(String what, int atMost, Map<String, String> into) {
    object(
        what,
        key -> {
          if (into.size() == atMost) {
            throw error(what + " has more than " + atMost + " entries");
          }
          into.put(key, string(what + "'s \"" + key + "\""));
        });
  }

  /** Passes over one value. */
  void skip() {
    try {
      parser.nextToken();
      parser.skipChildren();
    } catch (IOException e) {
      throw malformed(e);
    }
  }

  ModelFileException error(String message) {
    return new ModelFileException(source + ": " + message);
  }

  @Override
  public void close() {
    try {
      parser.close();
    } catch (IOException e) {
      throw malformed(e);
    }
  }

  private long size(String what) {
    try {
      if (parser.currentToken() == JsonToken.VALUE_NUMBER_INT) {
        long size = parser.getLongValue();
        if (size >= 0) {
          return size;
        }
      }
      throw error(what + " must be integers from 0 to 2^63 - 1, not " + parser.getText());
    } catch (IOException e) {
      throw malformed(e);
    }
  }

  private void expect(JsonToken token, String what) {
    JsonToken found = next();
    if (found != token) {
      throw error(what + " must be " + described(token) + ", not " + described(found));
    }
  }

  private JsonToken next() {
    try {
      return parser.nextToken();
    } catch (IOException e) {
      throw malformed(e);
    }
  }

  private ModelFileException malformed(IOException e) {
    String reason =
        e.getMessage() == null ? e.toString() : e.getMessage().lines().findFirst().get();
    return new ModelFileException(source + ": not valid JSON: " + reason, e);
  }

  private static String described(JsonToken token) {
    if (token == null) {
      return "the end";
    }
    return switch (token) {
      case START_OBJECT -> "an object";
      case START_ARRAY -> "an array";
      case VALUE_STRING -> "a string";
      case VALUE_NUMBER_INT, VALUE_NUMBER_FLOAT -> "a number";
      default -> token.asString();
    };
  }

  @FunctionalInterface
  interface ObjectField {
    void read(String key) throws IOException;
  }
}
