// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.command;

import akka.actor.ActorSystem;
import akka.http.javadsl.ConnectionContext;
import akka.http.javadsl.Http;
import akka.http.javadsl.OutgoingConnectionBuilder;
import akka.http.javadsl.model.ContentType;
import akka.http.javadsl.model.ContentTypes;
import akka.http.javadsl.model.HttpEntities;
import akka.http.javadsl.model.HttpHeader;
import akka.http.javadsl.model.HttpRequest;
import akka.http.javadsl.model.HttpResponse;
import akka.http.javadsl.model.headers.RawHeader;
import akka.japi.Pair;
import akka.stream.OverflowStrategy;
import akka.stream.javadsl.Flow;
import akka.stream.javadsl.Keep;
import akka.stream.javadsl.Sink;
import akka.stream.javadsl.SinkQueueWithCancel;
import akka.stream.javadsl.Source;
import akka.stream.javadsl.SourceQueueWithComplete;
import com.google.protobuf.ByteString;
import com.google.protobuf.InvalidProtocolBufferException;
import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.link.FrameHeader;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.LinkConnection;
import io.remora.actors.link.LinkSettings;
import io.remora.actors.link.LinkTransport;
import io.remora.actors.link.OutboundFrame;
import io.remora.actors.link.Pem;
import io.remora.actors.link.PooledBuffer;
import io.remora.actors.link.ValueHeader;
import io.remora.actors.link.proto.Hello;
import io.remora.actors.link.proto.Reason;
import io.remora.actors.link.proto.Refused;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.RemoraException;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.net.UnknownHostException;
import java.nio.ByteBuffer;
import java.nio.channels.UnresolvedAddressException;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.SecureRandom;
import java.time.Duration;
import java.time.Instant;
import java.time.ZonedDateTime;
import java.time.format.DateTimeFormatter;
import java.time.format.DateTimeParseException;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManager;

/** Whether {@code remora doctor} can reach a gateway or a node, and how far away it is. */
final class ReachChecks {

  private static final Duration LIMIT = Duration.ofSeconds(10);
  private static final int ROUNDS = 5;

  /** A gateway's clock is known to the second. */
  private static final Duration LARGEST_SKEW = Duration.ofSeconds(5);

  /** An empty gRPC message: not compressed, no bytes. */
  private static final byte[] EMPTY = new byte[5];

  private static final String HEALTH = "/grpc.health.v1.Health/Check";
  private static final String LIST = "/remora.gateway.v1.Machines/List";
  private static final ContentType GRPC = ContentTypes.parse("application/grpc+proto");

  /** Akka for one connection: no cluster, and no log. */
  private static final Config QUIET =
      ConfigFactory.parseString(
          """
          akka { actor.provider = local, daemonic = on, loglevel = OFF, stdout-loglevel = OFF
            log-dead-letters = off, coordinated-shutdown.run-by-jvm-shutdown-hook = off }
          """);

  private ReachChecks() {}

  // A gateway ------------------------------------------------------------------------------------

  /**
   * Asks a gateway for its health and, if it answers, for its machines.
   *
   * @param address HOST:PORT
   * @param token the gateway's token, if there is one
   * @param certificate what to trust instead of what Java trusts; without it, only addresses off
   *     loopback are asked over TLS
   */
  static List<Finding> gateway(String address, Optional<String> token, Optional<Path> certificate) {
    String name = "gateway";
    String mayBe =
        "check that a gateway listens there; if it uses TLS, name the file of its certificate, or"
            + " of its issuer's, by --gateway-certificate";
    ActorSystem system = null;
    try {
      InetSocketAddress gateway = LinkTransport.address(address);
      try (Socket socket = new Socket()) {
        socket.connect(gateway, (int) LIMIT.toMillis()); // its errors say more than Akka's
      }
      boolean encrypted = isEncrypted(gateway, certificate);
      system = ActorSystem.create("remora-doctor", QUIET.withFallback(ConfigFactory.load()));
      Calls calls = new Calls(system, gateway, encrypted ? trusting(certificate) : null);
      HttpResponse health = calls.ask(HEALTH, Optional.empty());
      if (health.status().intValue() != 200) {
        return List.of(
            Finding.problem(
                name,
                "%s answered with HTTP status %s".formatted(address, health.status()),
                mayBe));
      }
      long best = Long.MAX_VALUE;
      for (int round = 0; round < ROUNDS; round++) {
        long begin = System.nanoTime();
        calls.ask(HEALTH, Optional.empty());
        best = Math.min(best, System.nanoTime() - begin);
      }
      String away = "%s answers, %.1f ms away".formatted(address, best / 1e6);
      // An answer is a message, if only an empty one; a refusal has none.
      boolean refused = calls.bytes(calls.ask(LIST, token)) == 0;
      List<Finding> found = new ArrayList<>();
      found.add(
          refused
              ? Finding.problem(
                  name,
                  away
                      + ", but refuses "
                      + (token.isPresent()
                          ? "the token in REMORA_GATEWAY_TOKEN"
                          : "calls without a token"),
                  "set REMORA_GATEWAY_TOKEN to the gateway's token")
              : Finding.ok(name, away));
      clock(health).ifPresent(found::add);
      return found;
    } catch (UnresolvedAddressException | UnknownHostException e) {
      return List.of(
          Finding.problem(name, address + ": unknown host", "correct the address: HOST:PORT"));
    } catch (IllegalArgumentException | GeneralSecurityException e) {
      return List.of(Finding.problem(name, reason(e), "correct the option"));
    } catch (IOException e) {
      return List.of(
          Finding.problem(
              name,
              "%s cannot be reached: %s".formatted(address, reason(e)),
              "check that the gateway runs, that this is its port, and that no firewall is"
                  + " between"));
    } catch (TimeoutException e) {
      return List.of(
          Finding.problem(
              name, "%s gave no answer within %d s".formatted(address, LIMIT.toSeconds()), mayBe));
    } catch (ExecutionException e) {
      return List.of(
          Finding.problem(
              name,
              "%s does not answer as a gateway does: %s".formatted(address, reason(e.getCause())),
              mayBe));
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      return List.of(Finding.problem(name, "interrupted", "run it again"));
    } finally {
      if (system != null) {
        system.terminate();
      }
    }
  }

  /** Calls of a gateway over one connection, one after the other. */
  private static final class Calls {

    private final ActorSystem system;
    private final String root;
    private final SourceQueueWithComplete<HttpRequest> requests;
    private final SinkQueueWithCancel<HttpResponse> responses;

    /**
     * @param trust whom to trust; null for a connection without TLS
     */
    Calls(ActorSystem system, InetSocketAddress gateway, SSLContext trust) {
      this.system = system;
      String host = gateway.getHostString();
      root = (trust == null ? "http://" : "https://") + host + ":" + gateway.getPort();
      OutgoingConnectionBuilder builder =
          Http.get(system).connectionTo(host).toPort(gateway.getPort());
      Flow<HttpRequest, HttpResponse, ?> connection =
          trust == null
              ? builder.http2WithPriorKnowledge()
              : builder
                  .withCustomHttpsConnectionContext(ConnectionContext.httpsClient(trust))
                  .http2();
      Pair<SourceQueueWithComplete<HttpRequest>, SinkQueueWithCancel<HttpResponse>> ends =
          Source.<HttpRequest>queue(1, OverflowStrategy.fail())
              .via(connection)
              .toMat(Sink.queue(), Keep.both())
              .run(system);
      requests = ends.first();
      responses = ends.second();
    }

    HttpResponse ask(String method, Optional<String> token)
        throws InterruptedException, ExecutionException, TimeoutException {
      HttpRequest request =
          HttpRequest.POST(root + method)
              .addHeader(RawHeader.create("te", "trailers"))
              .withEntity(HttpEntities.create(GRPC, EMPTY));
      if (token.isPresent()) {
        request = request.addHeader(RawHeader.create("authorization", "Bearer " + token.get()));
      }
      await(requests.offer(request));
      return await(responses.pull())
          .orElseThrow(() -> new ExecutionException(new IOException("it closed the connection")));
    }

    int bytes(HttpResponse response)
        throws InterruptedException, ExecutionException, TimeoutException {
      return await(response.entity().toStrict(LIMIT.toMillis(), system)).getData().size();
    }

    private static <T> T await(CompletionStage<T> answer)
        throws InterruptedException, ExecutionException, TimeoutException {
      return answer.toCompletableFuture().get(LIMIT.toMillis(), TimeUnit.MILLISECONDS);
    }
  }

  private static Optional<Finding> clock(HttpResponse answer) {
    Optional<String> date = answer.getHeader("date").map(HttpHeader::value);
    if (date.isEmpty()) {
      return Optional.empty();
    }
    try {
      Instant there =
          ZonedDateTime.parse(date.get(), DateTimeFormatter.RFC_1123_DATE_TIME).toInstant();
      Duration skew = Duration.between(there, Instant.now());
      return Optional.of(
          skew.abs().compareTo(LARGEST_SKEW) > 0
              ? Finding.warning(
                  "clock",
                  "the gateway's clock and this one differ by %d s".formatted(skew.toSeconds()),
                  "set both by NTP: certificates and tokens are valid only for a time")
              : Finding.ok("clock", "the gateway's clock and this one agree"));
    } catch (DateTimeParseException e) {
      return Optional.empty();
    }
  }

  /** Whether a connection to a gateway uses TLS. */
  static boolean isEncrypted(InetSocketAddress gateway, Optional<Path> certificate) {
    return certificate.isPresent() || !gateway.getAddress().isLoopbackAddress();
  }

  /** Trusts these certificates, or else those that Java trusts. */
  static SSLContext trusting(Optional<Path> certificate)
      throws GeneralSecurityException, IOException {
    if (certificate.isEmpty()) {
      return SSLContext.getDefault();
    }
    SSLContext context = SSLContext.getInstance("TLS");
    TrustManager trust = Pem.trusting(Pem.text(certificate.get().toString()));
    context.init(null, new TrustManager[] {trust}, null);
    return context;
  }

  private static String reason(Throwable failure) {
    String message = failure.getMessage();
    return message == null ? failure.getClass().getSimpleName() : message;
  }

  // A node ---------------------------------------------------------------------------------------

  /**
   * Says hello to a node without a token, which the node refuses: its token admits one link, which
   * this must not take.
   *
   * @param address HOST:PORT
   * @param config the whole configuration, for the link's TLS
   */
  static Finding node(String address, Config config) {
    String name = "node";
    Answer answer = new Answer();
    try {
      LinkSettings settings = LinkSettings.from(config);
      long begin = System.nanoTime();
      LinkConnection connection =
          LinkConnection.start(
              LinkTransport.dial(LinkTransport.address(address), LIMIT, settings.tls()),
              "node at " + address,
              settings,
              answer);
      try {
        byte[] link = new byte[16];
        new SecureRandom().nextBytes(link);
        Hello hello =
            Hello.newBuilder()
                .setProtocolVersion(FrameHeader.PROTOCOL_VERSION)
                .setMachine("remora-doctor")
                .setLink(ByteString.copyFrom(link))
                .build();
        long sent = System.nanoTime();
        connection.send(OutboundFrame.control(FrameType.HELLO, 0, hello));
        Refused refused = answer.refused.get(LIMIT.toMillis(), TimeUnit.MILLISECONDS);
        long end = System.nanoTime();
        return refused.getReason() == Reason.REASON_TOKEN
            ? Finding.ok(
                name,
                "%s answers, %.1f ms away (connected in %.1f ms); its token was not tried"
                    .formatted(address, (end - sent) / 1e6, (sent - begin) / 1e6))
            : Finding.problem(
                name,
                "%s refuses: %s".formatted(address, refused.getMessage()),
                "use the same version of Remora on both sides");
      } finally {
        connection.close();
      }
    } catch (ExecutionException e) {
      return Finding.problem(
          name,
          "%s: %s".formatted(address, reason(e.getCause())),
          "check that a node listens there, and that both sides have certificates or neither has");
    } catch (TimeoutException e) {
      return Finding.problem(
          name,
          "%s did not answer within %d s".formatted(address, LIMIT.toSeconds()),
          "check that a node listens there");
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      return Finding.problem(name, "interrupted", "run it again");
    } catch (IOException | RemoraException | IllegalArgumentException e) {
      return Finding.problem(
          name,
          "%s cannot be reached: %s".formatted(address, reason(e)),
          "check that the node runs, that this is its port, and that no firewall is between");
    }
  }

  /** The node's answer to a hello without a token. */
  private static final class Answer implements LinkConnection.Handler {

    final CompletableFuture<Refused> refused = new CompletableFuture<>();

    @Override
    public void onFrame(LinkConnection connection, FrameHeader header, PooledBuffer payload) {
      if (header.type() != FrameType.REFUSED) {
        throw new ProtocolException("a %s frame is not a refusal".formatted(header.type()));
      }
      try {
        refused.complete(Refused.parseFrom(payload.bytes().duplicate()));
      } catch (InvalidProtocolBufferException e) {
        throw new ProtocolException("unreadable control message: " + e.getMessage(), e);
      }
    }

    @Override
    public ByteBuffer valueDestination(FrameHeader header, ValueHeader value) {
      throw new ProtocolException("a value is not a refusal");
    }

    @Override
    public void onValue(FrameHeader header, ValueHeader value) {
      throw new ProtocolException("a value is not a refusal");
    }

    @Override
    public void onClosed(LinkConnection connection, Throwable cause) {
      refused.completeExceptionally(
          new IOException(
              "it closed the connection" + (cause == null ? "" : ": " + reason(cause)), cause));
    }
  }
}
