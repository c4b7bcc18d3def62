// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.examples.language;

import com.fasterxml.jackson.databind.ObjectMapper;
import io.remora.client.RemoteMachine;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** A small model for tests, with random weights and a token for each byte. */
final class SmallModel {
  static final LlamaConfig CONFIG =
      new LlamaConfig(
          256,
          32,
          48,
          2,
          4,
          2,
          8,
          512,
          1e-5,
          new LlamaConfig.Rope(10_000, new LlamaConfig.Scaling.Llama3(8, 1, 4, 64)),
          false,
          false,
          false,
          true,
          List.of());

  private SmallModel() {}

  /** Writes the model as a folder that the programs accept. */
  static void save(RemoteMachine machine, Path folder) throws IOException {
    LlamaForCausalLM model = MeasureGeneration.random(CONFIG, new Place.Machine(machine), 0.3);
    machine.save(model.weights(), folder.resolve("model.safetensors"), Map.of("format", "pt"));
    Files.writeString(
        folder.resolve("config.json"),
        """
        {"model_type": "llama", "vocab_size": 256, "hidden_size": 32, "intermediate_size": 48,
         "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
         "rope_theta": 10000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
           "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}
        """);
    Map<String, Object> byteLevel =
        Map.of("type", "ByteLevel", "add_prefix_space", false, "trim_offsets", true);
    new ObjectMapper()
        .writeValue(
            folder.resolve("tokenizer.json").toFile(),
            Map.of(
                "version",
                "1.0",
                "added_tokens",
                List.of(),
                "pre_tokenizer",
                byteLevel,
                "decoder",
                byteLevel,
                "model",
                Map.of("type", "BPE", "vocab", alphabet(), "merges", List.of())));
  }

  /** The character that stands for each byte: itself if it is visible, else one from 256 on. */
  private static Map<String, Integer> alphabet() {
    Map<String, Integer> alphabet = new LinkedHashMap<>();
    int next = 256;
    for (int each = 0; each < 256; each++) {
      boolean visible = (each >= '!' && each <= '~') || (each >= 0xa1 && each != 0xad);
      alphabet.put(Character.toString(visible ? each : next++), each);
    }
    return alphabet;
  }
}
