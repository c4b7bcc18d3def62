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
 * native core. It holds the session's storages. Only one thread may use it at a time.
 */
public final class BatchExecutor implements AutoCloseable {
  private long handle;

  private BatchExecutor(long handle) {
    this.handle = handle;
  }

  /**
   * Creates an executor without storages. A {@link TorchLibrary} must have been loaded.
   *
   * @param devices {@code cpu}, {@code cuda:0} … or another accelerator's, one for each device of
   *     the machine; a device may be repeated to simulate several
   * @param deniedOperators operators that fail when called, e.g. {@code aten::from_file}; a name
   *     without an overload means all overloads
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
   * Runs a batch to its end. A failed operation does not fail the batch; the result's report lists
   * it.
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
   * Sets the runner for Python functions in batches. Without a runner they fail.
   *
   * @param runner called on the thread that calls {@link #execute}
   */
  public void runFunctionsWith(FunctionRunner runner) {
    RunCallbacks.add(open(), requireNonNull(runner, "runner"));
  }

  /**
   * Sets the handler for calls of the node itself. Without a handler they fail.
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

  /** Number of storages that the session holds. */
  public long storageCount() {
    return NativeCore.executorStorageCount(open());
  }

  /** Bytes of memory that the session's storages take. */
  public long storageBytes() {
    return NativeCore.executorStorageBytes(open());
  }

  /**
   * Writes the whole state of the session to a new file: storages with their values, random
   * generators, operators, failures, events. The session itself does not change.
   *
   * @param sequence the last batch executed, which is stored in the file
   * @param file the file, in an existing folder; it is complete and on disk when this method
   *     returns
   * @throws RemoraException when the file cannot be written; the message names the cause, and no
   *     file is left
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
   * Copies the whole state of the session, so that it can be written while the session continues.
   * The copies take as much memory of the host as the storages take on their devices.
   *
   * @param sequence the last batch executed
   * @throws RemoraException when there is not enough memory, or a device cannot be read
   */
  public CapturedSession capture(long sequence) {
    long captured = NativeCore.executorCapture(open(), sequence);
    if (captured == -1) {
      throw new RemoraException("the session was not copied: " + NativeCore.lastError());
    }
    return new CapturedSession(captured);
  }

  /**
   * Restores a saved session. Call it once, before any other use. If it throws, close this
   * executor.
   *
   * @param file a file that {@link #save} has written; any other file is refused
   * @return a description of the file, to compare with the result of {@link #save}
   * @throws RemoraException when the file cannot be read or is not a saved session
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

  static SavedSession saved(LongPointer summary) {
    return new SavedSession(summary.get(0), summary.get(1), summary.get(2), summary.get(3));
  }
}
