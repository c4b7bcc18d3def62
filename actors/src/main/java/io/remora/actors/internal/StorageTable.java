// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import io.remora.actors.StorageState;
import java.util.Arrays;

/**
 * A compact table of a session's live storages: an open-addressing table from storage id to size,
 * device, state and age, with about 48 bytes per entry. Ids are positive. Not thread-safe.
 */
public final class StorageTable {

  private static final int SMALLEST = 64;
  private static final int FIELDS = 3;
  private static final int ID = 0;
  private static final int BYTES = 1;
  private static final int META = 2;

  /**
   * The entries that one search for storages without an actor visits, which takes about half a
   * millisecond.
   */
  private static final int SCANNED = 64 * 1024;

  // META: bits 0-7 device, 8 realized, 9 promoted, 10-63 birth in ms.
  private static final long DEVICE_MASK = 0xff;
  private static final long REALIZED = 1L << 8;
  private static final long PROMOTED = 1L << 9;
  private static final int BIRTH_SHIFT = 10;

  private long[] slots = new long[SMALLEST * FIELDS];
  private int capacity = SMALLEST;
  private int size;
  private int realized;
  private long realizedBytes;
  private int cursor;
  private boolean offloaded;
  private String lostFor = "";

  /** Number of storages. */
  public int size() {
    return size;
  }

  /** Number of storages that have memory, or are offloaded. */
  public int realized() {
    return realized;
  }

  /** Their bytes. */
  public long realizedBytes() {
    return realizedBytes;
  }

  /** Whether the realized storages are in a store at the moment instead of on a node. */
  public boolean isOffloaded() {
    return offloaded;
  }

  /** Adds a lazy storage. Does nothing if it is already in the table. */
  public void add(long id, long bytes, int device, long nowMillis) {
    if (id <= 0) {
      throw new IllegalArgumentException("storage ids are positive, but this is " + id);
    }
    int slot = find(id);
    if (slots[slot + ID] == id) {
      return;
    }
    slots[slot + ID] = id;
    slots[slot + BYTES] = bytes;
    slots[slot + META] = (device & DEVICE_MASK) | (nowMillis << BIRTH_SHIFT);
    size++;
    if (size * 3 > capacity * 2) {
      resize(capacity * 2);
    }
  }

  /** Whether the storage is live. */
  public boolean contains(long id) {
    return id > 0 && slots[find(id) + ID] == id;
  }

  /** Notes that a storage has memory now. Returns false if it is not in the table. */
  public boolean realize(long id, long bytes) {
    if (!contains(id)) {
      return false;
    }
    int slot = find(id);
    forgetRealized(slot);
    slots[slot + BYTES] = bytes;
    slots[slot + META] |= REALIZED;
    realized++;
    realizedBytes += bytes;
    return true;
  }

  /** Removes a storage; false if it is not in the table. */
  public boolean remove(long id) {
    if (!contains(id)) {
      return false;
    }
    int hole = find(id);
    forgetRealized(hole);
    int next = hole;
    // Close the hole: move back the entries that a search would no longer find across it.
    while (true) {
      next = (next + FIELDS) % slots.length;
      if (slots[next + ID] == 0) {
        break;
      }
      int home = home(slots[next + ID]);
      boolean reachable = hole <= next ? hole < home && home <= next : hole < home || home <= next;
      if (!reachable) {
        System.arraycopy(slots, next, slots, hole, FIELDS);
        hole = next;
      }
    }
    slots[hole + ID] = 0;
    size--;
    if (capacity > SMALLEST && size * 8 < capacity) {
      resize(capacity / 2);
    }
    return true;
  }

  /** Size in bytes of a live storage. */
  public long bytes(long id) {
    return slots[live(id) + BYTES];
  }

  /** Device index of a live storage. */
  public int device(long id) {
    return (int) (slots[live(id) + META] & DEVICE_MASK);
  }

  /** State of a live storage. */
  public StorageState state(long id) {
    boolean realized = (slots[live(id) + META] & REALIZED) != 0;
    if (!lostFor.isEmpty()) {
      return StorageState.LOST;
    }
    if (!realized) {
      return StorageState.LAZY;
    }
    return offloaded ? StorageState.OFFLOADED : StorageState.REALIZED;
  }

  /** Sets whether the realized storages are in a store at the moment instead of on a node. */
  public void setOffloaded(boolean offloaded) {
    this.offloaded = offloaded;
  }

  /** Marks all storages as lost, for this reason. */
  public void setLost(String reason) {
    this.lostFor = reason;
  }

  /** Why the storages are lost; empty if they are not. */
  public String lostFor() {
    return lostFor;
  }

  /** Notes that the storage has an actor. */
  public void promote(long id) {
    slots[live(id) + META] |= PROMOTED;
  }

  /** Whether the storage has an actor. */
  public boolean isPromoted(long id) {
    return (slots[live(id) + META] & PROMOTED) != 0;
  }

  /**
   * Ids, in no order, of storages without an actor that were born by {@code latestMillis}. Each
   * call searches the next part of a large table, so that no call takes long; successive calls find
   * all.
   *
   * @param most the most ids to return
   */
  public long[] unpromotedBornBy(long latestMillis, int most) {
    long[] found = new long[8];
    int count = 0;
    for (int looked = Math.min(SCANNED, capacity); looked > 0 && count < most; looked--) {
      cursor = (cursor + FIELDS) % slots.length;
      if (slots[cursor + ID] != 0
          && (slots[cursor + META] & PROMOTED) == 0
          && slots[cursor + META] >>> BIRTH_SHIFT <= latestMillis) {
        if (count == found.length) {
          found = Arrays.copyOf(found, 2 * count);
        }
        found[count++] = slots[cursor + ID];
      }
    }
    return Arrays.copyOf(found, count);
  }

  private void forgetRealized(int slot) {
    if ((slots[slot + META] & REALIZED) != 0) {
      realized--;
      realizedBytes -= slots[slot + BYTES];
    }
  }

  private int live(long id) {
    int slot = find(id);
    if (id <= 0 || slots[slot + ID] != id) {
      throw new IllegalArgumentException("storage " + id + " is not live");
    }
    return slot;
  }

  /** The slot of this id, or the empty one where it would be. */
  private int find(long id) {
    int slot = home(id);
    while (slots[slot + ID] != id && slots[slot + ID] != 0) {
      slot = (slot + FIELDS) % slots.length;
    }
    return slot;
  }

  private int home(long id) {
    long mixed = id * 0x9E3779B97F4A7C15L;
    return (int) (mixed >>> 32 & (capacity - 1)) * FIELDS;
  }

  private void resize(int newCapacity) {
    long[] old = slots;
    slots = new long[newCapacity * FIELDS];
    capacity = newCapacity;
    cursor = 0;
    for (int from = 0; from < old.length; from += FIELDS) {
      if (old[from + ID] != 0) {
        System.arraycopy(old, from, slots, find(old[from + ID]), FIELDS);
      }
    }
  }
}
