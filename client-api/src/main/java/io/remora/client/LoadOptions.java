// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import java.time.Duration;
import java.util.List;
import java.util.Objects;
import java.util.Optional;
import java.util.function.Consumer;
import org.bytedeco.pytorch.global.torch.ScalarType;

/**
 * How a model is loaded: {@link #defaults()}, and what differs from them. Immutable; each method
 * answers other options.
 */
public final class LoadOptions {

  private static final LoadOptions DEFAULTS = new LoadOptions();

  private String revision = "";
  private List<String> allowPatterns = List.of();
  private List<String> ignorePatterns = List.of();
  private String variant = "";
  private ScalarType dtype;
  private int device;
  private String token = "";
  private String endpoint = "";
  private Consumer<LoadProgress> listener = progress -> {};
  private Duration timeout = Duration.ofHours(2);

  private LoadOptions() {}

  private LoadOptions(LoadOptions other) {
    revision = other.revision;
    allowPatterns = other.allowPatterns;
    ignorePatterns = other.ignorePatterns;
    variant = other.variant;
    dtype = other.dtype;
    device = other.device;
    token = other.token;
    endpoint = other.endpoint;
    listener = other.listener;
    timeout = other.timeout;
  }

  /**
   * The newest files of the repository's branch {@code main}, all its weights as they are in the
   * files, on the machine's first device, within two hours.
   */
  public static LoadOptions defaults() {
    return DEFAULTS;
  }

  /** A branch, tag or commit of the repository. */
  public LoadOptions revision(String newRevision) {
    LoadOptions options = new LoadOptions(this);
    options.revision = Objects.requireNonNull(newRevision, "revision");
    return options;
  }

  /**
   * Of the repository's files of weights only those of which one of these patterns holds, such as
   * {@code unet/*}: {@code *} stands for any characters, {@code ?} for one, {@code [ab]} for one of
   * a set.
   */
  public LoadOptions allowPatterns(String... patterns) {
    LoadOptions options = new LoadOptions(this);
    options.allowPatterns = List.of(patterns);
    return options;
  }

  /** Of the repository's files only those of which none of these patterns holds. */
  public LoadOptions ignorePatterns(String... patterns) {
    LoadOptions options = new LoadOptions(this);
    options.ignorePatterns = List.of(patterns);
    return options;
  }

  /** Which of several kinds of the same weights, such as {@code fp16} in model.fp16.safetensors. */
  public LoadOptions variant(String newVariant) {
    LoadOptions options = new LoadOptions(this);
    options.variant = Objects.requireNonNull(newVariant, "variant");
    return options;
  }

  /** Converts floating point tensors to this dtype, on the node; others stay as they are. */
  public LoadOptions dtype(ScalarType newDtype) {
    LoadOptions options = new LoadOptions(this);
    options.dtype = Objects.requireNonNull(newDtype, "dtype");
    return options;
  }

  /** The number of the machine's device that the tensors are to be on. */
  public LoadOptions device(int index) {
    LoadOptions options = new LoadOptions(this);
    options.device = index;
    return options;
  }

  /**
   * What the node shows to the hub instead of its own token. It goes to the node with the load, and
   * is not logged.
   */
  public LoadOptions token(String newToken) {
    LoadOptions options = new LoadOptions(this);
    options.token = Objects.requireNonNull(newToken, "token");
    return options;
  }

  /**
   * The address of the hub, one that the node allows ({@code remora.node.models.endpoints}),
   * instead of the node's own.
   */
  public LoadOptions endpoint(String address) {
    LoadOptions options = new LoadOptions(this);
    options.endpoint = Objects.requireNonNull(address, "endpoint");
    return options;
  }

  /**
   * Is told how far the node is, about five times a second, on the thread that loads. What it
   * throws ends the load.
   */
  public LoadOptions onProgress(Consumer<LoadProgress> newListener) {
    LoadOptions options = new LoadOptions(this);
    options.listener = Objects.requireNonNull(newListener, "listener");
    return options;
  }

  /** Within which time the model must be there; positive. */
  public LoadOptions timeout(Duration limit) {
    if (limit.isNegative() || limit.isZero()) {
      throw new IllegalArgumentException("timeout must be positive, is " + limit);
    }
    LoadOptions options = new LoadOptions(this);
    options.timeout = limit;
    return options;
  }

  String revision() {
    return revision;
  }

  List<String> allowPatterns() {
    return allowPatterns;
  }

  List<String> ignorePatterns() {
    return ignorePatterns;
  }

  String variant() {
    return variant;
  }

  Optional<ScalarType> dtype() {
    return Optional.ofNullable(dtype);
  }

  int device() {
    return device;
  }

  String token() {
    return token;
  }

  String endpoint() {
    return endpoint;
  }

  Consumer<LoadProgress> listener() {
    return listener;
  }

  Duration timeout() {
    return timeout;
  }
}
