// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway.internal;

import akka.util.ByteString;
import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonGenerator;
import io.remora.actors.DeviceInfo;
import io.remora.actors.MachineInfo;
import io.remora.runtime.ProgramWait;
import java.io.IOException;
import java.io.StringWriter;
import java.io.UncheckedIOException;
import java.math.BigDecimal;
import java.math.MathContext;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.function.ToDoubleFunction;

/** The dashboard's events in JSON, as server-sent events. */
final class DashboardJson {

  private static final JsonFactory JSON = new JsonFactory();
  private static final MathContext DIGITS = new MathContext(5);

  /** The plots' lines, by name. */
  private static final Map<String, ToDoubleFunction<DashboardPoint>> LINES =
      new TreeMap<>(
          Map.of(
              "operations", DashboardPoint::operations,
              "batches", DashboardPoint::batches,
              "sent", DashboardPoint::sent,
              "received", DashboardPoint::received,
              "roundTripMillis", DashboardPoint::roundTripMillis,
              "memory", DashboardPoint::memory,
              "resident", DashboardPoint::resident,
              "reserved", DashboardPoint::reserved,
              "inFlight", DashboardPoint::inFlight));

  private interface Content {
    void write(JsonGenerator json) throws IOException;
  }

  private DashboardJson() {}

  /**
   * The last minutes: an array of times, and for each machine and all together an array a line.
   *
   * @param keep the most points that the plots have
   */
  static ByteString history(List<DashboardSampler.Moment> moments, int keep) {
    return event(
        "history",
        json -> {
          json.writeStartObject();
          json.writeNumberField("keep", keep);
          json.writeArrayFieldStart("times");
          for (DashboardSampler.Moment moment : moments) {
            json.writeNumber(moment.unixMillis());
          }
          json.writeEndArray();
          json.writeFieldName("total");
          lines(json, moments.stream().map(DashboardSampler.Moment::total).toList());
          TreeSet<String> names = new TreeSet<>();
          moments.forEach(moment -> names.addAll(moment.points().keySet()));
          json.writeObjectFieldStart("machines");
          for (String name : names) {
            json.writeFieldName(name);
            List<DashboardPoint> points = new ArrayList<>();
            moments.forEach(moment -> points.add(moment.points().get(name)));
            lines(json, points);
          }
          json.writeEndObject();
          json.writeEndObject();
        });
  }

  /** Arrays of the points' values; null where there is no point. */
  private static void lines(JsonGenerator json, List<DashboardPoint> points) throws IOException {
    json.writeStartObject();
    for (Map.Entry<String, ToDoubleFunction<DashboardPoint>> line : LINES.entrySet()) {
      json.writeArrayFieldStart(line.getKey());
      for (DashboardPoint point : points) {
        number(json, point == null ? Double.NaN : line.getValue().applyAsDouble(point));
      }
      json.writeEndArray();
    }
    TreeSet<String> causes = new TreeSet<>();
    points.stream()
        .filter(point -> point != null)
        .forEach(point -> causes.addAll(point.waits().keySet()));
    json.writeObjectFieldStart("waits");
    for (String cause : causes) {
      json.writeArrayFieldStart(cause);
      for (DashboardPoint point : points) {
        number(json, point == null ? Double.NaN : point.waits().getOrDefault(cause, Double.NaN));
      }
      json.writeEndArray();
    }
    json.writeEndObject();
    json.writeEndObject();
  }

  /** An observation. */
  static ByteString sample(DashboardSampler.Sample sample) {
    return event(
        "sample",
        json -> {
          json.writeStartObject();
          json.writeNumberField("time", sample.unixMillis());
          json.writeNumberField("sessions", sample.sessions());
          json.writeNumberField("connections", sample.connections());
          json.writeNumberField("unreceivedBytes", sample.unreceivedBytes());
          json.writeArrayFieldStart("members");
          for (DashboardSampler.MemberView member : sample.members()) {
            member(json, member);
          }
          json.writeEndArray();
          json.writeFieldName("total");
          point(json, sample.total());
          json.writeArrayFieldStart("machines");
          for (Map.Entry<String, DashboardSampler.Observed> machine :
              sample.machines().entrySet()) {
            machine(json, machine.getValue(), sample.points().get(machine.getKey()));
          }
          json.writeEndArray();
          json.writeEndObject();
        });
  }

  private static void member(JsonGenerator json, DashboardSampler.MemberView member)
      throws IOException {
    json.writeStartObject();
    json.writeStringField("address", member.address());
    json.writeStringField("status", member.status());
    json.writeBooleanField("reachable", member.reachable());
    json.writeBooleanField("self", member.self());
    json.writeArrayFieldStart("roles");
    for (String role : member.roles()) {
      json.writeString(role);
    }
    json.writeEndArray();
    json.writeEndObject();
  }

  private static void machine(
      JsonGenerator json, DashboardSampler.Observed machine, DashboardPoint point)
      throws IOException {
    MachineInfo info = machine.info();
    json.writeStartObject();
    json.writeStringField("name", info.name());
    json.writeStringField("state", info.state().name());
    json.writeStringField("reason", info.reason());
    json.writeStringField("provider", info.provider());
    json.writeStringField("node", info.nodeAddress());
    json.writeStringField("libtorch", info.libtorchVersion());
    json.writeBooleanField("silent", machine.silent());
    json.writeArrayFieldStart("devices");
    for (DeviceInfo device : info.devices()) {
      json.writeStartObject();
      json.writeStringField("name", device.name());
      json.writeStringField("kind", device.kind());
      json.writeNumberField("memory", Math.max(0, device.memoryBytes()));
      json.writeEndObject();
    }
    json.writeEndArray();
    json.writeFieldName("point");
    point(json, point);
    json.writeFieldName("figures");
    figures(json, machine.figures());
    json.writeArrayFieldStart("waits");
    for (String cause : DashboardPoint.causes(machine.figures().keySet())) {
      json.writeStartObject();
      json.writeStringField("cause", cause);
      json.writeFieldName("count");
      number(json, machine.figures().getOrDefault("waits." + cause + ".count", Double.NaN));
      json.writeFieldName("seconds");
      number(json, machine.figures().getOrDefault("waits." + cause + ".seconds", Double.NaN));
      json.writeEndObject();
    }
    json.writeEndArray();
    json.writeArrayFieldStart("lines");
    for (ProgramWait line : machine.waits()) {
      json.writeStartObject();
      json.writeStringField("line", line.line());
      json.writeStringField("subject", line.subject());
      json.writeStringField("cause", line.cause().name().toLowerCase(Locale.ROOT));
      json.writeNumberField("count", line.count());
      json.writeFieldName("seconds");
      number(json, line.time().toMillis() * 1e-3);
      json.writeEndObject();
    }
    json.writeEndArray();
    json.writeArrayFieldStart("sessions");
    for (Map.Entry<Long, ? extends Map<String, Double>> session : machine.sessions().entrySet()) {
      json.writeStartObject();
      // As text: JavaScript's numbers have 53 bits.
      json.writeStringField("number", session.getKey().toString());
      json.writeFieldName("figures");
      figures(json, session.getValue());
      json.writeEndObject();
    }
    json.writeEndArray();
    json.writeEndObject();
  }

  private static void figures(JsonGenerator json, Map<String, Double> figures) throws IOException {
    json.writeStartObject();
    for (Map.Entry<String, Double> figure : figures.entrySet()) {
      json.writeFieldName(figure.getKey());
      exact(json, figure.getValue());
    }
    json.writeEndObject();
  }

  private static void point(JsonGenerator json, DashboardPoint point) throws IOException {
    json.writeStartObject();
    for (Map.Entry<String, ToDoubleFunction<DashboardPoint>> line : LINES.entrySet()) {
      json.writeFieldName(line.getKey());
      number(json, line.getValue().applyAsDouble(point));
    }
    json.writeObjectFieldStart("waits");
    for (Map.Entry<String, Double> wait : point.waits().entrySet()) {
      json.writeFieldName(wait.getKey());
      number(json, wait.getValue());
    }
    json.writeEndObject();
    json.writeEndObject();
  }

  /** Lines of logs. */
  static ByteString lines(List<DashboardLog.Line> lines) {
    return event(
        "lines",
        json -> {
          json.writeStartArray();
          for (DashboardLog.Line line : lines) {
            json.writeStartObject();
            json.writeNumberField("time", line.unixMillis());
            json.writeStringField("machine", line.machine());
            json.writeStringField("level", line.level());
            json.writeStringField("source", line.source());
            json.writeStringField("text", line.text());
            json.writeEndObject();
          }
          json.writeEndArray();
        });
  }

  /** An object with one text. */
  static String object(String field, String text) {
    return text(
        json -> {
          json.writeStartObject();
          json.writeStringField(field, text);
          json.writeEndObject();
        });
  }

  /** What a page needs to know of its reader. */
  static ByteString reader(boolean needsLogin, boolean signedIn, boolean hasActions, boolean act) {
    return event(
        "reader",
        json -> {
          json.writeStartObject();
          json.writeBooleanField("needsLogin", needsLogin);
          json.writeBooleanField("signedIn", signedIn);
          json.writeBooleanField("hasActions", hasActions);
          json.writeBooleanField("mayAct", act);
          json.writeEndObject();
        });
  }

  private static void number(JsonGenerator json, double value) throws IOException {
    if (Double.isFinite(value)) {
      json.writeNumber(new BigDecimal(value).round(DIGITS).stripTrailingZeros().toString());
    } else {
      json.writeNull();
    }
  }

  /** A count in full; digits beyond those of a double's whole numbers do not matter. */
  private static void exact(JsonGenerator json, double value) throws IOException {
    if (value == Math.rint(value) && Math.abs(value) < 1L << 53) {
      json.writeNumber((long) value);
    } else {
      number(json, value);
    }
  }

  private static ByteString event(String name, Content content) {
    // Jackson escapes line ends, so an event's data is one line.
    return ByteString.fromString(
        "event: " + name + "\ndata: " + text(content) + "\n\n", StandardCharsets.UTF_8);
  }

  private static String text(Content content) {
    StringWriter text = new StringWriter();
    try (JsonGenerator json = JSON.createGenerator(text)) {
      content.write(json);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    return text.toString();
  }
}
