// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

@Tag("critical")
final class LlamaConfigTest {
  private static final String SIZES =
      """
      "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
      "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192
      """;

  @TempDir private Path folder;

  @Test
  void readsWhatTransformersWritesToday() throws IOException {
    LlamaConfig config =
        read(
            """
            "model_type": "llama", "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
            "eos_token_id": [0, 2],
            "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0,
              "low_freq_factor": 1.0, "high_freq_factor": 4.0,
              "original_max_position_embeddings": 4096}\
            """);

    assertThat(config.headSize()).isEqualTo(64);
    assertThat(config.groupSize()).isEqualTo(3);
    assertThat(config.tiedEmbeddings()).isTrue();
    assertThat(config.queryKeyValueBias()).isFalse();
    assertThat(config.endTokens()).containsExactly(0L, 2L);
    assertThat(config.rope())
        .isEqualTo(new LlamaConfig.Rope(500_000, new LlamaConfig.Scaling.Llama3(8, 1, 4, 4096)));
  }

  @Test
  void readsWhatTransformersWroteBefore() throws IOException {
    LlamaConfig config =
        read(
            """
            "model_type": "llama", "rope_theta": 100000, "eos_token_id": 2, "head_dim": 32,
            "rope_scaling": {"type": "linear", "factor": 2.0}\
            """);

    assertThat(config.headSize()).isEqualTo(32);
    assertThat(config.endTokens()).containsExactly(2L);
    assertThat(config.rope())
        .isEqualTo(new LlamaConfig.Rope(100_000, new LlamaConfig.Scaling.Linear(2)));
  }

  @Test
  void knowsTheBiasesOfQwen2() throws IOException {
    LlamaConfig config =
        read("\"model_type\": \"qwen2\", \"sliding_window\": 4096, \"use_sliding_window\": false");

    assertThat(config.queryKeyValueBias()).isTrue();
    assertThat(config.outputBias()).isFalse();
  }

  @Test
  void refusesWhatItCannotCompute() {
    assertThatThrownBy(() -> read("\"model_type\": \"gpt2\""))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("model_type is 'gpt2'");
    assertThatThrownBy(() -> read("\"model_type\": \"mistral\", \"sliding_window\": 4096"))
        .hasMessageContaining("sliding_window");
    assertThatThrownBy(
            () -> read("\"model_type\": \"llama\", \"rope_scaling\": {\"rope_type\": \"yarn\"}"))
        .hasMessageContaining("rope_type is 'yarn'");
    assertThatThrownBy(() -> read("\"model_type\": \"llama\", \"num_hidden_layers\": 0"))
        .hasMessageContaining("num_hidden_layers");
  }

  private LlamaConfig read(String more) throws IOException {
    return LlamaConfig.read(
        Files.writeString(folder.resolve("config.json"), "{" + SIZES + ", " + more + "}"));
  }
}
