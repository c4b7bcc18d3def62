// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

import static io.remora.models.ModelFileException.quoted;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * The header of a safetensors file.
 *
 * @param file as it was opened
 * @param dataOffset where the tensors' bytes begin in the file
 * @param tensors by name, in the order of their bytes; each with a storage of its own, contiguous
 * @param metadata the map {@code __metadata__}; empty where there is none
 */
public record SafetensorsFile(
    Path file, long dataOffset, Map<String, TensorEntry> tensors, Map<String, String> metadata) {
  static final String METADATA = "__metadata__";
  static final int LENGTH_BYTES = 8;

  /** The reference implementation's limit. */
  static final int MAX_HEADER_BYTES = 100_000_000;

  private static final int MAX_TENSORS = 250_000;
  private static final int MAX_METADATA = 100_000;
  private static final int MAX_DIMENSIONS = 64;

  /** Dtypes of the format for which PyTorch 2.10 has none. */
  private static final Set<String> NOT_IN_PYTORCH = Set.of("F6_E2M3", "F6_E3M2");

  /**
   * Reads and checks the header. No tensor data is read, and no file stays open.
   *
   * @throws ModelFileException when it cannot be read, is not well-formed, has a dtype that PyTorch
   *     2.10 does not have, or when the tensors' bytes overlap, leave holes or do not end with the
   *     file
   */
  public static SafetensorsFile open(Path file) {
    try (FileInput input = new FileInput(file)) {
      if (input.size() < LENGTH_BYTES) {
        throw input.error("it has only %d bytes, too few for safetensors".formatted(input.size()));
      }
      long headerBytes = input.read(0, LENGTH_BYTES).getLong();
      if (headerBytes < 0 || headerBytes > MAX_HEADER_BYTES) {
        throw input.error(
            "its first 8 bytes give the header %s bytes, more than the %d allowed: it is not safetensors, or it is damaged"
                .formatted(Long.toUnsignedString(headerBytes), MAX_HEADER_BYTES));
      }
      long dataOffset = LENGTH_BYTES + headerBytes;
      if (dataOffset > input.size()) {
        throw input.error(
            "it is cut off: the header should end at byte %d, but the file ends at byte %d"
                .formatted(dataOffset, input.size()));
      }
      byte[] header = input.read(LENGTH_BYTES, (int) headerBytes).array();
      return parse(file, header, dataOffset, input.size() - dataOffset);
    }
  }

  /** Whether the file begins as safetensors do: a length, then an object of JSON. */
  static boolean isOne(FileInput input) {
    if (input.size() < LENGTH_BYTES + 1) {
      return false;
    }
    long headerBytes = input.read(0, LENGTH_BYTES).getLong();
    return headerBytes > 0
        && headerBytes <= MAX_HEADER_BYTES
        && input.read(LENGTH_BYTES, 1).get() == '{';
  }

  private static SafetensorsFile parse(Path file, byte[] header, long dataOffset, long dataBytes) {
    Map<String, String> metadata = new LinkedHashMap<>();
    List<TensorEntry> tensors = new ArrayList<>();
    try (JsonInput json = new JsonInput(file + ": header", header)) {
      json.document(
          name -> {
            if (name.equals(METADATA)) {
              json.map(METADATA, MAX_METADATA, metadata);
            } else if (tensors.size() == MAX_TENSORS) {
              throw json.error("more than " + MAX_TENSORS + " tensors");
            } else {
              tensors.add(new HeaderEntry(json, name).read(file, dataOffset, dataBytes));
            }
          });
    }
    // An empty tensor comes before the one that begins where it does.
    tensors.sort(
        Comparator.comparingLong((TensorEntry tensor) -> tensor.storage().offset())
            .thenComparingLong(tensor -> tensor.storage().bytes()));
    Map<String, TensorEntry> byName = new LinkedHashMap<>();
    long end = dataOffset;
    for (TensorEntry tensor : tensors) {
      if (tensor.storage().offset() != end) {
        throw new ModelFileException(
            "%s: tensor %s begins at byte %d instead of %d: the tensors %s"
                .formatted(
                    file,
                    quoted(tensor.name()),
                    tensor.storage().offset() - dataOffset,
                    end - dataOffset,
                    tensor.storage().offset() < end ? "overlap" : "leave a gap"));
      }
      end += tensor.storage().bytes();
      byName.put(tensor.name(), tensor);
    }
    if (end != dataOffset + dataBytes) {
      throw new ModelFileException(
          "%s: the tensors end at byte %d of the data, which has %d bytes"
              .formatted(file, end - dataOffset, dataBytes));
    }
    return new SafetensorsFile(
        file,
        dataOffset,
        Collections.unmodifiableMap(byName),
        Collections.unmodifiableMap(metadata));
  }

  /** One tensor's object in the header, while it is read. */
  private static final class HeaderEntry {
    private final JsonInput json;
    private final String name;
    private String dtypeName;
    private long[] shape;
    private long[] offsets;

    HeaderEntry(JsonInput json, String name) {
      this.json = json;
      this.name = name;
    }

    TensorEntry read(Path file, long dataOffset, long dataBytes) {
      json.object(
          "tensor " + quoted(name),
          key -> {
            switch (key) {
              case "dtype" -> dtypeName = json.string(what("dtype"));
              case "shape" -> shape = json.sizes(what("shape"), MAX_DIMENSIONS);
              case "data_offsets" -> offsets = json.sizes(what("data_offsets"), 2);
              default -> json.skip();
            }
          });
      if (dtypeName == null || shape == null || offsets == null) {
        throw error("must have dtype, shape and data_offsets");
      }
      DType dtype = DType.ofSafetensorsName(dtypeName).orElseThrow(this::unknownDtype);
      if (offsets.length != 2 || offsets[0] > offsets[1] || offsets[1] > dataBytes) {
        throw error(
            "data_offsets must be a begin and an end within the data's %d bytes, not %s"
                .formatted(dataBytes, Arrays.toString(offsets)));
      }
      long[] sizes = sizes(dtype);
      long bytes;
      try {
        bytes = TensorEntry.bytes(sizes, dtype);
      } catch (ArithmeticException e) {
        throw error("its shape %s is too large".formatted(Arrays.toString(shape)));
      }
      if (bytes != offsets[1] - offsets[0]) {
        throw error(
            "%s of the shape %s has %d bytes, but its data_offsets give it %d"
                .formatted(dtypeName, Arrays.toString(shape), bytes, offsets[1] - offsets[0]));
      }
      return new TensorEntry(
          name,
          dtype,
          sizes,
          TensorEntry.contiguousStrides(sizes),
          new StorageKey(file, dataOffset + offsets[0], bytes),
          0);
    }

    /** The format counts numbers, PyTorch pairs of them. */
    private long[] sizes(DType dtype) {
      if (dtype != DType.FLOAT4_E2M1FN_X2) {
        return shape;
      }
      int last = shape.length - 1;
      if (last < 0 || shape[last] % 2 != 0) {
        throw error("F4 needs an even last size: PyTorch packs two numbers in a byte");
      }
      long[] sizes = shape.clone();
      sizes[last] /= 2;
      return sizes;
    }

    private ModelFileException unknownDtype() {
      return error(
          NOT_IN_PYTORCH.contains(dtypeName)
              ? "PyTorch 2.10 has no dtype for " + dtypeName
              : "there is no dtype " + quoted(dtypeName));
    }

    private String what(String key) {
      return "tensor " + quoted(name) + ": " + key;
    }

    private ModelFileException error(String message) {
      return json.error("tensor " + quoted(name) + ": " + message);
    }
  }
}
