// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static java.util.Objects.requireNonNull;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Module;
import org.bytedeco.pytorch.StringSharedModuleDict;
import org.bytedeco.pytorch.StringTensorDict;
import org.bytedeco.pytorch.Tensor;

/**
 * Reads a module's state dict, and puts the tensors of a state dict into a module without copying
 * them.
 */
public final class StateDicts {

  private static final int NAMES_IN_MESSAGE = 10;

  private StateDicts() {}

  /**
   * The differences between a module and a state dict.
   *
   * @param missing parameters and buffers of the module that are missing in the state dict
   * @param unexpected names in the state dict that the module does not have
   * @param mismatched names that both have but whose tensors do not fit, as {@code name: reason}
   */
  public record LinkResult(List<String> missing, List<String> unexpected, List<String> mismatched) {
    public LinkResult {
      missing = List.copyOf(missing);
      unexpected = List.copyOf(unexpected);
      mismatched = List.copyOf(mismatched);
    }

    /** Whether everything fitted. */
    public boolean isEmpty() {
      return missing.isEmpty() && unexpected.isEmpty() && mismatched.isEmpty();
    }
  }

  /**
   * A module's parameters and buffers by name, in the order of PyTorch's {@code state_dict}: for
   * each module its parameters, its buffers, then its children. A tensor that the module has under
   * several names (tied weights) appears under each of them. The result can be passed to {@link
   * RemoteMachine#save} and to {@link #link}.
   *
   * @return tensors that share the module's memory, on whatever device it is, and do not require
   *     gradients; the caller closes them
   */
  public static Map<String, Tensor> of(Module module) {
    Map<String, Tensor> stateDict = new LinkedHashMap<>();
    collect(requireNonNull(module, "module"), "", stateDict);
    return stateDict;
  }

  private static void collect(Module module, String prefix, Map<String, Tensor> stateDict) {
    try (StringTensorDict parameters = module.named_parameters(false);
        StringTensorDict buffers = module.named_buffers(false);
        StringSharedModuleDict children = module.named_children()) {
      for (StringTensorDict tensors : List.of(parameters, buffers)) {
        for (long i = 0; i < tensors.size(); i++) {
          stateDict.put(prefix + tensors.get(i).key().getString(), tensors.get(i).value().detach());
        }
      }
      for (long i = 0; i < children.size(); i++) {
        collect(
            children.get(i).value(), prefix + children.get(i).key().getString() + ".", stateDict);
      }
    }
  }

  /**
   * Calls {@link #link(Module, Map, boolean)} with {@code strict}.
   *
   * @throws StateDictMismatchException when something does not fit; the module is unchanged
   */
  public static void link(Module module, Map<String, Tensor> stateDict) {
    link(module, stateDict, true);
  }

  /**
   * Makes a module's parameters and buffers share the memory of the state dict's tensors. Nothing
   * is copied, and a write to one is visible in the other. The parameters take over the device and
   * dtype of the state dict, whether they were on the CPU, on {@code meta} or on the machine
   * before, and require gradients as before. They stay the same objects, so optimizers and other
   * holders of the parameters see the change.
   *
   * <p>A tensor that the module has under several names (tied weights) needs to be in the state
   * dict under one of them. If it is there under several, the first of the module's names counts.
   *
   * @param strict whether everything must fit. if not, the tensors that fit are linked
   * @return the differences
   * @throws StateDictMismatchException when {@code strict} is set and something does not fit; the
   *     module is unchanged
   */
  public static LinkResult link(Module module, Map<String, Tensor> stateDict, boolean strict) {
    requireNonNull(stateDict, "stateDict");
    try (PointerScope scope = new PointerScope()) {
      return link(places(module), stateDict, strict);
    }
  }

  private static LinkResult link(
      List<Place> places, Map<String, Tensor> stateDict, boolean strict) {
    Set<String> unexpected = new LinkedHashSet<>(stateDict.keySet());
    List<String> missing = new ArrayList<>();
    List<String> mismatched = new ArrayList<>();
    Map<Place, Tensor> fitting = new LinkedHashMap<>();
    for (Place place : places) {
      place.names.forEach(unexpected::remove);
      List<String> named = place.names.stream().filter(stateDict::containsKey).toList();
      if (named.isEmpty()) {
        missing.addAll(place.names);
        continue;
      }
      boolean fits = true;
      for (String name : named) {
        Optional<String> why = whyNot(place.tensor, stateDict.get(name));
        why.ifPresent(reason -> mismatched.add(name + ": " + reason));
        fits &= why.isEmpty();
      }
      if (fits) {
        fitting.put(place, stateDict.get(named.get(0)));
      }
    }
    LinkResult result = new LinkResult(missing, List.copyOf(unexpected), mismatched);
    if (strict && !result.isEmpty()) {
      throw new StateDictMismatchException(describe(result), result);
    }
    fitting.forEach((place, tensor) -> place.tensor.set_data(tensor));
    return result;
  }

  /** A parameter or buffer, and all names that the module has for it. */
  private record Place(Tensor tensor, List<String> names) {}

  private static List<Place> places(Module module) {
    Map<Long, Place> places = new LinkedHashMap<>();
    for (StringTensorDict tensors : List.of(module.named_parameters(), module.named_buffers())) {
      for (long i = 0; i < tensors.size(); i++) {
        Tensor tensor = new Tensor(tensors.get(i).value());
        places
            .computeIfAbsent(
                tensor.unsafeGetTensorImpl().address(),
                same -> new Place(tensor, new ArrayList<>()))
            .names
            .add(tensors.get(i).key().getString());
      }
    }
    return List.copyOf(places.values());
  }

  private static Optional<String> whyNot(Tensor place, Tensor tensor) {
    if (!Arrays.equals(place.shape(), tensor.shape())) {
      return Optional.of(
          "the module has %s, but the state dict has %s"
              .formatted(Arrays.toString(place.shape()), Arrays.toString(tensor.shape())));
    }
    if (place.requires_grad() && !tensor.is_floating_point() && !tensor.is_complex()) {
      return Optional.of(
          "the module requires gradients, but dtype %s does not support them"
              .formatted(tensor.scalar_type()));
    }
    return Optional.empty();
  }

  private static String describe(LinkResult result) {
    return "the state dict does not fit the module"
        + describe("missing in the state dict", result.missing)
        + describe("not in the module", result.unexpected)
        + describe("different", result.mismatched);
  }

  private static String describe(String what, List<String> names) {
    if (names.isEmpty()) {
      return "";
    }
    int shown = Math.min(NAMES_IN_MESSAGE, names.size());
    return "%n  %s (%d): %s%s"
        .formatted(
            what,
            names.size(),
            String.join(", ", names.subList(0, shown)),
            shown < names.size() ? ", …" : "");
  }
}
