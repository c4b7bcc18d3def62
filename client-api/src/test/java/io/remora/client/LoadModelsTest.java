// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.bytedeco.pytorch.global.torch.arange;
import static org.bytedeco.pytorch.global.torch.randn;
import static org.bytedeco.pytorch.global.torch.view_as_real;
import static org.bytedeco.pytorch.global.torch.zeros;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.models.DType;
import io.remora.models.ModelException;
import io.remora.models.ModelFileException;
import io.remora.models.NotEnoughMemoryException;
import io.remora.models.SafetensorsFile;
import io.remora.models.SafetensorsWriter;
import io.remora.models.testkit.ModelFixtures;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.bytedeco.javacpp.FloatPointer;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** Models on the disk of a node in another process. The node loads and saves them. */
@Tag("fast")
@Timeout(value = 300, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class LoadModelsTest {

  @TempDir static Path folder;

  private static RemoteMachine machine;

  @BeforeAll
  static void open() {
    machine = open(folder);
  }

  @AfterAll
  static void close() {
    machine.close();
  }

  static RemoteMachine open(Path allowed) {
    Config config =
        ConfigFactory.parseString(
            "remora.node.models { directories = [\"%s\"], save-directories = [\"%s\"] }"
                .formatted(allowed, allowed.resolve("saved")));
    return RemoteMachine.builder().provider("mock").gpuCount(2).config(config).open();
  }

  private static Tensor here(Tensor remote) {
    return remote.cpu();
  }

  @Test
  void bringsEveryDirectorysTensorsByName() throws IOException {
    Tensor large = randn(300, 400);
    Tensor odd = arange(new Scalar(7)).to(ScalarType.Byte);
    Tensor half = randn(33, 3).to(ScalarType.BFloat16);
    Tensor empty = zeros(0, 4);
    Tensor scalar = Tensor.create(4.5).squeeze();
    ModelFolder.write(
        folder.resolve("pipeline/unet/model.safetensors"),
        Map.of("a.large", large, "odd", odd, "half", half, "empty", empty, "scalar", scalar),
        Map.of("format", "pt"));
    ModelFolder.write(
        folder.resolve("pipeline/vae/model.safetensors"), Map.of("large", large), Map.of());

    long uploaded = machine.statistics().uploadedBytes();
    Map<String, Map<String, Tensor>> model = machine.loadStateDicts(folder + "/pipeline");

    assertThat(model).containsOnlyKeys("unet", "vae");
    Map<String, Tensor> unet = model.get("unet");
    assertThat(unet).containsOnlyKeys("a.large", "odd", "half", "empty", "scalar");
    assertThat(here(unet.get("a.large")).equal(large)).isTrue();
    assertThat(here(unet.get("odd")).equal(odd)).isTrue();
    assertThat(here(unet.get("half")).equal(half)).isTrue();
    assertThat(unet.get("empty").shape()).containsExactly(0, 4);
    assertThat(unet.get("scalar").item_double()).isEqualTo(4.5);
    assertThat(unet.get("half").scalar_type().intern()).isEqualTo(ScalarType.BFloat16);
    assertThat(unet.get("odd").device().equals(machine.device())).isTrue();
    assertThat(machine.statistics().uploadedBytes()).isEqualTo(uploaded);
  }

  @Test
  void tensorsThatLieUnalignedInTheirFileAreThereToo() throws IOException {
    Tensor values = randn(30_000);
    String header =
        """
        {"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},\
        "b":{"dtype":"F32","shape":[30000],"data_offsets":[3,120003]}}""";
    ByteBuffer bytes =
        ByteBuffer.allocate(8 + header.length() + 120_003).order(ByteOrder.LITTLE_ENDIAN);
    bytes.putLong(header.length()).put(header.getBytes(UTF_8)).put(new byte[] {1, 2, 3});
    float[] numbers = new float[30_000];
    new FloatPointer(values.data_ptr()).get(numbers);
    for (float number : numbers) {
      bytes.putFloat(number);
    }
    Path file = Files.write(folder.resolve("unaligned.safetensors"), bytes.array());

    Map<String, Tensor> model = machine.loadStateDicts(file.toString()).get("");

    assertThat(here(model.get("b")).equal(values)).isTrue();
    assertThat(model.get("a").sum().item_long()).isEqualTo(6);
  }

  @Test
  void everyDtypeOfSafetensorsIsOneOfTheMachine() throws IOException {
    Path file = ModelFixtures.copy("dtypes.safetensors", folder);

    Map<String, Tensor> model = machine.loadStateDicts(file.toString()).get("");

    assertThat(model).hasSize(20);
    model.forEach(
        (name, tensor) -> {
          assertThat("t." + torch.getDtypeNames(tensor.scalar_type()).first().getString())
              .isEqualTo(name);
          assertThat(tensor.nbytes()).as(name).isEqualTo(16);
          assertThat(tensor.cpu().nbytes()).as(name).isEqualTo(16);
        });
  }

  @Test
  void tensorsOfACheckpointShareTheirStorageAsTheyDid() throws IOException {
    Path file = ModelFixtures.copy("checkpoint.pt", folder);

    Map<String, Tensor> model = machine.loadStateDicts(file.toString()).get("");

    Tensor weight = model.get("weight");
    assertThat(model.get("tied")).isSameAs(weight);
    assertThat(Remora.storageId(model.get("row"))).isEqualTo(Remora.storageId(weight));
    assertThat(model.get("row").sum().item_float()).isEqualTo(12f);
    weight.zero_();
    assertThat(model.get("transposed").abs().sum().item_float()).isZero();
    assertThat(model.get("expanded").shape()).containsExactly(4, 5);
    assertThat(model.get("scalar").item_long()).isEqualTo(7);
  }

  @Test
  void loadsFilesOfOlderAndOtherMachinesPyTorch() throws IOException {
    Path file = ModelFixtures.copy("legacy.pt", folder);
    Map<String, Tensor> legacy =
        machine.loadStateDicts(Files.move(file, folder.resolve("old")).toString()).get("");
    assertThat(legacy.get("weight").sum().item_float()).isEqualTo(15f);
    assertThat(Remora.storageId(legacy.get("row")))
        .isEqualTo(Remora.storageId(legacy.get("weight")));
    assertThat(legacy.get("row").sum().item_float()).isEqualTo(12f);

    for (String name : List.of("compressed.pt", "big-endian.pt")) {
      Map<String, Tensor> model =
          machine.loadStateDicts(ModelFixtures.copy(name, folder).toString()).get("");
      Tensor expected = arange(new Scalar(name.startsWith("big") ? 3 : 40_000));
      assertThat(
              here(model.get("float32"))
                  .equal(expected.remainder(new Scalar(7)).to(ScalarType.Float)))
          .as(name)
          .isTrue();
      assertThat(model.get("int64").sum().item_long()).isEqualTo((1L << 40) - 2);
      assertThat(model.get("int16").sum().item_long()).isEqualTo(3);
      assertThat(model.get("bool").sum().item_long()).isEqualTo(2);
    }

    Map<String, Tensor> lazy =
        machine.loadStateDicts(ModelFixtures.copy("conjugated.pt", folder).toString()).get("");
    Tensor conjugated = lazy.get("conjugated");
    assertThat(conjugated.is_conj()).isTrue();
    assertThat(view_as_real(conjugated.resolve_conj()).select(1, 1).sum().item_float())
        .isEqualTo(2f);
    assertThat(lazy.get("negated").is_neg()).isTrue();
    assertThat(lazy.get("negated").sum().item_float()).isEqualTo(2f);
  }

  @Test
  void aFileItselfIsAModel() throws IOException {
    Path file =
        ModelFolder.write(folder.resolve("lora.safetensors"), Map.of("w", randn(2)), Map.of());

    assertThat(machine.loadStateDicts(file.toString()).get("")).containsOnlyKeys("w");
  }

  @Test
  void whatIsWrittenToATensorDoesNotReachTheFile() throws IOException {
    Tensor values = randn(100_000);
    Path file =
        ModelFolder.write(folder.resolve("kept/model.safetensors"), Map.of("w", values), Map.of());
    byte[] before = Files.readAllBytes(file);

    Tensor loaded = machine.loadStateDicts(folder + "/kept").get("").get("w");
    Tensor again = machine.loadStateDicts(folder + "/kept").get("").get("w");
    loaded.mul_(new Scalar(2f));

    assertThat(here(loaded).equal(values.mul(new Scalar(2f)))).isTrue();
    assertThat(here(again).equal(values)).isTrue();
    assertThat(Files.readAllBytes(file)).isEqualTo(before);
  }

  @Test
  void aFileMayBeDeletedOnceItIsLoaded() throws IOException {
    Tensor values = randn(100_000);
    Path file =
        ModelFolder.write(folder.resolve("gone/model.safetensors"), Map.of("w", values), Map.of());
    Tensor loaded = machine.loadStateDicts(folder + "/gone").get("").get("w");

    Files.delete(file);

    assertThat(here(loaded).equal(values)).isTrue();
  }

  @Test
  void convertsFloatingPointTensorsOnTheNodeAndPutsThemOnTheDeviceAskedFor() throws IOException {
    Tensor values = randn(50, 60);
    ModelFolder.write(
        folder.resolve("convert/model.safetensors"),
        Map.of("w", values, "ids", arange(new Scalar(5)).to(ScalarType.Long)),
        Map.of("v", "w"));

    Map<String, Tensor> model =
        machine
            .loadStateDicts(
                folder + "/convert", LoadOptions.defaults().dtype(ScalarType.BFloat16).device(1))
            .get("");

    assertThat(here(model.get("w")).equal(values.to(ScalarType.BFloat16))).isTrue();
    assertThat(model.get("w").device().equals(machine.device(1))).isTrue();
    assertThat(model.get("ids").scalar_type().intern()).isEqualTo(ScalarType.Long);
    assertThat(model.get("v")).as("tied").isSameAs(model.get("w"));
  }

  @Test
  void namesThatTheMetadataGivesForTheSameTensorAreThere() throws IOException {
    ModelFolder.write(
        folder.resolve("tied/model.safetensors"),
        Map.of("embed", randn(4, 3)),
        Map.of("format", "pt", "head", "embed", "other", "not there"));

    Map<String, Tensor> model = machine.loadStateDicts(folder + "/tied").get("");

    assertThat(model).containsOnlyKeys("embed", "head");
    assertThat(Remora.storageId(model.get("head"))).isEqualTo(Remora.storageId(model.get("embed")));
  }

  @Test
  void saysWhyNothingIsLoaded() throws IOException {
    Path outside = Files.createTempDirectory("remora-outside");
    Path link = Files.createSymbolicLink(folder.resolve("link"), outside);
    Files.createDirectories(folder.resolve("nothing"));
    Files.createDirectories(folder.resolve("damaged"));
    Files.writeString(folder.resolve("damaged/model.safetensors"), "no header at all");
    try {
      assertThatThrownBy(() -> machine.loadStateDicts(outside.toString()))
          .isInstanceOf(ModelException.class)
          .hasMessageContaining("remora.node.models.directories");
      assertThatThrownBy(() -> machine.loadStateDicts(link.toString()))
          .isInstanceOf(ModelException.class)
          .hasMessageContaining("remora.node.models.directories");
      assertThatThrownBy(() -> machine.loadStateDicts(folder + "/not-there"))
          .isInstanceOf(ModelException.class)
          .hasMessageContaining("there is no");
      assertThatThrownBy(() -> machine.loadStateDicts(folder + "/nothing"))
          .isInstanceOf(ModelFileException.class)
          .hasMessageContaining(machine.name());
      assertThatThrownBy(() -> machine.loadStateDicts(folder + "/damaged"))
          .isInstanceOf(ModelFileException.class);
      assertThatThrownBy(
              () ->
                  machine.loadStateDicts(
                      "org/model", LoadOptions.defaults().endpoint("http://127.0.0.1:1")))
          .isInstanceOf(ModelException.class)
          .hasMessageContaining("remora.node.models.endpoints");
    } finally {
      Files.delete(link);
      Files.delete(outside);
    }
  }

  @Test
  void aModelLargerThanTheNodesMemoryIsRefusedBeforehand() throws IOException {
    long elements = 1L << 43;
    SafetensorsWriter.Layout layout =
        SafetensorsWriter.layout(
            List.of(new SafetensorsWriter.Tensor("w", DType.UINT8, new long[] {elements})),
            Map.of());
    Path file = Files.createDirectories(folder.resolve("huge")).resolve("model.safetensors");
    try (RandomAccessFile out = new RandomAccessFile(file.toFile(), "rw")) {
      out.write(layout.header());
      try {
        out.setLength(layout.fileBytes()); // a sparse file
      } catch (IOException e) {
        org.junit.jupiter.api.Assumptions.abort("no file of 8 TiB, not even of holes: " + e);
      }
    }

    assertThatThrownBy(() -> machine.loadStateDicts(folder + "/huge"))
        .isInstanceOf(NotEnoughMemoryException.class)
        .hasMessageContaining("huge needs 8,796,093,022,208 bytes");
    Files.delete(file);
  }

  // Saving

  private static Map<String, Tensor> stateDict() {
    Map<String, Tensor> stateDict = new HashMap<>();
    Tensor large = randn(700, 500).to(machine.device(), ScalarType.Float);
    stateDict.put("large", large);
    stateDict.put("same", large);
    stateDict.put("transposed", large.t());
    stateDict.put("ids", arange(new Scalar(9)).to(machine.device(), ScalarType.Long));
    stateDict.put("empty", zeros(0).to(machine.device(), ScalarType.Float));
    return stateDict;
  }

  private static void assertHolds(Path file, Map<String, Tensor> stateDict) {
    assertThat(SafetensorsFile.open(file).metadata())
        .containsEntry("by", "test")
        .containsEntry("format", "pt")
        .hasSize(3);
    assertThat(SafetensorsFile.open(file).tensors()).hasSize(4);
    Map<String, Tensor> loaded = machine.loadStateDicts(file.toString()).get("");
    assertThat(loaded).containsOnlyKeys(stateDict.keySet());
    stateDict.forEach(
        (name, tensor) -> assertThat(here(loaded.get(name)).equal(here(tensor))).as(name).isTrue());
  }

  @Test
  void savesToTheNodesDiskWhole() throws IOException {
    Path file = folder.resolve("saved/run/model.safetensors");
    Map<String, Tensor> stateDict = stateDict();

    machine.saveOnNode(
        Map.of("old", randn(3).to(machine.device(), ScalarType.Float)), file.toString(), Map.of());
    machine.saveOnNode(stateDict, file.toString(), Map.of("by", "test"));

    assertHolds(file, stateDict);
    try (Stream<Path> files = Files.list(file.getParent())) {
      assertThat(files).containsExactly(file);
    }
  }

  @Test
  void savesToADiskOfThisComputer() {
    Path file = folder.resolve("here.safetensors");
    Map<String, Tensor> stateDict = stateDict();

    machine.save(stateDict, file, Map.of("by", "test"));

    assertHolds(file, stateDict);
  }

  @Test
  void savesNowhereElse() {
    Map<String, Tensor> stateDict = stateDict();
    for (String path :
        List.of(
            folder + "/elsewhere.safetensors",
            folder + "/saved/../elsewhere.safetensors",
            folder + "/saved/model.txt",
            "saved.safetensors")) {
      assertThatThrownBy(() -> machine.saveOnNode(stateDict, path, Map.of()))
          .as(path)
          .isInstanceOf(ModelException.class);
    }
    assertThatThrownBy(
            () -> machine.save(Map.of("w", randn(2)), folder.resolve("x.safetensors"), Map.of()))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("not on machine");
  }
}
