// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import java.util.Collections;
import java.util.IdentityHashMap;
import java.util.Objects;
import java.util.Set;
import java.util.function.Function;
import org.bytedeco.javacpp.Pointer;
import org.bytedeco.javacpp.PointerScope;

/**
 * Frees the tensors that a block of code creates when the block ends, in the program and on the
 * machine, except those that the block keeps:
 *
 * <pre>{@code
 * Tensor losses;
 * try (TensorScope scope = TensorScope.open()) {
 *   Tensor loss = cross_entropy(model.forward(images), labels);
 *   losses = scope.keep(loss.detach());
 * } // frees the output of the model and the loss, but not the detached loss
 * }</pre>
 *
 * <p>A scope holds every bytedeco object that its thread creates while the scope is the innermost
 * one: tensors, vectors of tensors, modules, optimizers. Scopes nest, with bytedeco's {@link
 * PointerScope}s, too. What a scope keeps moves to the scope around it; where there is none, it
 * lives until its {@code close()} or until it is garbage. What libtorch itself holds (gradients,
 * the state of an optimizer, tensors that autograd has saved) is not affected.
 *
 * <p>A scope belongs to the thread that opened it, and is closed there, innermost first.
 */
public final class TensorScope implements AutoCloseable {

  private final Thread owner = Thread.currentThread();
  private final PointerScope outer = PointerScope.getInnerScope();
  private final PointerScope scope = new PointerScope();
  private final Set<Pointer> kept = Collections.newSetFromMap(new IdentityHashMap<>());
  private boolean closed;

  private TensorScope() {}

  /** Opens a scope for the calling thread, inside the scopes that the thread has open. */
  public static TensorScope open() {
    return new TensorScope();
  }

  /**
   * Runs a block in a scope of its own and keeps only the result.
   *
   * @param block gets the scope, to keep more than the result; may return null
   * @return what the block returned
   */
  public static <P extends Pointer> P of(Function<? super TensorScope, ? extends P> block) {
    try (TensorScope scope = open()) {
      P result = block.apply(scope);
      return result == null ? null : scope.keep(result);
    }
  }

  /**
   * Lets a tensor, or any other bytedeco object, live on after this scope. It moves to the scope
   * around this one when this scope is closed. Keeping an object that belongs to an outer scope, or
   * keeping it twice, has no effect.
   *
   * @return the same object
   * @throws IllegalStateException if the scope is closed, or if another thread opened it
   */
  public <P extends Pointer> P keep(P pointer) {
    Objects.requireNonNull(pointer, "there is no object to keep");
    check();
    if (kept.add(pointer)) {
      pointer.retainReference();
    }
    return pointer;
  }

  /**
   * Frees what was created in this scope and is not kept. A second call has no effect.
   *
   * @throws IllegalStateException if another thread opened the scope, or if a scope that was opened
   *     inside it is still open; then nothing is freed
   */
  @Override
  public void close() {
    if (closed) {
      return;
    }
    check();
    if (PointerScope.getInnerScope() != scope) {
      throw new IllegalStateException(
          "A scope inside this one is still open. Close the inner scopes first, for example by"
              + " opening each in a try-with-resources statement.");
    }
    closed = true;
    scope.close();
    for (Pointer pointer : kept) {
      if (outer != null) {
        outer.attach(pointer);
        pointer.releaseReference();
      }
    }
    kept.clear();
  }

  private void check() {
    if (Thread.currentThread() != owner) {
      throw new IllegalStateException(
          "This scope belongs to the thread "
              + owner.getName()
              + ", which opened it. Open a scope in each thread that creates tensors.");
    }
    if (closed) {
      throw new IllegalStateException("This scope is closed; what it held is freed.");
    }
  }
}
