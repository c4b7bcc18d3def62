// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import com.google.protobuf.InvalidProtocolBufferException;
import io.remora.actors.models.proto.CancelLoad;
import io.remora.actors.models.proto.Directory;
import io.remora.actors.models.proto.DropKept;
import io.remora.actors.models.proto.FindKept;
import io.remora.actors.models.proto.Keep;
import io.remora.actors.models.proto.Kept;
import io.remora.actors.models.proto.KeptLoaded;
import io.remora.actors.models.proto.Load;
import io.remora.actors.models.proto.LoadKept;
import io.remora.actors.models.proto.Loaded;
import io.remora.actors.models.proto.ModelError;
import io.remora.actors.models.proto.NamedTensor;
import io.remora.actors.models.proto.NodeAnswer;
import io.remora.actors.models.proto.NodeCall;
import io.remora.actors.models.proto.Save;
import io.remora.actors.models.proto.TensorToSave;
import io.remora.core.Backoff;
import io.remora.core.ErrorTable;
import io.remora.core.errors.ErrorKind;
import io.remora.models.DType;
import io.remora.models.ModelException;
import io.remora.models.ModelFileException;
import io.remora.models.NewFile;
import io.remora.models.NotEnoughMemoryException;
import io.remora.models.SafetensorsWriter;
import io.remora.models.hub.CorruptDownloadException;
import io.remora.models.hub.EntryNotFoundException;
import io.remora.models.hub.GatedRepositoryException;
import io.remora.models.hub.HubException;
import io.remora.models.hub.HubUnreachableException;
import io.remora.models.hub.NoDiskSpaceException;
import io.remora.models.hub.OfflineException;
import io.remora.models.hub.RepositoryNotFoundException;
import io.remora.models.hub.RevisionNotFoundException;
import io.remora.progress.Activities;
import io.remora.progress.Activity;
import io.remora.runtime.MachineSession;
import io.remora.runtime.NativeMemory;
import io.remora.runtime.NodeCallResult;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.RemoteOperationException;
import java.net.URI;
import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The program's side of {@code models.proto}: makes a machine's node load, save and keep tensors.
 */
final class MachineModels {

  private static final Logger log = LoggerFactory.getLogger(MachineModels.class);

  private static final Backoff PAUSES = new Backoff(Duration.ofMillis(5), Duration.ofMillis(200));
  private static final Duration BETWEEN_LOG_LINES = Duration.ofSeconds(5);
  private static final Duration SAVE_TIMEOUT = Duration.ofHours(2);
  private static final int WRITTEN_AT_ONCE = 1 << 28;

  /** The messages of libtorch's allocators. */
  private static final Pattern OUT_OF_MEMORY =
      Pattern.compile("out of memory|can't allocate memory");

  /** The kinds of errors.proto, except for GatedRepositoryException, which also has a page. */
  static final ErrorTable<ModelException> ERRORS =
      new ErrorTable<>(
          Stream.of(
              ModelException.class,
              ModelFileException.class,
              NotEnoughMemoryException.class,
              HubException.class,
              HubUnreachableException.class,
              OfflineException.class,
              RepositoryNotFoundException.class,
              RevisionNotFoundException.class,
              EntryNotFoundException.class,
              CorruptDownloadException.class,
              NoDiskSpaceException.class));

  private final String machine;
  private final MachineSession session;

  MachineModels(String machine, MachineSession session) {
    this.machine = machine;
    this.session = session;
  }

  private record Answer(NodeAnswer message, List<Tensor> tensors) {}

  // Loading -------------------------------------------------------------------------------------

  Map<String, Map<String, Tensor>> load(String source, LoadOptions options) {
    Load load =
        Load.newBuilder()
            .setId(ThreadLocalRandom.current().nextLong())
            .setSource(source)
            .setRevision(options.revision())
            .addAllAllowPatterns(options.allowPatterns())
            .addAllIgnorePatterns(options.ignorePatterns())
            .setVariant(options.variant())
            .setToken(options.token())
            .setEndpoint(options.endpoint())
            .setDtype(options.dtype().map(MachineModels::name).orElse(""))
            .build();
    try (Activity activity = Activities.begin(machine, "load model", "bytes")) {
      activity.message(load.getSource());
      return poll(load, options, activity);
    } catch (InterruptedException e) {
      cancel(load, true);
      throw new RemoraException(
          "loading %s on machine '%s' was interrupted".formatted(source, machine), e);
    } catch (RemoraException e) {
      // The node has answered, so there is nothing to cancel.
      if (Thread.currentThread().isInterrupted()) {
        cancel(load, true);
      }
      throw e;
    }
  }

  private Map<String, Map<String, Tensor>> poll(Load load, LoadOptions options, Activity activity)
      throws InterruptedException {
    NodeCall call = NodeCall.newBuilder().setLoad(load).build();
    String what = "loading " + load.getSource();
    long start = System.nanoTime();
    long nextLine = start + BETWEEN_LOG_LINES.toNanos();
    int polls = 0;
    while (true) {
      long left = options.timeout().toNanos() - (System.nanoTime() - start);
      if (left <= 0) {
        cancel(load, false);
        throw new RemoraException(
            ("machine '%s' did not load %s within %s; raise LoadOptions.timeout if the model "
                    + "needs longer")
                .formatted(machine, load.getSource(), options.timeout()));
      }
      Answer answer =
          ask(what, call, options.device(), List.of(), Duration.ofNanos(left).plusMillis(1));
      if (answer.message.hasLoaded()) {
        Map<String, Map<String, Tensor>> loaded = stateDicts(answer, options);
        log.info(
            "Machine '{}': {} is loaded, {} tensors in {} s",
            machine,
            load.getSource(),
            answer.tensors.size(),
            TimeUnit.NANOSECONDS.toSeconds(System.nanoTime() - start));
        return loaded;
      }
      LoadProgress progress = progress(answer.message.getProgress());
      activity.set(progress.bytesDone(), progress.bytes());
      try {
        options.listener().accept(progress);
      } catch (RuntimeException | Error e) {
        cancel(load, false);
        throw e;
      }
      if (System.nanoTime() - nextLine >= 0) {
        nextLine += BETWEEN_LOG_LINES.toNanos();
        log.info(
            "Machine '{}' fetches {}: {} of {} files, {} of {} MB, {} MB/s",
            machine,
            load.getSource(),
            progress.filesDone(),
            progress.files(),
            progress.bytesDone() / 1_000_000,
            progress.bytes() / 1_000_000,
            Math.round(progress.bytesPerSecond() / 1e6));
      }
      polls++;
      TimeUnit.NANOSECONDS.sleep(Math.min(left, PAUSES.waitAfter(polls).toNanos()));
    }
  }

  /** Tells the node that it need not continue. It does not matter whether this message arrives. */
  private void cancel(Load load, boolean interrupted) {
    boolean clear = Thread.interrupted() || interrupted;
    try {
      ask(
          "cancelling a load",
          NodeCall.newBuilder().setCancelLoad(CancelLoad.newBuilder().setId(load.getId())).build(),
          0,
          List.of(),
          PAUSES.longest());
    } catch (RuntimeException e) {
      log.debug("Machine '{}': could not cancel a load on the node", machine, e);
    }
    if (clear) {
      Thread.currentThread().interrupt();
    }
  }

  private static Map<String, Map<String, Tensor>> stateDicts(Answer answer, LoadOptions options) {
    List<Tensor> tensors = answer.tensors;
    options.dtype().ifPresent(dtype -> tensors.replaceAll(tensor -> converted(tensor, dtype)));
    Loaded loaded = answer.message.getLoaded();
    Map<String, Map<String, Tensor>> directories = new LinkedHashMap<>();
    for (Directory directory : loaded.getDirectoriesList()) {
      Map<String, Tensor> stateDict = new LinkedHashMap<>();
      for (NamedTensor named : directory.getTensorsList()) {
        stateDict.put(named.getName(), tensors.get(named.getTensor()));
      }
      directories.put(directory.getPath(), stateDict);
    }
    return directories;
  }

  private static Tensor converted(Tensor tensor, ScalarType dtype) {
    if (!tensor.is_floating_point() || tensor.scalar_type().value == dtype.value) {
      return tensor;
    }
    try (tensor) {
      return tensor.to(dtype);
    }
  }

  private static LoadProgress progress(io.remora.actors.models.proto.LoadProgress progress) {
    return new LoadProgress(
        progress.getFilesDone(),
        progress.getFiles(),
        progress.getBytesDone(),
        progress.getBytes(),
        progress.getBytesPerSecond());
  }

  // Saving --------------------------------------------------------------------------------------

  /**
   * The content of a file to write.
   *
   * @param tensors the distinct tensors
   * @param metadata the metadata, including the names that stand for the same tensor as another
   *     name
   */
  private record ToSave(Map<String, Tensor> tensors, Map<String, String> metadata) {

    static ToSave of(Map<String, Tensor> stateDict, Map<String, String> metadata) {
      Map<Long, List<String>> byStorage = new HashMap<>();
      Map<String, Tensor> tensors = new LinkedHashMap<>();
      // Without this entry, huggingface_hub and older versions of transformers refuse files with
      // metadata.
      Map<String, String> all = new HashMap<>(Map.of("format", "pt"));
      all.putAll(metadata);
      stateDict.forEach(
          (name, tensor) -> {
            List<String> others =
                byStorage.computeIfAbsent(Remora.storageId(tensor), storage -> new ArrayList<>());
            Optional<String> same =
                others.stream().filter(other -> same(tensors.get(other), tensor)).findFirst();
            if (same.isEmpty()) {
              others.add(name);
              tensors.put(name, tensor);
            } else if (all.putIfAbsent(name, same.get()) != null) {
              throw new IllegalArgumentException(
                  "metadata must not have \"%s\": it is the name of a tensor".formatted(name));
            }
          });
      return new ToSave(tensors, all);
    }

    List<TensorToSave> descriptions() {
      return tensors.entrySet().stream()
          .map(
              each ->
                  TensorToSave.newBuilder()
                      .setName(each.getKey())
                      .setDtype(dtype(each).torchName())
                      .addAllSizes(Arrays.stream(each.getValue().shape()).boxed().toList())
                      .build())
          .toList();
    }

    private static boolean same(Tensor a, Tensor b) {
      return a.is_set_to(b)
          && a.scalar_type().value == b.scalar_type().value
          && a.is_conj() == b.is_conj()
          && a.is_neg() == b.is_neg();
    }
  }

  void save(Map<String, Tensor> stateDict, Path file, Map<String, String> metadata) {
    ToSave save = ToSave.of(stateDict, metadata);
    SafetensorsWriter.Layout layout =
        SafetensorsWriter.layout(
            save.tensors.entrySet().stream()
                .map(
                    each ->
                        new SafetensorsWriter.Tensor(
                            each.getKey(), dtype(each), each.getValue().shape()))
                .toList(),
            save.metadata);
    try (Activity activity = Activities.begin(machine, "save model", "bytes");
        NewFile output = NewFile.of(file, layout.fileBytes())) {
      activity.message(file.toString());
      output.write(ByteBuffer.wrap(layout.header()), 0);
      for (SafetensorsWriter.Place place : layout.places()) {
        if (place.bytes() > 0) {
          write(save.tensors.get(place.tensor().name()), output, place);
          activity.set(place.offset() + place.bytes(), layout.fileBytes());
        }
      }
      output.commit();
    }
  }

  private static void write(Tensor remote, NewFile output, SafetensorsWriter.Place place) {
    try (Tensor local = remote.cpu();
        Tensor contiguous = local.resolve_conj().resolve_neg().contiguous()) {
      long start = contiguous.data_ptr().address();
      for (long done = 0; done < place.bytes(); done += WRITTEN_AT_ONCE) {
        long length = Math.min(place.bytes() - done, WRITTEN_AT_ONCE);
        output.write(NativeMemory.buffer(start + done, length), place.offset() + done);
      }
    }
  }

  void saveOnNode(Map<String, Tensor> stateDict, String path, Map<String, String> metadata) {
    ToSave save = ToSave.of(stateDict, metadata);
    Save message =
        Save.newBuilder()
            .setPath(path)
            .putAllMetadata(save.metadata)
            .addAllTensors(save.descriptions())
            .build();
    try (Activity activity = Activities.begin(machine, "save model")) {
      activity.message(path);
      ask(
          "saving " + path,
          NodeCall.newBuilder().setSave(message).build(),
          0,
          List.copyOf(save.tensors.values()),
          SAVE_TIMEOUT);
    }
  }

  private static DType dtype(Map.Entry<String, Tensor> named) {
    String name = name(named.getValue().scalar_type());
    return DType.ofTorchName(name)
        .orElseThrow(
            () ->
                new ModelException(
                    "%s: model files do not support dtype %s".formatted(named.getKey(), name)));
  }

  // Keeping -------------------------------------------------------------------------------------

  KeptTensors.Version keep(
      String name, Map<String, Tensor> tensors, Map<String, String> metadata, Duration lease) {
    if (lease.toSeconds() < 1) {
      throw new IllegalArgumentException("tensors are kept for at least a second, not " + lease);
    }
    ToSave save = ToSave.of(tensors, metadata);
    Keep message =
        Keep.newBuilder()
            .setName(name)
            .setLeaseSeconds(lease.toSeconds())
            .addAllTensors(save.descriptions())
            .putAllMetadata(save.metadata)
            .build();
    Answer answer =
        ask(
            "keeping " + name,
            NodeCall.newBuilder().setKeep(message).build(),
            0,
            List.copyOf(save.tensors.values()),
            SAVE_TIMEOUT);
    return version(answer.message.getKept().getKept(0));
  }

  Optional<KeptTensors> kept(String name, int device) {
    List<Kept> found = find(requireName(name));
    if (found.isEmpty()) {
      return Optional.empty();
    }
    LoadKept load = LoadKept.newBuilder().setKey(found.get(0).getKey()).build();
    Answer answer =
        ask(
            "getting " + name,
            NodeCall.newBuilder().setLoadKept(load).build(),
            device,
            List.of(),
            SAVE_TIMEOUT);
    KeptLoaded loaded = answer.message.getKeptLoaded();
    Map<String, Tensor> tensors = new LinkedHashMap<>();
    loaded
        .getTensorsList()
        .forEach(n -> tensors.put(n.getName(), answer.tensors.get(n.getTensor())));
    Map<String, String> metadata = new HashMap<>(loaded.getMetadataMap());
    metadata.keySet().removeAll(tensors.keySet()); // other names of tensors
    return Optional.of(new KeptTensors(version(found.get(0)), tensors, metadata));
  }

  List<KeptTensors.Version> kept() {
    return find("").stream().map(MachineModels::version).toList();
  }

  boolean dropKept(String name) {
    DropKept drop = DropKept.newBuilder().setName(requireName(name)).build();
    NodeCall call = NodeCall.newBuilder().setDropKept(drop).build();
    return ask("dropping " + name, call, 0, List.of(), SAVE_TIMEOUT)
            .message
            .getKept()
            .getKeptCount()
        > 0;
  }

  private List<Kept> find(String name) {
    NodeCall call = NodeCall.newBuilder().setFindKept(FindKept.newBuilder().setName(name)).build();
    return ask("looking for what is kept", call, 0, List.of(), SAVE_TIMEOUT)
        .message
        .getKept()
        .getKeptList();
  }

  private static String requireName(String name) {
    if (name.isEmpty()) {
      throw new IllegalArgumentException("the name of kept tensors is not empty");
    }
    return name;
  }

  private static KeptTensors.Version version(Kept kept) {
    return new KeptTensors.Version(
        kept.getName(),
        Instant.ofEpochMilli(kept.getKeptAtUnixMillis()),
        Duration.ofSeconds(kept.getLeaseSeconds()));
  }

  // All -----------------------------------------------------------------------------------------

  private static String name(ScalarType dtype) {
    return torch.getDtypeNames(dtype).first().getString();
  }

  private Answer ask(
      String what, NodeCall call, int device, List<Tensor> tensors, Duration timeout) {
    NodeCallResult result;
    try {
      result = session.callNode(device, what, call.toByteArray(), tensors, timeout);
    } catch (RemoteOperationException e) {
      // The node found enough free memory when it checked, but the memory was gone when it
      // allocated.
      throw OUT_OF_MEMORY.matcher(e.getMessage()).find()
          ? new NotEnoughMemoryException(e.getMessage(), e)
          : e;
    }
    NodeAnswer message;
    try {
      message = NodeAnswer.parseFrom(result.payload());
    } catch (InvalidProtocolBufferException e) {
      throw new ProtocolException("the answer of machine '%s' is malformed".formatted(machine), e);
    }
    if (message.hasError()) {
      throw error(message.getError());
    }
    return new Answer(message, new ArrayList<>(result.tensors()));
  }

  private ModelException error(ModelError error) {
    String message = "machine '%s': %s".formatted(machine, error.getMessage());
    ErrorKind kind = ErrorTable.named(error.getKind()).orElse(ErrorKind.ModelException);
    return kind == ErrorKind.GatedRepositoryException
        ? new GatedRepositoryException(message, URI.create(error.getUrl()))
        : ERRORS.make(kind, message, null).orElseGet(() -> new ModelException(message));
  }
}
