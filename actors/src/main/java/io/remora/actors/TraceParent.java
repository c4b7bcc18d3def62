// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import io.opentelemetry.api.trace.Span;
import io.opentelemetry.api.trace.propagation.W3CTraceContextPropagator;
import io.opentelemetry.context.Context;
import io.opentelemetry.context.propagation.TextMapGetter;
import java.util.HashMap;
import java.util.Map;

/**
 * A program's trace, as the parent of its machines' spans. Between processes it travels as text in
 * the form of the W3C's header {@code traceparent}.
 *
 * @param text the header's value; empty if the program has no trace
 */
public record TraceParent(String text) {

  /** The name of the header and of the gateway's metadata. */
  public static final String HEADER = "traceparent";

  /** No trace. */
  public static final TraceParent NONE = new TraceParent("");

  private static final int LONGEST = 256;

  private static final TextMapGetter<String> GETTER =
      (carrier, key) -> key.equals(HEADER) && !carrier.isEmpty() ? carrier : null;

  /** The trace of the calling thread. */
  public static TraceParent current() {
    Map<String, String> headers = new HashMap<>();
    W3CTraceContextPropagator.getInstance().inject(Context.current(), headers, Map::put);
    return new TraceParent(headers.getOrDefault(HEADER, ""));
  }

  /** The trace of a header from elsewhere; none if the header is missing or not valid. */
  public static TraceParent parse(String header) {
    if (header == null || header.length() > LONGEST) {
      return NONE;
    }
    TraceParent parsed = new TraceParent(header);
    return Span.fromContext(parsed.context()).getSpanContext().isValid() ? parsed : NONE;
  }

  /** The context for spans of the machine. */
  public Context context() {
    return W3CTraceContextPropagator.getInstance().extract(Context.root(), text, GETTER);
  }
}
