// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

import io.remora.models.testkit.ModelFixtures;
import java.io.BufferedOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Random;
import java.util.zip.CRC32;
import java.util.zip.ZipEntry;
import java.util.zip.ZipFile;
import java.util.zip.ZipOutputStream;

/**
 * Files that PyTorch and the reference implementation of safetensors wrote, and ways to damage
 * them.
 */
final class Fixtures {
  private static final Path FOLDER = folder();

  private Fixtures() {}

  private static Path folder() {
    try {
      Path folder = Files.createTempDirectory("remora-fixtures");
      folder.toFile().deleteOnExit();
      return folder;
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  static Path path(String name) {
    Path file = ModelFixtures.copy(name, FOLDER);
    file.toFile().deleteOnExit();
    return file;
  }

  /** A copy with a few bytes changed, cut off or repeated. */
  static byte[] damaged(byte[] intact, Random random) {
    byte[] bytes = intact.clone();
    for (int i = random.nextInt(4); i >= 0; i--) {
      bytes[random.nextInt(bytes.length)] = (byte) random.nextInt();
    }
    int cut = random.nextInt(bytes.length);
    return switch (random.nextInt(8)) {
      case 0 -> Arrays.copyOf(bytes, cut);
      case 1 -> {
        byte[] longer = Arrays.copyOf(bytes, bytes.length + 16);
        System.arraycopy(bytes, cut, longer, Math.min(cut + 16, longer.length), bytes.length - cut);
        yield longer;
      }
      default -> bytes;
    };
  }

  /** The entries of an archive. */
  static Map<String, byte[]> entries(String name) throws IOException {
    Map<String, byte[]> entries = new LinkedHashMap<>();
    try (ZipFile zip = new ZipFile(path(name).toFile())) {
      for (ZipEntry entry : zip.stream().toArray(ZipEntry[]::new)) {
        entries.put(entry.getName(), zip.getInputStream(entry).readAllBytes());
      }
    }
    return entries;
  }

  /** An archive of stored entries, as torch.save makes it. */
  static Path zip(Path file, Map<String, byte[]> entries) {
    try (OutputStream out = Files.newOutputStream(file);
        ZipOutputStream zip = new ZipOutputStream(new BufferedOutputStream(out))) {
      for (Map.Entry<String, byte[]> entry : entries.entrySet()) {
        CRC32 crc = new CRC32();
        crc.update(entry.getValue());
        ZipEntry stored = new ZipEntry(entry.getKey());
        stored.setMethod(ZipEntry.STORED);
        stored.setSize(entry.getValue().length);
        stored.setCrc(crc.getValue());
        zip.putNextEntry(stored);
        zip.write(entry.getValue());
        zip.closeEntry();
      }
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    return file;
  }

  /**
   * Makes the sizes and offsets of an archive's directory 64 bits wide, as in an archive beyond 4
   * GiB.
   */
  static void widen(Path file) throws IOException {
    ByteBuffer zip = ByteBuffer.wrap(Files.readAllBytes(file)).order(ByteOrder.LITTLE_ENDIAN);
    int end = zip.capacity() - 22;
    int count = zip.getShort(end + 10);
    int begin = zip.getInt(end + 16);
    ByteBuffer wide =
        ByteBuffer.allocate(zip.capacity() + count * 28 + 76).order(ByteOrder.LITTLE_ENDIAN);
    wide.put(zip.array(), 0, begin);
    for (int at = begin; at < end; ) {
      int nameBytes = zip.getShort(at + 28);
      int to = wide.position();
      wide.put(zip.array(), at, 46 + nameBytes);
      wide.putInt(to + 20, -1).putInt(to + 24, -1).putInt(to + 42, -1);
      wide.putShort(to + 30, (short) 28).putShort((short) 1).putShort((short) 24);
      wide.putLong(zip.getInt(at + 24)).putLong(zip.getInt(at + 20)).putLong(zip.getInt(at + 42));
      at += 46 + nameBytes + zip.getShort(at + 30);
    }
    int wideEnd = wide.position();
    wide.putInt(0x06064b50).putLong(44).putInt(0).putLong(0).putLong(count).putLong(count);
    wide.putLong(wideEnd - begin).putLong(begin);
    wide.putInt(0x07064b50).putInt(0).putLong(wideEnd).putInt(1);
    wide.putInt(0x06054b50).putInt(0).putInt(-1).putInt(-1).putInt(-1).putShort((short) 0);
    Files.write(file, Arrays.copyOf(wide.array(), wide.position()));
  }
}
