// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway.internal;

import akka.NotUsed;
import akka.stream.OverflowStrategy;
import akka.stream.javadsl.Source;
import ch.qos.logback.classic.Logger;
import ch.qos.logback.classic.LoggerContext;
import ch.qos.logback.classic.spi.ILoggingEvent;
import ch.qos.logback.core.AppenderBase;
import io.remora.actors.MachineInfo;
import io.remora.actors.MachineState;
import io.remora.gateway.v1.LogLine;
import io.remora.progress.Activities;
import io.remora.progress.Progress;
import java.time.Duration;
import java.util.Optional;
import org.slf4j.LoggerFactory;

/**
 * The log of a machine: its states, and its node's log lines. The node's lines come through this
 * process's logger {@code io.remora.node.<machine>}, if Logback does the logging. Also the progress
 * of its activities, as far as its actor is in this process.
 */
final class MachineLogs {

  private static final Duration POLL = Duration.ofMillis(250);

  /** The most lines that wait for a slow listener; further lines push out the oldest. */
  private static final int BUFFER = 1_000;

  private final GatewayMachines machines;

  MachineLogs(GatewayMachines machines) {
    this.machines = machines;
  }

  /** The lines from now on, until the machine is closed or the listener cancels. */
  Source<LogLine, NotUsed> of(String machine) {
    return states(machine).merge(lines(machine), true);
  }

  /** The progress of the machine's activities from now on, until the listener cancels. */
  static Source<LogLine, NotUsed> progress(String machine) {
    return Source.<LogLine>queue(BUFFER, OverflowStrategy.dropHead())
        .mapMaterializedValue(
            queue -> {
              Activities.Listening listening =
                  Activities.listen(machine, progress -> queue.offer(line(progress)));
              var unused =
                  queue.watchCompletion().whenComplete((done, failure) -> listening.close());
              return NotUsed.getInstance();
            });
  }

  private static LogLine line(Progress progress) {
    return line("INFO", "progress", progress.line()).toBuilder()
        .setProgress(
            io.remora.gateway.v1.Progress.newBuilder()
                .setActivity(progress.activity())
                .setDone(progress.done())
                .setTotal(progress.total())
                .setUnit(progress.unit())
                .setMessage(progress.message())
                .setElapsedMillis(progress.elapsed().toMillis())
                .setEnded(progress.ended()))
        .build();
  }

  private Source<LogLine, NotUsed> states(String machine) {
    return Source.tick(Duration.ZERO, POLL, machine)
        .mapMaterializedValue(cancellable -> NotUsed.getInstance())
        .mapAsync(1, machines::get)
        .takeWhile(info -> info.state() != MachineState.STOPPED, true)
        .statefulMapConcat(
            () -> {
              String[] last = {""};
              return info -> {
                String text = text(info);
                if (text.equals(last[0])) {
                  return java.util.List.of();
                }
                last[0] = text;
                return java.util.List.of(line("INFO", "machine", text));
              };
            });
  }

  private static String text(MachineInfo info) {
    return info.state() + ": " + info.reason();
  }

  private static Source<LogLine, NotUsed> lines(String machine) {
    return logger(machine)
        .map(
            logger ->
                Source.<LogLine>queue(BUFFER, OverflowStrategy.dropHead())
                    .mapMaterializedValue(
                        queue -> {
                          Tap tap = new Tap(line -> queue.offer(line));
                          tap.setContext(logger.getLoggerContext());
                          tap.start();
                          logger.addAppender(tap);
                          var unused =
                              queue
                                  .watchCompletion()
                                  .whenComplete((done, failure) -> logger.detachAppender(tap));
                          return NotUsed.getInstance();
                        }))
        .orElseGet(Source::empty);
  }

  /** Logback's logger of a node's lines; empty where another library does the logging. */
  private static Optional<Logger> logger(String machine) {
    return LoggerFactory.getILoggerFactory() instanceof LoggerContext context
        ? Optional.of(context.getLogger("io.remora.node." + machine))
        : Optional.empty();
  }

  private static LogLine line(String level, String source, String text) {
    return LogLine.newBuilder()
        .setUnixMillis(System.currentTimeMillis())
        .setLevel(level)
        .setSource(source)
        .setText(text)
        .build();
  }

  /** Turns log events into lines. */
  private static final class Tap extends AppenderBase<ILoggingEvent> {

    private final java.util.function.Consumer<LogLine> listener;

    Tap(java.util.function.Consumer<LogLine> listener) {
      this.listener = listener;
    }

    @Override
    protected void append(ILoggingEvent event) {
      listener.accept(line(event.getLevel().toString(), "node", event.getFormattedMessage()));
    }
  }
}
