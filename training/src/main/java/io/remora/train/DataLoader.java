// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.train;

import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.NoSuchElementException;
import java.util.Objects;
import java.util.Random;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.TimeUnit;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.Tensor;

/**
 * Prepares batches in a thread of its own while the loop trains, and uploads each batch one step
 * before the loop needs it.
 *
 * <pre>{@code
 * try (DataLoader loader =
 *     DataLoader.of(samples, indices -> List.of(images(indices), labels(indices)))
 *         .batchSize(32).shuffle(seed).device(machine.device()).build()) {
 *   for (long epoch = 0; epoch < epochs; epoch++) {
 *     for (List<Tensor> batch : loader.epoch(epoch)) {
 *       Tensor loss = cross_entropy(model.forward(batch.get(0)), batch.get(1));
 *       …
 *     }
 *   }
 * }
 * }</pre>
 *
 * <p>The order of the samples depends on the seed and the number of the epoch alone, so a training
 * that resumes gets the same batches: {@code epoch(step / batches, step % batches)}.
 *
 * <p>Uploads are recorded by the thread of the loop, always at the same place among the operations
 * of a step, and do not wait. The batch that the loop gets is valid until it asks for the next one;
 * then its tensors are freed. Data that fits on the device is faster without a loader: upload it
 * once and take batches by {@code index_select}.
 *
 * <p>One thread at a time may use a loader and its epochs; {@link Source} is called by another.
 */
public final class DataLoader implements AutoCloseable {

  /** Makes batches. It is called by one thread, which is not the thread of the loop. */
  @FunctionalInterface
  public interface Source {

    /**
     * Makes a batch of these samples.
     *
     * @param indices numbers of samples, 0 to the number of samples - 1
     * @return new tensors on the CPU; the loader closes them
     * @throws Exception stops the epoch; the loop gets it when it asks for this batch
     */
    List<Tensor> batch(long[] indices) throws Exception;
  }

  private static final long JOIN_MILLIS = TimeUnit.SECONDS.toMillis(10);

  private final long samples;
  private final Source source;
  private final int batchSize;
  private final boolean dropLast;
  private final Long seed;
  private final int prefetch;
  private final Device device;
  private Epoch current;
  private boolean closed;

  private DataLoader(Builder builder) {
    this.samples = builder.samples;
    this.source = builder.source;
    this.batchSize = builder.batchSize;
    this.dropLast = builder.dropLast;
    this.seed = builder.seed;
    this.prefetch = builder.prefetch;
    this.device = Retained.by(new Device(builder.device));
  }

  /**
   * A builder of a loader.
   *
   * @param samples the number of samples, at least 1
   */
  public static Builder of(long samples, Source source) {
    return new Builder(samples, source);
  }

  /** The number of batches in an epoch. */
  public long batches() {
    return dropLast ? samples / batchSize : (samples + batchSize - 1) / batchSize;
  }

  /** {@link #epoch(long, long)} from its first batch. */
  public Iterable<List<Tensor>> epoch(long epoch) {
    return epoch(epoch, 0);
  }

  /**
   * The batches of an epoch. It can be iterated once, and ends the epoch that was iterated before.
   * Asking for a batch throws what the source has thrown for it; a checked exception is the cause
   * of an {@link IllegalStateException}.
   *
   * @param epoch its number, 0 or more: it selects the order
   * @param first the batch to start with, 0 to {@link #batches()}
   * @throws IllegalStateException if the loader is closed
   */
  public Iterable<List<Tensor>> epoch(long epoch, long first) {
    if (epoch < 0 || first < 0 || first > batches()) {
      throw new IllegalArgumentException(
          "The loader has epochs from 0 and batches 0 to %d, not batch %d of epoch %d"
              .formatted(batches(), first, epoch));
    }
    if (closed) {
      throw new IllegalStateException("The data loader is closed");
    }
    endEpoch();
    Epoch started = new Epoch(order(epoch), first);
    current = started;
    boolean[] taken = {false};
    return () -> {
      if (taken[0]) {
        throw new IllegalStateException(
            "An epoch can be iterated once. Call epoch() again for its batches.");
      }
      taken[0] = true;
      return started;
    };
  }

  /**
   * Stops the thread that prepares batches and frees the batches that were not used. A thread that
   * does not react to its interruption within 10 s is left to end by itself. A second call has no
   * effect.
   */
  @Override
  public void close() {
    if (!closed) {
      closed = true;
      endEpoch();
      device.close();
    }
  }

  private void endEpoch() {
    if (current != null) {
      current.end();
      current = null;
    }
  }

  private long[] order(long epoch) {
    long[] order = new long[Math.toIntExact(samples)];
    Random random = seed == null ? null : new Random(mix(seed, epoch));
    for (int i = 0; i < order.length; i++) {
      int j = random == null ? i : random.nextInt(i + 1);
      order[i] = order[j];
      order[j] = i;
    }
    return order;
  }

  /** SplitMix64's finalizer, so that neighbouring seeds and epochs give unrelated orders. */
  private static long mix(long seed, long epoch) {
    long z = seed + (epoch + 1) * 0x9E3779B97F4A7C15L;
    z = (z ^ (z >>> 30)) * 0xBF58476D1CE4E5B9L;
    z = (z ^ (z >>> 27)) * 0x94D049BB133111EBL;
    return z ^ (z >>> 31);
  }

  /** What the preparing thread hands over: a batch, or why there is none. */
  private record Prepared(List<Tensor> batch, Throwable failure) {}

  private final class Epoch implements Iterator<List<Tensor>> {
    private final long[] order;
    private final BlockingQueue<Prepared> queue = new ArrayBlockingQueue<>(prefetch);
    private final Thread thread;
    private volatile boolean ended;
    // Batches that this epoch still has to take from the queue.
    private long left;
    private List<Tensor> ahead;
    private List<Tensor> given;
    private Throwable failure;

    Epoch(long[] order, long first) {
      this.order = order;
      this.left = batches() - first;
      this.thread = new Thread(() -> prepare(first), "remora-data-loader");
      thread.setDaemon(true);
      thread.start();
    }

    private void prepare(long first) {
      for (long batch = first; batch < batches() && !ended; batch++) {
        Prepared prepared;
        try {
          int from = Math.toIntExact(batch * batchSize);
          int count = (int) Math.min(batchSize, samples - from);
          long[] indices = new long[count];
          System.arraycopy(order, from, indices, 0, count);
          prepared = new Prepared(List.copyOf(source.batch(indices)), null);
        } catch (Throwable e) {
          prepared = new Prepared(null, e);
        }
        try {
          queue.put(prepared);
        } catch (InterruptedException e) {
          free(prepared.batch);
          return;
        }
        if (prepared.failure != null) {
          return;
        }
      }
    }

    @Override
    public boolean hasNext() {
      return !ended && (ahead != null || failure != null || left > 0);
    }

    @Override
    public List<Tensor> next() {
      if (!hasNext()) {
        throw new NoSuchElementException("The epoch has no more batches");
      }
      free(given);
      given = null;
      try {
        if (ahead == null && failure == null) {
          take(queue.take());
        }
        if (ahead == null) {
          throw thrown();
        }
        given = ahead;
        ahead = null;
        if (left > 0) {
          Prepared next = queue.poll();
          if (next != null) {
            take(next);
          }
        }
        return given;
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
        end();
        throw new IllegalStateException("Interrupted while waiting for a batch", e);
      }
    }

    private void take(Prepared prepared) {
      left--;
      if (prepared.failure != null) {
        failure = prepared.failure;
        return;
      }
      ahead = upload(prepared.batch);
    }

    private RuntimeException thrown() {
      Throwable cause = failure;
      end();
      if (cause instanceof Error error) {
        throw error;
      }
      return cause instanceof RuntimeException unchecked
          ? unchecked
          : new IllegalStateException("A batch could not be prepared: " + cause, cause);
    }

    /** Ends the thread and frees everything that it has prepared. */
    void end() {
      if (ended) {
        return;
      }
      ended = true;
      thread.interrupt();
      boolean interrupted = false;
      try {
        thread.join(JOIN_MILLIS);
      } catch (InterruptedException e) {
        interrupted = true;
      }
      for (Prepared prepared = queue.poll(); prepared != null; prepared = queue.poll()) {
        free(prepared.batch);
      }
      free(ahead);
      free(given);
      ahead = null;
      given = null;
      failure = null;
      if (interrupted) {
        Thread.currentThread().interrupt();
      }
    }
  }

  private List<Tensor> upload(List<Tensor> batch) {
    List<Tensor> uploaded = new ArrayList<>();
    for (Tensor tensor : batch) {
      uploaded.add(Retained.by(tensor.to(device, tensor.scalar_type())));
    }
    free(batch);
    return List.copyOf(uploaded);
  }

  private static void free(List<Tensor> batch) {
    if (batch != null) {
      batch.forEach(Tensor::close);
    }
  }

  /** The settings of a loader. */
  public static final class Builder {
    private final long samples;
    private final Source source;
    private int batchSize = 1;
    private boolean dropLast;
    private Long seed;
    private int prefetch = 2;
    private Device device = new Device("cpu");

    private Builder(long samples, Source source) {
      if (samples < 1 || samples > Integer.MAX_VALUE) {
        throw new IllegalArgumentException(
            "samples must be 1 to %d, but is %d".formatted(Integer.MAX_VALUE, samples));
      }
      this.samples = samples;
      this.source = Objects.requireNonNull(source, "source");
    }

    /** Samples of a batch, at least 1. Default: 1, as in PyTorch. */
    public Builder batchSize(int batchSize) {
      this.batchSize = requirePositive(batchSize, "batchSize");
      return this;
    }

    /** Leaves out the last batch of an epoch if it is not full. */
    public Builder dropLast() {
      this.dropLast = true;
      return this;
    }

    /** Shuffles the samples, each epoch in another order. Default: in order, as in PyTorch. */
    public Builder shuffle(long seed) {
      this.seed = seed;
      return this;
    }

    /** How many batches are prepared ahead of the loop, at least 1. Default: 2. */
    public Builder prefetch(int batches) {
      this.prefetch = requirePositive(batches, "prefetch");
      return this;
    }

    /** Where the loop gets its batches. Default: the CPU. */
    public Builder device(Device device) {
      this.device = Objects.requireNonNull(device, "device");
      return this;
    }

    /**
     * The loader; it starts its thread with the first epoch.
     *
     * @throws IllegalArgumentException if an epoch would have no batch
     */
    public DataLoader build() {
      if (dropLast && samples < batchSize) {
        throw new IllegalArgumentException(
            "%d samples do not fill a batch of %d, and dropLast is set"
                .formatted(samples, batchSize));
      }
      return new DataLoader(this);
    }

    private static int requirePositive(int value, String what) {
      if (value < 1) {
        throw new IllegalArgumentException(what + " must be at least 1, but is " + value);
      }
      return value;
    }
  }
}
