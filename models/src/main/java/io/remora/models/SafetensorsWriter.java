// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonGenerator;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Comparator;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;

/**
 * Computes the layout of a safetensors file. The caller writes the tensors' bytes to their places.
 */
public final class SafetensorsWriter {
  private static final JsonFactory JSON = new JsonFactory();

  /**
   * Strictest alignment first, so that no tensor needs a gap before it; then by the names' bytes.
   */
  private static final Comparator<Tensor> ORDER =
      Comparator.comparing(Tensor::dtype)
          .reversed()
          .thenComparing(
              tensor -> tensor.name().getBytes(StandardCharsets.UTF_8), Arrays::compareUnsigned);

  private SafetensorsWriter() {}

  /**
   * A tensor to be written.
   *
   * @param sizes as PyTorch has them
   */
  public record Tensor(String name, DType dtype, long[] sizes) {}

  /**
   * Where a tensor's elements go, contiguous and little-endian.
   *
   * @param offset of the first byte in the file
   */
  public record Place(Tensor tensor, long offset, long bytes) {}

  /**
   * A file's layout.
   *
   * @param header the file's first bytes, a multiple of 8; the tensors follow it without holes
   * @param places in the order in which the bytes follow each other
   * @param fileBytes how large the file becomes
   */
  public record Layout(byte[] header, List<Place> places, long fileBytes) {}

  /**
   * The layout of a file of these tensors, in the order that the reference implementation gives
   * them. The same input gives the same bytes.
   *
   * @param metadata the map {@code __metadata__}; left out when empty
   * @throws IllegalArgumentException when two tensors have one name, a tensor is called {@code
   *     __metadata__}, a size is negative, or a scalar is of a dtype that packs two numbers
   * @throws ModelException when safetensors has no such dtype, or cannot hold so much
   */
  public static Layout layout(Collection<Tensor> tensors, Map<String, String> metadata) {
    List<Tensor> sorted = tensors.stream().sorted(ORDER).toList();
    check(sorted);
    ByteArrayOutputStream json = new ByteArrayOutputStream();
    List<Place> fromData = new ArrayList<>();
    long end = 0;
    try (JsonGenerator out = JSON.createGenerator(json)) {
      out.writeStartObject();
      if (!metadata.isEmpty()) {
        out.writeObjectFieldStart(SafetensorsFile.METADATA);
        for (Map.Entry<String, String> entry : new TreeMap<>(metadata).entrySet()) {
          out.writeStringField(entry.getKey(), entry.getValue());
        }
        out.writeEndObject();
      }
      for (Tensor tensor : sorted) {
        long bytes = TensorEntry.bytes(tensor.sizes(), tensor.dtype());
        fromData.add(new Place(tensor, end, bytes));
        write(out, tensor, end, Math.addExact(end, bytes));
        end += bytes;
      }
      out.writeEndObject();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    } catch (ArithmeticException e) {
      throw new ModelException("The tensors together have more bytes than a file can hold", e);
    }
    int headerBytes = (json.size() + 7) / 8 * 8;
    if (headerBytes > SafetensorsFile.MAX_HEADER_BYTES) {
      throw new ModelException(
          "The header of %d tensors has %d bytes, more than the %d that safetensors allows: write several files"
              .formatted(sorted.size(), headerBytes, SafetensorsFile.MAX_HEADER_BYTES));
    }
    byte[] header = new byte[SafetensorsFile.LENGTH_BYTES + headerBytes];
    Arrays.fill(header, (byte) ' ');
    ByteBuffer.wrap(header)
        .order(ByteOrder.LITTLE_ENDIAN)
        .putLong(headerBytes)
        .put(json.toByteArray());
    List<Place> places =
        fromData.stream()
            .map(place -> new Place(place.tensor, header.length + place.offset, place.bytes))
            .toList();
    return new Layout(header, places, header.length + end);
  }

  private static void check(List<Tensor> tensors) {
    Set<String> names = new HashSet<>();
    for (Tensor tensor : tensors) {
      require(!tensor.name().equals(SafetensorsFile.METADATA), tensor, "the name is reserved");
      require(names.add(tensor.name()), tensor, "the name occurs twice");
      require(Arrays.stream(tensor.sizes()).allMatch(size -> size >= 0), tensor, "negative size");
      require(
          tensor.dtype() != DType.FLOAT4_E2M1FN_X2 || tensor.sizes().length > 0,
          tensor,
          "a scalar cannot have two numbers");
      if (tensor.dtype().safetensorsName().isEmpty()) {
        throw new ModelException(
            "Tensor \"%s\": safetensors has no dtype for torch.%s"
                .formatted(tensor.name(), tensor.dtype().torchName()));
      }
    }
  }

  private static void write(JsonGenerator out, Tensor tensor, long begin, long end)
      throws IOException {
    long[] shape = tensor.sizes().clone();
    if (tensor.dtype() == DType.FLOAT4_E2M1FN_X2) {
      int last = shape.length - 1;
      shape[last] = Math.multiplyExact(shape[last], 2L);
    }
    out.writeObjectFieldStart(tensor.name());
    out.writeStringField("dtype", tensor.dtype().safetensorsName().orElseThrow());
    out.writeFieldName("shape");
    out.writeArray(shape, 0, shape.length);
    out.writeFieldName("data_offsets");
    out.writeArray(new long[] {begin, end}, 0, 2);
    out.writeEndObject();
  }

  private static void require(boolean holds, Tensor tensor, String message) {
    if (!holds) {
      throw new IllegalArgumentException("Tensor \"%s\": %s".formatted(tensor.name(), message));
    }
  }
}
