// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client.operators;

import java.util.List;
import java.util.Map;
import java.util.Set;

/** What is not tried, or not compared bit by bit, and why. */
final class Exclusions {

  /** Fragments of names, with the reason. */
  private static final Map<String, String> NAMES =
      Map.ofEntries(
          Map.entry("sparse", "sparse tensors: remote devices hold strided ones"),
          Map.entry("_coo", "sparse tensors: remote devices hold strided ones"),
          Map.entry("_csr", "sparse tensors: remote devices hold strided ones"),
          Map.entry("coalesce", "sparse tensors: remote devices hold strided ones"),
          Map.entry("crow_indices", "sparse tensors: remote devices hold strided ones"),
          Map.entry("ccol_indices", "sparse tensors: remote devices hold strided ones"),
          Map.entry("row_indices", "sparse tensors: remote devices hold strided ones"),
          Map.entry("col_indices", "sparse tensors: remote devices hold strided ones"),
          Map.entry("_nnz", "sparse tensors: remote devices hold strided ones"),
          Map.entry("quantize", "quantized tensors: remote devices hold plain ones"),
          Map.entry("q_scale", "quantized tensors: remote devices hold plain ones"),
          Map.entry("q_zero_point", "quantized tensors: remote devices hold plain ones"),
          Map.entry("q_per_channel", "quantized tensors: remote devices hold plain ones"),
          Map.entry("qscheme", "quantized tensors: remote devices hold plain ones"),
          Map.entry("int_repr", "quantized tensors: remote devices hold plain ones"),
          Map.entry("nested", "nested tensors: remote devices hold strided ones"),
          Map.entry("_jagged", "nested tensors: remote devices hold strided ones"),
          Map.entry("mkldnn", "opaque oneDNN tensors: a form of the CPU's memory"),
          Map.entry("cudnn", "CUDA only"),
          Map.entry("miopen", "ROCm only"),
          Map.entry("_mps", "Apple devices only"),
          Map.entry("mps_", "Apple devices only"),
          Map.entry("cuda", "CUDA only"),
          Map.entry("_cslt", "CUDA only"),
          Map.entry("fbgemm", "packed weights that are opaque to every other operator"),
          Map.entry("vulkan", "Vulkan only"),
          Map.entry("from_file", "maps a local file"),
          Map.entry("pin_memory", "pins memory of the local CPU"));

  private static final Map<String, String> OPERATORS =
      Map.of(
          "rename", "named tensors: names exist in the program only",
          "rename_", "named tensors: names exist in the program only",
          "refine_names", "named tensors: names exist in the program only",
          "align_to", "named tensors: names exist in the program only",
          "align_as", "named tensors: names exist in the program only",
          "align_tensors", "named tensors: names exist in the program only",
          "record_stream", "a remote device has one stream",
          "get_gradients", "the distributed autograd's context is needed");

  /** Results whose values libtorch leaves undefined. */
  private static final Set<String> UNDEFINED =
      Set.of(
          "empty",
          "empty_like",
          "new_empty",
          "empty_strided",
          "new_empty_strided",
          "empty_permuted",
          "resize",
          "resize_",
          "resize_as",
          "resize_as_",
          "_resize_output",
          "_resize_output_");

  private Exclusions() {}

  /** Why an operator is not tried, or empty. */
  static String reason(OperatorSchema schema) {
    String name = schema.shortName();
    if (OPERATORS.containsKey(name)) {
      return OPERATORS.get(name);
    }
    for (Map.Entry<String, String> entry : NAMES.entrySet()) {
      if (name.contains(entry.getKey())) {
        return entry.getValue();
      }
    }
    for (OperatorSchema.Parameter parameter : schema.parameters()) {
      if (parameter.type().startsWith("Stream")) {
        return "a remote device has one stream";
      }
    }
    String overload = schema.overload().toLowerCase(java.util.Locale.ROOT);
    if (List.of("names", "dimname", "name").stream().anyMatch(overload::contains)
        || schema.parameters().stream().anyMatch(p -> p.type().startsWith("str[1]"))) {
      return "named tensors: names exist in the program only";
    }
    return "";
  }

  static boolean undefinedValues(OperatorSchema schema) {
    return UNDEFINED.contains(schema.shortName());
  }
}
