// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.train;

import static org.assertj.core.api.Assertions.assertThat;

import io.remora.client.RemoteMachine;
import io.remora.runtime.TorchLibrary;
import java.io.IOException;
import java.io.StringWriter;
import java.lang.reflect.InvocationTargetException;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
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
 * Runs the Java of docs/training.md, and of the package's documentation, one block after another.
 */
@Tag("fast")
@Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class GuideTest {
  private static final Path GUIDE = Path.of("../docs/training.md");
  private static final Path PACKAGE = Path.of("src/main/java/io/remora/train/package-info.java");

  /** Each block is a method, in which variables of its own may hide those of the class. */
  private static final String CLASS =
      """
      import static org.bytedeco.pytorch.global.torch.*;

      import io.remora.client.*;
      import io.remora.train.*;
      import java.nio.file.Path;
      import java.util.List;
      import org.bytedeco.pytorch.*;

      public final class Guide {
        final RemoteMachine machine;
        final LinearImpl model = new LinearImpl(4, 3);
        final Tensor images;
        final Tensor labels;
        final Path folder;
        final long steps = 4;
        final AdamW optimizer;

        public Guide(RemoteMachine machine, Path folder) {
          this.machine = machine;
          this.folder = folder;
          model.to(machine.device(), false);
          images = rand(8, 4).to(machine.device(), org.bytedeco.pytorch.global.torch.ScalarType.Float);
          labels = Tensor.create(new long[] {0, 1, 2, 0, 1, 2, 0, 1}).to(machine.device(), org.bytedeco.pytorch.global.torch.ScalarType.Long);
          optimizer = new AdamW(model.parameters(), new AdamWOptions(1e-3));
        }

      %s
        public void run() {
      %s
        }
      }
      """;

  @TempDir private Path directory;

  @Test
  void theProgramsRun() throws ReflectiveOperationException, IOException {
    List<String> blocks = blocks();
    assertThat(blocks).hasSizeGreaterThanOrEqualTo(6);
    StringBuilder methods = new StringBuilder();
    StringBuilder calls = new StringBuilder();
    for (int i = 0; i < blocks.size(); i++) {
      methods.append("void block%d() {\n%s}\n".formatted(i, blocks.get(i)));
      calls.append("block%d();\n".formatted(i));
    }
    compile("Guide", CLASS.formatted(methods, calls));
    TorchLibrary.bytedeco();
    torch.manual_seed(1);
    try (RemoteMachine machine = RemoteMachine.open("mock");
        URLClassLoader classes = new URLClassLoader(new URL[] {directory.toUri().toURL()})) {
      Class<?> guide = classes.loadClass("Guide");
      Object program =
          guide.getConstructor(RemoteMachine.class, Path.class).newInstance(machine, directory);
      try {
        guide.getMethod("run").invoke(program);
      } catch (InvocationTargetException e) {
        throw new AssertionError(e.getCause());
      }
    }
  }

  private static List<String> blocks() throws IOException {
    List<String> blocks = new ArrayList<>();
    Pattern.compile("```java\\n(.*?)```", Pattern.DOTALL)
        .matcher(Files.readString(GUIDE))
        .results()
        .forEach(block -> blocks.add(block.group(1)));
    Pattern.compile("\\{@code\\n(.*?)\\n \\* \\}</pre>", Pattern.DOTALL)
        .matcher(Files.readString(PACKAGE))
        .results()
        .forEach(block -> blocks.add(block.group(1).replaceAll("(?m)^ \\* ?", "") + "\n"));
    return blocks;
  }

  private void compile(String className, String source) throws IOException {
    Path file = Files.writeString(directory.resolve(className + ".java"), source);
    JavaCompiler compiler = ToolProvider.getSystemJavaCompiler();
    StringWriter messages = new StringWriter();
    try (StandardJavaFileManager files =
        compiler.getStandardFileManager(null, null, StandardCharsets.UTF_8)) {
      List<String> options =
          List.of(
              "-d",
              directory.toString(),
              "-cp",
              System.getProperty("java.class.path"),
              "-proc:none");
      boolean compiled =
          compiler
              .getTask(messages, files, null, options, null, files.getJavaFileObjects(file))
              .call();
      if (!compiled) {
        throw new AssertionError(messages + "\n" + source);
      }
    }
  }
}
