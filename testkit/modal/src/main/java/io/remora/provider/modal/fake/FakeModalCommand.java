// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal.fake;

import java.time.Duration;
import java.util.concurrent.Callable;
import java.util.concurrent.CountDownLatch;
import picocli.CommandLine;
import picocli.CommandLine.Option;

/**
 * Runs the server as a program: {@code java -cp … io.remora.provider.modal.fake.FakeModalCommand}.
 */
@CommandLine.Command(
    name = "fake-modal",
    mixinStandardHelpOptions = true,
    sortOptions = false,
    description = {
      "A server on loopback that behaves like Modal's control plane. Its sandboxes are processes of"
          + " this computer. Use it to try the Modal provider without an account.",
      "It prints the provider's settings for this server and runs until it is stopped."
    })
public final class FakeModalCommand implements Callable<Integer> {

  @Option(
      names = "--port",
      defaultValue = "0",
      description = "0 takes any free one. Default: ${DEFAULT-VALUE}")
  private int port;

  @Option(
      names = "--gpus",
      defaultValue = "8",
      description = "Number of simulated GPUs. Default: ${DEFAULT-VALUE}")
  private int gpus;

  @Option(
      names = "--token-life",
      defaultValue = "1200",
      description = "How long auth tokens are valid, in seconds. Default: ${DEFAULT-VALUE}")
  private int tokenLifeSeconds;

  @Option(
      names = "--speed",
      defaultValue = "1",
      description =
          "How many seconds of a sandbox's time limits pass in one second. Default: "
              + "${DEFAULT-VALUE}")
  private double speed;

  private FakeModalCommand() {}

  /** Serves until the process is stopped, and then ends all sandboxes. */
  public static void main(String[] arguments) {
    System.exit(new CommandLine(new FakeModalCommand()).execute(arguments));
  }

  @Override
  public Integer call() throws InterruptedException {
    FakeModal.Options options =
        new FakeModal.Options(port, gpus, Duration.ofSeconds(tokenLifeSeconds), speed);
    FakeModal modal = FakeModal.start(options);
    Runtime.getRuntime().addShutdownHook(new Thread(modal::close, "fake-modal-end"));
    System.out.printf("# fake-modal at %s%n%s", modal.address(), modal.settings());
    System.out.flush();
    new CountDownLatch(1).await();
    return CommandLine.ExitCode.OK;
  }
}
