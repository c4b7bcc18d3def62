// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.bytedeco.pytorch.global.torch.*;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.zip.CRC32C;
import org.bytedeco.pytorch.Generator;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** A session as a file: saved by one executor, loaded by another, whatever is in it. */
@Tag("critical")
@Timeout(120)
class SessionStateTest {

  @TempDir Path folder;

  @Test
  void aSessionGoesOnInAnotherExecutor() throws Exception {
    try (LoopbackMachine machine = new LoopbackMachine(LoopbackMachine.SETTINGS, 2, true)) {
      Tensor local = randn(40, 30);
      Tensor whole = local.to(machine.device(), ScalarType.Float);
      Tensor view = whole.narrow(0, 5, 10).t();
      Tensor second = local.to(machine.session.device(1), ScalarType.Float);
      Tensor large = arange(new Scalar(3_000_000)).to(machine.device(), ScalarType.Long);
      Tensor lazy = empty(7, 3).to(machine.device(), ScalarType.Float);
      machine.session.generator(0).set_current_seed(11);
      Tensor drawn = whole.clone();
      drawn.normal_();
      RemoteEvent event = machine.session.recordEvent(0);
      machine.session.synchronize();
      long storages = machine.storages();

      Path file = folder.resolve("session");
      SavedSession saved = machine.swap(file);

      assertThat(machine.storages()).isEqualTo(storages).isEqualTo(saved.storages());
      assertThat(saved.bytes()).isEqualTo(Files.size(file)).isGreaterThan(24_000_000);
      CRC32C checksum = new CRC32C();
      checksum.update(Files.readAllBytes(file));
      assertThat(saved.checksum()).isEqualTo(checksum.getValue());
      assertThat(Files.exists(folder.resolve("session.part"))).isFalse();

      SavedSession inPieces = machine.swapInPieces(folder.resolve("pieces"));
      assertThat(inPieces.storages()).isEqualTo(storages);
      assertThat(inPieces.bytes()).isEqualTo(Files.size(folder.resolve("pieces")));

      whole.add_(new Scalar(1));
      assertThat(view.cpu().equal(local.add(new Scalar(1)).narrow(0, 5, 10).t())).isTrue();
      assertThat(second.cpu().equal(local)).isTrue();
      assertThat(large.sum().item_long()).isEqualTo(3_000_000L * 2_999_999 / 2);
      lazy.fill_(new Scalar(2));
      assertThat(lazy.sum().item_float()).isEqualTo(42);
      assertThat(event.query()).isTrue();

      drawn.normal_();
      manual_seed(11);
      Tensor expected = local.clone();
      expected.normal_();
      expected.normal_();
      assertThat(drawn.cpu().equal(expected)).isTrue();
    }
  }

  @Test
  void piecesThatAreNotThereAreRefused() throws IOException {
    Path file = Files.write(folder.resolve("short"), new byte[] {1});
    Path missing = folder.resolve("missing");
    try (BatchExecutor executor = BatchExecutor.create(List.of("cpu"), List.of())) {
      assertThatThrownBy(() -> executor.load(List.of(new BatchExecutor.Piece(file, 0, 9))))
          .isInstanceOf(RemoraException.class)
          .hasMessageContaining(file + " is shorter than it was");
    }
    try (BatchExecutor executor = BatchExecutor.create(List.of("cpu"), List.of())) {
      assertThatThrownBy(() -> executor.load(List.of(new BatchExecutor.Piece(missing, 0, 1))))
          .isInstanceOf(RemoraException.class)
          .hasMessageContaining(missing.toString());
      assertThatThrownBy(() -> executor.load(List.of()))
          .isInstanceOf(RemoraException.class)
          .hasMessageContaining("ends too early");
    }
  }

  @Test
  void theProgramsSettingsAreSavedWithTheSession() throws Exception {
    set_default_dtype(scalarTypeToTypeMeta(ScalarType.Double));
    try (LoopbackMachine machine = new LoopbackMachine()) {
      Tensor whole = tensor(new long[] {1, 4, 9}).to(machine.device(), ScalarType.Long);
      assertThat(whole.sqrt().cpu().scalar_type().intern()).isEqualTo(ScalarType.Double);

      machine.swap(folder.resolve("session"));

      assertThat(whole.sqrt().cpu().equal(tensor(1f, 2f, 3f).to(ScalarType.Double))).isTrue();
    } finally {
      set_default_dtype(scalarTypeToTypeMeta(ScalarType.Float));
    }
  }

  @Test
  void whatAFailureHasPoisonedStaysPoisoned() throws Exception {
    try (LoopbackMachine machine = new LoopbackMachine()) {
      Tensor index = tensor(new long[] {9}).to(machine.device(), ScalarType.Long);
      Tensor a = randn(3).to(machine.device(), ScalarType.Float);
      a.index_select(0, index.remainder(new Scalar(3))); // the node knows its shape from now on
      Tensor bad = a.index_select(0, index);
      Tensor worse = bad.add(new Scalar(1));
      assertThatThrownBy(machine.session::synchronize).isInstanceOf(RemoteOperationException.class);

      machine.swap(folder.resolve("session"));

      assertThatThrownBy(() -> worse.cpu())
          .isInstanceOf(RemoteOperationException.class)
          .hasMessageContaining("index_select");
      assertThat(index.cpu().item_long()).isEqualTo(9);
    }
  }

  @Test
  void nothingIsLeftOfAFileThatCannotBeWritten() throws Exception {
    Path noFolder = Files.writeString(folder.resolve("file"), "no folder");
    try (BatchExecutor executor = BatchExecutor.create(List.of("cpu"), List.of())) {
      assertThatThrownBy(() -> executor.save(0, noFolder.resolve("session")))
          .isInstanceOf(RemoraException.class)
          .hasMessageContaining("cannot write")
          .hasMessageContaining("Not a directory");
      assertThatThrownBy(() -> executor.save(0, folder.resolve("absent/session")))
          .hasMessageContaining("No such file");
      Files.createDirectory(folder.resolve("taken"));
      Files.createFile(folder.resolve("taken/it"));
      assertThatThrownBy(() -> executor.save(0, folder.resolve("taken")))
          .isInstanceOf(RemoraException.class);
      assertThat(Files.exists(folder.resolve("taken.part"))).isFalse();
    }
  }

  @Test
  void aStateIsForANodeOfTheSameShape() throws Exception {
    Path file = folder.resolve("session");
    try (BatchExecutor one = BatchExecutor.create(List.of("cpu"), List.of());
        BatchExecutor two = BatchExecutor.create(List.of("cpu", "cpu"), List.of())) {
      one.save(7, file);
      assertThatThrownBy(() -> two.load(file)).hasMessageContaining("a node with 1 devices");
    }
    try (BatchExecutor again = BatchExecutor.create(List.of("cpu"), List.of())) {
      assertThat(again.load(file).sequence()).isEqualTo(7);
    }
  }

  @Test
  void aFileThatWasChangedInAnyWayIsRefused() throws Exception {
    byte[] whole = Files.readAllBytes(savedFile());
    long seed = System.nanoTime();
    Random random = new Random(seed);
    Path file = folder.resolve("changed");
    for (int round = 0; round < 1_000; round++) {
      byte[] changed = whole.clone();
      switch (round % 4) {
        case 0 -> changed = Arrays.copyOf(whole, random.nextInt(whole.length));
        case 1 -> changed = Arrays.copyOf(whole, whole.length + 1 + random.nextInt(64));
        case 2 -> changed[random.nextInt(whole.length)] ^= (byte) (1 << random.nextInt(8));
        default -> {
          for (int i = 0; i < 8; i++) {
            changed[random.nextInt(whole.length)] = (byte) random.nextInt();
          }
          if (Arrays.equals(changed, whole)) {
            continue;
          }
        }
      }
      assertRefused(file, changed, seed);
    }
  }

  @Test
  void aFileWithRightChecksumsAndWrongContentsDoesNoHarm() throws Exception {
    byte[] whole = Files.readAllBytes(savedFile());
    long seed = System.nanoTime();
    Random random = new Random(seed);
    Path file = folder.resolve("forged");
    int refused = 0;
    for (int round = 0; round < 2_000; round++) {
      byte[] contents = Arrays.copyOfRange(whole, 24, whole.length - 8);
      for (int flips = 1 + random.nextInt(4); flips > 0; flips--) {
        contents[random.nextInt(contents.length)] ^= (byte) (1 << random.nextInt(8));
      }
      if (round % 3 == 0) {
        contents = Arrays.copyOf(contents, 1 + random.nextInt(contents.length));
      }
      Files.write(file, forged(contents, whole));
      try (BatchExecutor executor = BatchExecutor.create(List.of("cpu"), List.of())) {
        executor.load(file);
      } catch (RemoraException e) {
        refused++;
      }
    }
    // The others differ in values only.
    assertThat(refused).as("seed %d", seed).isGreaterThan(600);
  }

  private static void assertRefused(Path file, byte[] contents, long seed) throws IOException {
    Files.write(file, contents);
    try (BatchExecutor executor = BatchExecutor.create(List.of("cpu"), List.of())) {
      assertThatThrownBy(() -> executor.load(file))
          .as("seed %d", seed)
          .isInstanceOf(RemoraException.class)
          .hasMessageContaining("the session was not restored");
    }
  }

  /** A file of one chunk with these contents, of the version of a sound file. */
  private static byte[] forged(byte[] contents, byte[] sound) {
    byte[] file = new byte[contents.length + 32];
    ByteBuffer buffer = ByteBuffer.wrap(file).order(ByteOrder.LITTLE_ENDIAN);
    buffer.put(sound, 0, 12);
    buffer.putInt(checksum(file, 12)).putInt(contents.length);
    buffer.putInt(checksum(contents, contents.length)).put(contents);
    buffer.putInt(0).putInt(checksum(file, file.length - 8));
    return file;
  }

  private static int checksum(byte[] bytes, int length) {
    CRC32C checksum = new CRC32C();
    checksum.update(bytes, 0, length);
    return (int) checksum.getValue();
  }

  /** Of a session with something of everything. */
  private Path savedFile() throws Exception {
    Path file = folder.resolve("saved");
    try (LoopbackMachine machine = new LoopbackMachine()) {
      Tensor a = randn(8, 8).to(machine.device(), ScalarType.Float);
      Tensor b = a.mm(a).relu();
      Tensor index = tensor(new long[] {99}).to(machine.device(), ScalarType.Long);
      a.index_select(0, index.remainder(new Scalar(8)));
      Tensor bad = a.index_select(0, index);
      try (Generator generator = machine.session.generator(0)) {
        generator.set_current_seed(3);
      }
      b.normal_();
      RemoteEvent event = machine.session.recordEvent(0);
      assertThatThrownBy(machine.session::synchronize).isInstanceOf(RemoteOperationException.class);
      machine.swap(file);
      assertThat(event.query()).isTrue();
      assertThat(bad.defined()).isTrue();
    }
    return file;
  }
}
