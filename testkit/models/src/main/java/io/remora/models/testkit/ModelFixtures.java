// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.testkit;

import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;

/**
 * Model files that PyTorch and the reference implementation of safetensors wrote: the resources of
 * this package, which {@code make-fixtures.py} makes.
 */
public final class ModelFixtures {

  private ModelFixtures() {}

  /** Copies one of them into this folder. */
  public static Path copy(String name, Path folder) {
    Path copy = folder.resolve(name);
    try (InputStream file = ModelFixtures.class.getResourceAsStream(name)) {
      if (file == null) {
        throw new IllegalArgumentException("there is no " + name);
      }
      Files.copy(file, copy, StandardCopyOption.REPLACE_EXISTING);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    return copy;
  }
}
