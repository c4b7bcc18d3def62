// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.architecture;

import static org.assertj.core.api.Assertions.assertThat;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.architecture.ManualPages.Program;
import io.remora.client.RemoteMachine;
import io.remora.runtime.TorchLibrary;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.io.StringWriter;
import java.lang.reflect.InvocationTargetException;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.regex.Pattern;
import javax.tools.JavaCompiler;
import javax.tools.StandardJavaFileManager;
import javax.tools.ToolProvider;
import org.bytedeco.pytorch.global.torch;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/**
 * Compiles every program in Java of the manual, and runs those that can run by themselves. The
 * comment above each says how it is tested: {@code <!-- test: run -->}, {@code <!-- test: compile
 * -->}, {@code <!-- test: compile in Language -->} for a method of another frame than the usual
 * one, or {@code <!-- test: compile with CloudProvider -->} for one that is a frame's only program.
 */
@Tag("fast")
@Timeout(value = 180, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class ManualProgramsTest {
  private static final String FRAME = "Manual";
  private static final String WITH = "compile with ";
  private static final String IN = "compile in ";
  private static final Path PACKAGE =
      Modules.ROOT.resolve("training/src/main/java/io/remora/train/package-info.java");
  private static final Path QUICK_START =
      Modules.ROOT.resolve("examples/src/main/java/io/remora/examples/QuickStart.java");

  @TempDir private Path folder;

  @Test
  void compileAndRun() throws IOException, ReflectiveOperationException {
    List<Program> programs = programs();
    assertThat(programs)
        .hasSizeGreaterThanOrEqualTo(20)
        .allSatisfy(
            program ->
                assertThat(program.test())
                    .as("%s: how is it tested? <!-- test: … -->", program.place())
                    .matches("run|compile|compile (with|in) \\w+"));

    List<Path> sources = new ArrayList<>();
    Map<String, StringBuilder> frames = new LinkedHashMap<>();
    for (int i = 0; i < programs.size(); i++) {
      Program program = programs.get(i);
      if (program.test().startsWith(WITH)) {
        sources.add(source(program.test().substring(WITH.length()), program.text()));
      } else {
        String frame =
            program.test().startsWith(IN) ? program.test().substring(IN.length()) : FRAME;
        frames
            .computeIfAbsent(frame, name -> new StringBuilder())
            .append(
                "  // %s%n  public void program%d() throws Exception {%n%s  }%n%n"
                    .formatted(program.place(), i, program.text()));
      }
    }
    for (Map.Entry<String, StringBuilder> frame : frames.entrySet()) {
      sources.add(source(frame.getKey(), frame.getValue().toString()));
    }
    compile(sources);
    run(programs);
  }

  @Test
  void theFirstIsTheQuickStartExample() throws IOException {
    assertThat(withoutIndent(Files.readString(QUICK_START)))
        .contains(withoutIndent(programs().get(0).text()));
  }

  /** Those of the pages, and that of the training module's package. */
  private static List<Program> programs() throws IOException {
    List<Program> programs = new ArrayList<>(ManualPages.programs("java"));
    Pattern.compile("\\{@code\\n(.*?)\\n \\* \\}</pre>", Pattern.DOTALL)
        .matcher(Files.readString(PACKAGE))
        .results()
        .map(block -> block.group(1).replaceAll("(?m)^ \\* ?", "") + "\n")
        .forEach(text -> programs.add(new Program("io.remora.train", "run", text)));
    return programs;
  }

  private Path source(String frame, String programs) throws IOException {
    Path file = Modules.ROOT.resolve("architecture/src/test/resources/manual/" + frame + ".txt");
    return Files.writeString(
        folder.resolve(frame + ".java"), Files.readString(file).replace("PROGRAMS", programs));
  }

  private void compile(List<Path> sources) throws IOException {
    JavaCompiler compiler = ToolProvider.getSystemJavaCompiler();
    StringWriter messages = new StringWriter();
    try (StandardJavaFileManager files =
        compiler.getStandardFileManager(null, null, StandardCharsets.UTF_8)) {
      List<String> options =
          List.of(
              "-d", folder.toString(), "-cp", System.getProperty("java.class.path"), "-proc:none");
      boolean compiled =
          compiler
              .getTask(
                  messages, files, null, options, null, files.getJavaFileObjectsFromPaths(sources))
              .call();
      if (!compiled) {
        throw new AssertionError(
            messages + "\n" + Files.readString(sources.get(sources.size() - 1)));
      }
    }
  }

  private void run(List<Program> programs) throws IOException, ReflectiveOperationException {
    TorchLibrary.bytedeco();
    torch.manual_seed(1);
    Config state =
        ConfigFactory.parseMap(
            Map.of("remora.state.directory", folder.resolve("state").toString()));
    try (RemoteMachine machine = RemoteMachine.builder().provider("mock").config(state).open();
        URLClassLoader classes = new URLClassLoader(new URL[] {folder.toUri().toURL()})) {
      Class<?> manual = classes.loadClass(FRAME);
      Object made =
          manual.getConstructor(RemoteMachine.class, Path.class).newInstance(machine, folder);
      for (int i = 0; i < programs.size(); i++) {
        if (programs.get(i).test().equals("run")) {
          String printed = run(programs.get(i), manual, made, i);
          if (i == 0) { // the sum of max(0, x) over a million x, each a sum of 1000 products
            assertThat(Float.parseFloat(printed.strip())).isBetween(11e6f, 14.5e6f);
          }
        }
      }
      machine.synchronize();
    }
  }

  /** What the program has printed. */
  private static String run(Program program, Class<?> manual, Object made, int number)
      throws ReflectiveOperationException {
    PrintStream before = System.out;
    ByteArrayOutputStream printed = new ByteArrayOutputStream();
    System.setOut(new PrintStream(printed, true, StandardCharsets.UTF_8));
    try {
      manual.getMethod("program" + number).invoke(made);
    } catch (InvocationTargetException e) {
      throw new AssertionError(program.place(), e.getCause());
    } finally {
      System.setOut(before);
    }
    return printed.toString(StandardCharsets.UTF_8);
  }

  private static String withoutIndent(String text) {
    return text.lines().map(String::strip).reduce("", (all, line) -> all + line + "\n");
  }
}
