// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client.operators;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.bytedeco.pytorch.Argument;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.DoubleComplex;
import org.bytedeco.pytorch.Generator;
import org.bytedeco.pytorch.GenericList;
import org.bytedeco.pytorch.IValue;
import org.bytedeco.pytorch.IValueVector;
import org.bytedeco.pytorch.LongOptional;
import org.bytedeco.pytorch.MemoryFormatOptional;
import org.bytedeco.pytorch.NoGradGuard;
import org.bytedeco.pytorch.OperatorHandle;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorOptions;
import org.bytedeco.pytorch.Type;
import org.bytedeco.pytorch.global.torch;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.bytedeco.pytorch.global.torch.TypeKind;

/** A sample's arguments on one device. Numbers and layouts are the same on each device. */
final class Arguments {

  static final long SEED = 42;

  private static final Device CPU = new Device("cpu");

  /** The call's arguments. */
  final IValueVector stack;

  /** Tensors among the arguments, in order, whose values can be compared after the call. */
  final List<Tensor> tensors = new ArrayList<>();

  /** For each of these tensors, a view of its whole storage. */
  final List<Tensor> bases = new ArrayList<>();

  /** Leaves of the autograd graph. */
  final List<Tensor> leaves = new ArrayList<>();

  /** How many tensors carry tangents. */
  int duals;

  private final Device device;
  private final boolean remote;
  private final Variant variant;
  private final List<OutShape> outs;
  private final Random random;

  /** Whether tensors must not be views. */
  private final boolean whole;

  /** The form of an out argument; sizes are null if they are unknown, which makes it empty. */
  record OutShape(ScalarType dtype, long[] sizes) {}

  private Arguments(
      OperatorSchema schema,
      OperatorHandle handle,
      List<Input> sample,
      Variant variant,
      List<OutShape> outs,
      Device device) {
    this.device = device;
    this.remote = !device.is_cpu();
    this.variant = variant;
    this.outs = outs;
    this.random = new Random(schema.key().hashCode());
    this.whole = schema.key().equals("detach_");
    Argument arguments = handle.schema().arguments();
    this.stack = new IValueVector();
    for (int i = 0; i < sample.size(); i++) {
      OperatorSchema.Parameter parameter = schema.parameters().get(i);
      stack.push_back(value(sample.get(i), parameter, arguments.getPointer(i)));
    }
  }

  private Arguments(Random random, Variant variant, Device device) {
    this.device = device;
    this.remote = false;
    this.variant = variant;
    this.outs = List.of();
    this.random = random;
    this.whole = false;
    this.stack = null;
  }

  static Arguments make(
      OperatorSchema schema,
      OperatorHandle handle,
      List<Input> sample,
      Variant variant,
      List<OutShape> outs,
      Device device) {
    return new Arguments(schema, handle, sample, variant, outs, device);
  }

  private IValue value(Input input, OperatorSchema.Parameter parameter, Argument argument) {
    if (input instanceof Input.Default) {
      return new IValue(argument.default_value().get());
    }
    return value(input, parameter, argument.type());
  }

  private IValue value(Input input, OperatorSchema.Parameter parameter, Type.TypePtr type) {
    if (input instanceof Input.Plain plain) {
      return plain(plain.value());
    } else if (input instanceof Input.OfComplex complex) {
      return new IValue(new Scalar(new DoubleComplex(complex.real(), complex.imaginary())));
    } else if (input instanceof Input.OnDevice) {
      return new IValue(device);
    } else if (input instanceof Input.OfDtype) {
      return new IValue(variant.dtype());
    } else if (input instanceof Input.OfGenerator) {
      Generator generator =
          remote ? torch.getPrivateUse1Hooks().getNewGenerator(device.index()) : cpuGenerator();
      generator.set_current_seed(SEED);
      return new IValue(generator);
    } else if (input instanceof Input.OfList list) {
      Type element = type.access();
      if (element.kind().intern() == TypeKind.OptionalType) {
        element = element.containedType(0).access();
      }
      GenericList values = new GenericList(element.containedType(0));
      for (Input each : list.elements()) {
        values.push_back(value(each, parameter, element.containedType(0)));
      }
      return new IValue(values);
    } else if (input instanceof Input.OfStorage storage) {
      return new IValue(tensor(storage.tensor(), false).storage());
    } else if (input instanceof Input.OnCpu local) {
      Variant plain = Variant.of(variant.dtype());
      return new IValue(new Arguments(random, plain, CPU).tensor(local.tensor(), false));
    } else if (input instanceof Input.OutList) {
      GenericList values = new GenericList(type.access().containedType(0));
      outs.forEach(shape -> values.push_back(new IValue(out(shape))));
      return new IValue(values);
    } else if (input instanceof Input.Out out) {
      return new IValue(out(outs.get(out.index())));
    } else if (input instanceof Input.OfTensor tensor) {
      return new IValue(tensor(tensor, parameter.written()));
    }
    throw new IllegalStateException("Unexpected input " + input);
  }

  private static Generator cpuGenerator() {
    return torch.createCPUGenerator(SEED);
  }

  private static IValue plain(Object value) {
    if (value == null) {
      return new IValue();
    } else if (value instanceof Long number) {
      return new IValue(number.longValue());
    } else if (value instanceof Double number) {
      return new IValue(number.doubleValue());
    } else if (value instanceof Boolean truth) {
      return new IValue(truth.booleanValue());
    }
    return new IValue((String) value);
  }

  private Tensor out(OutShape shape) {
    ScalarType dtype = shape.dtype() == null ? variant.dtype() : shape.dtype();
    long[] sizes = shape.sizes();
    if (sizes == null || variant.out() == Variant.OutForm.EMPTY) {
      Tensor empty = register(base(new double[0], dtype));
      bases.add(empty);
      return empty;
    }
    long[] strides =
        variant.out() == Variant.OutForm.EXACT ? Values.contiguous(sizes) : Values.reversed(sizes);
    double[] values = new double[Math.toIntExact(product(sizes))];
    Arrays.fill(values, 7);
    Tensor base = base(values, dtype);
    bases.add(base);
    return register(base.as_strided(sizes, strides, new LongOptional(0)));
  }

  private static long product(long[] sizes) {
    return Arrays.stream(sizes).reduce(1, (a, b) -> a * b);
  }

  private Tensor register(Tensor tensor) {
    tensors.add(tensor);
    return tensor;
  }

  private Tensor tensor(Input.OfTensor input, boolean written) {
    ScalarType dtype = input.dtype() == null ? variant.dtype() : input.dtype();
    long[] sizes = sizes(input);
    long[] strides = strides(input, sizes);
    long offset = variant.layout() == Variant.Layout.SLICED ? 3 : 0;
    double[] values = Values.of(input.fill(), sizes, random, !isFloating(dtype));
    boolean open = input.dtype() == null && input.fill().kind() == Input.Fill.Kind.NORMAL;
    if (variant.layout() == Variant.Layout.SPECIAL && open && isFloating(dtype)) {
      double[] special = {Double.NaN, Double.POSITIVE_INFINITY, Double.NEGATIVE_INFINITY, -0.0, 0};
      for (int i = 0; i < values.length; i += 2) {
        values[i] = special[random.nextInt(special.length)];
      }
    }
    Tensor tensor;
    try (NoGradGuard guard = new NoGradGuard()) {
      double[] placed = Values.place(values, sizes, strides, offset);
      Tensor base = base(placed, dtype);
      bases.add(base);
      Tensor plain = base(new double[0], dtype);
      tensor =
          whole
              ? plain.set_(base.storage(), offset, sizes, strides)
              : base.as_strided(sizes, strides, new LongOptional(offset));
      if (variant.layout() == Variant.Layout.CONJUGATE && isComplex(dtype)) {
        tensor = tensor.conj();
      } else if (variant.layout() == Variant.Layout.NEGATIVE && isFloating(dtype)) {
        tensor = tensor._neg_view();
      }
    }
    boolean differentiable = isFloating(dtype) || isComplex(dtype);
    if (variant.backward() && differentiable) {
      tensor = tensor.detach().requires_grad_(true);
      leaves.add(tensor);
      if (written) {
        tensor = tensor.clone();
      }
    } else if (variant.derivative() == Variant.Derivative.FORWARD_MODE && differentiable) {
      double[] numbers = Values.of(Input.Fill.NORMAL, sizes, random, false);
      tensor = ForwardMode.dual(tensor, base(numbers, dtype).reshape(sizes));
      duals++;
    }
    return register(tensor);
  }

  private long[] sizes(Input.OfTensor input) {
    long[] sizes = input.sizes().stream().mapToLong(Long::longValue).toArray();
    if (variant.layout() == Variant.Layout.EMPTY && sizes.length > 0) {
      sizes[0] = 0;
    } else if (variant.layout() == Variant.Layout.SCALAR) {
      return new long[0];
    }
    return sizes;
  }

  private long[] strides(Input.OfTensor input, long[] sizes) {
    long[] strides = Values.contiguous(sizes);
    switch (variant.layout()) {
      case TRANSPOSED -> strides = Values.reversed(sizes);
      case SLICED -> {
        for (int i = 0; i < strides.length; i++) {
          strides[i] *= 2;
        }
      }
      case CHANNELS_LAST -> {
        if (sizes.length == 4 || sizes.length == 5) {
          strides = Values.channelsLast(sizes);
        }
      }
      case EXPANDED -> {
        if (strides.length > 0 && input.fill().kind() != Input.Fill.Kind.SPD) {
          strides[0] = 0;
        }
      }
      default -> {}
    }
    return strides;
  }

  private Tensor base(double[] values, ScalarType dtype) {
    double[] numbers = values;
    if (isComplex(dtype)) {
      numbers = new double[2 * values.length];
      for (int i = 0; i < values.length; i++) {
        numbers[2 * i] = values[i];
        numbers[2 * i + 1] = values[(i + 1) % values.length] / 2;
      }
    } else if (dtype == ScalarType.Bool) {
      numbers = Arrays.stream(values).map(v -> v > 0 ? 1 : 0).toArray();
    } else if (isUnsigned(dtype)) {
      numbers = Arrays.stream(values).map(Math::abs).toArray();
    }
    long[] sizes = isComplex(dtype) ? new long[] {values.length, 2} : new long[] {values.length};
    Tensor plain =
        torch.empty(sizes, new TensorOptions(ScalarType.Double), new MemoryFormatOptional());
    if (numbers.length > 0) {
      plain.data_ptr_double().put(numbers);
    }
    plain = (isComplex(dtype) ? torch.view_as_complex(plain) : plain).to(dtype);
    return remote ? plain.to(device, dtype) : plain;
  }

  static boolean isFloating(ScalarType dtype) {
    return switch (dtype) {
      case Float, Double, Half, BFloat16, Float8_e4m3fn, Float8_e5m2 -> true;
      default -> false;
    };
  }

  private static boolean isUnsigned(ScalarType dtype) {
    return switch (dtype) {
      case Byte, UInt16, UInt32, UInt64 -> true;
      default -> false;
    };
  }

  static boolean isComplex(ScalarType dtype) {
    return switch (dtype) {
      case ComplexFloat, ComplexDouble, ComplexHalf -> true;
      default -> false;
    };
  }
}
