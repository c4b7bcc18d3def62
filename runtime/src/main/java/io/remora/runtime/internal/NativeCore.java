// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime.internal;

import org.bytedeco.javacpp.BytePointer;
import org.bytedeco.javacpp.FunctionPointer;
import org.bytedeco.javacpp.LongPointer;
import org.bytedeco.javacpp.annotation.Cast;
import org.bytedeco.javacpp.annotation.Name;
import org.bytedeco.javacpp.annotation.Platform;
import org.bytedeco.javacpp.annotation.Raw;

/**
 * The functions of {@code remora.h}, which documents them. JavaCPP generates the C++ glue from this
 * class, so run {@code runtime/build-native} after a change.
 */
@Platform(
    include = {"remora.h", "throw_translation.h"},
    library = "jniremora")
public final class NativeCore {
  private NativeCore() {}

  /** remora_submit_callback. */
  public static class SubmitCallback extends FunctionPointer {
    protected SubmitCallback() {
      allocate();
    }

    private native void allocate();

    public native int call(
        long machine, long batch, @Cast("char*") BytePointer error, int errorBytes);
  }

  /** remora_await_callback. */
  public static class AwaitCallback extends FunctionPointer {
    protected AwaitCallback() {
      allocate();
    }

    private native void allocate();

    public native int call(
        long machine, long request, @Cast("char*") BytePointer error, int errorBytes);
  }

  /** remora_trace_callback. */
  public static class TraceCallback extends FunctionPointer {
    protected TraceCallback() {
      allocate();
    }

    private native void allocate();

    public native void call(long machine, long call, @Cast("const char*") BytePointer line);
  }

  /** remora_line_callback. */
  public static class LineCallback extends FunctionPointer {
    protected LineCallback() {
      allocate();
    }

    private native void allocate();

    public native int call(@Cast("char*") BytePointer text, int capacity);
  }

  /** remora_notice_callback. */
  public static class NoticeCallback extends FunctionPointer {
    protected NoticeCallback() {
      allocate();
    }

    private native void allocate();

    public native void call(long machine, @Cast("const char*") BytePointer text);
  }

  /** remora_fetch_callback. */
  public static class FetchCallback extends FunctionPointer {
    protected FetchCallback() {
      allocate();
    }

    private native void allocate();

    public native int call(
        @Cast("const char*") BytePointer address,
        @Cast("const char*") BytePointer ticket,
        long destination,
        long bytes,
        @Cast("char*") BytePointer error,
        int errorBytes);
  }

  /** remora_run_callback. */
  public static class RunCallback extends FunctionPointer {
    protected RunCallback() {
      allocate();
    }

    private native void allocate();

    public native int call(
        long executor,
        @Cast("const uint8_t*") BytePointer request,
        long bytes,
        long timeoutMillis,
        @Cast("char*") BytePointer error,
        int errorBytes);
  }

  @Name("remora_built_for_torch")
  public static native String builtForTorch();

  @Name("remora_wire_version")
  public static native int wireVersion();

  @Name("remora_source_hash")
  public static native String sourceHash();

  @Name("remora_last_error")
  public static native String lastError();

  @Name("remora_set_compute_threads")
  public static native void setComputeThreads(int threads);

  @Name("remora_compute_threads")
  public static native int computeThreads();

  @Name("remora_declare_fixed_shapes")
  public static native void declareFixedShapes(String operator);

  @Name("remora_device_count")
  public static native int deviceCount(String type);

  @Name("remora_device_name")
  public static native String deviceName(String type, int device);

  @Name("remora_device_memory")
  public static native long deviceMemory(String type, int device);

  @Name("remora_device_use")
  public static native long deviceUse(String device, int figure);

  @Name("remora_install")
  public static native int install(
      @Cast("remora_submit_callback") SubmitCallback submit,
      @Cast("remora_await_callback") AwaitCallback await,
      @Cast("remora_trace_callback") TraceCallback trace);

  @Name("remora_set_notice_callback")
  public static native void setNoticeCallback(
      @Cast("remora_notice_callback") NoticeCallback notice);

  @Name("remora_slot_count")
  public static native int slotCount();

  @Name("remora_machine_open")
  public static native long machineOpen(String name, int devices, long maxBatchBytes);

  @Name("remora_machine_slot")
  public static native int machineSlot(long machine, int device);

  @Name("remora_machine_flush")
  public static native int machineFlush(long machine);

  @Name("remora_machine_flush_when_idle")
  public static native int machineFlushWhenIdle(
      long machine, long timeoutMicros, long lingerMicros);

  @Name("remora_machine_sequence")
  public static native long machineSequence(long machine);

  @Name("remora_machine_executed")
  public static native void machineExecuted(long machine, long sequence);

  @Name("remora_machine_answer")
  public static native int machineAnswer(
      long machine, long request, @Cast("const uint8_t*") BytePointer data, long bytes);

  @Name("remora_machine_read")
  public static native long machineRead(
      long machine, long source, long destination, @Cast("int64_t*") LongPointer count);

  @Name("remora_set_read_piece")
  public static native int setReadPiece(long bytes);

  @Name("remora_machine_fail")
  public static native void machineFail(long machine, String message);

  @Name("remora_machine_mark")
  public static native int machineMark(long machine, long step);

  @Name("remora_machine_restored")
  public static native long machineRestored(long machine, long epoch, String message);

  @Name("remora_machine_set_trace")
  public static native void machineSetTrace(long machine, int text, int callSites);

  @Name("remora_machine_set_notable_bytes")
  public static native void machineSetNotableBytes(long machine, long bytes);

  @Name("remora_machine_set_cuda")
  public static native void machineSetCuda(long machine, int on);

  @Name("remora_machine_set_node_address")
  public static native int machineSetNodeAddress(long machine, String address);

  @Name("remora_machine_told")
  public static native int machineTold(long machine, long failure);

  @Name("remora_machine_synchronize")
  public static native int machineSynchronize(long machine);

  @Name("remora_machine_memory")
  public static native int machineMemory(
      long machine, int device, @Cast("int64_t*") LongPointer values);

  @Name("remora_machine_empty_cache")
  public static native int machineEmptyCache(long machine, int device);

  @Name("remora_machine_reset_peak_memory")
  public static native int machineResetPeakMemory(long machine, int device);

  @Name("remora_run_longest")
  public static native long runLongest(long machine);

  @Name("remora_call_node")
  public static native long callNode(
      long machine,
      int device,
      long timeoutMillis,
      String name,
      @Cast("const uint8_t*") BytePointer payload,
      long bytes,
      @Cast("const int64_t*") LongPointer tensors,
      long count);

  @Name("remora_node_answer")
  public static native long nodeAnswer(long machine, long request);

  @Name("remora_node_answer_payload")
  public static native long nodeAnswerPayload(long answer);

  @Name("remora_node_answer_bytes")
  public static native long nodeAnswerBytes(long answer);

  @Name("remora_node_answer_tensors")
  public static native long nodeAnswerTensors(long answer);

  @Name("remora_node_answer_tensor")
  public static native long nodeAnswerTensor(long answer, long index);

  @Name("remora_node_answer_release")
  public static native void nodeAnswerRelease(long answer);

  @Name("remora_event_record")
  public static native long eventRecord(long machine, int device);

  @Name("remora_event_query")
  public static native int eventQuery(long event);

  @Name("remora_event_synchronize")
  public static native int eventSynchronize(long event);

  @Name("remora_event_elapsed")
  public static native double eventElapsed(long first, long second);

  @Name("remora_event_destroy")
  public static native void eventDestroy(long event);

  @Name("remora_machine_close")
  public static native void machineClose(long machine);

  @Name("remora_machine_statistic")
  public static native long machineStatistic(long machine, int statistic);

  @Name("remora_machine_metadata_waits")
  public static native String machineMetadataWaits(long machine);

  @Name("remora_machine_waited_for_room")
  public static native void machineWaitedForRoom(long machine, long nanos);

  @Name("remora_machine_waits")
  public static native String machineWaits(long machine);

  @Name("remora_machine_hinder")
  public static native void machineHinder(long machine, int state);

  @Name("remora_machine_timeline_start")
  public static native String machineTimelineStart(long machine, String file);

  @Name("remora_machine_timeline_stop")
  public static native int machineTimelineStop(long machine, long waitMillis);

  @Name("remora_machine_times")
  public static native void machineTimes(
      long machine, long sequence, @Cast("const uint8_t*") BytePointer data, long bytes);

  @Name("remora_machine_passage")
  public static native void machinePassage(
      long machine, long sequence, @Cast("const uint8_t*") BytePointer data, long bytes);

  @Name("remora_waits_for")
  public static native String waitsFor();

  @Name("remora_set_line_callback")
  public static native void setLineCallback(LineCallback line);

  @Name("remora_batch_sequence")
  public static native long batchSequence(long batch);

  @Name("remora_batch_data")
  public static native long batchData(long batch);

  @Name("remora_batch_bytes")
  public static native long batchBytes(long batch);

  @Name("remora_batch_born_count")
  public static native long batchBornCount(long batch);

  @Name("remora_batch_born")
  public static native long batchBorn(long batch);

  @Name("remora_batch_freed_count")
  public static native long batchFreedCount(long batch);

  @Name("remora_batch_freed")
  public static native long batchFreed(long batch);

  @Name("remora_batch_request")
  public static native long batchRequest(long batch);

  @Name("remora_batch_destination")
  public static native long batchDestination(long batch);

  @Name("remora_batch_destination_bytes")
  public static native long batchDestinationBytes(long batch);

  @Name("remora_batch_release")
  public static native void batchRelease(long batch);

  @Name("remora_storage_id")
  public static native long storageId(long tensor);

  @Name("remora_metadata_hash")
  public static native long metadataHash(long tensor);

  @Name("remora_open_devices")
  public static native int openDevices();

  @Name("remora_current_device")
  public static native int currentDevice();

  @Name("remora_executor_create")
  public static native long executorCreate(String devices, String denied);

  @Name("remora_executor_destroy")
  public static native void executorDestroy(long executor);

  @Name("remora_executor_execute")
  public static native long executorExecute(
      long executor, @Cast("const uint8_t*") BytePointer data, long bytes);

  @Name("remora_set_run_callback")
  public static native void setRunCallback(@Cast("remora_run_callback") RunCallback run);

  @Name("remora_set_node_callback")
  public static native void setNodeCallback(@Cast("remora_run_callback") RunCallback node);

  @Name("remora_run_write")
  public static native int runWrite(long tensor, String path, long offset, long bytes);

  @Name("remora_run_answer")
  public static native int runAnswer(@Cast("const uint8_t*") BytePointer data, long bytes);

  @Name("remora_executor_storage_count")
  public static native long executorStorageCount(long executor);

  @Name("remora_executor_storage_bytes")
  public static native long executorStorageBytes(long executor);

  @Name("remora_executor_save")
  public static native int executorSave(
      long executor, long sequence, String path, @Cast("int64_t*") LongPointer summary);

  @Name("remora_executor_capture")
  public static native long executorCapture(long executor, long sequence);

  @Name("remora_captured_storages")
  public static native long capturedStorages(long captured);

  @Name("remora_captured_next")
  public static native int capturedNext(long captured, @Cast("int64_t*") LongPointer part);

  @Name("remora_captured_release")
  public static native void capturedRelease(long captured);

  @Name("remora_executor_load")
  public static native int executorLoad(
      long executor, String path, @Cast("int64_t*") LongPointer summary);

  @Name("remora_executor_load_pieces")
  public static native int executorLoadPieces(
      long executor,
      String files,
      @Cast("const int64_t*") LongPointer pieces,
      long count,
      @Cast("int64_t*") LongPointer summary);

  @Name("remora_result_has_mark")
  public static native int resultHasMark(long result);

  @Name("remora_result_mark")
  public static native long resultMark(long result);

  @Name("remora_result_report")
  public static native long resultReport(long result);

  @Name("remora_result_report_bytes")
  public static native long resultReportBytes(long result);

  @Name("remora_result_value_count")
  public static native long resultValueCount(long result);

  @Name("remora_result_value_request")
  public static native long resultValueRequest(long result, long index);

  @Name("remora_result_value")
  public static native long resultValue(long result, long index);

  @Name("remora_result_value_bytes")
  public static native long resultValueBytes(long result, long index);

  @Name("remora_result_release")
  public static native void resultRelease(long result);

  @Name("remora_transfer_configure")
  public static native int transferConfigure(
      @Cast("remora_fetch_callback") FetchCallback fetch,
      long maxTickets,
      long maxBytes,
      long lifetimeMillis);

  @Name("remora_transfer_take")
  public static native long transferTake(String ticket);

  @Name("remora_transfer_data")
  public static native long transferData(long transfer);

  @Name("remora_transfer_bytes")
  public static native long transferBytes(long transfer);

  @Name("remora_transfer_release")
  public static native void transferRelease(long transfer);

  @Name("remora_transfer_expire")
  public static native int transferExpire();

  /** See {@code throw_translation.h}. */
  @Name("remora_jni::translate_throws")
  @Raw(withEnv = true)
  public static native void translateThrows();
}
