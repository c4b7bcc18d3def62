// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;

/**
 * The bytes of pickles, one after the other: of an array, or of a file, which is read a window at a
 * time. Every error is a {@link ModelFileException} that starts with the source.
 */
final class PickleInput {
  private static final int WINDOW_BYTES = 64 << 10;
  private static final int MAX_LINE = 1000;

  private final String source;
  private final FileInput file;
  private final long end;
  private long behindWindow;
  private ByteBuffer window;

  /**
   * @param source what errors start with
   */
  PickleInput(String source, byte[] pickle) {
    this(source, null, pickle.length, pickle.length, ByteBuffer.wrap(pickle));
  }

  /**
   * The file's first bytes; it must stay open.
   *
   * @param source what errors start with
   */
  PickleInput(String source, FileInput file, long atMost) {
    this(source, file, Math.min(file.size(), atMost), 0, ByteBuffer.allocate(0));
  }

  private PickleInput(
      String source, FileInput file, long end, long behindWindow, ByteBuffer window) {
    this.source = source;
    this.file = file;
    this.end = end;
    this.behindWindow = behindWindow;
    this.window = window.order(ByteOrder.LITTLE_ENDIAN);
  }

  /** How many bytes were taken. */
  long position() {
    return behindWindow - window.remaining();
  }

  /** A buffer, little-endian, from which that few bytes can be taken. */
  ByteBuffer need(int bytes) {
    if (window.remaining() < bytes) {
      require(bytes, "it ends too early");
      behindWindow = position();
      window = file.read(behindWindow, (int) Math.min(WINDOW_BYTES, end - behindWindow));
      behindWindow += window.remaining();
    }
    return window;
  }

  /** Takes that many bytes. */
  byte[] bytes(long count) {
    require(count, "a text is longer than the rest of the pickle");
    byte[] bytes = new byte[(int) count];
    int inWindow = Math.min(bytes.length, window.remaining());
    window.get(bytes, 0, inWindow);
    if (inWindow < bytes.length) {
      file.read(behindWindow, bytes.length - inWindow)
          .get(bytes, inWindow, bytes.length - inWindow);
      behindWindow += bytes.length - inWindow;
    }
    return bytes;
  }

  /** Takes a short text that ends with a line break. */
  String line() {
    byte[] line = new byte[MAX_LINE];
    for (int i = 0; i < MAX_LINE; i++) {
      line[i] = need(1).get();
      if (line[i] == '\n') {
        return new String(line, 0, i, StandardCharsets.UTF_8);
      }
    }
    throw error("a global's name is longer than 1,000 bytes");
  }

  private void require(long bytes, String otherwise) {
    if (bytes < 0 || bytes > end - position()) {
      throw error(otherwise);
    }
  }

  ModelFileException error(String message) {
    return new ModelFileException(source + ": " + message);
  }
}
