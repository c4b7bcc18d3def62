// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import akka.Done;
import akka.actor.testkit.typed.javadsl.ActorTestKit;
import akka.actor.testkit.typed.javadsl.TestProbe;
import akka.actor.typed.ActorRef;
import akka.actor.typed.javadsl.Adapter;
import akka.actor.typed.javadsl.Behaviors;
import akka.pattern.StatusReply;
import akka.serialization.Serialization;
import akka.serialization.SerializationExtension;
import akka.serialization.Serializer;
import akka.serialization.Serializers;
import com.sun.management.ThreadMXBean;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.ClusterNode;
import io.remora.actors.DeviceInfo;
import io.remora.actors.MachineInfo;
import io.remora.actors.MachineRecord;
import io.remora.actors.MachineState;
import io.remora.actors.MachineStats;
import io.remora.actors.MessageClasses;
import io.remora.actors.NodeBroker;
import io.remora.actors.RemoraMessage;
import io.remora.actors.StorageActor;
import io.remora.actors.StorageInfo;
import io.remora.actors.StorageState;
import io.remora.actors.host.SessionHost;
import io.remora.actors.link.Damage;
import io.remora.actors.machine.MachineProtocol;
import io.remora.provider.GpuType;
import io.remora.provider.MachineSpec;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ProgramWait;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.ProvisioningTimeoutException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.WaitCause;
import java.io.IOException;
import java.io.NotSerializableException;
import java.io.Serializable;
import java.lang.management.ManagementFactory;
import java.lang.reflect.Modifier;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.TreeMap;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("fast")
class KryoMessageSerializerTest {

  private static final ActorTestKit KIT =
      ActorTestKit.create(
          "kryo",
          ConfigFactory.parseString(
                  """
                  akka.actor.provider = cluster
                  akka.actor.allow-java-serialization = off
                  akka.remote.artery.canonical { hostname = "127.0.0.1", port = 0 }
                  """)
              .withFallback(ConfigFactory.load()));

  private final Serialization serialization =
      SerializationExtension.get(Adapter.toClassic(KIT.system()));

  private record Unregistered(int number) implements RemoraMessage {}

  @AfterAll
  static void shutdown() {
    KIT.shutdownTestKit();
  }

  @Test
  void everyMessageComesBackAsItWas() {
    MachineSpec spec =
        new MachineSpec(
            "m-1", "mock", GpuType.A100_40GB, 8, Duration.ofNanos(1_500_000_001), minute(), "a=1");
    MachineSpec plain = new MachineSpec("m-1", "mock", null, 1, null, minute());
    MachineInfo info =
        new MachineInfo(
            "m",
            MachineState.RECONNECTING,
            "mock",
            "why \u00fc\n2",
            List.of(
                new DeviceInfo("H100", "cuda", 85_899_345_920L), new DeviceInfo("T4", "cpu", 0)),
            "2.10.0",
            16,
            Long.MAX_VALUE,
            "127.0.0.1:4711");
    MachineInfo none = new MachineInfo("m", MachineState.STOPPED, "", "", List.of(), "", 0, 0, "");
    MachineInfo many =
        new MachineInfo(
            "m",
            MachineState.READY,
            "",
            "",
            new ArrayList<>(List.of(device(1), device(2), device(3))),
            "",
            0,
            0,
            "");
    TestProbe<StatusReply<MachineInfo>> probe = KIT.createTestProbe();
    List<ActorRef<StatusReply<MachineInfo>>> refs =
        List.of(
            probe.getRef(),
            KIT.spawn(Behaviors.<StatusReply<MachineInfo>>empty()),
            KIT.system().<StatusReply<MachineInfo>>ignoreRef());
    List<RemoraMessage> messages = new ArrayList<>();
    for (ActorRef<StatusReply<MachineInfo>> ref : refs) {
      messages.add(new MachineProtocol.Open(spec, ref));
      messages.add(new MachineProtocol.Open(plain, ref));
      messages.add(new MachineProtocol.OpenSession(ref.unsafeUpcast()));
      messages.add(new MachineProtocol.CloseSession(-3, ref.unsafeUpcast()));
      messages.add(new MachineProtocol.GetState(ref.unsafeUpcast()));
      messages.add(new MachineProtocol.GetStats(ref.unsafeUpcast()));
      messages.add(new MachineProtocol.GetStorage(1, 2, ref.unsafeUpcast()));
      messages.add(new MachineProtocol.Pause(ref));
      messages.add(new MachineProtocol.Resume(ref));
      messages.add(new MachineProtocol.Migrate("process", GpuType.H100, 1, minute(), "{}", ref));
      messages.add(new MachineProtocol.Close(ref.unsafeUpcast()));
      messages.add(new StorageActor.GetInfo(ref.unsafeUpcast()));
    }
    ActorRef<SessionHost.Command> host = refs.get(1).unsafeUpcast();
    messages.add(new MachineProtocol.Open(spec, refs.get(1), refs.get(0)));
    messages.add(new MachineProtocol.HostPresent(host, true, 3));
    messages.add(new MachineProtocol.HostSaved(host, "pause-1", "why not"));
    messages.add(new MachineProtocol.HostRestored(host, null));
    messages.add(new MachineProtocol.HostUsed(host));
    messages.add(new MachineProtocol.ForgetFailure());
    messages.add(
        new SessionHost.Way("127.0.0.1:1", "token", "{}", info, false, refs.get(1).unsafeUpcast()));
    messages.add(new SessionHost.Save("pause-1", true, refs.get(1).unsafeUpcast()));
    messages.add(new SessionHost.GoOn());
    messages.add(new SessionHost.Offline());
    messages.add(new MachineRecord(spec, refs.get(1), "handle", info, "pause", List.of("pause-1")));
    messages.add(new MachineRecord(plain, null, "", none, "", List.of()));
    ActorRef<ClusterNode.Command> node = refs.get(1).unsafeUpcast();
    messages.add(new ClusterNode.Describe(refs.get(1).unsafeUpcast()));
    messages.add(
        new ClusterNode.Description(node, "h:1", "2.10", List.of(device(1)), "m", "o", 1, 2));
    messages.add(new ClusterNode.Reserve("m", "o", refs.get(1).unsafeUpcast()));
    messages.add(new ClusterNode.Release("m", "o"));
    messages.add(new ClusterNode.Reservation("h:1", "token"));
    messages.add(new NodeBroker.Request("o", "m", "A100", 2, 5, refs.get(1).unsafeUpcast()));
    messages.add(new NodeBroker.Withdraw("o", "m"));
    messages.add(new NodeBroker.Queued(1, 2, "why"));
    messages.add(new NodeBroker.Granted(node, "1 x A100", new ClusterNode.Reservation("h:1", "t")));
    messages.addAll(List.of(info, none, many, device(1)));
    messages.add(new MachineProtocol.SessionOpened(7, info));
    TreeMap<String, Double> figures = new TreeMap<>(Map.of("batches", 3.0, "storage.bytes", 0.5));
    messages.add(
        new MachineStats(
            figures,
            new TreeMap<>(Map.of(7L, figures)),
            List.of(
                new ProgramWait(
                    WaitCause.VALUE, "item()", "train.py:88", 3, Duration.ofMillis(5)))));
    messages.add(new StorageInfo(1, StorageState.LAZY, 1L << 40, 7, 2));

    for (RemoraMessage message : messages) {
      assertThat(roundTrip(message)).isEqualTo(message);
    }
    Set<Class<?>> tested = new HashSet<>();
    messages.forEach(message -> tested.add(message.getClass()));
    SessionHost.Ended ended = new SessionHost.Ended(new NodeLostException("gone"));
    assertThat(((SessionHost.Ended) roundTrip(ended)).cause())
        .isExactlyInstanceOf(NodeLostException.class)
        .hasMessage("gone");
    tested.add(SessionHost.Ended.class);
    assertThat(tested).containsAll(publicMessages());
  }

  @Test
  void repliesAndTheirErrorsComeBack() {
    MachineInfo info = new MachineInfo("m", MachineState.READY, "", "", List.of(), "", 0, 0, "");
    StatusReply<?> reply = (StatusReply<?>) roundTrip(StatusReply.success(info));
    assertThat(reply.getValue()).isEqualTo(info);
    assertThat(((StatusReply<?>) roundTrip(StatusReply.ack())).getValue())
        .isEqualTo(Done.getInstance());

    ProvisioningTimeoutException error =
        new ProvisioningTimeoutException(
            "no node within 5 s",
            new RemoraException("outer", new IOException("connection refused")));
    StatusReply<?> failed = (StatusReply<?>) roundTrip(StatusReply.error(error));

    assertThat(failed.getError())
        .isExactlyInstanceOf(ProvisioningTimeoutException.class)
        .hasMessage("no node within 5 s");
    assertThat(failed.getError().getCause())
        .isExactlyInstanceOf(RemoraException.class)
        .hasMessage("outer");
    assertThat(failed.getError().getCause().getCause())
        .isExactlyInstanceOf(RemoraException.class)
        .hasMessage("java.io.IOException: connection refused");
    assertThat(failed.getError().getStackTrace()[0].getMethodName())
        .isEqualTo("repliesAndTheirErrorsComeBack");
  }

  private static final class UnregisteredError extends ProtocolException {
    private static final long serialVersionUID = 1L;

    UnregisteredError(String message) {
      super(message);
    }
  }

  @Test
  void aCauseOfAClassThatIsNotRegisteredComesBackAsTheNearestThatIs() throws Exception {
    NodeLostException error =
        new NodeLostException("gone", new UnregisteredError("a checksum is wrong"));

    assertThat(((Exception) roundTrip(error)).getCause())
        .isExactlyInstanceOf(ProtocolException.class)
        .hasMessage("a checksum is wrong");
  }

  @Test
  void everyErrorOfTheProjectComesBack() throws Exception {
    List<Class<?>> errors = new ArrayList<>();
    new ActorMessageClasses()
        .register(
            (number, type) -> {
              if (RemoraException.class.isAssignableFrom(type)) {
                errors.add(type);
              }
            });
    assertThat(errors).hasSize(15);

    for (Class<?> type : errors) {
      Exception error =
          (Exception) type.getConstructor(String.class).newInstance("message of " + type);
      assertThat(roundTrip(error))
          .isExactlyInstanceOf(type)
          .extracting(found -> ((Exception) found).getMessage())
          .isEqualTo("message of " + type);
    }
    assertThat(((RemoraException) roundTrip(new NodeLostException(null))).getMessage()).isNull();
  }

  @Test
  void refusesClassesThatAreNotRegistered() {
    assertThatThrownBy(() -> bytes(new Unregistered(1)))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("Unregistered")
        .hasMessageContaining("not registered");
    assertThatThrownBy(
            () ->
                bytes(
                    new NodeLostException("x") {
                      private static final long serialVersionUID = 1L;
                    }))
        .isInstanceOf(IllegalArgumentException.class);
  }

  @Test
  void refusesThemInsideOthersToo() {
    Serializable lambda = (Runnable & Serializable) () -> {};
    for (Object hidden :
        List.of(
            new Unregistered(1),
            new String[] {"text"},
            new Object[] {1},
            new Unregistered[0],
            new HashMap<>(Map.of("key", "value")),
            new ArrayList<>() {
              private static final long serialVersionUID = 1L;
            },
            lambda)) {
      for (MachineInfo message :
          List.of(holding(List.of(hidden)), holding(new ArrayList<>(List.of(List.of(hidden)))))) {
        assertThatThrownBy(() -> bytes(message))
            .as("%s", hidden.getClass())
            .isInstanceOf(IllegalArgumentException.class)
            .hasStackTraceContaining("not registered");
      }
    }
  }

  /** A message whose list has elements of the wrong type. */
  @SuppressWarnings({"unchecked", "rawtypes"})
  private static MachineInfo holding(List<?> devices) {
    return new MachineInfo("m", MachineState.READY, "p", "r", (List) devices, "2", 1, 3, "");
  }

  @Test
  void refusesLengthsThatAreLongerThanTheMessage() {
    // The classes' numbers, raised by two as Kryo writes them, and a length near two billion.
    byte[] varint = {(byte) 0xff, (byte) 0xff, (byte) 0xff, (byte) 0xff, 0x07};
    byte[] flagged = {(byte) 0xff, (byte) 0xff, (byte) 0xff, (byte) 0xff, 0x07};
    Map<String, byte[]> hostile =
        Map.of(
            "long[]", join(22, varint),
            "byte[]", join(23, varint),
            "ArrayList", join(24, varint),
            "List", join(27, varint),
            "text", join(30, flagged));
    hostile.forEach(
        (what, bytes) ->
            assertThatThrownBy(() -> serializer().fromBinary(bytes, ""))
                .as(what)
                .isInstanceOf(NotSerializableException.class));
  }

  @Test
  void refusesAnActorWithoutAnAddress() {
    // The reference's number, and no text. Akka's own look-up would crash the JVM.
    assertThatThrownBy(() -> serializer().fromBinary(new byte[] {30, (byte) 0x80}, ""))
        .isInstanceOf(NotSerializableException.class)
        .hasMessageContaining("an actor without an address");
  }

  @Test
  void refusesListsInListsWithoutEnd() {
    byte[] bytes = new byte[100_000];
    for (int i = 0; i < bytes.length; i += 2) {
      bytes[i] = 27; // a list
      bytes[i + 1] = 1; // of one element
    }
    assertThatThrownBy(() -> serializer().fromBinary(bytes, ""))
        .isInstanceOf(NotSerializableException.class)
        .hasMessageContaining("depth");
  }

  @Test
  void readsNothingHarmfulFromDamagedMessages() throws Exception {
    long seed = System.nanoTime();
    System.err.println("damaged messages: seed " + seed);
    Damage damage = new Damage(seed);
    MachineInfo info =
        new MachineInfo("m\u00fc", MachineState.READY, "p", "r", List.of(device(1)), "2", 1, 3, "");
    List<byte[]> sound =
        List.of(
            bytes(info),
            bytes(StatusReply.success(info)),
            bytes(new NodeLostException("\u00e4", new RemoraException("inner"))));
    KryoMessageSerializer serializer = serializer();
    ThreadMXBean threads = (ThreadMXBean) ManagementFactory.getThreadMXBean();
    for (int i = 0; i < 20_000; i++) {
      byte[] damaged =
          damage.of(sound.get(damage.below(sound.size())), sound.get(damage.below(sound.size())));
      long before = threads.getCurrentThreadAllocatedBytes();
      try {
        serializer.fromBinary(damaged, "");
      } catch (NotSerializableException e) {
        // Most messages are refused.
      }
      assertThat(threads.getCurrentThreadAllocatedBytes() - before)
          .as("seed %d, message %d", seed, i)
          .isLessThan(4 << 20);
    }
  }

  private static byte[] join(int first, byte[] rest) {
    byte[] bytes = new byte[1 + rest.length];
    bytes[0] = (byte) first;
    System.arraycopy(rest, 0, bytes, 1, rest.length);
    return bytes;
  }

  @Test
  void readsNothingHarmfulFromDamagedBytes() throws Exception {
    MachineInfo info =
        new MachineInfo(
            "m", MachineState.READY, "p", "r", List.of(device(1), device(2)), "2", 1, 3, "");
    byte[] sound = bytes(info);
    KryoMessageSerializer serializer = serializer();
    Random random = new Random(7);
    int refused = 0;
    for (int i = 0; i < 20_000; i++) {
      byte[] damaged = sound.clone();
      damaged[random.nextInt(damaged.length)] = (byte) random.nextInt();
      damaged[random.nextInt(damaged.length)] = (byte) random.nextInt();
      try {
        serializer.fromBinary(damaged, "");
      } catch (NotSerializableException e) {
        refused++;
      }
    }
    assertThat(refused).isGreaterThan(0);
  }

  @Test
  void refusesANumberThatIsTakenTwice() {
    Map<Integer, Class<?>> numbers = new HashMap<>();
    MessageClasses.Registry registry =
        (number, type) -> assertThat(numbers.put(number, type)).as("number %d", number).isNull();

    new ActorMessageClasses().register(registry);

    assertThat(numbers.keySet()).allMatch(number -> number >= 100 && number < 200);
  }

  /** The messages that any member may send, and their replies. */
  private static List<Class<?>> publicMessages() {
    List<Class<?>> types =
        new ArrayList<>(
            List.of(
                MachineInfo.class,
                DeviceInfo.class,
                StorageInfo.class,
                MachineProtocol.SessionOpened.class));
    for (Class<?> protocol :
        List.of(
            MachineProtocol.Command.class,
            StorageActor.Command.class,
            SessionHost.FromMachine.class,
            ClusterNode.Command.class,
            NodeBroker.Command.class,
            NodeBroker.Answer.class)) {
      addMessages(protocol, types);
    }
    return types;
  }

  private static void addMessages(Class<?> protocol, List<Class<?>> types) {
    for (Class<?> type : protocol.getPermittedSubclasses()) {
      if (Modifier.isPublic(type.getModifiers()) && type.isSealed()) {
        addMessages(type, types);
      } else if (Modifier.isPublic(type.getModifiers())) {
        types.add(type);
      }
    }
  }

  private static DeviceInfo device(int number) {
    return new DeviceInfo("device " + number, "cpu", number);
  }

  private static Duration minute() {
    return Duration.ofMinutes(1);
  }

  private KryoMessageSerializer serializer() throws NotSerializableException {
    return (KryoMessageSerializer) serialization.serializerFor(MachineInfo.class);
  }

  private byte[] bytes(Object message) {
    return serialization.serialize(message).get();
  }

  private Object roundTrip(Object message) {
    Serializer serializer = serialization.findSerializerFor(message);
    return serialization
        .deserialize(
            bytes(message), serializer.identifier(), Serializers.manifestFor(serializer, message))
        .get();
  }
}
