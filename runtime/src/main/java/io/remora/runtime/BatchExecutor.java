// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import static java.util.Objects.requireNonNull;

import io.remora.runtime.internal.NativeCore;
import io.remora.runtime.internal.RunCallbacks;
import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.util.List;
import org.bytedeco.javacpp.LongPointer;

/**
 * Runs a session's batches through libtorch on the devices of this process: the node's side of the
 * native core. Holds the session's storages. For one thread at a time.
 */
public final class BatchExecutor implements AutoCloseable {
  private long handle;

  private BatchExecutor(long handle) {
    this.handle = handle;
  }

  /**
   * Makes an executor without storages. A {@link TorchLibrary} must have been loaded.
   *
   * @param devices {@code cpu} or {@code cuda:0} …, one for each device of the machine; one may
   *     stand there several times, to simulate several
   * @param deniedOperators operators that fail when called, e.g. {@code aten::from_file}; without
   *     an overload name all overloads are meant
   * @throws RemoraException when a device does not exist
   */
  public static BatchExecutor create(List<String> devices, List<String> deniedOperators) {
    requireNonNull(devices, "devices");
    long handle =
        NativeCore.executorCreate(String.join(",", devices), String.join(",", deniedOperators));
    if (handle == -1) {
      throw new RemoraException("cannot compute on " + devices + ": " + NativeCore.lastError());
    }
    return new BatchExecutor(handle);
  }

  /**
   * Runs a batch to its end. Operations that fail do not fail the batch; the result's report has
   * them.
   *
   * @param sequence the batch's number, for messages
   * @param batch a direct buffer, read from position to limit; its position does not move
   * @throws ProtocolException when the bytes are not a well-formed batch; the session cannot
   *     continue then
   */
  public ExecutionResult execute(long sequence, ByteBuffer batch) {
    if (!batch.isDirect()) {
      throw new IllegalArgumentException("batch must be a direct buffer");
    }
    long result =
        NativeCore.executorExecute(open(), NativeMemory.pointer(batch), batch.remaining());
    if (result == -1) {
      throw new ProtocolException("batch " + sequence + " is malformed: " + NativeCore.lastError());
    }
    return new ExecutionResult(result);
  }

  /**
   * Python functions in batches run there; without a runner they fail.
   *
   * @param runner called on the thread that calls {@link #execute}
   */
  public void runFunctionsWith(FunctionRunner runner) {
    RunCallbacks.add(open(), requireNonNull(runner, "runner"));
  }

  /**
   * Calls of the node itself are answered there; without a handler they fail.
   *
   * @param handler called on the thread that calls {@link #execute}
   */
  public void answerCallsWith(NodeCallHandler handler) {
    requireNonNull(handler, "handler");
    RunCallbacks.addNode(
        open(),
        (request, timeout, answer) -> {
          NodeCall call = NodeCall.decode(request, timeout);
          try {
            answer.accept(handler.answer(call).encode(call.device()));
          } finally {
            handler.answered();
          }
        });
  }

  /** Number of storages the session holds. */
  public long storageCount() {
    return NativeCore.executorStorageCount(open());
  }

  /** Bytes of memory the session's storages take. */
  public long storageBytes() {
    return NativeCore.executorStorageBytes(open());
  }

  /**
   * Writes everything the session is made of to a new file: storages with their values, random
   * generators, operators, failures, events. The session continues as if nothing had happened.
   *
   * @param sequence the last batch executed, which the file remembers
   * @param file where to; its folder exists. It is complete and on disk when this returns
   * @throws RemoraException when it cannot be written, naming the cause; no file is left then
   */
  public SavedSession save(long sequence, Path file) {
    try (LongPointer summary = new LongPointer(4)) {
      if (NativeCore.executorSave(open(), sequence, file.toString(), summary) != 0) {
        throw new RemoraException("the session was not saved: " + NativeCore.lastError());
      }
      return saved(summary);
    }
  }

  /**
   * Takes up a session that was saved. First of all, and once; when it throws, this executor must
   * be closed.
   *
   * @param file what {@link #save} has written; anything else is refused
   * @return what the file holds, for comparison with what was said when it was saved
   * @throws RemoraException when the file cannot be read or is not what was saved
   */
  public SavedSession load(Path file) {
    try (LongPointer summary = new LongPointer(4)) {
      if (NativeCore.executorLoad(open(), file.toString(), summary) != 0) {
        throw new RemoraException("the session was not restored: " + NativeCore.lastError());
      }
      return saved(summary);
    }
  }

  /** Frees the session's storages. Idempotent. */
  @Override
  public void close() {
    if (handle != 0) {
      RunCallbacks.remove(handle);
      NativeCore.executorDestroy(handle);
      handle = 0;
    }
  }

  private long open() {
    if (handle == 0) {
      throw new IllegalStateException("the executor is closed");
    }
    return handle;
  }

  private static SavedSession saved(LongPointer summary) {
    return new SavedSession(summary.get(0), summary.get(1), summary.get(2), summary.get(3));
  }
}
