// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.train;

import io.remora.client.TensorScope;
import io.remora.core.PartFiles;
import java.io.IOException;
import java.io.InputStream;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.List;
import java.util.Locale;
import java.util.Objects;
import java.util.OptionalLong;
import java.util.UUID;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import java.util.zip.CRC32;
import java.util.zip.ZipEntry;
import java.util.zip.ZipFile;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.DeviceOptional;
import org.bytedeco.pytorch.InputArchive;
import org.bytedeco.pytorch.OutputArchive;

/**
 * The checkpoints of a training, in a folder of this computer: {@code checkpoint-000000000120.pt}
 * for 120 steps. A training that continues from one has the losses, bit for bit, that it would have
 * had without the interruption.
 *
 * <pre>{@code
 * Checkpoints checkpoints = new Checkpoints(Path.of("checkpoints"), 3);
 * for (long step = checkpoints.restoreLatest(state).orElse(0); step < steps; step++) {
 *   if (step > 0 && step % 100 == 0) {
 *     checkpoints.save(state, step);
 *   }
 *   …
 * }
 * }</pre>
 *
 * <p>A file is an archive of libtorch. It appears under its name when it is complete and on disk. A
 * checksum of each part is compared before anything is restored. The names and layouts inside are
 * not a format for other programs: weights for others are saved by {@code machine.save}.
 *
 * <p>{@link #save} waits once for all tensors and once for each device's random generator. All
 * tensors are in the program's memory then. {@code machine.saveOnNode} is for models that are too
 * large for that. Restoring does not wait. Gradients are not saved: save between two steps.
 *
 * <p>One process at a time may write to a folder, and one thread at a time may use an object.
 */
@SuppressWarnings("try") // the scopes are opened only to be closed
public final class Checkpoints {
  private static final String PREFIX = "checkpoint-";
  private static final Pattern NAME = Pattern.compile(PREFIX + "(\\d{12})\\.pt");
  private static final long MAX_STEP = 999_999_999_999L;

  private final Path folder;
  private final int keep;

  /**
   * Checkpoints in a folder, which is created when it is first needed.
   *
   * @param keep how many of the newest checkpoints stay, at least 1
   */
  public Checkpoints(Path folder, int keep) {
    if (keep < 1) {
      throw new IllegalArgumentException("keep must be at least 1, but is " + keep);
    }
    this.folder = Objects.requireNonNull(folder, "folder").toAbsolutePath();
    this.keep = keep;
  }

  /**
   * Saves a checkpoint, then deletes the oldest ones beyond the number to keep. It replaces a
   * checkpoint of the same step.
   *
   * @param step the number of steps that are done, 0 or more
   * @return the file
   * @throws CheckpointException if the file cannot be written; older checkpoints stay
   * @throws io.remora.runtime.RemoraException if a tensor cannot be read
   */
  public Path save(TrainingState state, long step) {
    if (step < 0 || step > MAX_STEP) {
      throw new IllegalArgumentException("step must be 0 to " + MAX_STEP + ", but is " + step);
    }
    Path target = folder.resolve(String.format(Locale.ROOT, PREFIX + "%012d.pt", step));
    Path part = folder.resolve("." + PREFIX + UUID.randomUUID() + PartFiles.SUFFIX);
    try {
      Files.createDirectories(folder);
      PartFiles.deleteLeftBehind(folder, "." + PREFIX);
      try (TensorScope scope = TensorScope.open()) {
        OutputArchive archive = state.write(step);
        try {
          archive.save_to(part.toString());
        } catch (RuntimeException e) {
          throw new CheckpointException(target + " cannot be written: " + e.getMessage(), e);
        }
      }
      try (FileChannel channel = FileChannel.open(part, StandardOpenOption.WRITE)) {
        channel.force(true);
      }
      Files.move(part, target, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
      List<Path> files = files();
      for (Path old : files.subList(0, Math.max(0, files.size() - keep))) {
        if (!old.equals(target)) {
          Files.deleteIfExists(old);
        }
      }
      return target;
    } catch (IOException e) {
      throw new CheckpointException(target + " cannot be written: " + e, e);
    } finally {
      deleteQuietly(part);
    }
  }

  /**
   * Continues from the newest checkpoint, if there is one.
   *
   * @return the number of steps that it has; empty if the folder has no checkpoint
   * @throws CheckpointException as {@link #restore} does. An older checkpoint is not tried: delete
   *     the file to use it
   */
  public OptionalLong restoreLatest(TrainingState state) {
    List<Path> files = files();
    return files.isEmpty()
        ? OptionalLong.empty()
        : OptionalLong.of(restore(state, files.get(files.size() - 1)));
  }

  /**
   * Continues from a checkpoint. Parameters, buffers and optimizers stay the same objects, on the
   * devices where they are, which need not be those of the checkpoint. The options of the
   * optimizers become those of the checkpoint.
   *
   * @return the number of steps that it has
   * @throws CheckpointException if the file is missing or damaged, or does not fit the training;
   *     then nothing has changed
   */
  public static long restore(TrainingState state, Path file) {
    verify(file);
    try (TensorScope scope = TensorScope.open()) {
      InputArchive archive = new InputArchive();
      try {
        archive.load_from(file.toString(), new DeviceOptional(new Device("cpu")));
      } catch (RuntimeException e) {
        throw new CheckpointException(file + " is not a checkpoint: " + e.getMessage(), e);
      }
      return state.read(archive, file.toString());
    }
  }

  /**
   * The checkpoints of the folder, by the number of their steps.
   *
   * @throws CheckpointException if the folder cannot be read
   */
  public List<Path> files() {
    if (!Files.isDirectory(folder)) {
      return List.of();
    }
    try (Stream<Path> files = Files.list(folder)) {
      return files
          .filter(file -> NAME.matcher(file.getFileName().toString()).matches())
          .sorted()
          .toList();
    } catch (IOException e) {
      throw new CheckpointException(folder + " cannot be read: " + e, e);
    }
  }

  /** Compares the checksums of the archive's parts; libtorch does not. */
  private static void verify(Path file) {
    if (!Files.isRegularFile(file)) {
      throw new CheckpointException("There is no checkpoint " + file);
    }
    byte[] buffer = new byte[1 << 16];
    try (ZipFile zip = new ZipFile(file.toFile())) {
      for (ZipEntry entry :
          (Iterable<ZipEntry>) () -> zip.stream().map(ZipEntry.class::cast).iterator()) {
        CRC32 checksum = new CRC32();
        try (InputStream part = zip.getInputStream(entry)) {
          for (int count = part.read(buffer); count >= 0; count = part.read(buffer)) {
            checksum.update(buffer, 0, count);
          }
        }
        if (checksum.getValue() != entry.getCrc()) {
          throw new CheckpointException(
              "%s is damaged: the checksum of its part %s is wrong"
                  .formatted(file, entry.getName()));
        }
      }
    } catch (IOException e) {
      throw new CheckpointException("%s is damaged or incomplete: %s".formatted(file, e), e);
    }
  }

  private static void deleteQuietly(Path part) {
    try {
      Files.deleteIfExists(part);
    } catch (IOException e) {
      // The next writer deletes it.
    }
  }
}
