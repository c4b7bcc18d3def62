// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import static java.util.Objects.requireNonNull;

import io.remora.runtime.internal.NativeCore;
import io.remora.runtime.internal.RunCallbacks;
import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.bytedeco.javacpp.LongPointer;

/** The executor of the native core. */
final class NativeExecutor implements BatchExecutor {
  private long handle;

  private NativeExecutor(long handle) {
    this.handle = handle;
  }

  static BatchExecutor create(List<String> devices, List<String> deniedOperators) {
    requireNonNull(devices, "devices");
    long handle =
        NativeCore.executorCreate(String.join(",", devices), String.join(",", deniedOperators));
    if (handle == -1) {
      throw new RemoraException("cannot compute on " + devices + ": " + NativeCore.lastError());
    }
    return new NativeExecutor(handle);
  }

  @Override
  public ExecutionResult execute(long sequence, ByteBuffer batch) {
    if (!batch.isDirect()) {
      throw new IllegalArgumentException("batch must be a direct buffer");
    }
    long result =
        NativeCore.executorExecute(open(), NativeMemory.pointer(batch), batch.remaining());
    if (result == -1) {
      throw new ProtocolException("batch " + sequence + " is malformed: " + NativeCore.lastError());
    }
    return new NativeResult(result);
  }

  @Override
  public void runFunctionsWith(FunctionRunner runner) {
    RunCallbacks.add(open(), requireNonNull(runner, "runner"));
  }

  @Override
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

  @Override
  public long storageCount() {
    return NativeCore.executorStorageCount(open());
  }

  @Override
  public long storageBytes() {
    return NativeCore.executorStorageBytes(open());
  }

  @Override
  public SavedSession save(long sequence, Path file) {
    try (LongPointer summary = new LongPointer(4)) {
      if (NativeCore.executorSave(open(), sequence, file.toString(), summary) != 0) {
        throw new RemoraException("the session was not saved: " + NativeCore.lastError());
      }
      return saved(summary);
    }
  }

  @Override
  public CapturedSession capture(long sequence) {
    long captured = NativeCore.executorCapture(open(), sequence);
    if (captured == -1) {
      throw new RemoraException("the session was not copied: " + NativeCore.lastError());
    }
    return new NativeCapture(captured, sequence);
  }

  @Override
  public SavedSession load(Path file) {
    try (LongPointer summary = new LongPointer(4)) {
      if (NativeCore.executorLoad(open(), file.toString(), summary) != 0) {
        throw new RemoraException("the session was not restored: " + NativeCore.lastError());
      }
      return saved(summary);
    }
  }

  @Override
  public SavedSession load(List<Piece> pieces) {
    Map<Path, Long> files = new LinkedHashMap<>();
    long[] numbers = new long[3 * pieces.size()];
    int at = 0;
    for (Piece piece : pieces) {
      Long known = files.get(piece.file());
      long file = known != null ? known : files.size();
      files.putIfAbsent(piece.file(), file);
      numbers[at++] = file;
      numbers[at++] = piece.offset();
      numbers[at++] = piece.bytes();
    }
    String paths = files.keySet().stream().map(Path::toString).collect(Collectors.joining("\n"));
    try (LongPointer summary = new LongPointer(4);
        LongPointer list = new LongPointer(numbers)) {
      if (NativeCore.executorLoadPieces(open(), paths, list, pieces.size(), summary) != 0) {
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
