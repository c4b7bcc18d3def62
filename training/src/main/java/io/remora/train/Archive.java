// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.train;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.UnaryOperator;
import org.bytedeco.javacpp.BytePointer;
import org.bytedeco.javacpp.Loader;
import org.bytedeco.pytorch.CompilationUnit;
import org.bytedeco.pytorch.GenericList;
import org.bytedeco.pytorch.IValue;
import org.bytedeco.pytorch.JitModule;
import org.bytedeco.pytorch.NamedIValue;
import org.bytedeco.pytorch.OutputArchive;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.named_attribute_iterator;
import org.bytedeco.pytorch.named_attribute_list;

/**
 * What libtorch has put into an archive, as a tree: a name leads to a tensor, a value or another
 * tree.
 */
final class Archive {
  /** The size of a {@code std::shared_ptr}. */
  private static final long UNIT_BYTES = 2L * Long.BYTES;

  /** The values by name: {@link Archive}, {@link Tensor}, {@link TensorList} or {@link IValue}. */
  private final Map<String, Object> values = new LinkedHashMap<>();

  /** A list of tensors, which only LBFGS has. */
  private record TensorList(IValue value, List<Tensor> tensors) {}

  private Archive() {}

  /**
   * Whether the contents of an archive that was written can be read: the binding has no method for
   * it. They are a {@code torch::jit::Module}, the second of the archive's two members; the first
   * is a shared pointer to a compilation unit. {@code archive_layout.cpp} proves that from
   * libtorch's headers. For another libtorch, the sizes of the members must leave no room for a
   * third, and the address of the unit shows their order.
   */
  static boolean canRead(OutputArchive archive) {
    try (CompilationUnit unit = archive.compilation_unit()) {
      return Loader.sizeof(OutputArchive.class) == UNIT_BYTES + Loader.sizeof(JitModule.class)
          && new BytePointer(archive).getLong(0) == unit.address();
    }
  }

  /** The tree in an archive for which {@link #canRead} holds. Its tensors are the archive's own. */
  static Archive of(OutputArchive archive) {
    return of(new JitModule(new BytePointer(archive).getPointer(UNIT_BYTES)));
  }

  /** The tree of an archive that was read, from the value that has it. */
  static Archive of(IValue value) {
    return of(new JitModule(value.toObject()));
  }

  private static Archive of(JitModule module) {
    Archive archive = new Archive();
    named_attribute_list attributes = module.named_attributes(false);
    named_attribute_iterator end = attributes.end();
    for (named_attribute_iterator i = attributes.begin(); i.notEquals(end); i.increment()) {
      NamedIValue attribute = i.multiply();
      archive.values.put(attribute.name().getString(), read(new IValue(attribute.value())));
    }
    return archive;
  }

  private static Object read(IValue value) {
    if (value.isTensor()) {
      return value.toTensor();
    } else if (value.isModule() || value.isObject()) {
      return of(value);
    } else if (value.isTensorList()) {
      return new TensorList(value, List.of(value.toTensorVector().get()));
    }
    return value;
  }

  /** All names, in order. */
  List<String> names() {
    return List.copyOf(values.keySet());
  }

  /** The tree of this name; null if there is none. */
  Archive tree(String name) {
    return values.get(name) instanceof Archive archive ? archive : null;
  }

  /** The tensor of this name; null if there is none. */
  Tensor tensor(String name) {
    return values.get(name) instanceof Tensor tensor ? tensor : null;
  }

  /** The value of this name; null if there is none. */
  IValue value(String name) {
    return values.get(name) instanceof IValue value ? value : null;
  }

  /** The tensors of this tree, without those of the trees in it. */
  Map<String, Tensor> tensors() {
    Map<String, Tensor> tensors = new LinkedHashMap<>();
    values.forEach(
        (name, value) -> {
          if (value instanceof Tensor tensor) {
            tensors.put(name, tensor);
          }
        });
    return tensors;
  }

  /** All tensors, those of the trees in this tree as well. */
  List<Tensor> allTensors() {
    List<Tensor> tensors = new ArrayList<>();
    for (Object value : values.values()) {
      if (value instanceof Tensor tensor) {
        tensors.add(tensor);
      } else if (value instanceof TensorList list) {
        tensors.addAll(list.tensors);
      } else if (value instanceof Archive archive) {
        tensors.addAll(archive.allTensors());
      }
    }
    return tensors;
  }

  /** Writes this tree, with another tensor in the place of each. */
  void writeTo(OutputArchive target, UnaryOperator<Tensor> replacement) {
    values.forEach(
        (name, value) -> {
          if (value instanceof Tensor tensor) {
            target.write(name, new IValue(replacement.apply(tensor)));
          } else if (value instanceof Archive archive) {
            OutputArchive nested = new OutputArchive(target.compilation_unit());
            archive.writeTo(nested, replacement);
            target.write(name, nested);
          } else if (value instanceof TensorList list) {
            GenericList tensors = list.value.toList().copy();
            for (int i = 0; i < list.tensors.size(); i++) {
              tensors.set(i, new IValue(replacement.apply(list.tensors.get(i))));
            }
            target.write(name, new IValue(tensors));
          } else {
            target.write(name, (IValue) value);
          }
        });
  }
}
