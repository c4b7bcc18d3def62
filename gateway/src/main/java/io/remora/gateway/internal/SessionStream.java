// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway.internal;

import akka.grpc.GrpcServiceException;
import akka.grpc.Trailers;
import akka.grpc.internal.GrpcEntityHelpers;
import akka.http.scaladsl.model.HttpEntity;
import akka.stream.Attributes;
import akka.stream.FlowShape;
import akka.stream.Inlet;
import akka.stream.Outlet;
import akka.stream.stage.AbstractInHandler;
import akka.stream.stage.AbstractInOutHandler;
import akka.stream.stage.AsyncCallback;
import akka.stream.stage.GraphStage;
import akka.stream.stage.GraphStageLogic;
import akka.stream.stage.TimerGraphStageLogic;
import akka.util.ByteString;
import io.grpc.Status;
import io.remora.core.errors.ErrorKind;
import io.remora.gateway.v1.ClientFrame;
import io.remora.gateway.v1.Hello;
import io.remora.gateway.v1.Pong;
import io.remora.gateway.v1.ServerFrame;
import io.remora.gateway.v1.Welcome;
import io.remora.runtime.Batch;
import java.util.ArrayDeque;
import java.util.Deque;

/**
 * One stream of a session, from the bytes of the request to those of the response. All of it is one
 * stage, which runs in the connection's own actor. No other thread needs to wake up between a
 * batch's arrival and the link to its machine.
 */
final class SessionStream extends GraphStage<FlowShape<ByteString, HttpEntity.ChunkStreamPart>> {

  private static final String HELLO_TIMER = "hello";

  private final Inlet<ByteString> in = Inlet.create("SessionStream.in");
  private final Outlet<HttpEntity.ChunkStreamPart> out = Outlet.create("SessionStream.out");
  private final FlowShape<ByteString, HttpEntity.ChunkStreamPart> shape = FlowShape.of(in, out);
  private final GatewaySessions sessions;

  SessionStream(GatewaySessions sessions) {
    this.sessions = sessions;
  }

  @Override
  public FlowShape<ByteString, HttpEntity.ChunkStreamPart> shape() {
    return shape;
  }

  @Override
  public GraphStageLogic createLogic(Attributes attributes) {
    return new Logic();
  }

  private final class Logic extends TimerGraphStageLogic implements GatewaySession.Stream {

    private final ClientFrames frames =
        new ClientFrames(sessions.buffers(), sessions.settings().maxMessageBytes());
    private final Deque<Batch> waiting = new ArrayDeque<>();
    private final AsyncCallback<Runnable> outside = createAsyncCallback(Runnable::run);
    private final Runnable onWake = this::onWake;

    private GatewaySession session;
    private boolean greeted;
    private boolean goodbye;
    private ByteString welcome;
    private long ping = -1;

    Logic() {
      super(shape);
      setHandlers(in, out, new Handlers());
    }

    @Override
    public void preStart() {
      scheduleOnce(HELLO_TIMER, sessions.settings().handshakeTimeout());
      pull(in);
    }

    /** Fails the stream if its Hello has not arrived in time. */
    @Override
    public void onTimer(Object timer) {
      finish(
          GatewayErrors.refusal(
              Status.Code.DEADLINE_EXCEEDED,
              ErrorKind.ProtocolException,
              "the session's Hello did not come within %d ms (remora.gateway.handshake-timeout)"
                  .formatted(sessions.settings().handshakeTimeout().toMillis())));
    }

    @Override
    public void postStop() {
      waiting.forEach(Batch::release);
      waiting.clear();
      leave();
    }

    private void leave() {
      if (session != null) {
        GatewaySession left = session;
        session = null;
        sessions.disconnected(left, this);
      }
    }

    // What comes in -----------------------------------------------------------------------------

    private final class Handlers extends AbstractInOutHandler {
      @Override
      public void onPush() {
        frames.add(grab(in));
        takeFrames();
      }

      @Override
      public void onUpstreamFinish() {
        if (!goodbye) {
          finish(Status.OK, null);
        }
      }

      @Override
      public void onPull() {
        pushNext();
      }
    }

    private void takeFrames() {
      try {
        while (submitWaiting() && (greeted == (session != null))) {
          ClientFrame frame = frames.next();
          if (frame == null) {
            if (!hasBeenPulled(in) && !isClosed(in)) {
              pull(in);
            }
            return;
          }
          take(frame);
        }
      } catch (GrpcServiceException e) {
        finish(e);
      }
    }

    private void take(ClientFrame frame) {
      if (!greeted) {
        if (!frame.hasHello()) {
          throw malformed("the first frame of a session must be a Hello");
        }
        greet(frame.getHello(), frame.getReceived());
        return;
      }
      session.received(frame.getReceived());
      switch (frame.getFrameCase()) {
        case BATCHES -> waiting.addAll(frames.batches(frame));
        case GOODBYE -> {
          goodbye = true;
          sessions.close(session);
        }
        case PING -> {
          ping = frame.getPing().getNumber();
          pushNext();
        }
        case OPEN_DIRECT -> session.openDirect();
        case CLOSE_DIRECT -> session.closeDirect(frame.getCloseDirect().getNumber());
        case WAITS -> session.waited(ClientFrames.waits(frame.getWaits()));
        case FRAME_NOT_SET -> {
          // The frame only confirmed what was received.
        }
        case HELLO -> throw malformed("a second Hello");
      }
    }

    /** Submits waiting batches. Returns false if one has to wait for room. */
    private boolean submitWaiting() {
      while (!waiting.isEmpty()) {
        if (!session.submit(this, waiting.getFirst())) {
          return false;
        }
        waiting.removeFirst();
      }
      return true;
    }

    private void greet(Hello hello, long received) {
      greeted = true;
      cancelTimer(HELLO_TIMER);
      AsyncCallback<GatewaySession> opened =
          createAsyncCallback(result -> welcome(result, received));
      AsyncCallback<Throwable> refused = createAsyncCallback(this::finish);
      var unused =
          sessions
              .greeted(hello)
              .whenComplete(
                  (result, failure) -> {
                    if (failure == null) {
                      opened.invoke(result);
                    } else {
                      refused.invoke(failure);
                    }
                  });
    }

    private void welcome(GatewaySession opened, long received) {
      session = opened;
      long lastBatch = opened.connect(this, received);
      welcome =
          GrpcFrames.encode(
              ServerFrame.newBuilder()
                  .setWelcome(
                      Welcome.newBuilder()
                          .setSession(opened.number())
                          .setSecret(opened.secret())
                          .setMachine(MachinesService.machine(opened.machine()))
                          .setLastBatch(lastBatch)
                          .setMaxInFlightBytes(sessions.maxInFlightBytes())
                          .setDirect(true)
                          .setMaxUnreceivedBytes(sessions.settings().maxUnreceivedBytes())
                          .setLeaseMillis(sessions.settings().sessionLease().toMillis()))
                  .build());
      pushNext();
      takeFrames();
    }

    private static GrpcServiceException malformed(String what) {
      return GatewayErrors.refusal(Status.Code.INVALID_ARGUMENT, ErrorKind.ProtocolException, what);
    }

    // What goes out -----------------------------------------------------------------------------

    private void pushNext() {
      if (!isAvailable(out) || session == null) {
        return;
      }
      if (welcome != null) {
        push(welcome);
        welcome = null;
      } else if (ping >= 0) {
        push(
            GrpcFrames.encode(
                ServerFrame.newBuilder().setPong(Pong.newBuilder().setNumber(ping)).build()));
        ping = -1;
      } else {
        ByteString next = session.nextFrame(this);
        if (next != null) {
          push(next);
        } else if (session.hasEnded()) {
          finish(Status.OK, null);
        }
      }
    }

    private void push(ByteString bytes) {
      push(out, new HttpEntity.Chunk(bytes, ""));
    }

    @Override
    public void wake() {
      outside.invoke(onWake);
    }

    private void onWake() {
      if (session != null) {
        pushNext();
        takeFrames();
      }
    }

    @Override
    public void replaced() {
      outside.invoke(
          () ->
              finish(
                  GatewayErrors.refusal(
                      Status.Code.ABORTED,
                      ErrorKind.MachineStateException,
                      "the session continues over another stream")));
    }

    private void finish(Throwable failure) {
      Trailers trailers = GatewayErrors.trailers(failure);
      finish(trailers.getStatus(), trailers);
    }

    /** Ends the response. Further input is read and dropped, as gRPC requires. */
    private void finish(Status status, Trailers trailers) {
      leave();
      setHandler(in, new Drain());
      if (!hasBeenPulled(in) && !isClosed(in)) {
        pull(in);
      }
      emit(
          out,
          new HttpEntity.LastChunk(
              "",
              (trailers == null
                      ? GrpcEntityHelpers.trailer(status)
                      : GrpcEntityHelpers.trailer(status, trailers.metadata()))
                  .trailers()),
          () -> complete(out));
    }

    private final class Drain extends AbstractInHandler {
      @Override
      public void onPush() {
        grab(in);
        pull(in);
      }

      @Override
      public void onUpstreamFinish() {
        // The end of the response ends the stage.
      }

      @Override
      public void onUpstreamFailure(Throwable failure) {
        // This ends the stage too.
      }
    }
  }
}
