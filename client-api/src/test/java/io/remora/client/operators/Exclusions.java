// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client.operators;

import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;

/** The operators that are not tried, or not compared bit by bit, and why. */
final class Exclusions {

  private static final String PACKED = "packed weights that are opaque to every other operator";

  private static final String OVERRIDEABLE =
      "a place for other backends' kernels: the CPU has none";

  private static final String INFERENCE =
      "libtorch calls it in inference mode only, where nothing is differentiated";

  private static final String GRAPH =
      "works on autograd's graph, not on values; every test with gradients goes through it";

  private static final String GROWS = "the storage grows, and its new part has no defined values";

  private static final String PAST = "the CPU reads past the memory of an expanded tensor";

  private static final String HELPER =
      "libtorch's fallback for the negative bit reads a result that there is not";

  private static final String SIGN = "the CPU does not see the negative bit";

  private static final String STATISTICS =
      "the CPU takes its empty statistics for values: they depend on what was in memory";

  /** Fragments of names, with the reason. The first that fits is taken. */
  private static final List<Map.Entry<String, String>> NAMES =
      List.of(
          Map.entry("fbgemm", PACKED),
          Map.entry("sparse", "sparse tensors: remote devices hold strided ones"),
          Map.entry("_coo", "sparse tensors: remote devices hold strided ones"),
          Map.entry("_csr", "sparse tensors: remote devices hold strided ones"),
          Map.entry("coalesce", "sparse tensors: remote devices hold strided ones"),
          Map.entry("crow_indices", "sparse tensors: remote devices hold strided ones"),
          Map.entry("ccol_indices", "sparse tensors: remote devices hold strided ones"),
          Map.entry("row_indices", "sparse tensors: remote devices hold strided ones"),
          Map.entry("col_indices", "sparse tensors: remote devices hold strided ones"),
          Map.entry("_nnz", "sparse tensors: remote devices hold strided ones"),
          Map.entry("quantized", "quantized tensors: remote devices hold plain ones"),
          Map.entry("quantize_per", "quantized tensors: remote devices hold plain ones"),
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
          Map.entry("_test_", "libtorch's own test operator"),
          Map.entry("vulkan", "Vulkan only"),
          Map.entry("from_file", "maps a local file"),
          Map.entry("pin_memory", "pins memory of the local CPU"));

  private static final Map<String, String> OPERATORS =
      Map.ofEntries(
          Map.entry("rename", "named tensors: names exist in the program only"),
          Map.entry("rename_", "named tensors: names exist in the program only"),
          Map.entry("refine_names", "named tensors: names exist in the program only"),
          Map.entry("align_to", "named tensors: names exist in the program only"),
          Map.entry("align_as", "named tensors: names exist in the program only"),
          Map.entry("align_tensors", "named tensors: names exist in the program only"),
          Map.entry("record_stream", "a remote device has one stream"),
          Map.entry("_foobar", "libtorch's own test operator"),
          Map.entry("_remove_batch_dim", "a part of vmap: needs its interpreter"),
          Map.entry("_add_batch_dim", "a part of vmap: needs its interpreter"),
          Map.entry("get_gradients", "the distributed autograd's context is needed"),
          Map.entry("indices", "sparse tensors: remote devices hold strided ones"),
          Map.entry("indices_copy", "sparse tensors: remote devices hold strided ones"),
          Map.entry("values", "sparse tensors: remote devices hold strided ones"),
          Map.entry("values_copy", "sparse tensors: remote devices hold strided ones"),
          Map.entry("smm", "sparse tensors: remote devices hold strided ones"),
          Map.entry("sspaddmm", "sparse tensors: remote devices hold strided ones"),
          Map.entry("_spdiags", "sparse tensors: remote devices hold strided ones"),
          Map.entry("_cufft_clear_plan_cache", "CUDA only"),
          Map.entry("_cufft_get_plan_cache_max_size", "CUDA only"),
          Map.entry("_cufft_get_plan_cache_size", "CUDA only"),
          Map.entry("_cufft_set_plan_cache_max_size", "CUDA only"),
          Map.entry("_thnn_fused_lstm_cell_backward", "CUDA only"),
          Map.entry("_to_cpu", "its results are on the CPU: its arguments there, copies elsewhere"),
          Map.entry("_nnpack_spatial_convolution", "NNPACK: works or fails by the machine"),
          Map.entry("_propagate_xla_data", "XLA only"),
          Map.entry("_wrapped_linear_prepack", PACKED),
          Map.entry("convolution_overrideable", OVERRIDEABLE),
          Map.entry("convolution_backward_overrideable", OVERRIDEABLE),
          Map.entry("_scaled_dot_product_fused_attention_overrideable", OVERRIDEABLE),
          Map.entry("_scaled_dot_product_fused_attention_overrideable_backward", OVERRIDEABLE),
          Map.entry("_fw_primal_copy", INFERENCE),
          Map.entry("_make_dual_copy", INFERENCE),
          Map.entry("retain_grad", GRAPH),
          Map.entry("_backward", GRAPH));

  /**
   * Operators whose results libtorch leaves undefined. The last bits of {@code linalg_lstsq} on the
   * CPU depend on the alignment of its working memory.
   */
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
          "_resize_output_",
          "_make_dep_token",
          "_compute_linear_combination",
          "_ctc_loss",
          "linalg_lstsq");

  /**
   * Trials that are left out because libtorch's own CPU code is wrong, or treats CPU tensors
   * specially: {@code operator layout}.
   */
  private static final Map<String, String> TRIALS =
      Map.ofEntries(
          Map.entry("set_ EMPTY", GROWS),
          Map.entry("set_ SCALAR", GROWS),
          Map.entry("set SCALAR", GROWS),
          Map.entry("set EMPTY", GROWS),
          Map.entry("max_pool1d NEGATIVE", SIGN),
          Map.entry("quantile NEGATIVE", "the range of q is checked for CPU tensors only"),
          Map.entry("nanquantile NEGATIVE", "the range of q is checked for CPU tensors only"),
          Map.entry(
              "special_shifted_chebyshev_polynomial_t SPECIAL", "reads an unset variable for NaN"),
          Map.entry(
              "special_shifted_chebyshev_polynomial_u SPECIAL", "reads an unset variable for NaN"),
          Map.entry(
              "special_shifted_chebyshev_polynomial_v SPECIAL", "reads an unset variable for NaN"),
          Map.entry(
              "special_shifted_chebyshev_polynomial_w SPECIAL", "reads an unset variable for NaN"),
          Map.entry("_chunk_cat SCALAR", "the CPU crashes"),
          Map.entry("_ctc_loss_backward EMPTY", "the CPU crashes"),
          Map.entry("_weight_norm_interface_backward EMPTY", "the CPU crashes"),
          Map.entry("_segment_reduce_backward EXPANDED", "the CPU crashes"),
          Map.entry("_pdist_backward EMPTY", "the CPU crashes"),
          Map.entry("_pdist_forward EMPTY", "the CPU crashes in backward"),
          Map.entry("pdist EMPTY", "the CPU crashes in backward"),
          Map.entry("adaptive_max_pool3d_backward EXPANDED", "the CPU crashes"),
          Map.entry("batch_norm_backward EMPTY", "the CPU crashes"),
          Map.entry("native_batch_norm_backward EMPTY", "the CPU crashes"),
          Map.entry("rrelu_with_noise EXPANDED", "the CPU writes past the noise"),
          Map.entry("rrelu_with_noise_ EXPANDED", "the CPU writes past the noise"),
          Map.entry(
              "_scaled_dot_product_flash_attention_for_cpu TRANSPOSED",
              "the CPU leaves parts of the result unset"),
          Map.entry(
              "_scaled_dot_product_flash_attention_for_cpu CHANNELS_LAST",
              "the CPU leaves parts of the result unset"),
          Map.entry("multi_margin_loss EMPTY", "the CPU leaves the loss unset"),
          Map.entry("multilabel_margin_loss EMPTY", "the CPU leaves the loss unset"),
          Map.entry("multilabel_margin_loss_forward EMPTY", "the CPU leaves the loss unset"),
          Map.entry("_sobol_engine_ff_ EMPTY", "the CPU crashes"),
          Map.entry("_sobol_engine_draw EMPTY", "the CPU crashes"),
          Map.entry("_sobol_engine_initialize_state_ EMPTY", "the CPU crashes"),
          Map.entry("_sobol_engine_scramble_ EMPTY", "the CPU crashes"),
          Map.entry("_rowwise_prune EXPANDED", PAST),
          Map.entry("_rowwise_prune NEGATIVE", SIGN),
          Map.entry("choose_qparams_optimized NEGATIVE", SIGN),
          Map.entry("_transform_bias_rescale_qkv EMPTY", "the CPU crashes"),
          Map.entry("_weight_norm EMPTY", "the CPU crashes"),
          Map.entry("_weight_norm_interface EMPTY", "the CPU crashes"),
          Map.entry("_weight_norm_interface EXPANDED", PAST),
          Map.entry("_weight_norm_interface SLICED", "the CPU leaves norms unset"),
          Map.entry("_cummax_helper NEGATIVE", HELPER),
          Map.entry("_cummin_helper NEGATIVE", HELPER),
          Map.entry("unfold_backward SCALAR", "the CPU reads past the gradient"),
          Map.entry("median EXPANDED", PAST),
          Map.entry("nanmedian EXPANDED", PAST),
          Map.entry("native_group_norm_backward EXPANDED", PAST),
          Map.entry("native_layer_norm_backward EXPANDED", PAST),
          Map.entry("_dyn_quant_matmul_4bit EXPANDED", PAST),
          Map.entry("_int_mm EXPANDED", PAST),
          Map.entry("set_.source_Storage_storage_offset EXPANDED", GROWS),
          Map.entry("set.source_Storage_storage_offset EXPANDED", GROWS));

  private static final Set<String> NORMS =
      Set.of(
          "native_batch_norm.out",
          "_native_batch_norm_legit.out",
          "_native_batch_norm_legit.no_stats_out",
          "_batch_norm_with_update.out");

  private static final String STRIDES =
      "reads past the storage: the caller must see that the strides fit";

  private static final String LU = "the CPU writes past the result";

  private static final Set<String> WRITES_PAST = Set.of("linalg_lu.out", "tril.out", "triu.out");

  private static final String INTEGERS = "the CPU divides integers by zero";

  private static final String FUSED =
      "the CPU hangs or crashes on parameters that overlap themselves";

  private Exclusions() {}

  /** Every trial that is left out, and why, for the report. */
  static Map<String, String> trials() {
    Map<String, String> all = new TreeMap<>(TRIALS);
    all.put("_reshape_alias, _reshape_alias_copy EXPANDED, EMPTY, SCALAR", STRIDES);
    all.put("linalg_lu.out, tril.out, triu.out with a transposed out", LU);
    all.put("smooth_l1_loss_backward of integers", INTEGERS);
    all.put("_fused_* EXPANDED", FUSED);
    all.put(String.join(", ", new TreeSet<>(NORMS)) + " TRANSPOSED, SLICED, EXPANDED", STATISTICS);
    return all;
  }

  /** Why a trial is left out, or empty. */
  static String reason(OperatorSchema schema, Variant variant) {
    String name = schema.shortName() + " ";
    boolean smaller =
        variant.layout() == Variant.Layout.EXPANDED
            || variant.layout() == Variant.Layout.EMPTY
            || variant.layout() == Variant.Layout.SCALAR;
    if (name.startsWith("_reshape_alias") && smaller) {
      return STRIDES;
    }
    if (WRITES_PAST.contains(schema.key()) && variant.out() == Variant.OutForm.TRANSPOSED) {
      return LU;
    }
    if (schema.shortName().startsWith("smooth_l1_loss_backward")
        && !Arguments.isFloating(variant.dtype())) {
      return INTEGERS;
    }
    if (schema.shortName().startsWith("_fused_") && variant.layout() == Variant.Layout.EXPANDED) {
      return FUSED;
    }
    boolean plain =
        variant.layout() == Variant.Layout.CONTIGUOUS || variant.layout() == Variant.Layout.EMPTY;
    if (NORMS.contains(schema.key()) && !plain && variant.layout() != Variant.Layout.SCALAR) {
      return STATISTICS;
    }
    return TRIALS.getOrDefault(
        name + variant.layout(), TRIALS.getOrDefault(schema.key() + " " + variant.layout(), ""));
  }

  /** Why an operator is not tried, or empty. */
  static String reason(OperatorSchema schema) {
    String name = schema.shortName();
    if (OPERATORS.containsKey(name)) {
      return OPERATORS.get(name);
    }
    boolean fake = name.contains("fake_quant");
    for (Map.Entry<String, String> entry : NAMES) {
      if (!fake && name.contains(entry.getKey())) {
        return entry.getValue();
      }
    }
    if (schema.key().startsWith("dequantize.tensors")) {
      return "quantized tensors: remote devices hold plain ones";
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
