// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.core;

import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.util.Properties;

/** Finds the version of libtorch that the program's classes need, without loading it. */
public final class ProgramLibtorch {

  /** Environment variable that names a native core to load instead of the one that is shipped. */
  public static final String CORE_VARIABLE = "REMORA_NATIVE_LIBRARY";

  private static final String RESOURCE = "/META-INF/maven/org.bytedeco/pytorch/pom.properties";

  private ProgramLibtorch() {}

  /**
   * The version, such as {@code 2.10.0}. Empty if the program has no libtorch on its class path, or
   * if its native core is for another libtorch.
   */
  public static String version() {
    if (System.getenv(CORE_VARIABLE) != null) {
      return "";
    }
    try (InputStream in = ProgramLibtorch.class.getResourceAsStream(RESOURCE)) {
      if (in == null) {
        return "";
      }
      Properties properties = new Properties();
      properties.load(in);
      // The artifact's version is libtorch's, a dash, and JavaCPP's.
      return properties.getProperty("version", "").split("-", 2)[0];
    } catch (IOException e) {
      throw new UncheckedIOException("cannot read " + RESOURCE, e);
    }
  }
}
