// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import akka.Done;
import akka.actor.ExtendedActorSystem;
import akka.actor.typed.ActorRef;
import akka.actor.typed.ActorRefResolver;
import akka.actor.typed.javadsl.Adapter;
import akka.serialization.SerializerWithStringManifest;
import com.esotericsoftware.kryo.Kryo;
import com.esotericsoftware.kryo.KryoException;
import com.esotericsoftware.kryo.Registration;
import com.esotericsoftware.kryo.Serializer;
import com.esotericsoftware.kryo.io.Input;
import com.esotericsoftware.kryo.io.Output;
import com.esotericsoftware.kryo.serializers.TimeSerializers;
import com.esotericsoftware.kryo.util.DefaultClassResolver;
import com.esotericsoftware.kryo.util.Pool;
import io.remora.actors.MessageClasses;
import io.remora.runtime.RemoraException;
import java.io.NotSerializableException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.ServiceLoader;
import java.util.TreeMap;

/**
 * Serializes {@link io.remora.actors.RemoraMessage}s and {@link RemoraException}s between JVMs of
 * the cluster. Only classes named by a {@link MessageClasses} are written or read; any other is
 * refused. References to actors travel as their addresses.
 */
public final class KryoMessageSerializer extends SerializerWithStringManifest {

  private static final int IDENTIFIER = 8420172;
  private static final int FIRST_BUFFER_BYTES = 512;
  private static final int LARGEST_MESSAGE_BYTES = 16 << 20;

  /** The deepest nesting of messages, so that nested lists cannot overflow the stack. */
  private static final int DEEPEST = 64;

  private static final int FIRST_FREE_NUMBER = 100;

  private final ActorRefResolver resolver;
  private final Map<Integer, Class<?>> classes;
  private final Pool<Kryo> kryos =
      new Pool<>(true, true, 16) {
        @Override
        protected Kryo create() {
          return newKryo();
        }
      };
  private final Pool<Output> outputs =
      new Pool<>(true, true, 16) {
        @Override
        protected Output create() {
          return new Output(FIRST_BUFFER_BYTES, LARGEST_MESSAGE_BYTES);
        }

        @Override
        protected void reset(Output output) {
          output.reset();
        }
      };

  /** Called by Akka. */
  public KryoMessageSerializer(ExtendedActorSystem system) {
    this.resolver = ActorRefResolver.get(Adapter.toTyped(system));
    this.classes = findClasses(system.dynamicAccess().classLoader());
  }

  @Override
  public int identifier() {
    return IDENTIFIER;
  }

  /** Empty: the bytes contain the class's number. */
  @Override
  public String manifest(Object message) {
    return "";
  }

  @Override
  public byte[] toBinary(Object message) {
    Kryo kryo = kryos.obtain();
    Output output = outputs.obtain();
    try {
      kryo.writeClassAndObject(output, message);
      return output.toBytes();
    } catch (KryoException e) {
      throw new IllegalArgumentException(
          "cannot serialize a " + message.getClass().getName() + ": " + firstLine(e), e);
    } finally {
      outputs.free(output);
      kryos.free(kryo);
    }
  }

  @Override
  public Object fromBinary(byte[] bytes, String manifest) throws NotSerializableException {
    Kryo kryo = kryos.obtain();
    try {
      return kryo.readClassAndObject(new BoundedInput(bytes));
    } catch (RuntimeException e) {
      NotSerializableException failure =
          new NotSerializableException("cannot read a message: " + firstLine(e));
      failure.initCause(e);
      throw failure;
    } finally {
      kryos.free(kryo);
    }
  }

  private Kryo newKryo() {
    Kryo kryo = new Kryo(new MessageClassResolver(), null);
    kryo.setRegistrationRequired(true);
    kryo.setMaxDepth(DEEPEST);
    kryo.setReferences(false);
    kryo.setWarnUnregisteredClasses(false);
    kryo.addDefaultSerializer(RemoraException.class, new ExceptionSerializer());
    kryo.register(long[].class, 20);
    kryo.register(byte[].class, 21);
    kryo.register(Duration.class, new TimeSerializers.DurationSerializer(), 23);
    kryo.register(Done.getInstance().getClass(), new DoneSerializer(), 24);
    // The kinds of List.of: none or several elements, one or two, and their views.
    ListSerializer lists = new ListSerializer();
    kryo.register(ArrayList.class, lists, 22);
    kryo.register(List.of().getClass(), lists, 25);
    kryo.register(List.of(1).getClass(), lists, 26);
    kryo.register(List.of(1, 2, 3).subList(0, 1).getClass(), lists, 27);
    kryo.register(ActorRef.class, new ActorRefSerializer(), 28);
    kryo.register(TreeMap.class, 29);
    classes.forEach((number, type) -> kryo.register(type, number));
    return kryo;
  }

  private static Map<Integer, Class<?>> findClasses(ClassLoader loader) {
    Map<Integer, Class<?>> found = new TreeMap<>();
    for (MessageClasses module : ServiceLoader.load(MessageClasses.class, loader)) {
      module.register(
          (number, type) -> {
            if (number < FIRST_FREE_NUMBER) {
              throw new IllegalArgumentException(
                  "number " + number + " of " + type.getName() + " is below " + FIRST_FREE_NUMBER);
            }
            Class<?> other = found.putIfAbsent(number, type);
            if (other != null) {
              throw new IllegalArgumentException(
                  "number "
                      + number
                      + " is taken twice, by "
                      + other.getName()
                      + " and "
                      + type.getName());
            }
          });
    }
    return found;
  }

  private static String firstLine(Throwable failure) {
    return String.valueOf(failure.getMessage()).lines().findFirst().orElse("");
  }

  /**
   * Refuses lengths that exceed the remaining bytes before memory is allocated for them. Kryo
   * itself trusts the lengths that it reads.
   */
  private static final class BoundedInput extends Input {

    BoundedInput(byte[] bytes) {
      super(bytes);
    }

    @Override
    public String readString() {
      int start = position();
      if (readVarIntFlag()) {
        checkLength(readVarIntFlag(true) - 1);
      }
      setPosition(start);
      return super.readString();
    }

    @Override
    public byte[] readBytes(int length) {
      checkLength(length);
      return super.readBytes(length);
    }

    @Override
    public long[] readLongs(int length) {
      checkLength(length);
      return super.readLongs(length);
    }

    @Override
    public long[] readLongs(int length, boolean optimizePositive) {
      checkLength(length);
      return super.readLongs(length, optimizePositive);
    }

    /** Checks a number of elements, each of which takes at least one byte. */
    private void checkLength(int length) {
      if (length > limit() - position()) {
        throw new KryoException(
            "a length of %d, but only %d bytes are left".formatted(length, limit() - position()));
      }
    }
  }

  /** Writes every class of actor reference in the same way. */
  private static final class MessageClassResolver extends DefaultClassResolver {

    @Override
    @SuppressWarnings("rawtypes") // as declared in Kryo
    public Registration getRegistration(Class type) {
      return super.getRegistration(ActorRef.class.isAssignableFrom(type) ? ActorRef.class : type);
    }
  }

  /** Serializes any unmodifiable list. It arrives as a list from {@link List#copyOf}. */
  private static final class ListSerializer extends Serializer<List<Object>> {

    private static final int LARGEST = 1 << 20;

    ListSerializer() {
      setImmutable(true);
    }

    @Override
    public void write(Kryo kryo, Output output, List<Object> list) {
      output.writeVarInt(list.size(), true);
      for (Object element : list) {
        kryo.writeClassAndObject(output, element);
      }
    }

    @Override
    public List<Object> read(Kryo kryo, Input input, Class<? extends List<Object>> type) {
      int size = input.readVarInt(true);
      if (size < 0 || size > LARGEST) {
        throw new KryoException("a list of " + size + " elements is over " + LARGEST);
      }
      List<Object> list = new ArrayList<>();
      for (int i = 0; i < size; i++) {
        list.add(kryo.readClassAndObject(input));
      }
      return List.copyOf(list);
    }
  }

  /**
   * Serializes a reference to an actor as its address. The reference's class depends on where the
   * actor is.
   */
  private final class ActorRefSerializer extends Serializer<ActorRef<?>> {

    @Override
    public void write(Kryo kryo, Output output, ActorRef<?> ref) {
      output.writeString(resolver.toSerializationFormat(ref));
    }

    @Override
    public ActorRef<?> read(Kryo kryo, Input input, Class<? extends ActorRef<?>> type) {
      String address = input.readString();
      if (address == null) {
        // Akka reads the characters through Unsafe, so a null would crash the process.
        throw new KryoException("an actor without an address");
      }
      return resolver.resolveActorRef(address);
    }
  }

  private static final class DoneSerializer extends Serializer<Done> {

    @Override
    public void write(Kryo kryo, Output output, Done done) {}

    @Override
    public Done read(Kryo kryo, Input input, Class<? extends Done> type) {
      return Done.getInstance();
    }
  }

  /**
   * Serializes an exception's class, message, stack trace and causes. A cause arrives as an
   * exception of the nearest registered superclass. A cause that is not one of Remora's exceptions
   * arrives as a {@link RemoraException} with its text.
   */
  private static final class ExceptionSerializer extends Serializer<RemoraException> {

    private static final int MOST_CAUSES = 16;
    private static final int MOST_FRAMES = 256;

    @Override
    public void write(Kryo kryo, Output output, RemoraException exception) {
      List<Throwable> causes = new ArrayList<>();
      for (Throwable cause = exception.getCause();
          cause != null && causes.size() < MOST_CAUSES;
          cause = cause.getCause()) {
        causes.add(cause);
      }
      output.writeVarInt(causes.size(), true);
      for (Throwable cause : causes) {
        boolean ours = cause instanceof RemoraException;
        kryo.writeClass(output, ours ? registered(kryo, cause) : RemoraException.class);
        writeText(output, cause, ours ? cause.getMessage() : cause.toString());
      }
      writeText(output, exception, exception.getMessage());
    }

    private static Class<?> registered(Kryo kryo, Throwable cause) {
      Class<?> type = cause.getClass();
      while (kryo.getClassResolver().getRegistration(type) == null) {
        type = type.getSuperclass();
      }
      return type;
    }

    private static void writeText(Output output, Throwable exception, String message) {
      output.writeString(message);
      StackTraceElement[] stack = exception.getStackTrace();
      int frames = Math.min(stack.length, MOST_FRAMES);
      output.writeVarInt(frames, true);
      for (int i = 0; i < frames; i++) {
        output.writeString(stack[i].getClassName());
        output.writeString(stack[i].getMethodName());
        output.writeString(stack[i].getFileName());
        output.writeVarInt(stack[i].getLineNumber(), false);
      }
    }

    @Override
    public RemoraException read(Kryo kryo, Input input, Class<? extends RemoraException> type) {
      int causeCount = readCount(input, MOST_CAUSES);
      List<Class<?>> types = new ArrayList<>();
      List<String> messages = new ArrayList<>();
      List<StackTraceElement[]> stacks = new ArrayList<>();
      for (int i = 0; i < causeCount; i++) {
        types.add(kryo.readClass(input).getType());
        messages.add(input.readString());
        stacks.add(readStack(input));
      }
      types.add(type);
      messages.add(input.readString());
      stacks.add(readStack(input));
      RemoraException result = null;
      // Causes were written outermost first. Build from the innermost; the exception itself comes
      // last.
      for (int i = causeCount - 1; i >= 0; i--) {
        result = make(types.get(i), messages.get(i), stacks.get(i), result);
      }
      return make(type, messages.get(causeCount), stacks.get(causeCount), result);
    }

    private static StackTraceElement[] readStack(Input input) {
      StackTraceElement[] stack = new StackTraceElement[readCount(input, MOST_FRAMES)];
      for (int i = 0; i < stack.length; i++) {
        stack[i] =
            new StackTraceElement(
                input.readString(),
                input.readString(),
                input.readString(),
                input.readVarInt(false));
      }
      return stack;
    }

    private static int readCount(Input input, int most) {
      int count = input.readVarInt(true);
      if (count < 0 || count > most) {
        throw new KryoException("a count of " + count + " is over " + most);
      }
      return count;
    }

    private static RemoraException make(
        Class<?> type, String message, StackTraceElement[] stack, RemoraException cause) {
      if (!RemoraException.class.isAssignableFrom(type)) {
        throw new KryoException(type.getName() + " is not a RemoraException");
      }
      try {
        RemoraException exception =
            type.asSubclass(RemoraException.class)
                .getConstructor(String.class, Throwable.class)
                .newInstance(message, cause);
        exception.setStackTrace(stack);
        return exception;
      } catch (ReflectiveOperationException e) {
        throw new KryoException("cannot make a " + type.getName(), e);
      }
    }
  }
}
