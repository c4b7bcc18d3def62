// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client.operators;

import org.bytedeco.pytorch.Dispatcher;
import org.bytedeco.pytorch.GenericList;
import org.bytedeco.pytorch.IValue;
import org.bytedeco.pytorch.IValueVector;
import org.bytedeco.pytorch.OperatorHandle;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorType;

/** Calls operators that have no Java method. */
final class Dispatched {

  private Dispatched() {}

  /** What an overload returns for these arguments; all of its parameters must be given. */
  static IValueVector call(String operator, String overload, IValue... arguments) {
    OperatorHandle handle = Dispatcher.realSingleton().findSchemaOrThrow(operator, overload);
    IValueVector stack = new IValueVector();
    for (IValue argument : arguments) {
      stack.push_back(argument);
    }
    handle.callBoxed(stack);
    return stack;
  }

  static IValue tensors(Tensor... tensors) {
    GenericList list = new GenericList(TensorType.get());
    for (Tensor tensor : tensors) {
      list.push_back(new IValue(tensor));
    }
    return new IValue(list);
  }
}
