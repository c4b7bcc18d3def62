// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.examples.language;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.client.LoadOptions;
import io.remora.client.RemoteMachine;
import io.remora.language.ModelFolder;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.stream.Stream;
import org.bytedeco.pytorch.global.torch.ScalarType;
import picocli.CommandLine.Option;

/** The options of both programs for the model and the machine. */
final class ModelOptions {

  /** Dtypes that a model may compute in. */
  enum DType {
    FLOAT32(ScalarType.Float),
    FLOAT16(ScalarType.Half),
    BFLOAT16(ScalarType.BFloat16);

    private final ScalarType type;

    DType(ScalarType type) {
      this.type = type;
    }
  }

  @Option(
      names = "--model",
      required = true,
      paramLabel = "MODEL",
      description = {
        "A folder as transformers' save_pretrained writes it, which the machine must see under the"
            + " same path, or a repository of the Hugging Face hub, such as"
            + " HuggingFaceTB/SmolLM2-135M-Instruct. Llama, SmolLM2, Mistral, Qwen2."
      })
  private String model;

  @Option(
      names = "--revision",
      paramLabel = "REVISION",
      description = "Branch, tag or commit of the repository.",
      defaultValue = "main")
  private String revision;

  @Option(
      names = "--provider",
      paramLabel = "NAME",
      description = "The machine's provider.",
      defaultValue = "mock")
  private String provider;

  @Option(
      names = "--gpu",
      paramLabel = "GPU",
      description = "Kind of GPU, such as A100. Default: the provider's choice.")
  private String gpu;

  @Option(
      names = "--dtype",
      paramLabel = "DTYPE",
      description = "float32, float16 or bfloat16. Default: the checkpoint's.")
  private DType dtype;

  @Option(
      names = "--compute-threads",
      paramLabel = "N",
      description = "Threads that a mock machine computes with. Default: the provider's choice.")
  private Integer computeThreads;

  ModelFolder folder() {
    return ModelFolder.of(model, revision);
  }

  /**
   * Opens the machine.
   *
   * @param adapter what it loads besides the model; null for nothing
   * @param checkpoints where it may write and read on its own disk; null: nowhere
   */
  RemoteMachine open(ModelFolder folder, ModelFolder adapter, Path checkpoints) {
    RemoteMachine.Builder builder =
        RemoteMachine.builder().provider(provider).config(settings(folder, adapter, checkpoints));
    return (gpu == null ? builder : builder.gpu(gpu)).open();
  }

  LoadOptions loadOptions(ModelFolder folder) {
    LoadOptions options = LoadOptions.defaults();
    options = dtype == null ? options : options.dtype(dtype.type);
    return folder.revision().map(options::revision).orElse(options);
  }

  /**
   * A node that this program starts may load what the program names; other nodes have their own
   * settings.
   */
  private Config settings(ModelFolder folder, ModelFolder adapter, Path checkpoints) {
    Map<String, Object> settings = new HashMap<>();
    Optional<String> written = Optional.ofNullable(checkpoints).map(ModelOptions::absolute);
    Stream<String> read =
        Stream.of(folder, adapter)
            .filter(each -> each != null && each.revision().isEmpty())
            .map(ModelFolder::source);
    settings.put("remora.node.models.directories", Stream.concat(read, written.stream()).toList());
    written.ifPresent(path -> settings.put("remora.node.models.save-directories", List.of(path)));
    if (computeThreads != null) {
      settings.put("remora.provider.mock.compute-threads", computeThreads);
    }
    return ConfigFactory.parseMap(settings);
  }

  private static String absolute(Path path) {
    return path.toAbsolutePath().normalize().toString();
  }
}
