// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import io.remora.actors.link.proto.SharedMemory;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.MethodType;
import java.lang.invoke.VarHandle;
import java.lang.reflect.Field;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.MappedByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.channels.FileChannel.MapMode;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.security.MessageDigest;
import java.util.HexFormat;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Consumer;
import java.util.stream.Stream;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Memory that the two ends of a connection share, for large payloads: a ring for each direction.
 * The accepting end {@linkplain #offer makes} a file in {@code /dev/shm} that has no name any more,
 * and the dialling end {@linkplain #open opens} it under {@code /proc/PID/fd/N}, which the
 * operating system allows only to processes of the same user. Memory is taken when a ring is first
 * used, page by page, by writes that fail if there is none; so a full {@code /dev/shm} does not end
 * a process.
 *
 * <p>The file begins with a page of control data: the challenge of the dialling end, which proves
 * that the peer has made the file and nobody else, and for each ring the position up to which its
 * reader has given the bytes back.
 *
 * <p>A ring's {@linkplain RingWriter writer} and {@linkplain RingReader reader} belong to the
 * connection, and the memory is unmapped when the connection has ended and all payloads that lie in
 * it are released.
 */
final class LinkMemory {

  private static final Logger log = LoggerFactory.getLogger(LinkMemory.class);

  /** Bytes of a challenge. */
  static final int CHALLENGE_BYTES = 16;

  /** Sizes of a ring are multiples of this. */
  static final int PAGE_BYTES = 4096;

  /** The largest ring: both must fit into one mapping. */
  static final int LARGEST_RING = 512 << 20;

  private static final Path DIRECTORY = Path.of("/dev/shm");

  /**
   * The two rings take at most a quarter of what is free there: other programs need it, too, and in
   * a container it is often small.
   */
  private static final int PART_OF_FREE = 4;

  private static final Path OWN_DESCRIPTORS = Path.of("/proc/self/fd");

  /** The ring from the dialling to the accepting end, and the way back. */
  private static final int UP = 0;

  private static final int DOWN = 1;

  /** The counters lie in cache lines of their own. */
  private static final int COUNTERS_AT = 1024;

  private static final int COUNTER_STEP = 1024;

  private static final VarHandle COUNTER =
      MethodHandles.byteBufferViewVarHandle(long[].class, ByteOrder.LITTLE_ENDIAN);

  private static final Consumer<MappedByteBuffer> UNMAP = unmapper();

  private final RandomAccessFile file;
  private final MappedByteBuffer mapped;
  private final int ringBytes;
  private final int descriptor;
  private final RingWriter writer;
  private final RingReader reader;

  /** One for the connection, one for each payload that lies here. */
  private final AtomicInteger holds = new AtomicInteger(1);

  /**
   * @param writes the ring into which this end writes
   * @param descriptor of the file, for the peer
   */
  private LinkMemory(RandomAccessFile file, int ringBytes, int writes, int descriptor)
      throws IOException {
    this.file = file;
    this.ringBytes = ringBytes;
    this.descriptor = descriptor;
    this.mapped = file.getChannel().map(MapMode.READ_WRITE, 0, fileBytes(ringBytes));
    this.writer = new RingWriter(this, writes);
    this.reader = new RingReader(this, UP + DOWN - writes);
  }

  private static long fileBytes(int ringBytes) {
    return PAGE_BYTES + 2L * ringBytes;
  }

  // The accepting end ---------------------------------------------------------------------------

  /**
   * Makes the memory.
   *
   * @param mostBytes of each ring, a multiple of {@link #PAGE_BYTES}; less where little is free
   * @param challenge from the peer
   * @throws IOException if this computer has no such memory, or none left
   */
  static LinkMemory offer(int mostBytes, byte[] challenge) throws IOException {
    long free = DIRECTORY.toFile().getUsableSpace();
    int ringBytes = (int) Math.min(mostBytes, free / (2 * PART_OF_FREE) & -PAGE_BYTES);
    if (ringBytes < FrameGather.SHARED_FROM) {
      throw new IOException(DIRECTORY + " has " + free + " bytes free, which is not enough");
    }
    Path path = newFile();
    RandomAccessFile file = null;
    try {
      file = new RandomAccessFile(path.toFile(), "rw");
      byte[] control = new byte[PAGE_BYTES];
      System.arraycopy(challenge, 0, control, 0, CHALLENGE_BYTES);
      file.write(control);
      return new LinkMemory(file, ringBytes, DOWN, descriptor(path));
    } catch (IOException | RuntimeException | Error e) {
      if (file != null) {
        file.close();
      }
      throw e;
    } finally {
      Files.deleteIfExists(path);
    }
  }

  /** What the peer needs to know to open the memory. */
  SharedMemory description() {
    return SharedMemory.newBuilder()
        .setProcess(ProcessHandle.current().pid())
        .setFile(descriptor)
        .setRingBytes(ringBytes)
        .build();
  }

  private static Path newFile() throws IOException {
    while (true) {
      byte[] name = new byte[CHALLENGE_BYTES];
      ThreadLocalRandom.current().nextBytes(name);
      try {
        return Files.createFile(
            DIRECTORY.resolve("remora-" + HexFormat.of().formatHex(name)),
            PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString("rw-------")));
      } catch (FileAlreadyExistsException e) {
        // Another name.
      }
    }
  }

  /** The number of this process's descriptor for the file, which still has its name. */
  static int descriptor(Path path) throws IOException {
    try (Stream<Path> descriptors = Files.list(OWN_DESCRIPTORS)) {
      for (Path each : (Iterable<Path>) descriptors::iterator) {
        if (isLinkTo(each, path)) {
          return Integer.parseInt(each.getFileName().toString());
        }
      }
    }
    throw new IOException(OWN_DESCRIPTORS + " does not list " + path);
  }

  private static boolean isLinkTo(Path link, Path path) {
    try {
      return Files.readSymbolicLink(link).equals(path);
    } catch (IOException e) {
      return false; // closed meanwhile
    }
  }

  // The dialling end ----------------------------------------------------------------------------

  /** Whether this process could open a peer's memory. */
  static boolean isAvailable() {
    return Files.isDirectory(OWN_DESCRIPTORS);
  }

  /**
   * Opens the memory that the peer has made. Nothing is written to a file that does not hold the
   * challenge: it may be anybody's.
   *
   * @throws IOException if it cannot be opened, or is not the peer's
   */
  static LinkMemory open(SharedMemory description, byte[] challenge) throws IOException {
    long ringBytes = description.getRingBytes();
    if (ringBytes <= 0 || ringBytes > LARGEST_RING || ringBytes % PAGE_BYTES != 0) {
      throw new IOException("the peer offers rings of " + ringBytes + " bytes");
    }
    Path path =
        Path.of(
            "/proc",
            Long.toUnsignedString(description.getProcess()),
            "fd",
            Integer.toUnsignedString(description.getFile()));
    // Opening a pipe or a device could block or have effects.
    if (!Files.isRegularFile(path)) {
      throw new IOException(path + " is not a file that this process can see");
    }
    RandomAccessFile file = new RandomAccessFile(path.toFile(), "rw");
    try {
      byte[] found = new byte[CHALLENGE_BYTES];
      if (file.length() != fileBytes((int) ringBytes)
          || file.read(found) != CHALLENGE_BYTES
          || !MessageDigest.isEqual(found, challenge)) {
        throw new IOException(path + " is not the peer's memory");
      }
      return new LinkMemory(file, (int) ringBytes, UP, 0);
    } catch (IOException | RuntimeException | Error e) {
      file.close();
      throw e;
    }
  }

  // Use -----------------------------------------------------------------------------------------

  /** This end's ring to the peer. Only for the thread that writes. */
  RingWriter writer() {
    return writer;
  }

  /** The peer's ring to this end. Only for the thread that reads. */
  RingReader reader() {
    return reader;
  }

  int ringBytes() {
    return ringBytes;
  }

  FileChannel channel() {
    return file.getChannel();
  }

  MappedByteBuffer mapped() {
    return mapped;
  }

  /** Where a ring's bytes begin in the file. */
  int ringStart(int ring) {
    return PAGE_BYTES + ring * ringBytes;
  }

  /** The position up to which the reader of a ring has given its bytes back. */
  long returned(int ring) {
    return (long) COUNTER.getAcquire(mapped, COUNTERS_AT + ring * COUNTER_STEP);
  }

  /** Sets {@link #returned}. This end's earlier reads come before. */
  void setReturned(int ring, long position) {
    COUNTER.setRelease(mapped, COUNTERS_AT + ring * COUNTER_STEP, position);
  }

  /**
   * Checks after a use of the memory that the file still has its size. Memory behind a file's end
   * cannot be used: the JVM turns the operating system's signal (SIGBUS) into an InternalError,
   * which it throws at the latest when this method calls the operating system.
   *
   * @throws DamagedFrameException if it has another size
   */
  void check() throws IOException {
    if (file.length() != fileBytes(ringBytes)) {
      throw new DamagedFrameException("the peer has changed the size of the shared memory");
    }
  }

  /** What {@link #check} says, if the JVM says it first. */
  static DamagedFrameException gone(InternalError signal) {
    DamagedFrameException damaged =
        new DamagedFrameException("the peer has taken shared memory away: " + signal.getMessage());
    damaged.addSuppressed(signal);
    return damaged;
  }

  /** Keeps the memory mapped until a further {@link #release}. */
  void hold() {
    holds.incrementAndGet();
  }

  /** Gives up one hold. The last one unmaps the memory. */
  void release() {
    if (holds.decrementAndGet() > 0) {
      return;
    }
    try {
      file.close();
    } catch (IOException e) {
      log.debug("Closing a link's shared memory failed", e);
    }
    UNMAP.accept(mapped);
  }

  /**
   * Unmaps a buffer that is not used any more. Without {@code jdk.unsupported} the garbage
   * collector does.
   */
  private static Consumer<MappedByteBuffer> unmapper() {
    try {
      Class<?> unsafe = Class.forName("sun.misc.Unsafe");
      Field field = unsafe.getDeclaredField("theUnsafe");
      field.setAccessible(true);
      MethodHandle cleaner =
          MethodHandles.lookup()
              .findVirtual(
                  unsafe, "invokeCleaner", MethodType.methodType(void.class, ByteBuffer.class))
              .bindTo(field.get(null));
      return buffer -> {
        try {
          cleaner.invoke((ByteBuffer) buffer);
        } catch (Throwable e) {
          log.debug("A link's shared memory cannot be unmapped", e);
        }
      };
    } catch (ReflectiveOperationException | RuntimeException e) {
      log.debug("A link's shared memory is left to the garbage collector", e);
      return buffer -> {};
    }
  }
}
