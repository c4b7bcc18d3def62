// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import static java.util.Objects.requireNonNull;

import io.remora.core.NativePlatform;
import io.remora.runtime.internal.BytedecoNatives;
import io.remora.runtime.internal.NativeCore;
import io.remora.runtime.internal.NativeLibraries;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Optional;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.bytedeco.javacpp.Loader;
import org.bytedeco.pytorch.global.torch;

/**
 * The libtorch of this process, and the native core on top of it. They are loaded once; the first
 * call decides where libtorch comes from. Thread-safe.
 */
public final class TorchLibrary {
  private static final String BYTEDECO_GPU =
      "/org/bytedeco/pytorch/linux-x86_64-gpu/libtorch_cuda.so";
  private static final String NO_BYTEDECO_CUDA =
      "bytedeco's GPU natives (pytorch linux-x86_64-gpu) are not on the class path";
  private static final Pattern VERSION = Pattern.compile("__version__\\s*=\\s*['\"]([^'\"]+)['\"]");

  private static TorchLibrary loaded;

  /** Whether the Java binding of libtorch is loaded. */
  private static boolean bound;

  private final String version;
  private final String source;
  private final Path home;

  /** Why the libraries of CUDA are not loaded; empty if they are. */
  private final String cudaLibraries;

  private TorchLibrary(String version, String source, Path home, String cudaLibraries) {
    this.version = version;
    this.source = source;
    this.home = home;
    this.cudaLibraries = cudaLibraries;
  }

  /**
   * Loads bytedeco's native libraries and their Java binding, which programs use.
   *
   * @throws RemoraException when a native library does not load, because it is not on the class
   *     path for example, or when this process has already loaded another libtorch
   */
  public static synchronized TorchLibrary bytedeco() {
    if (loaded == null || (loaded.home == null && !bound)) {
      String cuda;
      try {
        Loader.load(torch.class);
        cuda = hasBytedecoCuda() ? loadBytedecoCuda() : NO_BYTEDECO_CUDA;
        NativeLibraries.load();
        NativeCore.translateThrows();
      } catch (LinkageError e) {
        throw ProgramClassPath.notLoaded(e);
      }
      bound = true;
      if (loaded == null) {
        loaded = ofBytedeco(cuda);
      }
    }
    return checkedBytedeco();
  }

  /**
   * Loads bytedeco's native libraries for a node, which needs no Java binding of libtorch. Without
   * it, and without the search for the libraries of GPUs, this takes a third of the time of {@link
   * #bytedeco}. If bytedeco's GPU natives are on the class path, does as {@link #bytedeco}.
   *
   * @throws RemoraException as {@link #bytedeco} does
   */
  public static synchronized TorchLibrary bytedecoForNode() {
    if (loaded == null && !hasBytedecoCuda() && BytedecoNatives.load()) {
      NativeLibraries.load();
      loaded = ofBytedeco(NO_BYTEDECO_CUDA);
    }
    return loaded == null ? bytedeco() : checkedBytedeco();
  }

  private static TorchLibrary ofBytedeco(String cudaLibraries) {
    return new TorchLibrary(NativeCore.builtForTorch(), "bytedeco's natives", null, cudaLibraries);
  }

  private static TorchLibrary checkedBytedeco() {
    if (loaded.home != null) {
      throw new RemoraException(
          "this process has loaded the libtorch of " + loaded.home + " and cannot load bytedeco's");
    }
    return loaded;
  }

  private static boolean hasBytedecoCuda() {
    return TorchLibrary.class.getResource(BYTEDECO_GPU) != null;
  }

  private static String loadBytedecoCuda() {
    try {
      Loader.load(Class.forName("org.bytedeco.pytorch.global.torch_cuda"));
      return "";
    } catch (ClassNotFoundException | UnsatisfiedLinkError e) {
      return "bytedeco's GPU natives do not load: " + e.getMessage();
    }
  }

  /**
   * Loads the libtorch of a torch installation. For nodes, which need no Java binding of libtorch.
   *
   * @param torchHome the {@code torch} folder of a {@code pip install torch}
   * @throws RemoraException when the folder contains no libtorch, when the native core is not built
   *     for it, or when this process has already loaded another libtorch
   */
  public static synchronized TorchLibrary home(Path torchHome) {
    Path home = requireNonNull(torchHome, "torchHome").toAbsolutePath().normalize();
    if (loaded != null) {
      if (home.equals(loaded.home)) {
        return loaded;
      }
      throw new RemoraException(
          "this process has loaded " + loaded.source + " and cannot load the libtorch of " + home);
    }
    Path lib = home.resolve("lib");
    String main = NativePlatform.current().fileName("torch_cpu");
    if (!Files.isRegularFile(lib.resolve(main))) {
      throw new RemoraException(
          home
              + " is not a torch installation: it has no lib/"
              + main
              + ". Name the folder that"
              + " `python3 -c 'import torch; print(torch.__path__[0])'` prints");
    }
    String version = versionOf(home);
    load(lib, NativePlatform.current().fileName("c10"));
    load(lib, main);
    String cuda = "";
    if (Files.isRegularFile(lib.resolve("libtorch_cuda.so"))) {
      try {
        load(lib, "libtorch_cuda.so");
      } catch (RemoraException e) {
        cuda = e.getMessage();
      }
    } else {
      cuda = home + " is built without CUDA: it has no lib/libtorch_cuda.so";
    }
    NativeLibraries.load();
    if (!majorMinor(version).equals(majorMinor(NativeCore.builtForTorch()))) {
      throw new RemoraException(
          "the native core is built for torch "
              + NativeCore.builtForTorch()
              + ", "
              + home
              + " is torch "
              + version
              + "; install torch "
              + NativeCore.builtForTorch()
              + ", or rebuild the core with runtime/build-native --torch "
              + home);
    }
    loaded = new TorchLibrary(version, home.toString(), home, cuda);
    return loaded;
  }

  private static void load(Path lib, String name) {
    try {
      System.load(lib.resolve(name).toString());
    } catch (UnsatisfiedLinkError e) {
      throw new RemoraException("cannot load " + lib.resolve(name) + ": " + e.getMessage(), e);
    }
  }

  private static String versionOf(Path home) {
    Path file = home.resolve("version.py");
    try {
      Matcher matcher = VERSION.matcher(Files.readString(file, StandardCharsets.UTF_8));
      if (matcher.find()) {
        return matcher.group(1);
      }
      throw new RemoraException(file + " does not say which version of torch this is");
    } catch (IOException e) {
      throw new RemoraException("cannot read " + file, e);
    }
  }

  private static String majorMinor(String version) {
    String[] parts = version.split("\\.", 3);
    return parts.length < 2 ? version : parts[0] + "." + parts[1];
  }

  /** libtorch's version, e.g. {@code 2.10.0} or {@code 2.10.0+cu128}. */
  public String version() {
    return version;
  }

  /** A description of where libtorch comes from. */
  public String source() {
    return source;
  }

  /**
   * The number of accelerators of a type that libtorch reports, with the libraries loaded so far.
   *
   * @param type libtorch's name of the type, such as {@code cuda}
   */
  public int deviceCount(String type) {
    return Math.max(0, NativeCore.deviceCount(type));
  }

  /**
   * The reason why there is no accelerator of a type; empty when there is one.
   *
   * @param type libtorch's name of the type, such as {@code cuda}
   */
  public String unavailableReason(String type) {
    if (NativeCore.deviceCount(type) > 0) {
      return "";
    }
    return type.equals("cuda") && !cudaLibraries.isEmpty() ? cudaLibraries : NativeCore.lastError();
  }

  /**
   * Name and memory of an accelerator, e.g. {@code NVIDIA H200, 139.8 GiB}.
   *
   * @param type libtorch's name of the type, such as {@code cuda}
   * @param index its index, from 0
   */
  public String deviceDescription(String type, int index) {
    double gib = deviceMemory(type, index) / (double) (1L << 30);
    return String.format("%s, %.1f GiB", NativeCore.deviceName(type, index), gib);
  }

  /**
   * Memory of an accelerator in bytes; -1 where unknown.
   *
   * @param type libtorch's name of the type, such as {@code cuda}
   * @param index its index, from 0
   */
  public long deviceMemory(String type, int index) {
    return NativeCore.deviceMemory(type, index);
  }

  /**
   * What this process uses of an accelerator's memory, in bytes.
   *
   * @param allocated what libtorch's allocator has given to tensors
   * @param peak the most that it has ever given
   * @param reserved what it has taken from the device
   */
  public record DeviceUse(long allocated, long peak, long reserved) {}

  /**
   * What this process uses of an accelerator's memory. Empty before the first use of the device,
   * and with libtorch before 2.9, whose allocators do not report it.
   *
   * @param device such as {@code cuda:0}
   */
  public Optional<DeviceUse> deviceUse(String device) {
    long allocated = NativeCore.deviceUse(device, 0);
    return allocated < 0
        ? Optional.empty()
        : Optional.of(
            new DeviceUse(
                allocated, NativeCore.deviceUse(device, 1), NativeCore.deviceUse(device, 2)));
  }

  /**
   * Declares for this process that the output shapes of an operator of another library never depend
   * on tensor values. Call it before the operator's first call.
   *
   * @param operator its name with its library, such as {@code torchvision::roi_align}, for all
   *     overloads
   */
  public void declareFixedShapes(String operator) {
    if (!operator.matches(".+?::.+")) {
      throw new IllegalArgumentException(
          "an operator is named library::operator, not \"%s\"".formatted(operator));
    }
    NativeCore.declareFixedShapes(operator);
  }

  /** Sets the number of threads that libtorch uses inside one operator, in this process. */
  public void setComputeThreads(int threads) {
    if (threads < 1) {
      throw new IllegalArgumentException("compute threads must be at least 1: " + threads);
    }
    NativeCore.setComputeThreads(threads);
  }

  /** The number of threads that libtorch uses inside one operator. */
  public int computeThreads() {
    return NativeCore.computeThreads();
  }
}
