// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.util.List;

/**
 * Runs a session's batches through libtorch on the devices of this process: the node's side of the
 * native core. It holds the session's storages. Only one thread may use it at a time.
 */
public interface BatchExecutor extends AutoCloseable {

  /**
   * Creates an executor without storages. A {@link TorchLibrary} must have been loaded.
   *
   * @param devices {@code cpu}, {@code cuda:0} … or another accelerator's, one for each device of
   *     the machine; a device may be repeated to simulate several
   * @param deniedOperators operators that fail when called, e.g. {@code aten::from_file}; a name
   *     without an overload means all overloads
   * @throws RemoraException when a device does not exist
   */
  static BatchExecutor create(List<String> devices, List<String> deniedOperators) {
    return NativeExecutor.create(devices, deniedOperators);
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
  ExecutionResult execute(long sequence, ByteBuffer batch);

  /**
   * Sets the runner for Python functions in batches. Without a runner they fail.
   *
   * @param runner called on the thread that calls {@link #execute}
   */
  void runFunctionsWith(FunctionRunner runner);

  /**
   * Sets the handler for calls of the node itself. Without a handler they fail.
   *
   * @param handler called on the thread that calls {@link #execute}
   */
  void answerCallsWith(NodeCallHandler handler);

  /** Number of storages that the session holds. */
  long storageCount();

  /** Bytes of memory that the session's storages take. */
  long storageBytes();

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
  SavedSession save(long sequence, Path file);

  /**
   * Copies the whole state of the session, so that it can be taken while the session continues. The
   * copies take as much memory of the host as the storages take on their devices.
   *
   * @param sequence the last batch executed
   * @throws RemoraException when there is not enough memory, or a device cannot be read
   */
  CapturedSession capture(long sequence);

  /**
   * Restores a saved session. Call it, or {@link #load(List)}, once, before any other use. If it
   * throws, close this executor.
   *
   * @param file a file that {@link #save} has written; any other file is refused
   * @return a description of the file, to compare with the result of {@link #save}
   * @throws RemoraException when the file cannot be read or is not a saved session
   */
  SavedSession load(Path file);

  /**
   * Bytes of a file.
   *
   * @param offset where they begin
   * @param bytes how many they are
   */
  record Piece(Path file, long offset, long bytes) {}

  /**
   * Restores a session from the parts of a {@link CapturedSession}, as {@link #load(Path)} does
   * from a file. Verify the pieces first: they have no checksums.
   *
   * @param pieces where the parts lie, in their order
   * @return a description, with the bytes of all pieces and no checksum
   * @throws RemoraException when the pieces cannot be read or are not a session
   */
  SavedSession load(List<Piece> pieces);

  /** Frees the session's storages. Idempotent. */
  @Override
  void close();
}
