// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client.operators;

import java.util.List;
import org.bytedeco.pytorch.Argument;
import org.bytedeco.pytorch.Dispatcher;
import org.bytedeco.pytorch.GenericList;
import org.bytedeco.pytorch.IValue;
import org.bytedeco.pytorch.IValueVector;
import org.bytedeco.pytorch.OperatorHandle;
import org.bytedeco.pytorch.Tensor;

/** Calls operators that have no Java method. */
final class Dispatched {

  private Dispatched() {}

  /**
   * Calls an overload and returns its results.
   *
   * @param arguments all its arguments: tensors, lists of tensors, numbers, booleans, null
   */
  static IValueVector call(String operator, String overload, Object... arguments) {
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
    if (argument instanceof Tensor tensor) {
      return new IValue(tensor);
    } else if (argument instanceof List<?> tensors) {
      GenericList list = new GenericList(parameter.type().access().containedType(0));
      tensors.forEach(tensor -> list.push_back(new IValue((Tensor) tensor)));
      return new IValue(list);
    } else if (argument instanceof Double number) {
      return new IValue(number.doubleValue());
    } else if (argument instanceof Long number) {
      return new IValue(number.longValue());
    } else if (argument instanceof Boolean truth) {
      return new IValue(truth.booleanValue());
    } else if (argument == null) {
      return new IValue();
    }
    throw new IllegalArgumentException("No argument: " + argument);
  }
}
