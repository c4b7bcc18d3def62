// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.command;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigException;
import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigRenderOptions;
import com.typesafe.config.ConfigValueFactory;
import io.remora.command.Finding.Status;
import io.remora.core.CommandOutput;
import io.remora.core.CommandVersion;
import java.io.PrintWriter;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.Callable;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/** {@code remora doctor}: looks for what is wrong with this computer and its set-up. */
@Command(
    name = "doctor",
    mixinStandardHelpOptions = true,
    versionProvider = CommandVersion.class,
    sortOptions = false,
    usageHelpAutoWidth = true,
    description = {
      "Checks this computer and its set-up: Java, processor, memory, disk, libtorch and the native"
          + " core (by starting a node for a moment), GPU, Python, TLS, tokens, ports, and a"
          + " gateway or node that you name.",
      "Prints a line for each check, and what to do about those that are not ok."
    },
    footerHeading = "%nExamples:%n",
    footer = {
      "  remora doctor                                  this computer",
      "  remora doctor --gateway gpu.example.org:7636   and the way to a gateway",
      "  remora doctor --json                           for a program"
    },
    exitCodeListHeading = "%nExit codes:%n",
    exitCodeList = {
      "0:there is no problem; there may be warnings",
      "1:there is a problem",
      "2:wrong command line"
    })
final class DoctorCommand implements Callable<Integer> {

  private final Config config;
  private final Map<String, String> environment;

  @Spec private CommandSpec command;

  @Mixin private GatewayOptions gateway;

  @Option(
      names = "--node",
      paramLabel = "HOST:PORT",
      description = "A node to reach. Its token is not used, since it admits only one link")
  private String node;

  @Option(
      names = "--min-free",
      paramLabel = "SIZE",
      defaultValue = "2GiB",
      description = "Warns about folders on disks with less free space. Default: ${DEFAULT-VALUE}")
  private String minFree;

  @Option(
      names = "--json",
      description = "Prints a JSON object: status, and findings with name, status, found, advice")
  private boolean json;

  DoctorCommand(Config config, Map<String, String> environment) {
    this.config = config;
    this.environment = environment;
    this.gateway = new GatewayOptions(environment);
  }

  @Override
  public Integer call() {
    CommandOutput.log("io/remora/command/logback-command.xml");
    List<Finding> findings = findings(leastFree());
    Status worst = findings.stream().map(Finding::status).max(Status::compareTo).orElse(Status.OK);
    PrintWriter out = command.commandLine().getOut();
    out.println(json ? json(worst, findings) : text(findings));
    out.flush();
    return worst == Status.PROBLEM ? CommandLine.ExitCode.SOFTWARE : CommandLine.ExitCode.OK;
  }

  private long leastFree() {
    try {
      return ConfigFactory.parseMap(Map.of("size", minFree)).getBytes("size");
    } catch (ConfigException e) {
      throw new ParameterException(
          command.commandLine(),
          "--min-free: '%s' is not a size such as 500MiB or 2GiB".formatted(minFree),
          e);
    }
  }

  private List<Finding> findings(long leastFree) {
    SetupChecks setup = new SetupChecks(config, environment);
    NodeChecks nodes = new NodeChecks(config, environment);
    List<Finding> found = new ArrayList<>();
    found.add(ComputerChecks.java());
    found.add(ComputerChecks.processor());
    found.add(ComputerChecks.memory());
    found.add(ComputerChecks.openFiles());
    found.addAll(setup.folders(leastFree));
    found.add(nodes.nativeCore());
    found.add(nodes.libtorch());
    found.add(ComputerChecks.gpu());
    found.add(nodes.python());
    found.add(setup.linkTls());
    found.add(setup.gatewayTls());
    found.add(setup.tokens());
    found.addAll(setup.ports());
    gateway
        .address()
        .ifPresent(
            address ->
                found.addAll(ReachChecks.gateway(address, gateway.token(), gateway.certificate())));
    if (node != null) {
      found.add(ReachChecks.node(node, config));
    }
    return found;
  }

  private static String text(List<Finding> findings) {
    StringBuilder text = new StringBuilder();
    for (Finding each : findings) {
      text.append(
          "%-8s %-15s %s%n"
              .formatted(word(each.status()), each.name(), each.found().replaceAll("\\s+", " ")));
      if (!each.advice().isEmpty()) {
        text.append("%-24s -> %s%n".formatted("", each.advice()));
      }
    }
    return text.append(
            "%d problems, %d warnings"
                .formatted(count(findings, Status.PROBLEM), count(findings, Status.WARNING)))
        .toString();
  }

  private static long count(List<Finding> findings, Status status) {
    return findings.stream().filter(each -> each.status() == status).count();
  }

  private static String json(Status worst, List<Finding> findings) {
    List<Map<String, String>> list = new ArrayList<>();
    for (Finding each : findings) {
      Map<String, String> entry = new LinkedHashMap<>();
      entry.put("name", each.name());
      entry.put("status", word(each.status()));
      entry.put("found", each.found());
      entry.put("advice", each.advice());
      list.add(entry);
    }
    return ConfigValueFactory.fromMap(Map.of("status", word(worst), "findings", list))
        .render(ConfigRenderOptions.concise().setFormatted(true))
        .strip();
  }

  private static String word(Status status) {
    return status.name().toLowerCase(Locale.ROOT);
  }
}
