// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

import java.util.HashMap;
import java.util.Map;
import java.util.Optional;

/**
 * The dtypes of PyTorch 2.10 that model files can contain, in safetensors' order, which is that of
 * their alignment.
 */
public enum DType {
  BOOL("bool", "BOOL", 1),
  /** Two numbers in each element of one byte; a safetensors file counts the numbers. */
  FLOAT4_E2M1FN_X2("float4_e2m1fn_x2", "F4", 1),
  UINT8("uint8", "U8", 1),
  INT8("int8", "I8", 1),
  FLOAT8_E5M2("float8_e5m2", "F8_E5M2", 1),
  FLOAT8_E4M3FN("float8_e4m3fn", "F8_E4M3", 1),
  FLOAT8_E8M0FNU("float8_e8m0fnu", "F8_E8M0", 1),
  FLOAT8_E4M3FNUZ("float8_e4m3fnuz", "F8_E4M3FNUZ", 1),
  FLOAT8_E5M2FNUZ("float8_e5m2fnuz", "F8_E5M2FNUZ", 1),
  INT16("int16", "I16", 2),
  UINT16("uint16", "U16", 2),
  FLOAT16("float16", "F16", 2),
  BFLOAT16("bfloat16", "BF16", 2),
  INT32("int32", "I32", 4),
  UINT32("uint32", "U32", 4),
  FLOAT32("float32", "F32", 4),
  COMPLEX32("complex32", null, 4),
  COMPLEX64("complex64", "C64", 8),
  FLOAT64("float64", "F64", 8),
  INT64("int64", "I64", 8),
  UINT64("uint64", "U64", 8),
  COMPLEX128("complex128", null, 16);

  private static final Map<String, DType> BY_TORCH_NAME = new HashMap<>();
  private static final Map<String, DType> BY_SAFETENSORS_NAME = new HashMap<>();

  static {
    for (DType dtype : values()) {
      BY_TORCH_NAME.put(dtype.torchName, dtype);
      dtype.safetensorsName().ifPresent(name -> BY_SAFETENSORS_NAME.put(name, dtype));
    }
  }

  private final String torchName;
  private final String safetensorsName;
  private final int bytes;

  DType(String torchName, String safetensorsName, int bytes) {
    this.torchName = torchName;
    this.safetensorsName = safetensorsName;
    this.bytes = bytes;
  }

  /** Its name in PyTorch without the module, such as {@code float8_e4m3fn}. */
  public String torchName() {
    return torchName;
  }

  /** Its name in a safetensors file, such as {@code F8_E4M3}; empty where that format has none. */
  public Optional<String> safetensorsName() {
    return Optional.ofNullable(safetensorsName);
  }

  /** Bytes of one element as PyTorch counts elements. */
  public int bytes() {
    return bytes;
  }

  /** Whether an element is a pair of numbers, one real and one imaginary. */
  boolean isComplex() {
    return torchName.startsWith("complex");
  }

  /** Bytes of one number; a complex element has two. */
  int numberBytes() {
    return isComplex() ? bytes / 2 : bytes;
  }

  /**
   * Whether its numbers can have their signs inverted: real and complex ones of at least 16 bits.
   */
  boolean isNegatable() {
    return isComplex() || (bytes > 1 && torchName.contains("float"));
  }

  /** The dtype that PyTorch calls {@code torch.NAME}. */
  public static Optional<DType> ofTorchName(String name) {
    return Optional.ofNullable(BY_TORCH_NAME.get(name));
  }

  /** The dtype that a safetensors file calls {@code name}. */
  public static Optional<DType> ofSafetensorsName(String name) {
    return Optional.ofNullable(BY_SAFETENSORS_NAME.get(name));
  }
}
