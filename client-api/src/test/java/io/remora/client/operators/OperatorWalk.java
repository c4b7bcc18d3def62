// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client.operators;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.io.Writer;
import java.lang.ProcessBuilder.Redirect;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Queue;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Consumer;

/**
 * Runs operators through {@link OperatorTrials} in separate processes. A process that dies or hangs
 * is started again, and the step that ended it is skipped.
 */
final class OperatorWalk {

  private static final Duration START_LIMIT = Duration.ofSeconds(90);
  private static final int REMOTE_CRASHES_OF_ONE_OPERATOR = 2;
  private static final int RESTARTS_FOR_ONE_OPERATOR = 8;
  private static final int PROGRESS = 250;

  /** The findings about one overload. */
  record Entry(
      String operator,
      List<String> forward,
      List<String> backward,
      List<String> derivatives,
      int equal,
      int bothThrew,
      boolean undefinedValues,
      List<String> origins,
      List<OperatorTrials.Failure> failures,
      String notCovered) {
    boolean passed() {
      return failures.isEmpty() && notCovered.isEmpty();
    }
  }

  private final Queue<String> waiting = new ConcurrentLinkedQueue<>();
  private final Map<String, Entry> entries = new TreeMap<>();
  private final AtomicInteger localCrashes = new AtomicInteger();
  private final int processes;
  private final Duration stepLimit;
  private final Path logs;
  private final Consumer<String> progress;

  /**
   * @param operators keys of overloads
   * @param processes how many run at a time
   * @param stepLimit after which a process counts as hanging
   * @param logs folder for the processes' standard errors
   * @param progress receives every failure, every end of a process, and occasional progress
   */
  OperatorWalk(
      List<String> operators,
      int processes,
      Duration stepLimit,
      Path logs,
      Consumer<String> progress) {
    waiting.addAll(operators);
    this.processes = processes;
    this.stepLimit = stepLimit;
    this.logs = logs;
    this.progress = progress;
  }

  /**
   * Number of steps that ended the process while the CPU was computing. They are skipped, because
   * there is nothing to compare.
   */
  int localCrashes() {
    return localCrashes.get();
  }

  Map<String, Entry> run() throws InterruptedException {
    ExecutorService threads = Executors.newFixedThreadPool(processes);
    try {
      List<Future<?>> running = new ArrayList<>();
      for (int i = 0; i < processes; i++) {
        Path log = logs.resolve("operators-" + i + ".log");
        running.add(threads.submit(() -> work(log)));
      }
      for (Future<?> each : running) {
        each.get();
      }
    } catch (ExecutionException e) {
      throw new IllegalStateException("The walk failed", e.getCause());
    } finally {
      threads.shutdownNow();
    }
    return entries;
  }

  private void work(Path log) {
    Worker worker = new Worker(log);
    try {
      for (String operator = waiting.poll(); operator != null; operator = waiting.poll()) {
        Entry entry = one(worker, operator);
        int done;
        synchronized (entries) {
          entries.put(operator, entry);
          done = entries.size();
        }
        if (done % PROGRESS == 0) {
          progress.accept("%d overloads, the last one %s".formatted(done, operator));
        }
      }
    } finally {
      worker.stop();
    }
  }

  private Entry one(Worker worker, String operator) {
    TreeSet<Integer> skipped = new TreeSet<>();
    TreeMap<String, OperatorTrials.Failure> failures = new TreeMap<>();
    String lastDeath = "";
    int remoteCrashes = 0;
    for (int attempt = 0; attempt <= RESTARTS_FOR_ONE_OPERATOR; attempt++) {
      worker.send(operator, skipped);
      String[] step = {"", "0", "cpu", "before its first step"};
      for (String[] line = worker.next(stepLimit); line != null; line = worker.next(stepLimit)) {
        switch (line[0]) {
          case OperatorWorker.STEP -> step = line;
          case OperatorWorker.FAILURE -> {
            OperatorTrials.Failure failure =
                new OperatorTrials.Failure(line[1], line[2], line[3], line[4], line[5]);
            failures.put(failure.sample() + failure.variant(), failure);
            progress.accept(failure.toString());
          }
          case OperatorWorker.DONE -> {
            return new Entry(
                operator,
                names(line[1]),
                names(line[2]),
                names(line[3]),
                Integer.parseInt(line[4]),
                Integer.parseInt(line[5]),
                Boolean.parseBoolean(line[6]),
                names(line[7]),
                List.copyOf(failures.values()),
                line[8].isEmpty() || lastDeath.isEmpty() ? line[8] : line[8] + lastDeath);
          }
          default -> {}
        }
      }
      boolean hung = worker.alive();
      worker.stop();
      progress.accept(
          operator + (hung ? " hangs at " : " ends the process at ") + String.join(" ", step));
      skipped.add(Integer.valueOf(step[1]));
      if (step[2].equals("remote")) {
        String what = hung ? "the program hangs" : "the program's process ends";
        failures.put(
            step[3],
            new OperatorTrials.Failure(
                hung ? "HANG" : "CRASH", operator, step[3], "", "CPU works | remote: " + what));
        if (++remoteCrashes == REMOTE_CRASHES_OF_ONE_OPERATOR) {
          break;
        }
      } else {
        localCrashes.incrementAndGet();
        lastDeath = "; the local CPU " + (hung ? "hangs" : "crashes") + " with others";
      }
    }
    return new Entry(
        operator,
        List.of(),
        List.of(),
        List.of(),
        0,
        0,
        false,
        List.of(),
        List.copyOf(failures.values()),
        "the local CPU crashes with every input tried");
  }

  private static List<String> names(String text) {
    return text.isEmpty() ? List.of() : Arrays.asList(text.split(",", -1));
  }

  /** A process, started when needed. */
  private static final class Worker {
    private final Path log;
    private Process process;
    private Writer toProcess;
    private LinkedBlockingQueue<String> lines;

    Worker(Path log) {
      this.log = log;
    }

    private void start() {
      try {
        ProcessBuilder builder =
            new ProcessBuilder(
                    Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                    "-Djava.util.concurrent.ForkJoinPool.common.parallelism=2",
                    "-XX:TieredStopAtLevel=1",
                    "-XX:-CreateCoredumpOnCrash",
                    "-XX:ErrorFile=/dev/null",
                    "-cp",
                    System.getProperty("java.class.path"),
                    OperatorWorker.class.getName())
                .redirectError(Redirect.appendTo(log.toFile()));
        // glibc fills the memory that it allocates. Memory that a libtorch kernel reads before
        // writing to it then looks the same in this process and its node.
        builder.environment().put("MALLOC_PERTURB_", "85");
        process = builder.start();
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
      toProcess = process.outputWriter(StandardCharsets.UTF_8);
      lines = new LinkedBlockingQueue<>();
      Process started = process;
      LinkedBlockingQueue<String> queue = lines;
      Thread reader = new Thread(() -> read(started, queue), "operators-reader");
      reader.setDaemon(true);
      reader.start();
      String[] ready = next(START_LIMIT);
      if (ready == null || !ready[0].equals(OperatorWorker.READY)) {
        stop();
        throw new IllegalStateException("The worker does not start; see " + log);
      }
    }

    private static void read(Process process, LinkedBlockingQueue<String> queue) {
      try (BufferedReader reader =
          new BufferedReader(
              new InputStreamReader(process.getInputStream(), StandardCharsets.UTF_8))) {
        for (String line = reader.readLine(); line != null; line = reader.readLine()) {
          if (line.startsWith("@@")) {
            queue.add(line);
          }
        }
      } catch (IOException e) {
        // The process was ended.
      }
      queue.add("");
    }

    void send(String operator, Set<Integer> skipped) {
      if (process == null) {
        start();
      }
      try {
        toProcess.write(
            operator
                + "\t"
                + String.join(",", skipped.stream().map(String::valueOf).toList())
                + "\n");
        toProcess.flush();
      } catch (IOException e) {
        // The process has ended; its output says at which step.
      }
    }

    /** The next line; null if the process has ended or was silent for this long. */
    String[] next(Duration limit) {
      try {
        String line = lines.poll(limit.toMillis(), TimeUnit.MILLISECONDS);
        if (line == null || line.isEmpty()) {
          if (line != null) {
            process.waitFor(10, TimeUnit.SECONDS);
          }
          return null;
        }
        return line.split("\t", -1);
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
        stop();
        throw new IllegalStateException("Interrupted", e);
      }
    }

    boolean alive() {
      return process.isAlive();
    }

    void stop() {
      if (process != null) {
        process.descendants().forEach(ProcessHandle::destroyForcibly);
        process.destroyForcibly();
        process = null;
      }
    }
  }
}
