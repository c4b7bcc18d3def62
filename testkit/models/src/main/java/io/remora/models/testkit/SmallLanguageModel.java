// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.testkit;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Random;
import java.util.StringJoiner;

/**
 * A language model of the Llama family with random weights and a token for each byte, in a folder
 * like those of transformers' {@code save_pretrained}.
 */
public final class SmallLanguageModel {
  private static final int VOCABULARY = 256;
  private static final int HIDDEN = 32;
  private static final int INTERMEDIATE = 48;
  private static final int LAYERS = 2;
  private static final int KEYS = 16;

  private SmallLanguageModel() {}

  /** Writes {@code config.json}, {@code tokenizer.json} and {@code model.safetensors}. */
  public static void write(Path folder) throws IOException {
    Files.createDirectories(folder);
    Files.writeString(
        folder.resolve("config.json"),
        """
        {"model_type": "llama", "vocab_size": %d, "hidden_size": %d, "intermediate_size": %d,
         "num_hidden_layers": %d, "num_attention_heads": 4, "num_key_value_heads": 2,
         "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
         "rope_theta": 10000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
           "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}
        """
            .formatted(VOCABULARY, HIDDEN, INTERMEDIATE, LAYERS));
    String byteLevel =
        "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true}";
    Files.writeString(
        folder.resolve("tokenizer.json"),
        """
        {"version": "1.0", "added_tokens": [], "pre_tokenizer": %s, "decoder": %s,
         "model": {"type": "BPE", "vocab": %s, "merges": []}}
        """
            .formatted(byteLevel, byteLevel, alphabet()));
    writeWeights(folder.resolve("model.safetensors"));
  }

  /** The character that stands for each byte: itself if it is visible, else one from 256 on. */
  private static String alphabet() {
    StringJoiner alphabet = new StringJoiner(", ", "{", "}");
    int next = 256;
    for (int each = 0; each < 256; each++) {
      boolean visible = (each >= '!' && each <= '~') || (each >= 0xa1 && each != 0xad);
      String character = Character.toString(visible ? each : next++);
      String escaped = character.replace("\\", "\\\\").replace("\"", "\\\"");
      alphabet.add("\"" + escaped + "\": " + each);
    }
    return alphabet.toString();
  }

  private static Map<String, int[]> shapes() {
    Map<String, int[]> shapes = new LinkedHashMap<>();
    shapes.put("model.embed_tokens.weight", new int[] {VOCABULARY, HIDDEN});
    for (int layer = 0; layer < LAYERS; layer++) {
      String prefix = "model.layers." + layer + ".";
      shapes.put(prefix + "self_attn.q_proj.weight", new int[] {HIDDEN, HIDDEN});
      shapes.put(prefix + "self_attn.k_proj.weight", new int[] {KEYS, HIDDEN});
      shapes.put(prefix + "self_attn.v_proj.weight", new int[] {KEYS, HIDDEN});
      shapes.put(prefix + "self_attn.o_proj.weight", new int[] {HIDDEN, HIDDEN});
      shapes.put(prefix + "mlp.gate_proj.weight", new int[] {INTERMEDIATE, HIDDEN});
      shapes.put(prefix + "mlp.up_proj.weight", new int[] {INTERMEDIATE, HIDDEN});
      shapes.put(prefix + "mlp.down_proj.weight", new int[] {HIDDEN, INTERMEDIATE});
      shapes.put(prefix + "input_layernorm.weight", new int[] {HIDDEN});
      shapes.put(prefix + "post_attention_layernorm.weight", new int[] {HIDDEN});
    }
    shapes.put("model.norm.weight", new int[] {HIDDEN});
    return shapes;
  }

  private static void writeWeights(Path file) throws IOException {
    Random random = new Random(0);
    StringJoiner header = new StringJoiner(", ", "{\"__metadata__\": {\"format\": \"pt\"}, ", "}");
    int end = 0;
    for (Map.Entry<String, int[]> entry : shapes().entrySet()) {
      int[] shape = entry.getValue();
      int begin = end;
      end += Float.BYTES * count(shape);
      header.add(
          "\"%s\": {\"dtype\": \"F32\", \"shape\": [%s], \"data_offsets\": [%d, %d]}"
              .formatted(
                  entry.getKey(),
                  shape.length == 1 ? shape[0] : shape[0] + ", " + shape[1],
                  begin,
                  end));
    }
    byte[] text = header.toString().getBytes(StandardCharsets.UTF_8);
    int padding = -text.length & 7;
    ByteBuffer bytes =
        ByteBuffer.allocate(Long.BYTES + text.length + padding + end)
            .order(ByteOrder.LITTLE_ENDIAN)
            .putLong(text.length + padding)
            .put(text)
            .put(" ".repeat(padding).getBytes(StandardCharsets.UTF_8));
    for (int[] shape : shapes().values()) {
      for (int i = 0; i < count(shape); i++) {
        // Large enough for some tokens to be clearly likelier than others.
        bytes.putFloat((float) (0.3 * random.nextGaussian()) + (shape.length == 1 ? 1 : 0));
      }
    }
    Files.write(file, bytes.array());
  }

  private static int count(int[] shape) {
    return shape.length == 1 ? shape[0] : shape[0] * shape[1];
  }
}
