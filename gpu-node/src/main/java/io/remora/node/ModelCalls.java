// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static java.util.Objects.requireNonNull;

import com.google.protobuf.InvalidProtocolBufferException;
import io.remora.actors.models.proto.Directory;
import io.remora.actors.models.proto.Load;
import io.remora.actors.models.proto.LoadCancelled;
import io.remora.actors.models.proto.LoadProgress;
import io.remora.actors.models.proto.Loaded;
import io.remora.actors.models.proto.ModelError;
import io.remora.actors.models.proto.NamedTensor;
import io.remora.actors.models.proto.NodeAnswer;
import io.remora.actors.models.proto.Save;
import io.remora.actors.models.proto.Saved;
import io.remora.actors.models.proto.TensorToSave;
import io.remora.core.ErrorTable;
import io.remora.core.errors.ErrorKind;
import io.remora.models.DType;
import io.remora.models.ModelException;
import io.remora.models.ModelFiles;
import io.remora.models.NewFile;
import io.remora.models.NotEnoughMemoryException;
import io.remora.models.PlainBytes;
import io.remora.models.SafetensorsWriter;
import io.remora.models.StorageKey;
import io.remora.models.TensorEntry;
import io.remora.models.hub.DownloadProgress;
import io.remora.models.hub.GatedRepositoryException;
import io.remora.runtime.NodeCall;
import io.remora.runtime.NodeCallAnswer;
import io.remora.runtime.NodeCallAnswer.FileStorage;
import io.remora.runtime.NodeCallAnswer.FileTensor;
import io.remora.runtime.NodeCallHandler;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.RemoraException;
import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalLong;

/**
 * Loads and saves models for one session, as {@code models.proto} describes it. For the session's
 * thread, which never waits here for the network.
 */
final class ModelCalls implements NodeCallHandler, AutoCloseable {
  private final String session;
  private final NodeModels models;
  private final Map<Long, ModelLoad> loads = new HashMap<>();

  /** The bytes that the current answer needs until the native core has taken it. */
  private Optional<PlainBytes> inAnswer = Optional.empty();

  ModelCalls(String session, NodeModels models) {
    this.session = requireNonNull(session, "session");
    this.models = requireNonNull(models, "models");
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
    inAnswer.ifPresent(PlainBytes::close);
    inAnswer = Optional.empty();
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
    inAnswer = Optional.of(found.get().plain());
    return loaded(call, request, found.get());
  }

  private NodeCallAnswer cancel(long id) {
    ModelLoad load = loads.remove(id);
    if (load != null) {
      load.close();
    }
    return answer(NodeAnswer.newBuilder().setCancelled(LoadCancelled.getDefaultInstance()));
  }

  /** The key by which two entries are the same tensor. */
  private record View(
      StorageKey storage,
      DType dtype,
      List<Long> sizes,
      List<Long> strides,
      long offset,
      boolean conjugated,
      boolean negated) {
    static View of(TensorEntry tensor) {
      return new View(
          tensor.storage(),
          tensor.dtype(),
          Arrays.stream(tensor.sizes()).boxed().toList(),
          Arrays.stream(tensor.strides()).boxed().toList(),
          tensor.storageOffset(),
          tensor.conjugated(),
          tensor.negated());
    }
  }

  private NodeCallAnswer loaded(NodeCall call, Load request, ModelLoad.Found found) {
    Map<StorageKey, Integer> numbers = new LinkedHashMap<>();
    Map<View, Integer> views = new HashMap<>();
    List<FileTensor> tensors = new ArrayList<>();
    Loaded.Builder loaded = Loaded.newBuilder().setCommit(found.commit());
    long converted = 0;
    Optional<DType> dtype = DType.ofTorchName(request.getDtype());
    for (Map.Entry<String, ModelFiles.Weights> each : found.files().directories().entrySet()) {
      Directory.Builder directory = Directory.newBuilder().setPath(each.getKey());
      Map<String, Integer> byName = new HashMap<>();
      for (TensorEntry tensor : each.getValue().tensors().values()) {
        int number = views.computeIfAbsent(View.of(tensor), view -> views.size());
        byName.put(tensor.name(), number);
        directory.addTensors(named(tensor.name(), number));
        if (number == tensors.size()) {
          int storage = numbers.computeIfAbsent(tensor.storage(), key -> numbers.size());
          tensors.add(
              new FileTensor(
                  storage,
                  tensor.dtype().torchName(),
                  tensor.sizes(),
                  tensor.strides(),
                  tensor.storageOffset(),
                  tensor.conjugated(),
                  tensor.negated()));
          converted += tensor.elements() * dtypeAfterwards(tensor.dtype(), dtype).bytes();
        }
      }
      // A safetensors file stores a tensor with several names only once. By the convention of the
      // format's own library, the metadata lists the other names.
      each.getValue()
          .metadata()
          .forEach(
              (alias, name) -> {
                if (byName.containsKey(name) && !byName.containsKey(alias)) {
                  directory.addTensors(named(alias, byName.get(name)));
                }
              });
      loaded.addDirectories(directory);
    }
    long bytes = numbers.keySet().stream().mapToLong(StorageKey::bytes).sum();
    requireMemory(
        call, request.getSource(), dtype.isPresent() ? Math.max(bytes, converted) : bytes);
    boolean map = models.settings().mapFiles();
    PlainBytes plain = found.plain();
    return new NodeCallAnswer(
        NodeAnswer.newBuilder().setLoaded(loaded).build().toByteArray(),
        numbers.keySet().stream()
            .map(key -> storage(plain.place(key), map && key.isPlain()))
            .toList(),
        tensors);
  }

  private static FileStorage storage(StorageKey place, boolean map) {
    return new FileStorage(place.file().toAbsolutePath(), place.offset(), place.bytes(), map);
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

  private static NamedTensor named(String name, int tensor) {
    return NamedTensor.newBuilder().setName(name).setTensor(tensor).build();
  }

  // Saving --------------------------------------------------------------------------------------

  private NodeCallAnswer save(NodeCall call, Save request) {
    Path file = models.toSave(request.getPath());
    Map<String, Integer> numbers = new HashMap<>();
    List<SafetensorsWriter.Tensor> tensors = new ArrayList<>();
    for (TensorToSave tensor : request.getTensorsList()) {
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
    SafetensorsWriter.Layout layout = SafetensorsWriter.layout(tensors, request.getMetadataMap());
    try (NewFile output = NewFile.of(file, layout.fileBytes())) {
      output.write(ByteBuffer.wrap(layout.header()), 0);
      for (SafetensorsWriter.Place place : layout.places()) {
        call.write(
            numbers.get(place.tensor().name()), output.path(), place.offset(), place.bytes());
      }
      output.commit();
    }
    return answer(
        NodeAnswer.newBuilder().setSaved(Saved.newBuilder().setBytes(layout.fileBytes())));
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
