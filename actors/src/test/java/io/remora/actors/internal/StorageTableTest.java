// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.remora.actors.StorageState;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("critical")
class StorageTableTest {

  private record Entry(long bytes, int device, StorageState state, long born) {}

  @Test
  void behavesLikeAMapUnderRandomUse() {
    Random random = new Random(42);
    StorageTable table = new StorageTable();
    Map<Long, Entry> expected = new HashMap<>();
    for (int step = 0; step < 300_000; step++) {
      // Grows for a third of the time, then shrinks.
      long id = 1L + random.nextInt(20_000);
      int action = random.nextInt(step < 100_000 ? 4 : 7);
      if (action < 2) {
        long bytes = random.nextLong() >>> 20;
        int device = random.nextInt(8);
        table.add(id, bytes, device, step);
        expected.putIfAbsent(id, new Entry(bytes, device, StorageState.LAZY, step));
      } else if (action == 2) {
        boolean known = table.realize(id, step);
        Entry before = expected.get(id);
        assertThat(known).isEqualTo(before != null);
        if (known) {
          expected.put(id, new Entry(step, before.device(), StorageState.REALIZED, before.born()));
        }
      } else {
        assertThat(table.remove(id)).isEqualTo(expected.remove(id) != null);
      }
      assertThat(table.size()).isEqualTo(expected.size());
    }
    for (long id = 1; id <= 20_000; id++) {
      Entry entry = expected.get(id);
      assertThat(table.contains(id)).isEqualTo(entry != null);
      if (entry != null) {
        assertThat(new Entry(table.bytes(id), table.device(id), table.state(id), entry.born()))
            .isEqualTo(entry);
      }
    }
    List<Entry> realized =
        expected.values().stream().filter(entry -> entry.state() == StorageState.REALIZED).toList();
    assertThat(table.realized()).isEqualTo(realized.size());
    assertThat(table.realizedBytes()).isEqualTo(realized.stream().mapToLong(Entry::bytes).sum());
    long[] old = table.unpromotedBornBy(150_000, Integer.MAX_VALUE);
    Arrays.sort(old);
    assertThat(old)
        .containsExactly(
            expected.entrySet().stream()
                .filter(entry -> entry.getValue().born() <= 150_000)
                .mapToLong(Map.Entry::getKey)
                .sorted()
                .toArray());
  }

  @Test
  void remembersWhoHasAnActor() {
    StorageTable table = new StorageTable();
    table.add(1, 100, 3, 10);
    table.add(2, 200, 7, 10);
    table.promote(1);
    table.realize(1, 100);

    assertThat(table.isPromoted(1)).isTrue();
    assertThat(table.isPromoted(2)).isFalse();
    assertThat(table.unpromotedBornBy(10, 5)).containsExactly(2);
    assertThat(table.unpromotedBornBy(9, 5)).isEmpty();
    assertThat(table.device(1)).isEqualTo(3);
  }

  @Test
  void findsThoseWithoutAnActorPartByPart() {
    StorageTable table = new StorageTable();
    int count = 200_000;
    for (long id = 1; id <= count; id++) {
      table.add(id, 1, 0, 0);
    }

    int found = 0;
    for (int look = 0; look < 20; look++) {
      long[] part = table.unpromotedBornBy(0, 30_000);
      assertThat(part).hasSizeLessThanOrEqualTo(30_000);
      for (long id : part) {
        table.promote(id);
      }
      found += part.length;
    }

    assertThat(found).isEqualTo(count);
  }

  @Test
  void refusesWhatIsNotAStorage() {
    StorageTable table = new StorageTable();

    assertThatThrownBy(() -> table.add(0, 1, 0, 0)).isInstanceOf(IllegalArgumentException.class);
    assertThatThrownBy(() -> table.bytes(17)).isInstanceOf(IllegalArgumentException.class);
    assertThat(table.contains(0)).isFalse();
    assertThat(table.contains(-5)).isFalse();
    assertThat(table.remove(0)).isFalse();
  }
}
