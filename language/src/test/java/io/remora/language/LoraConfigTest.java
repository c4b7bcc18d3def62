// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

@Tag("critical")
final class LoraConfigTest {
  @TempDir private Path folder;

  @Test
  void readsWhatItWrites() throws IOException {
    for (LoraConfig.Targets targets :
        List.of(
            new LoraConfig.Targets.Named(List.of("q_proj", "v_proj")),
            new LoraConfig.Targets.All())) {
      LoraConfig config = new LoraConfig(4, 12.5, 0.1, targets, true);
      config.write(folder.resolve("written.json"), "org/model", "abc");
      assertThat(LoraConfig.read(folder.resolve("written.json"))).isEqualTo(config);
    }
  }

  @Test
  void namesLayersAsPeftDoes() {
    LoraConfig.Targets named = new LoraConfig.Targets.Named(List.of("q_proj", "0.mlp.up_proj"));
    assertThat(named.include("model.layers.0.self_attn.q_proj")).isTrue();
    assertThat(named.include("model.layers.0.mlp.up_proj")).isTrue();
    assertThat(named.include("model.layers.1.mlp.up_proj")).isFalse();
    assertThat(named.include("model.layers.0.self_attn.aq_proj")).isFalse();
    LoraConfig.Targets matching =
        new LoraConfig.Targets.Matching(Pattern.compile(".*\\.1\\..*\\.(q|k)_proj"));
    assertThat(matching.include("model.layers.1.self_attn.k_proj")).isTrue();
    assertThat(matching.include("model.layers.1.self_attn.k_proj.more")).isFalse();
    assertThat(new LoraConfig.Targets.All().include("lm_head")).isFalse();
  }

  @Test
  void refusesWhatWouldChangeTheResult() {
    assertThatThrownBy(() -> read("\"peft_type\": \"IA3\"")).hasMessageContaining("IA3");
    assertRefused("use_dora", "true");
    assertRefused("bias", "\"all\"");
    assertRefused("modules_to_save", "[\"lm_head\"]");
    assertRefused("rank_pattern", "{\"q_proj\": 2}");
    assertRefused("init_lora_weights", "\"pissa\"");
    assertRefused("something_new", "1");
    assertThatThrownBy(() -> LoraConfig.of(0, 1, "q_proj")).hasMessageContaining("rank");
  }

  @Test
  void acceptsWhatIsOff() throws IOException {
    LoraConfig config =
        read(
            """
            "peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": "all-linear",
            "use_dora": false, "modules_to_save": null, "rank_pattern": {}, "loftq_config": {},
            "megatron_core": "megatron.core", "peft_version": "0.1"\
            """);
    assertThat(config).isEqualTo(new LoraConfig(8, 16, 0, new LoraConfig.Targets.All(), false));
  }

  private void assertRefused(String name, String value) {
    assertThatThrownBy(
            () ->
                read(
                    "\"peft_type\": \"LORA\", \"r\": 8, \"target_modules\": [\"q_proj\"], \"%s\": %s"
                        .formatted(name, value)))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining(name);
  }

  private LoraConfig read(String entries) throws IOException {
    return LoraConfig.read(Files.writeString(folder.resolve(LoraConfig.FILE), "{" + entries + "}"));
  }
}
