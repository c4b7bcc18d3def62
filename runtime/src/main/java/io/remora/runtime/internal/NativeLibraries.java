// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime.internal;

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

  private static final String FOLDER = "/io/remora/runtime/native/";

  private NativeLibraries() {}

  /** Loads {@code libremora.so} and {@code libjniremora.so}. */
  public static void load() {
    String platform = platform();
    byte[] core = resource(platform, "libremora.so");
    byte[] binding = resource(platform, "libjniremora.so");
    Path folder = cache().resolve(hash(core, binding));
    String named = System.getenv(ProgramLibtorch.CORE_VARIABLE);
    // The binding finds the loaded core by its name.
    System.load(
        named != null && !named.isBlank()
            ? named
            : unpack(folder, "libremora.so", core).toString());
    System.load(unpack(folder, "libjniremora.so", binding).toString());
  }

  private static String platform() {
    String os = System.getProperty("os.name");
    String arch = System.getProperty("os.arch");
    if (!os.equals("Linux") || !(arch.equals("amd64") || arch.equals("x86_64"))) {
      throw new RemoraException(
          "Remora's native core is built for linux-x86_64, this is "
              + os
              + "-"
              + arch
              + "; build it for this platform with runtime/build-native");
    }
    return "linux-x86_64";
  }

  private static byte[] resource(String platform, String name) {
    String path = FOLDER + platform + "/" + name;
    try (InputStream in = NativeLibraries.class.getResourceAsStream(path)) {
      if (in == null) {
        throw new RemoraException("The native library " + path + " is not on the class path");
      }
      return in.readAllBytes();
    } catch (IOException e) {
      throw new RemoraException("Cannot read the native library " + path, e);
    }
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
