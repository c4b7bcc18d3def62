// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import io.opentelemetry.api.GlobalOpenTelemetry;
import io.opentelemetry.api.common.AttributeKey;
import io.opentelemetry.api.trace.Span;
import io.opentelemetry.api.trace.SpanBuilder;
import io.opentelemetry.api.trace.StatusCode;
import io.opentelemetry.context.Context;
import io.remora.actors.TraceParent;
import io.remora.actors.node.NodeLink;
import io.remora.progress.Activities;
import io.remora.progress.Activity;
import io.remora.progress.Progress;
import io.remora.provider.MachineSpec;
import java.util.Locale;
import java.util.Optional;

/**
 * Reports the machine's life from its changes of state: what it does as activities, for listeners
 * of its progress, and as spans, for OpenTelemetry. An operation, such as a pause, lasts over
 * several states; each of them that takes time is a step with a span of its own. Only the actor's
 * thread may use this class, except for {@link #news}.
 */
final class MachineLife {

  private static final String SCOPE = "io.remora";
  private static final AttributeKey<String> MACHINE = AttributeKey.stringKey("remora.machine");
  private static final AttributeKey<String> PROVIDER = AttributeKey.stringKey("remora.provider");
  private static final AttributeKey<String> GPU_TYPE = AttributeKey.stringKey("remora.gpu.type");
  private static final AttributeKey<Long> GPU_COUNT = AttributeKey.longKey("remora.gpu.count");
  private static final AttributeKey<String> NODE = AttributeKey.stringKey("remora.node");
  private static final AttributeKey<String> REASON = AttributeKey.stringKey("remora.reason");
  private static final AttributeKey<String> OUTCOME = AttributeKey.stringKey("remora.outcome");

  /** What the machine does. The state is the one that follows when it succeeds. */
  private enum Operation {
    OPEN(Stage.READY),
    TAKE_OVER(Stage.READY),
    RESUME(Stage.READY),
    RECOVER(Stage.READY),
    MOVE(Stage.READY),
    RECONNECT(Stage.READY),
    PAUSE(Stage.PAUSED),
    CLOSE(Stage.CLOSED),
    /** It loses its node, and does not recover. */
    FAIL(null);

    private final Stage success;

    Operation(Stage success) {
      this.success = success;
    }

    String text() {
      return name().toLowerCase(Locale.ROOT).replace('_', ' ');
    }

    String spanName() {
      return "remora.machine." + name().toLowerCase(Locale.ROOT);
    }
  }

  private enum Outcome {
    OK,
    FAILED,
    /** The machine was closed, or another operation came first. */
    CANCELLED
  }

  private final Machine machine;
  private Context parent = Context.root();
  private Operation operation;
  private Span span = Span.getInvalid();
  private Span step = Span.getInvalid();

  // Also for the thread of the provider's news.
  private volatile Activity activity;
  private volatile Span newsSpan = Span.getInvalid();

  MachineLife(Machine machine) {
    this.machine = machine;
  }

  /** The machine is opened by a program with this trace. */
  void openedBy(TraceParent trace) {
    parent = trace.context();
  }

  /** The machine has changed its state. */
  void changed(MachineBehavior before, MachineBehavior now) {
    Operation next = operation(now);
    boolean another = next != operation;
    if (another) {
      end(before, now, next);
    } else {
      endStep(true, now.reason);
    }
    if (next == null) {
      return;
    }
    if (another) {
      begin(next, now);
    }
    beginStep(now);
  }

  /** The actor stops. */
  void stopped() {
    end(Outcome.CANCELLED, "the machine's actor was stopped");
  }

  /** The provider has news of the node that it is starting. Thread-safe. */
  void news(String line) {
    Activity present = activity;
    if (present != null) {
      present.message(line);
    }
    newsSpan.addEvent(line);
  }

  private Operation operation(MachineBehavior state) {
    return switch (state.stage) {
      case AWAITING_NODE, CONNECTING, RESTORING -> operation(((Opening) state).purpose);
      case WITHOUT_NODE -> Operation.RECOVER;
      case PREPARING_MOVE, SAVING_TO_MOVE -> Operation.MOVE;
      case RECONNECTING -> Operation.RECONNECT;
      case SAVING, ENDING_NODE -> Operation.PAUSE;
      case CLOSING, DELETING -> Operation.CLOSE;
      case LOSING -> operation; // what it interrupts; recovery may follow
      case FAILING -> operation == null ? Operation.FAIL : null;
      case RECOVERING, CLOSED, READY, PAUSED, NOT_RESUMED, FAILED, HANDING_OVER, DEPARTING -> null;
    };
  }

  private static Operation operation(Purpose purpose) {
    if (purpose instanceof Purpose.Open) {
      return Operation.OPEN;
    }
    if (purpose instanceof Purpose.TakeOver) {
      return Operation.TAKE_OVER;
    }
    if (purpose instanceof Purpose.Resume) {
      return Operation.RESUME;
    }
    return purpose instanceof Purpose.Recover ? Operation.RECOVER : Operation.MOVE;
  }

  // Operations ----------------------------------------------------------------------------------

  private void begin(Operation begun, MachineBehavior state) {
    operation = begun;
    activity = Activities.begin(machine.name, begun.text(), "bytes");
    SpanBuilder builder =
        GlobalOpenTelemetry.getOrNoop()
            .getTracer(SCOPE)
            .spanBuilder(begun.spanName())
            .setParent(parent)
            .setAttribute(MACHINE, machine.name);
    MachineSpec spec = machine.spec();
    if (spec != null) {
      builder
          .setAttribute(PROVIDER, spec.provider())
          .setAttribute(GPU_COUNT, (long) spec.gpuCount());
      if (spec.gpuType() != null) {
        builder.setAttribute(GPU_TYPE, spec.gpuType().displayName());
      }
    }
    if (state.reason != null) {
      builder.setAttribute(REASON, firstLine(state.reason));
    }
    span = builder.startSpan();
  }

  private void end(MachineBehavior before, MachineBehavior now, Operation next) {
    if (operation == null) {
      return;
    }
    boolean succeeded =
        now.stage == operation.success && (operation != Operation.MOVE || hasMoved(before));
    if (succeeded) {
      end(Outcome.OK, now.reason);
    } else if (next == Operation.CLOSE
        || now.stage == Stage.HANDING_OVER
        || now.stage == Stage.DEPARTING) {
      end(Outcome.CANCELLED, now.reason);
    } else {
      end(Outcome.FAILED, now.reason == null ? machine.reason() : now.reason);
    }
  }

  private static boolean hasMoved(MachineBehavior before) {
    return before.stage == Stage.RESTORING && ((Opening) before).purpose instanceof Move;
  }

  private void end(Outcome outcome, String why) {
    if (operation == null) {
      return;
    }
    endStep(outcome != Outcome.FAILED, why);
    NodeAttempt node = machine.node();
    if (node != null && node.node() != null) {
      span.setAttribute(NODE, node.description());
    }
    span.setAttribute(OUTCOME, outcome.name().toLowerCase(Locale.ROOT));
    if (outcome == Outcome.FAILED) {
      span.setStatus(StatusCode.ERROR, why == null ? "" : why);
    }
    span.end();
    activity.close();
    operation = null;
    activity = null;
    span = Span.getInvalid();
  }

  /** The node has saved so much for the present pause or move. */
  void saving(NodeLink.Saving saving) {
    if (activity != null) {
      activity.set(saving.done(), saving.total());
    }
  }

  // Steps ---------------------------------------------------------------------------------------

  private void beginStep(MachineBehavior state) {
    Optional<String> name = stepName(state.stage);
    if (name.isPresent()) {
      step =
          GlobalOpenTelemetry.getOrNoop()
              .getTracer(SCOPE)
              .spanBuilder("remora.machine." + name.get())
              .setParent(parent.with(span))
              .setAttribute(MACHINE, machine.name)
              .startSpan();
    }
    newsSpan = step;
    activity.set(0, 0);
    activity.message(describe(state));
    // The provider may have had news before this operation began.
    String latest = latestNews(state);
    if (!latest.isEmpty()) {
      activity.message(latest);
    }
  }

  private static String latestNews(MachineBehavior state) {
    return switch (state.stage) {
      case AWAITING_NODE -> state.node.news();
      case PREPARING_MOVE -> ((PreparingMove) state).nextNode().news();
      default -> "";
    };
  }

  private void endStep(boolean ok, String why) {
    newsSpan = Span.getInvalid();
    if (!ok) {
      step.setStatus(StatusCode.ERROR, why == null ? "" : why);
    }
    step.end();
    step = Span.getInvalid();
  }

  private static Optional<String> stepName(Stage stage) {
    return Optional.ofNullable(
        switch (stage) {
          case AWAITING_NODE, PREPARING_MOVE -> "provision";
          case CONNECTING -> "connect";
          case RESTORING -> "restore";
          case SAVING, SAVING_TO_MOVE -> "save";
          case ENDING_NODE -> "end_node";
          default -> null;
        });
  }

  private String describe(MachineBehavior state) {
    return switch (state.stage) {
      case AWAITING_NODE -> "provider " + machine.spec().provider() + " starts a node";
      case PREPARING_MOVE -> "the other node starts";
      case CONNECTING -> "connecting to " + state.node.description();
      case RESTORING -> "the node restores the sessions";
      case SAVING, SAVING_TO_MOVE ->
          "the node saves " + Progress.bytes(machine.figures.storages().bytes());
      case ENDING_NODE -> "the node ends";
      default -> state.reason == null ? "" : firstLine(state.reason);
    };
  }

  private static String firstLine(String text) {
    return text.lines().findFirst().orElse("");
  }
}
