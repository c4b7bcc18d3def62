// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime.internal;

import io.remora.runtime.NativeMemory;
import io.remora.runtime.RemoraException;
import io.remora.runtime.TensorTransfers;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import org.bytedeco.javacpp.BytePointer;

/** The native core's callback to fetch a tensor that another node holds. */
public final class FetchCallbacks {
  private static final int NOT_REACHED = 1;
  private static final int BROKEN = -1;

  // The native core keeps the callback's address, so it must never be collected.
  private static final NativeCore.FetchCallback FETCH = Lasting.of(new Fetch());

  private static volatile TensorTransfers.Fetcher fetcher;

  private FetchCallbacks() {}

  /** See {@link TensorTransfers#configure}. */
  public static void configure(
      TensorTransfers.Fetcher newFetcher, int maxTickets, long maxBytes, long lifetimeMillis) {
    fetcher = newFetcher;
    if (NativeCore.transferConfigure(FETCH, maxTickets, maxBytes, lifetimeMillis) != 0) {
      throw new RemoraException("cannot configure transfers: " + NativeCore.lastError());
    }
  }

  private static int fail(int result, Throwable error, BytePointer text, int capacity) {
    String message = error.getMessage() == null ? error.toString() : error.getMessage();
    byte[] bytes = message.getBytes(StandardCharsets.UTF_8);
    int length = Math.min(bytes.length, capacity - 1);
    text.put(Arrays.copyOf(bytes, length + 1), 0, length + 1);
    return result;
  }

  private static final class Fetch extends NativeCore.FetchCallback {
    @Override
    public int call(
        BytePointer address,
        BytePointer ticket,
        long destination,
        long bytes,
        BytePointer error,
        int errorBytes) {
      try {
        fetcher.fetch(
            address.getString(StandardCharsets.UTF_8),
            ticket.getString(StandardCharsets.UTF_8),
            NativeMemory.buffer(destination, bytes));
        return 0;
      } catch (IOException e) {
        return fail(NOT_REACHED, e, error, errorBytes);
      } catch (Throwable e) {
        return fail(BROKEN, e, error, errorBytes);
      }
    }
  }
}
