// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;

import io.remora.runtime.ProviderException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.ResourceExhaustedException;
import java.io.IOException;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutionException;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("critical")
final class FailuresTest {

  @Test
  void keepsClassMessageAndCauses() {
    IOException root = new IOException("connection refused");
    ProviderException original = new ResourceExhaustedException("no H100 is free", root);

    RuntimeException thrown =
        Failures.asThrownHere(new ExecutionException(new CompletionException(original)), "Opening");

    assertThat(thrown)
        .isExactlyInstanceOf(ResourceExhaustedException.class)
        .hasMessage("no H100 is free")
        .hasCause(original)
        .hasRootCause(root);
  }

  @Test
  void isThrownFromTheCallersLine() {
    RuntimeException thrown =
        Failures.asThrownHere(new ExecutionException(new ProviderException("no")), "Opening");

    assertThat(thrown.getStackTrace())
        .anySatisfy(
            frame -> assertThat(frame.getMethodName()).isEqualTo("isThrownFromTheCallersLine"));
  }

  @Test
  void anythingElseSaysWhatFailedFirst() {
    IOException original = new IOException("broken pipe");

    assertThat(Failures.asThrownHere(new ExecutionException(original), "Opening machine a failed"))
        .isExactlyInstanceOf(RemoraException.class)
        .hasMessage("Opening machine a failed: broken pipe")
        .hasCause(original);
  }
}
