// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import java.util.Arrays;
import java.util.Random;

/** Damages bytes as broken or hostile senders do. The same seed does the same damage. */
public final class Damage {

  private final Random random;

  public Damage(long seed) {
    random = new Random(seed);
  }

  /** A damaged copy: flipped bits, cuts, pieces doubled or missing, inflated numbers, splices. */
  public byte[] of(byte[] sound, byte[] other) {
    byte[] bytes = sound.clone();
    for (int changes = 1 + random.nextInt(4); changes > 0; changes--) {
      int at = random.nextInt(bytes.length + 1);
      int to = at + random.nextInt(Math.min(64, bytes.length - at) + 1);
      bytes =
          switch (random.nextInt(6)) {
            case 0 -> flipped(bytes);
            case 1 -> Arrays.copyOf(bytes, at);
            case 2 -> join(Arrays.copyOf(bytes, to), Arrays.copyOfRange(bytes, at, bytes.length));
            case 3 -> join(Arrays.copyOf(bytes, at), Arrays.copyOfRange(bytes, to, bytes.length));
            case 4 ->
                join(
                    join(Arrays.copyOf(bytes, at), hostileNumber()),
                    Arrays.copyOfRange(bytes, Math.min(at + 1, bytes.length), bytes.length));
            default -> {
              int from = random.nextInt(other.length + 1);
              yield join(Arrays.copyOf(bytes, at), Arrays.copyOfRange(other, from, other.length));
            }
          };
    }
    return bytes;
  }

  public int below(int bound) {
    return random.nextInt(bound);
  }

  private byte[] flipped(byte[] bytes) {
    if (bytes.length > 0) {
      for (int flips = 1 + random.nextInt(4); flips > 0; flips--) {
        bytes[random.nextInt(bytes.length)] ^= (byte) (1 << random.nextInt(8));
      }
    }
    return bytes;
  }

  /** A varint, as protobuf and Kryo write lengths: negative, huge, or near a power of two. */
  private byte[] hostileNumber() {
    long value =
        switch (random.nextInt(3)) {
          case 0 -> -1 - random.nextInt(16);
          case 1 -> (1L << random.nextInt(64)) - 1 + random.nextInt(3);
          default -> random.nextLong();
        };
    byte[] digits = new byte[10];
    int count = 0;
    while ((value & ~0x7fL) != 0) {
      digits[count++] = (byte) (value | 0x80);
      value >>>= 7;
    }
    digits[count++] = (byte) value;
    return Arrays.copyOf(digits, count);
  }

  private static byte[] join(byte[] head, byte[] tail) {
    byte[] both = Arrays.copyOf(head, head.length + tail.length);
    System.arraycopy(tail, 0, both, head.length, tail.length);
    return both;
  }
}
