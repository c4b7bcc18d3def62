// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway;

import static io.remora.gateway.TestGateway.get;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowable;
import static org.awaitility.Awaitility.await;

import akka.http.javadsl.Http;
import akka.http.javadsl.model.ContentTypes;
import akka.http.javadsl.model.HttpRequest;
import akka.http.javadsl.model.HttpResponse;
import akka.http.javadsl.model.headers.RawHeader;
import akka.stream.javadsl.Sink;
import akka.stream.javadsl.Source;
import com.google.protobuf.ByteString;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.opentelemetry.api.GlobalOpenTelemetry;
import io.opentelemetry.sdk.OpenTelemetrySdk;
import io.opentelemetry.sdk.testing.exporter.InMemorySpanExporter;
import io.opentelemetry.sdk.trace.SdkTracerProvider;
import io.opentelemetry.sdk.trace.export.SimpleSpanProcessor;
import io.remora.core.WireFormat;
import io.remora.gateway.internal.health.HealthCheckRequest;
import io.remora.gateway.internal.health.HealthCheckResponse.ServingStatus;
import io.remora.gateway.internal.health.HealthClient;
import io.remora.gateway.v1.AttachRequest;
import io.remora.gateway.v1.Batch;
import io.remora.gateway.v1.Batches;
import io.remora.gateway.v1.ClientFrame;
import io.remora.gateway.v1.Goodbye;
import io.remora.gateway.v1.Hello;
import io.remora.gateway.v1.ListRequest;
import io.remora.gateway.v1.LogLine;
import io.remora.gateway.v1.LogsRequest;
import io.remora.gateway.v1.Machine;
import io.remora.gateway.v1.MachineRequest;
import io.remora.gateway.v1.MachinesClient;
import io.remora.gateway.v1.OpenRequest;
import io.remora.gateway.v1.ServerFrame;
import io.remora.gateway.v1.SessionsClient;
import io.remora.gateway.v1.StorageRequest;
import io.remora.gateway.v1.Wait;
import io.remora.gateway.v1.Waits;
import io.remora.progress.Activities;
import io.remora.progress.Activity;
import java.time.Duration;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.ExecutionException;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** What callers of a gateway see, over real sockets and with real nodes. */
@Tag("fast")
@Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class GatewayTest {

  private static final String TOKEN = "open-sesame";
  private static final Duration LIMIT = Duration.ofSeconds(60);

  private static TestGateway gateway;
  private static MachinesClient machines;
  private static SessionsClient sessions;

  @BeforeAll
  static void start() throws Exception {
    gateway =
        TestGateway.start(
            """
            remora.gateway.token = "%s"
            remora.gateway.session-lease = 6 s
            remora.gateway.max-message-bytes = 1 MiB
            remora.gateway.max-unreceived-bytes = 1 MiB
            remora.node.remote-functions = off
            """
                .formatted(TOKEN));
    machines = gateway.machines();
    sessions = gateway.sessions();
  }

  @AfterAll
  static void stop() throws Exception {
    gateway.close();
  }

  @Test
  void opensListsAndStopsAMachine() throws Exception {
    Machine machine =
        open(OpenRequest.newBuilder().setGpuType("H100").setGpuCount(2).setKeep(true));

    assertThat(machine.getState()).isEqualTo("READY");
    assertThat(machine.getProvider()).isEqualTo("mock");
    assertThat(machine.getDevicesList()).hasSize(2);
    assertThat(machine.getDevices(0).getName()).contains("H100");
    assertThat(machine.getLibtorchVersion()).startsWith("2.10.");
    assertThat(names()).contains(machine.getName());
    assertThat(
            get(
                machines
                    .get()
                    .addHeader("authorization", "Bearer " + TOKEN)
                    .invoke(request(machine))))
        .isEqualTo(machine);
    assertThat(
            get(
                machines
                    .attach()
                    .addHeader("authorization", "Bearer " + TOKEN)
                    .invoke(AttachRequest.newBuilder().setName(machine.getName()).build())))
        .isEqualTo(machine);

    stop(machine);

    assertThat(names()).doesNotContain(machine.getName());
    assertRefused(
        machines.get().addHeader("authorization", "Bearer " + TOKEN).invoke(request(machine)),
        Status.Code.NOT_FOUND,
        "MachineStateException",
        machine.getName());
    stop(machine);
  }

  @Test
  void saysByKindWhyAMachineCannotBeOpened() {
    assertRefused(
        invokeOpen(OpenRequest.newBuilder().setProvider("moon")),
        Status.Code.FAILED_PRECONDITION,
        "ProviderException",
        "unknown provider \"moon\"");
    assertRefused(
        invokeOpen(OpenRequest.newBuilder().setGpuType("Voodoo")),
        Status.Code.INVALID_ARGUMENT,
        "IllegalArgumentException",
        "Voodoo");
    assertRefused(
        invokeOpen(OpenRequest.newBuilder().putOptions("java", "/bin/evil")),
        Status.Code.INVALID_ARGUMENT,
        "IllegalArgumentException",
        "remora.gateway.provider-options");
    assertRefused(
        invokeOpen(OpenRequest.newBuilder().addPackages("numpy")),
        Status.Code.FAILED_PRECONDITION,
        "ProviderException",
        "remora.node.remote-functions = off");
    assertRefused(
        machines
            .pause()
            .addHeader("authorization", "Bearer " + TOKEN)
            .invoke(MachineRequest.newBuilder().setName("nobody").build()),
        Status.Code.NOT_FOUND,
        "MachineStateException",
        "nobody");
    assertRefused(
        machines
            .stop()
            .addHeader("authorization", "Bearer " + TOKEN)
            .invoke(MachineRequest.newBuilder().setName("no/machine").build()),
        Status.Code.NOT_FOUND,
        "MachineStateException",
        "no/machine");
  }

  @Test
  void aFailedOpenLeavesWithItsProgram() throws Exception {
    MachinesClient program = gateway.machines();
    Machine failed = Machine.newBuilder().setName("never-there").build();
    assertRefused(
        program
            .open()
            .addHeader("authorization", "Bearer " + TOKEN)
            .invoke(OpenRequest.newBuilder().setProvider("moon").setName(failed.getName()).build()),
        Status.Code.FAILED_PRECONDITION,
        "ProviderException",
        "unknown provider");
    assertThat(
            get(machines
                    .get()
                    .addHeader("authorization", "Bearer " + TOKEN)
                    .invoke(request(failed)))
                .getState())
        .isEqualTo("FAILED");

    get(program.close());

    await()
        .atMost(LIMIT)
        .untilAsserted(
            () ->
                assertRefused(
                    machines
                        .get()
                        .addHeader("authorization", "Bearer " + TOKEN)
                        .invoke(request(failed)),
                    Status.Code.NOT_FOUND,
                    "MachineStateException",
                    failed.getName()));
  }

  @Test
  void refusesCallersWithoutTheToken() {
    assertRefused(
        machines.list(ListRequest.getDefaultInstance()),
        Status.Code.UNAUTHENTICATED,
        "AuthenticationException",
        "none was given");
    assertRefused(
        machines
            .list()
            .addHeader("authorization", "Bearer wrong")
            .invoke(ListRequest.getDefaultInstance()),
        Status.Code.UNAUTHENTICATED,
        "AuthenticationException",
        "not this gateway's");
    assertRefused(
        sessions.connect(Source.<ClientFrame>never()).runWith(Sink.ignore(), gateway.system()),
        Status.Code.UNAUTHENTICATED,
        "AuthenticationException",
        "none was given");
  }

  @Test
  void answersHealthProbesWithoutAToken() throws Exception {
    HealthClient health = HealthClient.create(gateway.client(), gateway.system());

    for (String service : List.of("", "remora.gateway.v1.Machines", "remora.gateway.v1.Sessions")) {
      assertThat(
              get(health.check(HealthCheckRequest.newBuilder().setService(service).build()))
                  .getStatus())
          .isEqualTo(ServingStatus.SERVING);
    }
    assertThatThrownBy(
            () -> get(health.check(HealthCheckRequest.newBuilder().setService("x").build())))
        .hasMessageContaining("NOT_FOUND");
    assertThat(
            get(health
                    .watch(HealthCheckRequest.getDefaultInstance())
                    .runWith(Sink.head(), gateway.system()))
                .getStatus())
        .isEqualTo(ServingStatus.SERVING);
  }

  @Test
  void answersReflection() throws Exception {
    String service = "grpc.reflection.v1alpha.ServerReflection";
    // The request { list_services: "" }, and the answer, in which the names can be read.
    byte[] request = {0, 0, 0, 0, 2, 0x3a, 0};
    HttpResponse response =
        get(
            Http.get(gateway.system())
                .singleRequest(
                    HttpRequest.POST(
                            "http://%s/%s/ServerReflectionInfo"
                                .formatted(gateway.address(), service))
                        .addHeader(RawHeader.create("authorization", "Bearer " + TOKEN))
                        .withEntity(ContentTypes.parse("application/grpc+proto"), request)));

    assertThat(
            get(response.entity().toStrict(LIMIT.toMillis(), gateway.system()))
                .getData()
                .utf8String())
        .contains("remora.gateway.v1.Machines")
        .contains("remora.gateway.v1.Sessions")
        .contains("grpc.health.v1.Health");
  }

  @Test
  void refusesProgramsOfAnotherVersion() throws Exception {
    Machine machine = open(OpenRequest.newBuilder().setKeep(true));

    assertRefused(
        connect(hello(machine).setProtocol(2)),
        Status.Code.FAILED_PRECONDITION,
        "ProtocolException",
        "protocol version 1, the program 2");
    assertRefused(
        connect(hello(machine).setWireVersion(77)),
        Status.Code.FAILED_PRECONDITION,
        "ProtocolException",
        "wire version %d, the program's native core writes 77".formatted(WireFormat.WIRE_VERSION));
    assertRefused(
        connect(hello(machine).setTorchVersion("2.7.1+cu126")),
        Status.Code.FAILED_PRECONDITION,
        "ProtocolException",
        "libtorch 2.10.0, the program 2.7.1+cu126: install torch 2.10");
    stop(machine);
  }

  @Test
  void closesAMachineThatNoSessionComesFor() throws Exception {
    Machine machine = open(OpenRequest.newBuilder());

    assertThat(names()).contains(machine.getName());
    await().atMost(LIMIT).until(() -> !names().contains(machine.getName()));
  }

  @Test
  void closesAMachineWhoseProgramDoesNotComeBack() throws Exception {
    Machine machine = open(OpenRequest.newBuilder());
    ServerFrame welcome =
        get(frames(Source.single(first(hello(machine)))).runWith(Sink.head(), gateway.system()));

    assertThat(welcome.getWelcome().getMachine().getName()).isEqualTo(machine.getName());
    assertThat(welcome.getWelcome().getSecret().size()).isEqualTo(32);
    await().atMost(LIMIT).until(() -> !names().contains(machine.getName()));
    assertRefused(
        connect(
            hello(machine)
                .setSession(welcome.getWelcome().getSession())
                .setSecret(welcome.getWelcome().getSecret())),
        Status.Code.NOT_FOUND,
        "MachineStateException",
        "session-lease");
  }

  @Test
  void givesNobodyASessionWithoutItsSecret() throws Exception {
    Machine machine = open(OpenRequest.newBuilder());
    ServerFrame welcome =
        get(frames(Source.single(first(hello(machine)))).runWith(Sink.head(), gateway.system()));

    assertRefused(
        connect(
            hello(machine)
                .setSession(welcome.getWelcome().getSession())
                .setSecret(ByteString.copyFromUtf8("guess"))),
        Status.Code.NOT_FOUND,
        "MachineStateException",
        "with this secret");
    stop(machine);
  }

  @Test
  void refusesBatchesThatAreTooLargeOrOutOfOrder() throws Exception {
    Machine machine = open(OpenRequest.newBuilder().setKeep(true));

    assertRefused(
        run(Source.from(List.of(first(hello(machine)), batch(1, 2 << 20)))),
        Status.Code.RESOURCE_EXHAUSTED,
        "ResourceExhaustedException",
        "remora.gateway.max-message-bytes");
    assertRefused(
        run(Source.from(List.of(first(hello(machine)), batch(2, 10)))),
        Status.Code.INVALID_ARGUMENT,
        "ProtocolException",
        "batch 2 came after batch 0");
    assertRefused(
        run(Source.single(batch(1, 10))),
        Status.Code.INVALID_ARGUMENT,
        "ProtocolException",
        "must be a Hello");
    stop(machine);
  }

  @Test
  void endsASessionWhoseProgramReceivesNothing() throws Exception {
    Machine machine = open(OpenRequest.newBuilder());
    // Storage 1 of 40 MiB is written to, then read: records 6 and 7 of wire.h.
    ByteString write =
        bytes(0xb7, WireFormat.WIRE_VERSION, 6, 1, 2, 0, 0x80, 0x80, 0x80, 0x14, 0, 4, 1, 2, 3, 4);
    ByteString read =
        bytes(0xb7, WireFormat.WIRE_VERSION, 7, 1, 0x80, 6, 1, 0x80, 0x80, 0x80, 5, 0);
    Batches batches =
        Batches.newBuilder()
            .addBatches(
                Batch.newBuilder()
                    .setSequence(1)
                    .setData(write)
                    .addAllBorn(List.of(1L, 40L << 20, 0L)))
            .addBatches(Batch.newBuilder().setSequence(2).setData(read))
            .build();

    ServerFrame last =
        get(
            frames(
                    Source.from(
                        List.of(
                            first(hello(machine)),
                            ClientFrame.newBuilder().setBatches(batches).build())))
                .runWith(Sink.last(), gateway.system()));

    assertThat(last.getLost().getError()).isEqualTo("MachineStateException");
    assertThat(last.getLost().getMessage())
        .contains("has received nothing for 6 s", "remora.gateway.max-unreceived-bytes");
    await().atMost(LIMIT).until(() -> !names().contains(machine.getName()));
  }

  @Test
  void aPauseComesAfterTheBatchesThatItsProgramSentBefore() throws Exception {
    Machine machine = open(OpenRequest.newBuilder());
    CompletableFuture<ClientFrame> late = new CompletableFuture<>();
    ConcurrentLinkedQueue<ServerFrame> heard = new ConcurrentLinkedQueue<>();
    CompletionStage<?> stream =
        frames(Source.single(first(hello(machine))).concat(Source.completionStage(late)))
            .runForeach(heard::add, gateway.system());
    await().atMost(LIMIT).until(() -> !heard.isEmpty());
    MachineRequest followsTheBatch =
        request(machine).toBuilder()
            .setSession(heard.peek().getWelcome().getSession())
            .setAfterBatch(1)
            .build();
    CompletionStage<Machine> state =
        machines.get().addHeader("authorization", "Bearer " + TOKEN).invoke(followsTheBatch);
    CompletionStage<Machine> paused =
        machines.pause().addHeader("authorization", "Bearer " + TOKEN).invoke(followsTheBatch);
    for (int i = 0; i < 20; i++) {
      assertThat(
              get(machines
                      .get()
                      .addHeader("authorization", "Bearer " + TOKEN)
                      .invoke(request(machine)))
                  .getState())
          .isEqualTo("READY");
    }
    assertThat(state.toCompletableFuture()).isNotDone();
    assertThat(paused.toCompletableFuture()).isNotDone();

    // Storage 1 of 4 bytes is written to.
    late.complete(
        ClientFrame.newBuilder()
            .setBatches(
                Batches.newBuilder()
                    .addBatches(
                        Batch.newBuilder()
                            .setSequence(1)
                            .setData(
                                bytes(
                                    0xb7, WireFormat.WIRE_VERSION, 6, 1, 2, 0, 4, 0, 4, 1, 2, 3, 4))
                            .addAllBorn(List.of(1L, 4L, 0L))))
            .build());

    get(state);
    assertThat(get(paused).getState()).isEqualTo("PAUSED");
    await()
        .atMost(LIMIT)
        .until(() -> heard.stream().anyMatch(frame -> frame.getExecuted().getSequence() == 1));
    stop(machine);
    stream.toCompletableFuture().handle((done, failure) -> done).get();
  }

  private static ByteString bytes(int... values) {
    ByteString.Output out = ByteString.newOutput();
    for (int value : values) {
      out.write(value);
    }
    return out.toByteString();
  }

  @Test
  void tellsOfTheMachinesStatesAndLog() throws Exception {
    Machine machine = open(OpenRequest.newBuilder().setKeep(true).putOptions("mode", "child-jvm"));
    ConcurrentLinkedQueue<LogLine> lines = new ConcurrentLinkedQueue<>();
    CompletionStage<?> heard =
        machines
            .logs()
            .addHeader("authorization", "Bearer " + TOKEN)
            .invoke(LogsRequest.newBuilder().setName(machine.getName()).build())
            .runForeach(lines::add, gateway.system());
    await().atMost(LIMIT).until(() -> !lines.isEmpty());

    // The node says that a session was opened.
    get(frames(Source.single(first(hello(machine)))).runWith(Sink.head(), gateway.system()));
    await()
        .atMost(LIMIT)
        .until(() -> lines.stream().anyMatch(line -> line.getSource().equals("node")));
    stop(machine);
    heard.toCompletableFuture().handle((done, failure) -> done).get();

    assertThat(lines)
        .anySatisfy(line -> assertThat(line.getText()).startsWith("READY: "))
        .anySatisfy(line -> assertThat(line.getText()).contains("is open"));
  }

  @Test
  void tellsOfTheProgressAlsoOfAMachineThatIsNotOpenYet() throws Exception {
    ConcurrentLinkedQueue<LogLine> lines = new ConcurrentLinkedQueue<>();
    CompletionStage<?> heard =
        machines
            .logs()
            .addHeader("authorization", "Bearer " + TOKEN)
            .invoke(LogsRequest.newBuilder().setName("later").setProgress(true).build())
            .takeWhile(line -> !line.getProgress().getEnded(), true)
            .runForeach(lines::add, gateway.system());
    try (Activity activity = Activities.begin("later", "replay", "batches")) {
      activity.set(3, 12);
      await()
          .atMost(LIMIT)
          .until(() -> lines.stream().anyMatch(line -> line.getProgress().getDone() == 3));
    }
    get(heard);

    assertThat(lines)
        .extracting(LogLine::getProgress)
        .filteredOn(progress -> progress.getDone() == 3)
        .allSatisfy(
            progress -> {
              assertThat(progress.getActivity()).isEqualTo("replay");
              assertThat(progress.getTotal()).isEqualTo(12);
              assertThat(progress.getUnit()).isEqualTo("batches");
              assertThat(progress.getElapsedMillis()).isGreaterThanOrEqualTo(1000);
            });
    assertThat(lines).allSatisfy(line -> assertThat(line.hasProgress()).isTrue());
  }

  @Test
  void theSpansOfAMachineBelongToItsProgramsTrace() throws Exception {
    InMemorySpanExporter spans = InMemorySpanExporter.create();
    GlobalOpenTelemetry.resetForTest();
    GlobalOpenTelemetry.set(
        OpenTelemetrySdk.builder()
            .setTracerProvider(
                SdkTracerProvider.builder()
                    .addSpanProcessor(SimpleSpanProcessor.create(spans))
                    .build())
            .build());
    try {
      Machine machine =
          get(
              machines
                  .open()
                  .addHeader("authorization", "Bearer " + TOKEN)
                  .addHeader(
                      "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
                  .invoke(OpenRequest.newBuilder().setProvider("mock").build()));
      stop(machine);
      assertThat(spans.getFinishedSpanItems())
          .filteredOn(span -> span.getParentSpanId().equals("b7ad6b7169203331"))
          .extracting(span -> span.getTraceId() + " " + span.getName())
          .containsExactly(
              "0af7651916cd43dd8448eb211c80319c remora.machine.open",
              "0af7651916cd43dd8448eb211c80319c remora.machine.close");
    } finally {
      GlobalOpenTelemetry.resetForTest();
    }
  }

  @Test
  void answersQuestionsAboutStoragesAndFigures() throws Exception {
    Machine machine = open(OpenRequest.newBuilder());
    ServerFrame welcome =
        get(frames(Source.single(first(hello(machine)))).runWith(Sink.head(), gateway.system()));

    assertThat(
            get(machines
                    .stats()
                    .addHeader("authorization", "Bearer " + TOKEN)
                    .invoke(request(machine)))
                .getValuesMap())
        .containsEntry("sessions", 1.0)
        .containsEntry("devices", 1.0)
        .containsEntry("batches", 0.0);
    assertRefused(
        machines
            .getStorage()
            .addHeader("authorization", "Bearer " + TOKEN)
            .invoke(
                StorageRequest.newBuilder()
                    .setMachine(machine.getName())
                    .setSession(welcome.getWelcome().getSession())
                    .setStorage(7)
                    .build()),
        Status.Code.NOT_FOUND,
        "StaleReferenceException",
        "storage 7");
    stop(machine);
  }

  @Test
  void addsUpWhatProgramsTellOfTheirWaitsAlsoOfThoseThatHaveLeft() throws Exception {
    Machine machine = open(OpenRequest.newBuilder().setKeep(true));
    for (int program = 1; program <= 2; program++) {
      Waits waits =
          Waits.newBuilder().addCauses(wait(Waits.Cause.VALUE, 10, 2_000_000_000L)).build();
      get(
          run(
              Source.from(
                  List.of(
                      first(hello(machine)),
                      ClientFrame.newBuilder().setWaits(waits).build(),
                      ClientFrame.newBuilder().setGoodbye(Goodbye.getDefaultInstance()).build()))));
    }

    assertThat(stats(machine))
        .containsEntry("waits.value.count", 20.0)
        .containsEntry("waits.value.seconds", 4.0)
        .doesNotContainKey("waits.shape.count");
    stop(machine);
  }

  @Test
  void refusesMoreWaitsThanThereCanBe() throws Exception {
    Machine machine = open(OpenRequest.newBuilder().setKeep(true));
    Wait.Builder one = wait(Waits.Cause.VALUE, 1, 1);
    for (Waits.Builder much :
        List.of(
            Waits.newBuilder().addAllCauses(Collections.nCopies(33, one.build())),
            Waits.newBuilder().addAllLines(Collections.nCopies(6, one.build())),
            Waits.newBuilder().addLines(one.clone().setLine(ByteString.copyFrom(new byte[201]))),
            Waits.newBuilder().addCauses(wait(Waits.Cause.ROOM, 1, Long.MAX_VALUE)),
            Waits.newBuilder().addCauses(wait(Waits.Cause.ROOM, -1, 1)))) {
      assertRefused(
          run(
              Source.from(
                  List.of(first(hello(machine)), ClientFrame.newBuilder().setWaits(much).build()))),
          Status.Code.INVALID_ARGUMENT,
          "ProtocolException",
          "waits");
    }
    stop(machine);
  }

  @Test
  void doesNotListenForOthersWithoutTlsAndAToken() {
    assertThatThrownBy(() -> TestGateway.start("remora.gateway.host = \"0.0.0.0\"").close())
        .hasMessageContaining("without TLS and a token");
    assertThatThrownBy(
            () ->
                TestGateway.start("remora.gateway.host = \"0.0.0.0\", remora.gateway.token = \"x\"")
                    .close())
        .hasMessageContaining("without TLS:");
  }

  // Callers ---------------------------------------------------------------------------------------

  private static Machine open(OpenRequest.Builder request) throws Exception {
    return get(invokeOpen(request));
  }

  private static CompletionStage<Machine> invokeOpen(OpenRequest.Builder request) {
    if (request.getProvider().isEmpty()) {
      request.setProvider("mock");
    }
    if (!request.containsOptions("mode")) {
      request.putOptions("mode", "in-jvm"); // starts faster
    }
    return machines.open().addHeader("authorization", "Bearer " + TOKEN).invoke(request.build());
  }

  private static void stop(Machine machine) throws Exception {
    get(machines.stop().addHeader("authorization", "Bearer " + TOKEN).invoke(request(machine)));
  }

  private static MachineRequest request(Machine machine) {
    return MachineRequest.newBuilder().setName(machine.getName()).build();
  }

  private static List<String> names() throws Exception {
    return get(
            machines
                .list()
                .addHeader("authorization", "Bearer " + TOKEN)
                .invoke(ListRequest.getDefaultInstance()))
        .getMachinesList()
        .stream()
        .map(Machine::getName)
        .toList();
  }

  private static Map<String, Double> stats(Machine machine) throws Exception {
    return get(machines
            .stats()
            .addHeader("authorization", "Bearer " + TOKEN)
            .invoke(request(machine)))
        .getValuesMap();
  }

  private static Wait.Builder wait(Waits.Cause cause, long count, long nanos) {
    return Wait.newBuilder().setCause(cause).setCount(count).setNanos(nanos);
  }

  private static Hello.Builder hello(Machine machine) {
    return Hello.newBuilder()
        .setProtocol(1)
        .setWireVersion(WireFormat.WIRE_VERSION)
        .setTorchVersion("2.10.0")
        .setMachine(machine.getName());
  }

  private static ClientFrame first(Hello.Builder hello) {
    return ClientFrame.newBuilder().setHello(hello).build();
  }

  private static ClientFrame batch(long sequence, int bytes) {
    return ClientFrame.newBuilder()
        .setBatches(
            Batches.newBuilder()
                .addBatches(
                    Batch.newBuilder()
                        .setSequence(sequence)
                        .setData(ByteString.copyFrom(new byte[bytes]))))
        .build();
  }

  private static Source<ServerFrame, ?> frames(Source<ClientFrame, ?> sent) {
    return sessions
        .connect()
        .addHeader("authorization", "Bearer " + TOKEN)
        .invoke(sent.concat(Source.maybe()).mapMaterializedValue(unused -> akka.NotUsed.notUsed()));
  }

  private static CompletionStage<?> run(Source<ClientFrame, ?> sent) {
    return frames(sent).runWith(Sink.ignore(), gateway.system());
  }

  private static CompletionStage<?> connect(Hello.Builder hello) {
    return run(Source.single(first(hello)));
  }

  private static void assertRefused(
      CompletionStage<?> answer, Status.Code code, String error, String text) {
    Throwable failure = catchThrowable(() -> get(answer));
    assertThat(failure).isInstanceOf(ExecutionException.class);
    assertThat(failure.getCause())
        .isInstanceOfSatisfying(
            StatusRuntimeException.class,
            refused -> {
              assertThat(refused.getStatus().getCode()).as("%s", refused).isEqualTo(code);
              assertThat(refused.getStatus().getDescription()).contains(text);
              assertThat(
                      refused
                          .getTrailers()
                          .get(Metadata.Key.of("remora-error", Metadata.ASCII_STRING_MARSHALLER)))
                  .isEqualTo(error);
            });
  }
}
