// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime.internal;

import io.remora.runtime.RemoraException;
import java.io.File;
import java.io.IOException;
import java.net.URL;
import java.util.ArrayList;
import java.util.List;
import org.bytedeco.javacpp.Loader;

/**
 * The libraries of libtorch in bytedeco's jars for the CPU, without their Java binding. JavaCPP
 * unpacks them into its cache, as it does for a program.
 */
public final class BytedecoNatives {

  private static final String FOLDER = "/org/bytedeco/%s/" + Loader.Detector.getPlatform() + "/";

  /** Each one after those that it needs. */
  private static final List<String> OPENBLAS =
      List.of("libgcc_s.so.1", "libquadmath.so.0", "libgfortran.so.5", "libopenblas.so.0");

  private static final List<String> LIBTORCH =
      List.of("libgomp.so.1", "libc10.so", "libtorch_cpu.so");

  private BytedecoNatives() {}

  /**
   * Loads the libraries.
   *
   * @return false, without having loaded any, if the jars do not have the expected ones
   * @throws RemoraException if they cannot be unpacked
   */
  public static boolean load() {
    List<URL> libraries = new ArrayList<>();
    OPENBLAS.forEach(name -> libraries.add(resource("openblas", name)));
    LIBTORCH.forEach(name -> libraries.add(resource("pytorch", name)));
    if (libraries.contains(null)) {
      return false;
    }
    for (URL library : libraries) {
      System.load(unpacked(library).getPath());
    }
    return true;
  }

  private static URL resource(String artifact, String name) {
    return Loader.class.getResource(FOLDER.formatted(artifact) + name);
  }

  private static File unpacked(URL library) {
    try {
      return Loader.cacheResource(library);
    } catch (IOException e) {
      throw new RemoraException("cannot unpack " + library + ": " + e.getMessage(), e);
    }
  }
}
