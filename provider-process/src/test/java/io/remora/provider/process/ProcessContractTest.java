// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.process;

import io.remora.provider.ProvisionedNode;
import io.remora.provider.testkit.ProviderContractTest;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.io.TempDir;

/** The contract, with a command that passes standard input on and nothing else, as ssh does. */
final class ProcessContractTest extends ProviderContractTest {

  @TempDir private Path folder;

  @Override
  protected String provider() {
    return ProcessProvider.NAME;
  }

  @Override
  protected String settings() {
    return ssh(Commands.node("--secrets-from-stdin"));
  }

  @Override
  protected String failingSettings() {
    return ssh(Commands.node("--secrets-from-stdin", "--torch-home=/no/such/torch"));
  }

  @Override
  protected String failure() {
    return "/no/such/torch is not usable: there is no such folder";
  }

  @Override
  protected String hangingSettings() {
    return ssh(List.of("sleep", "100"));
  }

  @Override
  protected boolean kill(ProvisionedNode node) {
    String description = node.description();
    long pid = Long.parseLong(description.substring(description.lastIndexOf(' ') + 1));
    // The node, at the far end. The processes in between end with it.
    return ProcessHandle.of(pid)
        .orElseThrow()
        .descendants()
        .filter(process -> process.descendants().findAny().isEmpty())
        .findFirst()
        .orElseThrow()
        .destroyForcibly();
  }

  private String ssh(List<String> command) {
    try {
      List<String> words = new ArrayList<>(List.of(Commands.ssh(folder).toString(), "gpu-1"));
      words.addAll(command);
      return Commands.setting("command", words);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }
}
