// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigValueFactory;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Comparator;
import java.util.List;
import java.util.Optional;
import java.util.stream.Stream;

/**
 * The files of a state store in a folder, which need not exist.
 *
 * @param folder the store's folder
 */
record StateFiles(Path folder) {

  /**
   * A machine of the mock provider whose nodes keep their states here.
   *
   * @param settings the machine's other settings
   */
  RemoteMachine machine(String settings) {
    return RemoteMachine.builder()
        .provider("mock")
        .config(
            ConfigFactory.parseString(settings)
                .withValue(
                    "remora.state.directory", ConfigValueFactory.fromAnyRef(folder.toString())))
        .open();
  }

  /** All files. Other processes may delete some meanwhile. */
  List<Path> all() {
    while (Files.exists(folder)) {
      try (Stream<Path> paths = Files.walk(folder)) {
        return paths.filter(Files::isRegularFile).toList();
      } catch (UncheckedIOException e) {
        if (!(e.getCause() instanceof NoSuchFileException)) {
          throw e;
        }
      } catch (NoSuchFileException e) {
        // the folder itself
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
    }
    return List.of();
  }

  /** The state that was written last. */
  Optional<Path> newestState() {
    return all().stream()
        .filter(file -> file.toString().endsWith(".state"))
        .max(Comparator.comparingLong(file -> file.toFile().lastModified()));
  }

  /** Overwrites some bytes of a file. Does nothing if it was deleted meanwhile. */
  static void damage(Path file) {
    try (FileChannel channel = FileChannel.open(file, StandardOpenOption.WRITE)) {
      channel.write(ByteBuffer.wrap(new byte[] {1, 2, 3, 4}), channel.size() / 2);
    } catch (NoSuchFileException e) {
      // replaced by a newer one
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }
}
