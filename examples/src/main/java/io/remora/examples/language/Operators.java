// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.examples.language;

import static org.bytedeco.pytorch.global.torch.stack;

import org.bytedeco.pytorch.Argument;
import org.bytedeco.pytorch.Dispatcher;
import org.bytedeco.pytorch.GenericList;
import org.bytedeco.pytorch.IValue;
import org.bytedeco.pytorch.IValueVector;
import org.bytedeco.pytorch.OperatorHandle;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorVector;

/**
 * libtorch's operators on whole lists of tensors, which bytedeco's binding has no methods for. On a
 * remote device such a call is one operation, however many parameters a model has.
 */
final class Operators {
  private Operators() {}

  /** The norm of all tensors together, a scalar on their device. */
  static Tensor norm(TensorVector tensors) {
    IValueVector result = call("aten::_foreach_norm", "Scalar", tensors, 2.0, null);
    return stack(result.get(0).toTensorVector()).norm();
  }

  /** Multiplies each tensor by a scalar that is on their device. */
  static void scale(TensorVector tensors, Tensor factor) {
    call("aten::_foreach_mul_", "Tensor", tensors, factor);
  }

  /**
   * A step of AdamW for all parameters.
   *
   * @param steps number of steps including this one, a float32 scalar for each parameter
   * @param learningRate a float32 scalar. A number that changes with each step would make each step
   *     a call that the machine has not seen before
   */
  static void adamW(
      TensorVector parameters,
      TensorVector gradients,
      TensorVector means,
      TensorVector squares,
      TensorVector steps,
      Tensor learningRate,
      FusedAdamW.Options options) {
    call(
        "aten::_fused_adamw_",
        "tensor_lr",
        parameters,
        gradients,
        means,
        squares,
        new TensorVector(),
        steps,
        learningRate,
        options.beta1(),
        options.beta2(),
        options.weightDecay(),
        options.epsilon(),
        false, // amsgrad
        false, // maximize
        null, // scale of the gradients
        null);
  }

  private static IValueVector call(String operator, String overload, Object... arguments) {
    OperatorHandle handle = Dispatcher.realSingleton().findSchemaOrThrow(operator, overload);
    Argument parameters = handle.schema().arguments();
    IValueVector stack = new IValueVector();
    for (int i = 0; i < arguments.length; i++) {
      stack.push_back(value(arguments[i], parameters.getPointer(i)));
    }
    handle.callBoxed(stack);
    return stack;
  }

  private static IValue value(Object argument, Argument parameter) {
    if (argument instanceof TensorVector tensors) {
      GenericList list = new GenericList(parameter.type().access().containedType(0));
      for (Tensor tensor : tensors.get()) {
        list.push_back(new IValue(tensor));
      }
      return new IValue(list);
    } else if (argument instanceof Tensor tensor) {
      return new IValue(tensor);
    } else if (argument instanceof Double number) {
      return new IValue(number.doubleValue());
    } else if (argument instanceof Boolean truth) {
      return new IValue(truth.booleanValue());
    } else if (argument == null) {
      return new IValue();
    }
    throw new IllegalArgumentException("No argument: " + argument);
  }
}
