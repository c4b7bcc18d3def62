// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import io.remora.runtime.BatchExecutor;
import io.remora.runtime.CapturedSession;
import io.remora.runtime.SavedSession;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.nio.file.attribute.PosixFilePermissions;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.HashMap;
import java.util.HashSet;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.LongConsumer;
import java.util.zip.CRC32C;

/**
 * The file of a checkpoint: those pieces of the session that are in no file of the checkpoint
 * before, and an index of all pieces. Pieces are known by their SHA-256. Values of a storage from
 * 16 KiB are pieces of their own, of at most 4 MiB; everything else is put together.
 *
 * <p>The file has a mark, the pieces one behind the other, the index, and an end: the index's
 * length, its SHA-256 and the mark again. Numbers are big-endian.
 */
final class CheckpointFile {

  /** Values of fewer bytes are written in each checkpoint. */
  static final int LEAST_SHARED_BYTES = 16 << 10;

  /** A checkpoint needs at most this many files besides its own. */
  static final int MOST_FILES = 16;

  private static final byte[] MARK = "RMRCHKPT".getBytes(StandardCharsets.US_ASCII);
  private static final int VERSION = 1;
  private static final int DIGEST_BYTES = 32;
  private static final int END_BYTES = Long.BYTES + DIGEST_BYTES + MARK.length;

  private CheckpointFile() {}

  /**
   * A part of a session.
   *
   * @param owner the checkpoint whose file has it
   * @param offset where it begins in that file
   * @param bytes how many they are
   * @param digest their SHA-256
   */
  record Piece(String owner, long offset, int bytes, String digest) {}

  /**
   * What a checkpoint consists of.
   *
   * @param name the checkpoint's name
   * @param pieces all of the session, in order
   * @param files the sizes of the files that have them, by the checkpoints' names
   */
  record Contents(
      String name, long storages, long executed, List<Piece> pieces, Map<String, Long> files) {

    /** The bytes of the session. */
    long bytes() {
      return pieces.stream().mapToLong(Piece::bytes).sum();
    }

    /** Those of them that are in other checkpoints' files. */
    long reusedBytes() {
      return pieces.stream()
          .filter(piece -> !piece.owner.equals(name))
          .mapToLong(Piece::bytes)
          .sum();
    }

    /** The other checkpoints whose files are needed. */
    List<String> others() {
      return files.keySet().stream().filter(owner -> !owner.equals(name)).sorted().toList();
    }

    /**
     * The pieces that the next checkpoint may share, by digest. The store must not fill with bytes
     * that nothing needs: together the shared files have at most as many of them as the session has
     * bytes. Pieces of other files are written again.
     */
    private Map<String, Piece> shareable() {
      Map<String, Long> unneeded = new HashMap<>(files);
      for (Piece piece : new HashSet<>(pieces)) {
        unneeded.merge(piece.owner, (long) -piece.bytes, Long::sum);
      }
      List<String> owners =
          files.keySet().stream()
              .sorted()
              .sorted(Comparator.comparing(unneeded::get))
              .limit(MOST_FILES)
              .toList();
      Set<String> shared = new HashSet<>();
      long left = bytes();
      for (String owner : owners) {
        left -= unneeded.get(owner);
        if (left >= 0) {
          shared.add(owner);
        }
      }
      Map<String, Piece> found = new HashMap<>();
      for (Piece piece : pieces) {
        if (piece.bytes >= LEAST_SHARED_BYTES && shared.contains(piece.owner)) {
          found.putIfAbsent(piece.digest, piece);
        }
      }
      return found;
    }
  }

  // Writing -------------------------------------------------------------------------------------

  /** A checkpoint's file that was written. */
  record Written(SavedSession file, Contents contents) {}

  /**
   * Writes a checkpoint.
   *
   * @param file a new file
   * @param before the last checkpoint, whose files are there; null if there is none
   * @param progress gets the number of the session's bytes that are done since the last call
   */
  static Written write(
      Path file, String name, CapturedSession copy, Contents before, LongConsumer progress)
      throws IOException {
    try (Writer writer = new Writer(file, name, before)) {
      copy.takeAll(
          (bytes, values) -> {
            int length = bytes.remaining();
            writer.take(bytes, values);
            progress.accept(length);
          });
      return writer.finish(copy.storages(), copy.sequence());
    }
  }

  private static final class Writer implements AutoCloseable {

    private final String name;
    private final Contents before;
    private final Map<String, Piece> known;
    private final FileChannel channel;
    private final CRC32C checksum = new CRC32C();
    private final MessageDigest sha = sha256();
    private final ByteBuffer small = ByteBuffer.allocateDirect(CapturedSession.MAX_BUFFER_BYTES);
    private final List<Piece> pieces = new ArrayList<>();
    private long written;

    Writer(Path file, String name, Contents before) throws IOException {
      this.name = name;
      this.before = before;
      this.known = before == null ? new HashMap<>() : before.shareable();
      this.channel =
          FileChannel.open(
              file,
              Set.of(
                  StandardOpenOption.WRITE,
                  StandardOpenOption.CREATE,
                  StandardOpenOption.TRUNCATE_EXISTING),
              PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString("rw-------")));
      append(ByteBuffer.wrap(MARK));
    }

    void take(ByteBuffer bytes, boolean values) throws IOException {
      if (values && bytes.remaining() >= LEAST_SHARED_BYTES) {
        endSmall();
        String digest = digest(bytes);
        Piece there = known.get(digest);
        if (there != null && there.bytes == bytes.remaining()) {
          pieces.add(there);
        } else {
          known.put(digest, add(bytes, digest));
        }
        return;
      }
      ByteBuffer rest = bytes.duplicate();
      while (rest.hasRemaining()) {
        if (!small.hasRemaining()) {
          endSmall();
        }
        int length = Math.min(small.remaining(), rest.remaining());
        small.put(rest.slice(rest.position(), length));
        rest.position(rest.position() + length);
      }
    }

    private void endSmall() throws IOException {
      small.flip();
      if (small.hasRemaining()) {
        Piece unused = add(small, digest(small));
      }
      small.clear();
    }

    private String digest(ByteBuffer bytes) {
      sha.update(bytes.duplicate());
      return HexFormat.of().formatHex(sha.digest());
    }

    private Piece add(ByteBuffer bytes, String digest) throws IOException {
      Piece piece = new Piece(name, written, bytes.remaining(), digest);
      append(bytes.duplicate());
      pieces.add(piece);
      return piece;
    }

    private void append(ByteBuffer bytes) throws IOException {
      checksum.update(bytes.duplicate());
      written += bytes.remaining();
      while (bytes.hasRemaining()) {
        channel.write(bytes);
      }
    }

    Written finish(long storages, long executed) throws IOException {
      endSmall();
      Map<String, Long> files = new LinkedHashMap<>();
      for (Piece piece : pieces) {
        if (!piece.owner.equals(name)) {
          files.putIfAbsent(piece.owner, before.files.get(piece.owner));
        }
      }
      byte[] index = index(storages, executed, files);
      append(ByteBuffer.wrap(index));
      ByteBuffer end = ByteBuffer.allocate(END_BYTES);
      end.putLong(index.length).put(sha.digest(index)).put(MARK);
      append(end.flip());
      files.put(name, written);
      return new Written(
          new SavedSession(written, checksum.getValue(), storages, executed),
          new Contents(name, storages, executed, List.copyOf(pieces), Map.copyOf(files)));
    }

    private byte[] index(long storages, long executed, Map<String, Long> others)
        throws IOException {
      ByteArrayOutputStream bytes = new ByteArrayOutputStream();
      DataOutputStream out = new DataOutputStream(bytes);
      out.writeInt(VERSION);
      out.writeLong(storages);
      out.writeLong(executed);
      Map<String, Integer> numbers = new HashMap<>(Map.of(name, 0));
      out.writeInt(others.size());
      for (Map.Entry<String, Long> other : others.entrySet()) {
        out.writeUTF(other.getKey());
        out.writeLong(other.getValue());
        numbers.put(other.getKey(), numbers.size());
      }
      out.writeInt(pieces.size());
      for (Piece piece : pieces) {
        out.writeInt(numbers.get(piece.owner));
        out.writeLong(piece.offset);
        out.writeInt(piece.bytes);
        out.write(HexFormat.of().parseHex(piece.digest));
      }
      return bytes.toByteArray();
    }

    @Override
    public void close() throws IOException {
      channel.close();
    }
  }

  // Reading -------------------------------------------------------------------------------------

  /** Whether this is the file of a checkpoint, not of a pause. */
  static boolean is(Path file) throws IOException {
    try (FileChannel channel = FileChannel.open(file)) {
      ByteBuffer mark = ByteBuffer.allocate(MARK.length);
      return readFully(channel, 0, mark) && Arrays.equals(mark.array(), MARK);
    }
  }

  /**
   * Reads what the file of a checkpoint consists of.
   *
   * @param name the checkpoint's name
   * @throws IOException if it cannot be read or is damaged
   */
  static Contents read(Path file, String name) throws IOException {
    try (FileChannel channel = FileChannel.open(file)) {
      long size = channel.size();
      ByteBuffer end = ByteBuffer.allocate(END_BYTES);
      if (size < END_BYTES || !readFully(channel, size - END_BYTES, end)) {
        throw damaged(name, "its file has only %d bytes".formatted(size));
      }
      long length = end.flip().getLong();
      byte[] digest = new byte[DIGEST_BYTES];
      end.get(digest);
      if (!end.equals(ByteBuffer.wrap(MARK)) || length < 0 || length > size - END_BYTES) {
        throw damaged(name, "the end of its file is not that of a checkpoint");
      }
      ByteBuffer index = ByteBuffer.allocate(Math.toIntExact(length));
      if (!readFully(channel, size - END_BYTES - length, index)
          || !Arrays.equals(sha256().digest(index.array()), digest)) {
        throw damaged(name, "its index has another SHA-256");
      }
      return parse(index.array(), name, size);
    }
  }

  private static Contents parse(byte[] index, String name, long size) throws IOException {
    DataInputStream in = new DataInputStream(new ByteArrayInputStream(index));
    int version = in.readInt();
    if (version != VERSION) {
      throw new IOException(
          "checkpoint %s has format version %d, this node reads %d"
              .formatted(name, version, VERSION));
    }
    long storages = in.readLong();
    long executed = in.readLong();
    List<String> owners = new ArrayList<>(List.of(name));
    Map<String, Long> files = new HashMap<>(Map.of(name, size));
    for (int n = in.readInt(); n > 0; n--) {
      String owner = in.readUTF();
      owners.add(owner);
      files.put(owner, in.readLong());
    }
    List<Piece> pieces = new ArrayList<>();
    byte[] digest = new byte[DIGEST_BYTES];
    for (int n = in.readInt(); n > 0; n--) {
      String owner = owners.get(in.readInt());
      long offset = in.readLong();
      int bytes = in.readInt();
      in.readFully(digest);
      pieces.add(new Piece(owner, offset, bytes, HexFormat.of().formatHex(digest)));
    }
    return new Contents(name, storages, executed, List.copyOf(pieces), Map.copyOf(files));
  }

  /**
   * Compares all pieces with their SHA-256.
   *
   * @param files the files by the checkpoints' names
   * @return where the pieces lie
   * @throws IOException if one cannot be read or has other bytes
   */
  static List<BatchExecutor.Piece> verify(Contents contents, Map<String, Path> files)
      throws IOException {
    Map<String, FileChannel> channels = new HashMap<>();
    List<BatchExecutor.Piece> found = new ArrayList<>();
    Set<Piece> verified = new HashSet<>();
    MessageDigest sha = sha256();
    ByteBuffer buffer = ByteBuffer.allocateDirect(CapturedSession.MAX_BUFFER_BYTES);
    try {
      for (Piece piece : contents.pieces) {
        Path file = files.get(piece.owner);
        found.add(new BatchExecutor.Piece(file, piece.offset, piece.bytes));
        if (!verified.add(piece)) {
          continue;
        }
        FileChannel channel = channels.get(piece.owner);
        if (channel == null) {
          channel = FileChannel.open(file);
          channels.put(piece.owner, channel);
        }
        buffer.clear().limit(piece.bytes);
        boolean complete = readFully(channel, piece.offset, buffer);
        sha.update(buffer.flip());
        if (!HexFormat.of().formatHex(sha.digest()).equals(piece.digest) || !complete) {
          throw damaged(
              contents.name,
              "bytes %d to %d of the file of %s are not those that were written (SHA-256)"
                  .formatted(
                      piece.offset,
                      piece.offset + piece.bytes - 1,
                      piece.owner.equals(contents.name)
                          ? "this checkpoint"
                          : "checkpoint " + piece.owner + ", which both share,"));
        }
      }
    } finally {
      for (FileChannel channel : channels.values()) {
        channel.close();
      }
    }
    return found;
  }

  private static IOException damaged(String name, String how) {
    return new IOException("checkpoint %s is damaged: %s".formatted(name, how));
  }

  /** Fills the buffer from an offset on; false if the file is too short. */
  private static boolean readFully(FileChannel channel, long offset, ByteBuffer to)
      throws IOException {
    long at = offset;
    while (to.hasRemaining()) {
      int n = channel.read(to, at);
      if (n < 0) {
        return false;
      }
      at += n;
    }
    return true;
  }

  private static MessageDigest sha256() {
    try {
      return MessageDigest.getInstance("SHA-256");
    } catch (NoSuchAlgorithmException e) {
      throw new IllegalStateException("every Java runtime has SHA-256", e);
    }
  }
}
