// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static java.util.Objects.requireNonNull;

import com.google.protobuf.InvalidProtocolBufferException;
import io.remora.actors.models.proto.Directory;
import io.remora.actors.models.proto.KeptList;
import io.remora.actors.models.proto.KeptLoaded;
import io.remora.actors.models.proto.Load;
import io.remora.actors.models.proto.LoadCancelled;
import io.remora.actors.models.proto.LoadProgress;
import io.remora.actors.models.proto.Loaded;
import io.remora.actors.models.proto.ModelError;
import io.remora.actors.models.proto.NodeAnswer;
import io.remora.actors.models.proto.Save;
import io.remora.actors.models.proto.Saved;
import io.remora.actors.models.proto.TensorToSave;
import io.remora.core.ErrorTable;
import io.remora.core.errors.ErrorKind;
import io.remora.models.DType;
import io.remora.models.ModelException;
import io.remora.models.NewFile;
import io.remora.models.NotEnoughMemoryException;
import io.remora.models.SafetensorsWriter;
import io.remora.models.hub.DownloadProgress;
import io.remora.models.hub.GatedRepositoryException;
import io.remora.runtime.NodeCall;
import io.remora.runtime.NodeCallAnswer;
import io.remora.runtime.NodeCallHandler;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.RemoraException;
import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalLong;

/**
 * Loads, saves and keeps tensors for one session, as {@code models.proto} describes it. For the
 * session's thread, which never waits here for the network.
 */
final class ModelCalls implements NodeCallHandler, AutoCloseable {
  private final String session;
  private final NodeModels models;
  private final Map<Long, ModelLoad> loads = new HashMap<>();

  private final KeptTensors kept;

  /** Gives back the files that the current answer needs until the native core has taken it. */
  private Runnable giveBack = () -> {};

  ModelCalls(String session, NodeModels models, KeptTensors kept) {
    this.session = requireNonNull(session, "session");
    this.models = requireNonNull(models, "models");
    this.kept = requireNonNull(kept, "kept");
  }

  @Override
  public NodeCallAnswer answer(NodeCall call) {
    io.remora.actors.models.proto.NodeCall message;
    try {
      message = io.remora.actors.models.proto.NodeCall.parseFrom(call.payload());
    } catch (InvalidProtocolBufferException e) {
      throw new ProtocolException("the call is malformed: " + e.getMessage(), e);
    }
    try {
      return switch (message.getCallCase()) {
        case LOAD -> load(call, message.getLoad());
        case CANCEL_LOAD -> cancel(message.getCancelLoad().getId());
        case SAVE -> save(call, message.getSave());
        case KEEP -> answer(List.of(kept.keep(call, message.getKeep())));
        case FIND_KEPT -> answer(kept.find(message.getFindKept().getName()));
        case LOAD_KEPT -> loadKept(call, message.getLoadKept().getKey());
        case DROP_KEPT -> answer(kept.drop(message.getDropKept().getName()));
        case CALL_NOT_SET -> throw new ProtocolException("this node does not know the call");
      };
    } catch (ProtocolException e) {
      throw e;
    } catch (RemoraException | IllegalArgumentException e) {
      return answer(NodeAnswer.newBuilder().setError(error(e)));
    }
  }

  @Override
  public void answered() {
    giveBack.run();
    giveBack = () -> {};
  }

  /** Cancels all running loads. */
  @Override
  public void close() {
    answered();
    loads.values().forEach(ModelLoad::close);
    loads.clear();
  }

  // Loading -------------------------------------------------------------------------------------

  private NodeCallAnswer load(NodeCall call, Load request) {
    ModelLoad load = loads.get(request.getId());
    if (load == null) {
      int most = models.settings().maxLoads();
      if (loads.size() >= most) {
        throw new ModelException(
            "the session already runs %d loads, its limit (remora.node.models.max-loads)"
                .formatted(most));
      }
      load = ModelLoad.begin(session, request, models);
      loads.put(request.getId(), load);
    }
    Optional<ModelLoad.Found> found;
    try {
      found = load.found();
    } catch (RuntimeException e) {
      loads.remove(request.getId());
      throw e;
    }
    if (found.isEmpty()) {
      return answer(NodeAnswer.newBuilder().setProgress(progress(load.progress())));
    }
    loads.remove(request.getId());
    giveBack = found.get().plain()::close;
    return loaded(call, request, found.get());
  }

  private NodeCallAnswer cancel(long id) {
    ModelLoad load = loads.remove(id);
    if (load != null) {
      load.close();
    }
    return answer(NodeAnswer.newBuilder().setCancelled(LoadCancelled.getDefaultInstance()));
  }

  private NodeCallAnswer loaded(NodeCall call, Load request, ModelLoad.Found found) {
    Loaded.Builder loaded = Loaded.newBuilder().setCommit(found.commit());
    AnswerTensors tensors = new AnswerTensors();
    found
        .files()
        .directories()
        .forEach(
            (path, weights) ->
                loaded.addDirectories(
                    Directory.newBuilder().setPath(path).addAllTensors(tensors.add(weights))));
    Optional<DType> dtype = DType.ofTorchName(request.getDtype());
    long bytes = tensors.bytes();
    if (dtype.isPresent()) {
      bytes =
          Math.max(
              bytes,
              tensors.sum(each -> each.elements() * dtypeAfterwards(each.dtype(), dtype).bytes()));
    }
    requireMemory(call, request.getSource(), bytes);
    return tensors.answer(
        NodeAnswer.newBuilder().setLoaded(loaded).build().toByteArray(),
        found.plain(),
        models.settings().mapFiles());
  }

  private static DType dtypeAfterwards(DType dtype, Optional<DType> wanted) {
    return dtype.torchName().contains("float") ? wanted.orElse(dtype) : dtype;
  }

  private static void requireMemory(NodeCall call, String source, long bytes) {
    boolean onCpu = call.deviceName().equals("cpu");
    OptionalLong available = onCpu ? HostMemory.available() : call.available();
    if (available.isPresent() && available.getAsLong() < bytes) {
      throw new NotEnoughMemoryException(
          "%s needs %,d bytes of memory, but %s has only %,d left"
              .formatted(
                  source, bytes, onCpu ? "the node" : call.deviceName(), available.getAsLong()));
    }
  }

  private static LoadProgress progress(DownloadProgress now) {
    return LoadProgress.newBuilder()
        .setFilesDone(now.filesDone())
        .setFiles(now.files())
        .setBytesDone(now.bytesDone())
        .setBytes(now.bytes())
        .setBytesPerSecond(now.bytesPerSecond())
        .build();
  }

  // Saving --------------------------------------------------------------------------------------

  private NodeCallAnswer save(NodeCall call, Save request) {
    Path file = models.toSave(request.getPath());
    long bytes = write(call, file, request.getTensorsList(), request.getMetadataMap());
    return answer(NodeAnswer.newBuilder().setSaved(Saved.newBuilder().setBytes(bytes)));
  }

  /**
   * Writes the call's tensors to a new safetensors file, and returns its size.
   *
   * @param descriptions of the call's tensors, in their order
   */
  static long write(
      NodeCall call, Path file, List<TensorToSave> descriptions, Map<String, String> metadata) {
    Map<String, Integer> numbers = new HashMap<>();
    List<SafetensorsWriter.Tensor> tensors = new ArrayList<>();
    for (TensorToSave tensor : descriptions) {
      numbers.put(tensor.getName(), tensors.size());
      tensors.add(
          new SafetensorsWriter.Tensor(
              tensor.getName(),
              DType.ofTorchName(tensor.getDtype())
                  .orElseThrow(
                      () ->
                          new ModelException(
                              "model files do not support dtype " + tensor.getDtype())),
              tensor.getSizesList().stream().mapToLong(Long::longValue).toArray()));
    }
    SafetensorsWriter.Layout layout = SafetensorsWriter.layout(tensors, metadata);
    try (NewFile output = NewFile.of(file, layout.fileBytes())) {
      output.write(ByteBuffer.wrap(layout.header()), 0);
      for (SafetensorsWriter.Place place : layout.places()) {
        call.write(
            numbers.get(place.tensor().name()), output.path(), place.offset(), place.bytes());
      }
      output.commit();
    }
    return layout.fileBytes();
  }

  // Tensors under a name --------------------------------------------------------------------------

  private NodeCallAnswer loadKept(NodeCall call, String key) {
    KeptTensors.Opened opened = kept.open(key);
    giveBack = opened::close;
    AnswerTensors tensors = new AnswerTensors();
    KeptLoaded.Builder loaded = KeptLoaded.newBuilder();
    opened
        .files()
        .directories()
        .values()
        .forEach(
            weights ->
                loaded.addAllTensors(tensors.add(weights)).putAllMetadata(weights.metadata()));
    requireMemory(call, "what is kept", tensors.bytes());
    return tensors.answer(
        NodeAnswer.newBuilder().setKeptLoaded(loaded).build().toByteArray(),
        opened.plain(),
        models.settings().mapFiles());
  }

  private static NodeCallAnswer answer(List<KeptTensors.Version> versions) {
    KeptList.Builder list = KeptList.newBuilder();
    versions.forEach(version -> list.addKept(version.message()));
    return answer(NodeAnswer.newBuilder().setKept(list));
  }

  // Answers -------------------------------------------------------------------------------------

  private static NodeCallAnswer answer(NodeAnswer.Builder answer) {
    return NodeCallAnswer.of(answer.build().toByteArray());
  }

  private static ModelError error(RuntimeException e) {
    ModelError.Builder error =
        ModelError.newBuilder()
            .setKind(
                (e instanceof ModelException ? ErrorTable.kindOf(e) : ErrorKind.ModelException)
                    .name())
            .setMessage(String.valueOf(e.getMessage()));
    if (e instanceof GatedRepositoryException gated) {
      error.setUrl(String.valueOf(gated.accessPage()));
    }
    return error.build();
  }
}
