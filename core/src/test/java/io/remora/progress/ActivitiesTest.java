// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.progress;

import static org.assertj.core.api.Assertions.assertThat;

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Who is told of activities, and when. */
@Tag("fast")
@Timeout(60)
final class ActivitiesTest {

  private final BlockingQueue<Progress> reports = new LinkedBlockingQueue<>();

  private Progress next() throws InterruptedException {
    Progress next = reports.poll(40, TimeUnit.SECONDS);
    assertThat(next).isNotNull();
    return next;
  }

  @Test
  void whatLastsIsReportedUntilItsEndAndNothingElseIs() throws Exception {
    try (Activities.Listening listening = Activities.listen("m", reports::add)) {
      Activities.begin("m", "short").close();
      try (Activity other = Activities.begin("other", "long");
          Activity lasting =
              Activities.begin("m", "load", "bytes", activity -> activity.set(5, 10))) {
        lasting.message("file 1");
        Progress first = next();
        while (first.message().isEmpty()) { // it may have been reported before it had one
          first = next();
        }
        assertThat(first.activity()).isEqualTo("load");
        assertThat(first.fraction()).isEqualTo(0.5);
        assertThat(first.message()).isEqualTo("file 1");
        assertThat(first.elapsed()).isGreaterThanOrEqualTo(Activities.AFTER);
        assertThat(other.elapsed()).isGreaterThanOrEqualTo(Activities.AFTER);
      }
      List<Progress> rest = new ArrayList<>();
      do {
        rest.add(next());
      } while (!rest.get(rest.size() - 1).ended());
      assertThat(rest).extracting(Progress::activity).containsOnly("load");
    }
  }

  @Test
  void aListenerThatLeavesHearsOfAnEnd() throws Exception {
    try (Activity lasting = Activities.begin("n", "open")) {
      Activities.Listening listening = Activities.listen("n", reports::add);
      assertThat(next().ended()).isFalse();
      listening.close();
      Progress last = next();
      while (!last.ended()) {
        last = next();
      }
      assertThat(reports).isEmpty();
    }
  }

  @Test
  void aListenerThatThrowsIsRemovedAndOthersStay() throws Exception {
    try (Activities.Listening bad =
            Activities.listen(
                "b",
                progress -> {
                  throw new IllegalStateException("a listener's mistake");
                });
        Activities.Listening good = Activities.listen("b", reports::add);
        Activity lasting = Activities.begin("b", "open")) {
      assertThat(next().ended()).isFalse();
      assertThat(next().ended()).isFalse();
    }
  }

  @Test
  void aReportIsALineForPeople() {
    assertThat(line("load model", 1_300_000_000, 3_000_000_000L, "bytes", ""))
        .isEqualTo("m: load model 43%, 1.3 GB of 3.0 GB, 12 s");
    assertThat(line("upload", 52_000_000, 0, "bytes", "")).isEqualTo("m: upload 52.0 MB, 12 s");
    assertThat(line("replay", 3, 12, "batches", ""))
        .isEqualTo("m: replay 25%, 3 of 12 batches, 12 s");
    assertThat(line("open", 0, 0, "", "image, layer 1\nmore"))
        .isEqualTo("m: open, 12 s: image, layer 1");
  }

  private static String line(String activity, long done, long total, String unit, String message) {
    return new Progress("m", activity, done, total, unit, message, Duration.ofSeconds(12), false)
        .line();
  }
}
