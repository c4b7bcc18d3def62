// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.core;

import java.util.List;
import java.util.Locale;

/**
 * The operating system and processor that native libraries are for, by the name of their folder in
 * the resources, such as {@code linux-x86_64}.
 *
 * @param name the operating system, a dash, and the processor
 */
public record NativePlatform(String name) {

  /** Those for which {@code runtime/build-native} builds the native core. */
  public static final List<NativePlatform> SUPPORTED =
      List.of(
          new NativePlatform("linux-x86_64"),
          new NativePlatform("linux-aarch64"),
          new NativePlatform("macos-arm64"));

  private static final String FOLDER = "io/remora/runtime/native/";

  /** The one of this JVM. */
  public static NativePlatform current() {
    return of(System.getProperty("os.name"), System.getProperty("os.arch"));
  }

  /**
   * The one of a JVM.
   *
   * @param system its property {@code os.name}
   * @param processor its property {@code os.arch}
   */
  static NativePlatform of(String system, String processor) {
    boolean mac = system.startsWith("Mac");
    String first = mac ? "macos" : system.startsWith("Windows") ? "windows" : lowerCase(system);
    String second =
        switch (processor) {
          case "amd64" -> "x86_64";
          case "aarch64" -> mac ? "arm64" : "aarch64";
          default -> processor;
        };
    return new NativePlatform(first + "-" + second);
  }

  private static String lowerCase(String text) {
    return text.toLowerCase(Locale.ROOT);
  }

  /**
   * The name of a resource with one of the module {@code runtime}'s native libraries, without a
   * leading slash. The resource need not be on the class path.
   *
   * @param library without the prefix and suffix of files, such as {@code remora}
   */
  public String resource(String library) {
    return FOLDER + name + "/" + fileName(library);
  }

  /**
   * The name of a library's file, such as {@code libremora.so}.
   *
   * @param library without prefix and suffix, such as {@code remora}
   */
  public String fileName(String library) {
    return "lib" + library + (name.startsWith("macos") ? ".dylib" : ".so");
  }

  /** The names of the platforms whose native core is on the class path; "none" without any. */
  public static String onClassPath() {
    List<String> found =
        SUPPORTED.stream()
            .filter(each -> loader().getResource(each.resource("remora")) != null)
            .map(NativePlatform::name)
            .toList();
    return found.isEmpty() ? "none" : String.join(", ", found);
  }

  private static ClassLoader loader() {
    return NativePlatform.class.getClassLoader();
  }
}
