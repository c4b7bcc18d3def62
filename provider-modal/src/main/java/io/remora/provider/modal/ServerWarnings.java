// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ForwardingClientCall.SimpleForwardingClientCall;
import io.grpc.ForwardingClientCallListener.SimpleForwardingClientCallListener;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import java.net.URLDecoder;
import java.nio.charset.StandardCharsets;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import java.util.function.Consumer;

/**
 * Logs the server's warnings, such as that a client is soon too old. Any answer may carry them,
 * including those of failed and streaming calls. Each warning is logged once. Thread-safe.
 */
final class ServerWarnings implements ClientInterceptor {

  /** One entry per warning, percent-encoded. */
  private static final Metadata.Key<String> WARNING =
      Metadata.Key.of("x-modal-warning", Metadata.ASCII_STRING_MARSHALLER);

  private static final int MOST_KEPT = 1000;
  private static final int LONGEST = 2000;

  private final Consumer<String> log;
  private final Set<String> told =
      Collections.synchronizedSet(
          Collections.newSetFromMap(
              new LinkedHashMap<>() {
                private static final long serialVersionUID = 1L;

                @Override
                protected boolean removeEldestEntry(Map.Entry<String, Boolean> eldest) {
                  return size() > MOST_KEPT;
                }
              }));

  /**
   * Creates the interceptor of one connection.
   *
   * @param log receives one line per warning, on gRPC's threads
   */
  ServerWarnings(Consumer<String> log) {
    this.log = log;
  }

  @Override
  public <Q, R> ClientCall<Q, R> interceptCall(
      MethodDescriptor<Q, R> method, CallOptions options, Channel next) {
    return new SimpleForwardingClientCall<>(next.newCall(method, options)) {
      @Override
      public void start(Listener<R> listener, Metadata headers) {
        super.start(
            new SimpleForwardingClientCallListener<>(listener) {
              @Override
              public void onClose(Status status, Metadata trailers) {
                tell(trailers);
                super.onClose(status, trailers);
              }
            },
            headers);
      }
    };
  }

  private void tell(Metadata trailers) {
    Iterable<String> warnings = trailers.getAll(WARNING);
    if (warnings != null) {
      for (String warning : warnings) {
        String text = decoded(warning).replaceAll("\\p{Cntrl}", " ");
        String shown = text.length() > LONGEST ? text.substring(0, LONGEST) + "…" : text;
        if (told.add(shown)) {
          log.accept("Modal warns: " + shown);
        }
      }
    }
  }

  private static String decoded(String encoded) {
    try {
      return URLDecoder.decode(encoded.replace("+", "%2B"), StandardCharsets.UTF_8);
    } catch (IllegalArgumentException e) {
      return encoded;
    }
  }
}
