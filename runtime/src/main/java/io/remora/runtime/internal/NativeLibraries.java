// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime.internal;

import io.remora.core.NativePlatform;
import io.remora.core.PartFiles;
import io.remora.core.ProgramLibtorch;
import io.remora.runtime.RemoraException;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.AtomicMoveNotSupportedException;
import java.nio.file.FileSystems;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.attribute.PosixFilePermissions;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;

/**
 * Loads the native core and its binding. Both are resources of this module. Each version is
 * unpacked once into a cache folder: {@code $REMORA_CACHE}, or else {@code ~/.cache/remora}. {@code
 * $REMORA_NATIVE_LIBRARY} names a core of the same sources that was built for another libtorch.
 * Load libtorch first.
 */
public final class NativeLibraries {
  /** Environment variable that names the cache folder. */
  public static final String CACHE_VARIABLE = "REMORA_CACHE";

  private NativeLibraries() {}

  /**
   * Loads the libraries for this platform.
   *
   * @throws RemoraException if there are none on the class path
   */
  public static void load() {
    NativePlatform platform = NativePlatform.current();
    String named = System.getenv(ProgramLibtorch.CORE_VARIABLE);
    boolean shipped = named == null || named.isBlank();
    byte[] core = shipped ? resource(platform, "remora") : new byte[0];
    byte[] binding = resource(platform, "jniremora");
    Path folder = cache().resolve(hash(core, binding));
    // The binding finds the loaded core by its name.
    System.load(shipped ? unpack(folder, platform.fileName("remora"), core).toString() : named);
    System.load(unpack(folder, platform.fileName("jniremora"), binding).toString());
  }

  private static byte[] resource(NativePlatform platform, String library) {
    String path = platform.resource(library);
    try (InputStream in = NativeLibraries.class.getClassLoader().getResourceAsStream(path)) {
      if (in == null) {
        throw new RemoraException(missing(platform, path));
      }
      return in.readAllBytes();
    } catch (IOException e) {
      throw new RemoraException("Cannot read the native library " + path, e);
    }
  }

  private static String missing(NativePlatform platform, String path) {
    String message =
        "This is "
            + platform.name()
            + ", and the native library "
            + path
            + " is not on the class path. Platforms whose libraries are there: "
            + NativePlatform.onClassPath();
    return NativePlatform.SUPPORTED.contains(platform)
        ? message
            + ". Build Remora with those of this one: runtime/build-native --platform "
            + platform.name()
        : message;
  }

  private static Path cache() {
    String named = System.getenv(CACHE_VARIABLE);
    return named != null && !named.isBlank()
        ? Path.of(named)
        : Path.of(System.getProperty("user.home"), ".cache", "remora");
  }

  private static String hash(byte[]... contents) {
    try {
      MessageDigest digest = MessageDigest.getInstance("SHA-256");
      for (byte[] content : contents) {
        digest.update(content);
      }
      return HexFormat.of().formatHex(digest.digest()).substring(0, 24);
    } catch (NoSuchAlgorithmException e) {
      throw new IllegalStateException(e);
    }
  }

  /**
   * Unpacks a library. Several processes may do so at once: each writes its own file and moves it
   * into place.
   */
  private static Path unpack(Path folder, String name, byte[] content) {
    Path target = folder.resolve(name);
    try {
      if (Files.isRegularFile(target) && Files.size(target) == content.length) {
        return target;
      }
      Files.createDirectories(folder);
      PartFiles.deleteLeftBehind(folder, name);
      Path temporary = Files.createTempFile(folder, name, PartFiles.SUFFIX);
      try {
        Files.write(temporary, content);
        if (FileSystems.getDefault().supportedFileAttributeViews().contains("posix")) {
          Files.setPosixFilePermissions(temporary, PosixFilePermissions.fromString("rwxr-xr-x"));
        }
        try {
          Files.move(temporary, target, StandardCopyOption.ATOMIC_MOVE);
        } catch (AtomicMoveNotSupportedException e) {
          Files.move(temporary, target, StandardCopyOption.REPLACE_EXISTING);
        }
      } finally {
        Files.deleteIfExists(temporary);
      }
      return target;
    } catch (IOException e) {
      throw new RemoraException(
          "Cannot unpack the native core to "
              + target
              + "; name a folder that can be written to in the environment variable "
              + CACHE_VARIABLE,
          e);
    }
  }
}
