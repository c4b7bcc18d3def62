// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import io.remora.actors.internal.BatchMailbox;
import io.remora.actors.link.proto.SavedState;
import io.remora.actors.node.NodeLink;
import io.remora.progress.Activities;
import io.remora.progress.Activity;
import io.remora.progress.Progress;
import io.remora.state.CheckpointName;
import java.time.Duration;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Optional;
import java.util.Set;
import java.util.function.Consumer;
import java.util.function.LongSupplier;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The checkpoints of one session in the state store. The last two are kept, so that a damaged one
 * does not lose the session, and the mailbox keeps the batches after the older one. When these are
 * many, only the last checkpoint is kept. A checkpoint may need files of earlier ones, which are
 * kept with it. Only the actor that owns the session may use this class.
 */
final class SessionCheckpoints {

  private static final Logger log = LoggerFactory.getLogger(SessionTable.class);

  private final BatchMailbox mailbox;
  private final RecoverySettings settings;
  private final LongSupplier clock;
  private final String series;

  private long begun;
  private SavedState latest;
  private SavedState previous;
  private String pending = "";
  private long lastNanos;
  private String unreadable = "";
  private Activity activity;

  SessionCheckpoints(BatchMailbox mailbox, RecoverySettings settings, LongSupplier clock) {
    this.mailbox = mailbox;
    this.settings = settings;
    this.clock = clock;
    this.series = CheckpointName.newSeries(mailbox.figures().machine());
    this.lastNanos = clock.getAsLong();
  }

  private static long executedBy(SavedState checkpoint) {
    return checkpoint == null ? 0 : checkpoint.getLastExecutedSequence();
  }

  // Making them ---------------------------------------------------------------------------------

  /** Starts a checkpoint if one is due. Returns its name. */
  Optional<String> begin() {
    long done = executedBy(latest);
    if (!settings.isOn() || !pending.isEmpty()) {
      return Optional.empty();
    }
    boolean intervalIsOver =
        clock.getAsLong() - lastNanos >= settings.checkpointInterval().toNanos();
    if (!settings.replays()) {
      return intervalIsOver || begun == 0 ? Optional.of(next()) : Optional.empty();
    }
    if (!mailbox.recovery().hasExecutedAfter(done)) {
      return Optional.empty();
    }
    boolean due =
        intervalIsOver
            || mailbox.recovery().recoveryBytes() >= settings.checkpointBytes()
            || mailbox.recovery().unrepeatableAfter(done).isPresent();
    return due ? Optional.of(next()) : Optional.empty();
  }

  private String next() {
    lastNanos = clock.getAsLong();
    pending = new CheckpointName(series, ++begun).toString();
    if (!areAtMarks()) {
      activity = Activities.begin(mailbox.figures().machine(), "checkpoint", "bytes");
      activity.message("the node stores " + Progress.bytes(mailbox.figures().storages().bytes()));
    }
    return pending;
  }

  /** The last checkpoint, whose files the next one may share; "" if there is none. */
  String base() {
    return latest == null ? "" : latest.getPause();
  }

  /** Whether they are made where the program has marked a step, and not at once. */
  boolean areAtMarks() {
    return !settings.replays();
  }

  /** Whether the node is making one. Whether the program has come to a mark is not known. */
  boolean isPending() {
    return !pending.isEmpty() && !areAtMarks();
  }

  /** Whether this is the name of a checkpoint of the session. */
  boolean has(String name) {
    return names().contains(name);
  }

  /** Notes how far the node is. */
  void saving(NodeLink.Saving event) {
    if (activity != null && event.pause().equals(pending)) {
      activity.set(event.done(), event.total());
    }
  }

  /** Notes the node's answer. Returns the names of the checkpoints that are no longer needed. */
  List<String> saved(NodeLink.SessionSaved event) {
    if (!event.pause().equals(pending)) {
      return List.of();
    }
    endActivity();
    pending = "";
    Duration took =
        areAtMarks()
            ? Duration.ofMillis(event.state().getMillis())
            : Duration.ofNanos(clock.getAsLong() - lastNanos);
    lastNanos = areAtMarks() ? clock.getAsLong() : lastNanos;
    if (!event.failure().isEmpty()) {
      notSaved(event.failure());
      return List.of();
    }
    mailbox.figures().checkpointed(event.state().getBytes(), event.state().getReusedBytes(), took);
    Set<String> unneeded = files();
    previous = latest;
    latest = event.state();
    unreadable = "";
    mailbox.recovery().forgetUpTo(executedBy(previous));
    if (mailbox.recovery().recoveryBytes() > settings.mostKeptBytes() / 2) {
      // The program would soon wait: only the last checkpoint is kept.
      mailbox.recovery().forgetUpTo(executedBy(latest));
      previous = null;
    }
    unneeded.removeAll(files());
    return List.copyOf(unneeded);
  }

  private void notSaved(String why) {
    if (mailbox.recovery().recoveryBytes() < settings.mostKeptBytes() / 2) {
      log.warn(
          "Machine {}: no checkpoint was made of session {}, and the one before is kept: {}",
          mailbox.figures().machine(),
          mailbox.session(),
          why);
      return;
    }
    long upTo = mailbox.recovery().lastDelivered();
    log.error(
        "Machine {}: no checkpoint was made of session {}: {}. Its batches have reached half of"
            + " remora.recovery.log-bytes and log-disk-bytes, {}, so batch {} and those before it"
            + " are given up: until the next checkpoint, the loss of the node loses the session",
        mailbox.figures().machine(),
        mailbox.session(),
        why,
        settings.mostKeptBytes(),
        upTo);
    mailbox.recovery().forgetUpTo(upTo);
  }

  // Using them ----------------------------------------------------------------------------------

  /** Why the session cannot be recovered on another node; empty if it can. */
  Optional<String> obstacle() {
    if (!settings.isOn()) {
      return Optional.of("recovery is off (remora.recovery.mode)");
    }
    if (!settings.replays()) {
      return latest != null
          ? Optional.empty()
          : Optional.of(
              "there is no checkpoint yet: remora.recovery.mode is checkpoint, and none was"
                  + " complete of a step that the program has marked (RemoteMachine.checkpoint)");
    }
    long from = executedBy(latest);
    if (!mailbox.recovery().reachesBackTo(from)) {
      return Optional.of(
          "the batches after its last checkpoint are not kept any more"
              + " (remora.recovery.log-bytes)");
    }
    return mailbox
        .recovery()
        .unrepeatableAfter(from)
        .map(what -> "since its last checkpoint it did what cannot be repeated: " + what);
  }

  /** The checkpoint to restore; null if the session starts from its first batch. */
  SavedState latest() {
    return latest;
  }

  /** Gives up the checkpoint that was begun on a lost node. Returns its name, if there is one. */
  List<String> abandonPending() {
    List<String> abandoned = pending.isEmpty() ? List.of() : List.of(pending);
    endActivity();
    pending = "";
    return abandoned;
  }

  /** The last batch that the restored node has executed. */
  long executed() {
    return executedBy(latest);
  }

  /**
   * Gives up the last checkpoint, which cannot be read.
   *
   * @param why the reason
   * @param givenUp receives the names of the checkpoints that are no longer needed
   * @return whether the one before, or the session's start, can be restored
   */
  boolean fallBack(String why, Consumer<String> givenUp) {
    if (latest == null) {
      return false;
    }
    Set<String> unneeded = files();
    latest = previous;
    previous = null;
    unneeded.removeAll(files());
    unneeded.forEach(givenUp);
    unreadable = unreadable.isEmpty() ? why : unreadable + ". The one before: " + why;
    return obstacle().isEmpty();
  }

  /** Why the checkpoints that were given up cannot be read; "" if there are none. */
  String unreadable() {
    return unreadable;
  }

  /** The session has ended. Returns the names of its checkpoints, which are no longer needed. */
  Set<String> end() {
    endActivity();
    return names();
  }

  private void endActivity() {
    if (activity != null) {
      activity.close();
      activity = null;
    }
  }

  /** The names of all checkpoints that are, or may be, in the store. */
  Set<String> names() {
    Set<String> names = files();
    if (!pending.isEmpty()) {
      names.add(pending);
    }
    return names;
  }

  /** The names of the kept checkpoints, and of those whose files they need. */
  private Set<String> files() {
    Set<String> names = new LinkedHashSet<>();
    for (SavedState kept : new SavedState[] {latest, previous}) {
      if (kept != null) {
        names.add(kept.getPause());
        names.addAll(kept.getNeedsList());
      }
    }
    return names;
  }
}
