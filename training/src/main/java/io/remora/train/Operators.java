// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.train;

import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.bytedeco.pytorch.Argument;
import org.bytedeco.pytorch.Dispatcher;
import org.bytedeco.pytorch.FunctionSchema;
import org.bytedeco.pytorch.GenericList;
import org.bytedeco.pytorch.IValue;
import org.bytedeco.pytorch.IValueVector;
import org.bytedeco.pytorch.OperatorHandle;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorVector;
import org.bytedeco.pytorch.global.torch;

/**
 * Calls libtorch's operators by name: those on lists of tensors ({@code _foreach_…}, {@code
 * _fused_…}) have no methods in bytedeco's binding. On a remote device such a call is one
 * operation, however many tensors the list has. May be used by any thread.
 */
public final class Operators {
  private static final Map<String, Integer> argumentCounts = new ConcurrentHashMap<>();

  private Operators() {}

  /**
   * Calls an operator.
   *
   * @param operator its name with its library, such as {@code "aten::_foreach_mul_"}
   * @param overload the overload's name, such as {@code "Tensor"}; "" for the one without a name
   * @param arguments all arguments of the operator's schema, in order: {@link Tensor}, {@link
   *     TensorVector}, {@link Double}, {@link Long}, {@link Boolean}, or null for None
   * @return the results
   * @throws IllegalArgumentException if the schema has another number of arguments, or an argument
   *     has none of these types
   * @throws RuntimeException if there is no such operator, or it refuses its arguments
   */
  public static IValueVector call(String operator, String overload, Object... arguments) {
    OperatorHandle handle = Dispatcher.realSingleton().findSchemaOrThrow(operator, overload);
    FunctionSchema schema = handle.schema();
    int expected =
        argumentCounts.computeIfAbsent(
            operator + "." + overload, name -> count(torch.toString(schema).getString()));
    if (expected != arguments.length) {
      throw new IllegalArgumentException(
          "%s.%s has %d arguments, not %d"
              .formatted(operator, overload, expected, arguments.length));
    }
    IValueVector stack = new IValueVector();
    for (int i = 0; i < arguments.length; i++) {
      stack.push_back(value(arguments[i], schema.arguments().getPointer(i)));
    }
    handle.callBoxed(stack);
    return stack;
  }

  /**
   * The number of arguments in a schema's text, {@code name(Tensor[] self, *, int[] x=[0, 1]) ->
   * Tensor}. The binding does not tell it, and libtorch crashes when arguments are missing.
   */
  static int count(String schema) {
    int depth = 0;
    int count = 0;
    boolean text = false;
    boolean star = false;
    for (char c : schema.substring(schema.indexOf('(')).toCharArray()) {
      if (c == '(' || c == '[') {
        depth++;
      } else if (c == ')' || c == ']') {
        depth--;
      }
      if (depth == 0 || (depth == 1 && c == ',')) {
        count += text && !star ? 1 : 0;
        text = false;
        star = false;
      } else if (depth > 1 || Character.isLetterOrDigit(c)) {
        text = true;
      } else if (c == '*' && !text) {
        star = true;
      }
      if (depth == 0) {
        return count;
      }
    }
    throw new IllegalArgumentException("Not a schema: " + schema);
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
    } else if (argument instanceof Long number) {
      return new IValue(number.longValue());
    } else if (argument instanceof Boolean truth) {
      return new IValue(truth.booleanValue());
    } else if (argument == null) {
      return new IValue();
    }
    throw new IllegalArgumentException(
        "An argument is a %s, but must be a Tensor, TensorVector, Double, Long, Boolean or null"
            .formatted(argument.getClass().getName()));
  }
}
