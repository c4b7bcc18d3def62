// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import java.time.Duration;
import java.util.List;
import java.util.Objects;
import java.util.Optional;
import java.util.function.Consumer;
import org.bytedeco.pytorch.global.torch.ScalarType;

/**
 * How a model is loaded. Start from {@link #defaults()} and change what should differ. Immutable:
 * each method returns new options.
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
   * The defaults: the newest files of the repository's branch {@code main}, all weights with the
   * dtypes of the files, on the machine's first device, with a time limit of two hours.
   */
  public static LoadOptions defaults() {
    return DEFAULTS;
  }

  /** Sets the branch, tag or commit of the repository to load from. */
  public LoadOptions revision(String newRevision) {
    LoadOptions options = new LoadOptions(this);
    options.revision = Objects.requireNonNull(newRevision, "revision");
    return options;
  }

  /**
   * Loads only the weight files that match at least one of these patterns, such as {@code unet/*}.
   * {@code *} stands for any characters, {@code ?} for one, {@code [ab]} for one of a set.
   */
  public LoadOptions allowPatterns(String... patterns) {
    LoadOptions options = new LoadOptions(this);
    options.allowPatterns = List.of(patterns);
    return options;
  }

  /** Skips the repository's files that match any of these patterns. */
  public LoadOptions ignorePatterns(String... patterns) {
    LoadOptions options = new LoadOptions(this);
    options.ignorePatterns = List.of(patterns);
    return options;
  }

  /** Chooses a variant of the weights, such as {@code fp16} in model.fp16.safetensors. */
  public LoadOptions variant(String newVariant) {
    LoadOptions options = new LoadOptions(this);
    options.variant = Objects.requireNonNull(newVariant, "variant");
    return options;
  }

  /** Converts floating point tensors to this dtype on the node. Other tensors keep their dtype. */
  public LoadOptions dtype(ScalarType newDtype) {
    LoadOptions options = new LoadOptions(this);
    options.dtype = Objects.requireNonNull(newDtype, "dtype");
    return options;
  }

  /** Sets the index of the machine's device that the tensors are loaded onto. Default 0. */
  public LoadOptions device(int index) {
    LoadOptions options = new LoadOptions(this);
    options.device = index;
    return options;
  }

  /**
   * Sets the token that the node sends to the hub instead of its own. The program sends it to the
   * node with the request; it is not logged.
   */
  public LoadOptions token(String newToken) {
    LoadOptions options = new LoadOptions(this);
    options.token = Objects.requireNonNull(newToken, "token");
    return options;
  }

  /**
   * Sets the address of the hub to use instead of the node's default. The node must allow it
   * ({@code remora.node.models.endpoints}).
   */
  public LoadOptions endpoint(String address) {
    LoadOptions options = new LoadOptions(this);
    options.endpoint = Objects.requireNonNull(address, "endpoint");
    return options;
  }

  /**
   * Sets a callback for progress. It is called about five times a second, on the thread that loads.
   * An exception that it throws ends the load.
   */
  public LoadOptions onProgress(Consumer<LoadProgress> newListener) {
    LoadOptions options = new LoadOptions(this);
    options.listener = Objects.requireNonNull(newListener, "listener");
    return options;
  }

  /** Sets the time limit for the load; must be positive. */
  public LoadOptions timeout(Duration limit) {
    if (limit.isNegative() || limit.isZero()) {
      throw new IllegalArgumentException("timeout must be positive, but is " + limit);
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
