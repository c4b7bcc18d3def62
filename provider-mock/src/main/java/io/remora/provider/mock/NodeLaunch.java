// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.mock;

import io.remora.core.OwnJava;
import io.remora.node.Main;
import io.remora.provider.LaunchToken;
import io.remora.provider.MachineSpec;
import io.remora.provider.launch.ClassArchive;
import io.remora.provider.launch.NodeEnvironment;
import io.remora.provider.launch.NodeLog;
import io.remora.runtime.ProviderException;
import java.io.File;
import java.io.IOException;
import java.net.MalformedURLException;
import java.net.URISyntaxException;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.stream.Collectors;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** The command line and environment of a child node. */
final class NodeLaunch {

  /** Environment variables that set the number of threads of the libraries under libtorch. */
  private static final List<String> THREAD_VARIABLES =
      List.of("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS");

  /** Makes libtorch ask the kernel for large pages, for tensors of 2 MiB and more. */
  private static final String HUGE_PAGES = "THP_MEM_ALLOC_ENABLE";

  /** Longer class paths go through a file: the system limits a single argument to 128 KiB. */
  private static final int LONGEST_CLASS_PATH_ARGUMENT = 32 * 1024;

  /** The launcher of Spring Boot 3.2 and newer, then that of older versions. */
  private static final List<String> SPRING_BOOT_LAUNCHERS =
      List.of(
          "org.springframework.boot.loader.launch.PropertiesLauncher",
          "org.springframework.boot.loader.PropertiesLauncher");

  private static final String MAIN = Main.class.getName();

  private static final Logger log = LoggerFactory.getLogger(NodeLaunch.class);

  private NodeLaunch() {}

  /**
   * A command that is ready to start.
   *
   * @param builder starts the child
   * @param argumentFile a file that the child needs until it is up, or null
   * @param plain the command line without an archive of classes
   * @param archive the archive of the child's classes, if it can have one
   */
  record Command(
      ProcessBuilder builder, Path argumentFile, List<String> plain, Optional<ClassArchive> archive)
      implements AutoCloseable {

    /** Makes the archive of the child's classes, if there is none yet. Returns at once. */
    void archiveClasses(String nodeSettings, NodeLog nodeLog) {
      archive.ifPresent(
          of ->
              of.makeLater(plain, NodeEnvironment.of(LaunchToken.random(), nodeSettings, nodeLog)));
    }

    @Override
    public void close() {
      if (argumentFile == null) {
        return;
      }
      try {
        Files.deleteIfExists(argumentFile);
      } catch (IOException e) {
        log.debug("{} could not be deleted", argumentFile, e);
      }
    }
  }

  static Command command(
      MachineSpec spec,
      MockSettings settings,
      LaunchToken token,
      String nodeSettings,
      NodeLog nodeLog) {
    int threads = settings.childComputeThreads();
    Path java = settings.java().orElseGet(OwnJava::command);
    List<String> command = new ArrayList<>();
    command.add(java.toString());
    command.addAll(settings.jvmOptions());
    if (settings.java().isEmpty()) { // another JDK's version is not known
      command.addAll(OwnJava.nativeAccessOptions());
    }
    Classes classes =
        settings.classPath().map(Classes::of).orElseGet(() -> classes(Main.class.getClassLoader()));
    command.addAll(classes.options());
    Path argumentFile = addClassPath(command, classes.classPath());
    command.add(classes.mainClass());
    command.addAll(nodeArguments(spec, settings, threads));

    Optional<ClassArchive> archive =
        settings
            .classArchives()
            .filter(folder -> argumentFile == null && classes.mainClass().equals(MAIN))
            .flatMap(folder -> ClassArchive.of(folder, java, classes.classPath(), MAIN));
    List<String> archived = new ArrayList<>(command);
    archive.ifPresent(of -> archived.addAll(1, of.options()));
    ProcessBuilder builder = new ProcessBuilder(archived);
    Map<String, String> environment = builder.environment();
    THREAD_VARIABLES.forEach(variable -> environment.put(variable, Integer.toString(threads)));
    environment.putIfAbsent(HUGE_PAGES, "1");
    environment.putAll(NodeEnvironment.of(token, nodeSettings, nodeLog));
    return new Command(builder, argumentFile, command, archive);
  }

  private static List<String> nodeArguments(MachineSpec spec, MockSettings settings, int threads) {
    List<String> arguments = new ArrayList<>();
    arguments.addAll(List.of("--listen", "127.0.0.1:0"));
    arguments.addAll(List.of("--device", settings.device().toString()));
    arguments.addAll(List.of("--gpu-count", Integer.toString(spec.gpuCount())));
    if (spec.gpuType() != null && !settings.device().isAccelerator()) {
      arguments.addAll(List.of("--gpu-type", spec.gpuType().displayName()));
    }
    arguments.addAll(List.of("--compute-threads", Integer.toString(threads)));
    settings
        .torchHome()
        .ifPresent(home -> arguments.addAll(List.of("--torch-home", home.toString())));
    arguments.add("--exit-with-stdin");
    return arguments;
  }

  /**
   * The class path and main class of a child node.
   *
   * @param options its JVM's options
   * @param classPath its JVM's class path
   * @param mainClass the class that its JVM runs
   */
  record Classes(List<String> options, String classPath, String mainClass) {
    /** The node's main class with this class path. */
    static Classes of(String classPath) {
      return new Classes(List.of(), classPath, MAIN);
    }
  }

  /**
   * The classes of this program, for its child. Launchers with a class loader of their own, such as
   * Maven's exec:java and Spring Boot's, leave the program's classes out of the system property.
   */
  static Classes classes(ClassLoader loader) {
    if (loader == ClassLoader.getSystemClassLoader()) {
      return Classes.of(System.getProperty("java.class.path"));
    }
    if (!(loader instanceof URLClassLoader urls)) {
      throw new ProviderException(
          "cannot get the class path for a child node from the class loader %s: set"
                  .formatted(loader.getClass().getName())
              + " remora.provider.mock.class-path, or remora.provider.mock.mode = in-jvm");
    }
    for (URL url : urls.getURLs()) {
      if (!url.getProtocol().equals("file")) {
        return ofJarWithLibraries(loader, url);
      }
    }
    return Classes.of(
        Arrays.stream(urls.getURLs())
            .map(url -> file(url).toString())
            .collect(Collectors.joining(File.pathSeparator)));
  }

  /**
   * The child of a Spring Boot jar, which contains its libraries, runs the same jar. The jar's
   * loader starts a class by name ({@code PropertiesLauncher} of Spring Boot's "Executable Jars").
   */
  private static Classes ofJarWithLibraries(ClassLoader loader, URL library) {
    for (String launcher : SPRING_BOOT_LAUNCHERS) {
      URL found = loader.getResource(launcher.replace('.', '/') + ".class");
      if (found != null && found.getProtocol().equals("jar")) {
        String path = found.getPath(); // file:/folder/app.jar!/org/springframework/…
        try {
          Path jar = file(new URL(path.substring(0, path.indexOf("!/"))));
          return new Classes(List.of("-Dloader.main=" + MAIN), jar.toString(), launcher);
        } catch (MalformedURLException e) {
          throw new ProviderException("not the address of a jar: " + found, e);
        }
      }
    }
    throw new ProviderException(
        ("%s on the class path is inside an executable jar whose loader Remora does "
                + "not know, so a child node cannot use it. Unpack the jar and run the program "
                + "from there, or set remora.provider.mock.class-path to its libraries' folder "
                + "(/folder/*), or remora.provider.mock.mode = in-jvm")
            .formatted(library));
  }

  private static Path file(URL url) {
    try {
      return Path.of(url.toURI());
    } catch (URISyntaxException e) {
      throw new ProviderException("not the address of a file: " + url, e);
    }
  }

  private static Path addClassPath(List<String> command, String classPath) {
    if (classPath.length() <= LONGEST_CLASS_PATH_ARGUMENT) {
      command.addAll(List.of("-cp", classPath));
      return null;
    }
    try {
      Path file = Files.createTempFile("remora-node-", ".args");
      // The java launcher reads these files in the platform's encoding, with backslash escapes.
      Files.writeString(
          file,
          "-cp \"%s\"%n".formatted(classPath.replace("\\", "\\\\").replace("\"", "\\\"")),
          StandardCharsets.UTF_8);
      command.add("@" + file);
      return file;
    } catch (IOException e) {
      throw new ProviderException(
          "the file for the class path of a child node cannot be written: " + e.getMessage(), e);
    }
  }
}
