// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The gradient of torch.nn.functional.group_norm of a channels-last input, on nodes that compute on the CPU. libtorch's
// formula (native_group_norm in derivatives.yaml) keeps the memory format on the CPU alone; for any other device it
// makes the gradient contiguous, which has other strides and other last bits. The node of the autograd graph here
// replaces libtorch's and keeps the format as well.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/generated/Functions.h>
#include <torch/library.h>

#include "client/machine/machine.h"

namespace remora {

namespace {

namespace autograd = torch::autograd;
using Libtorch = autograd::generated::NativeGroupNormBackward0;
using Results = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

using NodePointer = std::decay_t<decltype(std::declval<const at::Tensor&>().grad_fn())>;

// Nodes are owned by std::shared_ptr, and in newer versions of libtorch by c10::intrusive_ptr.
template <class Node>
std::shared_ptr<Node> pointer_to(Node* node, std::shared_ptr<Node>*) {
  return node->getptr();
}
template <class Node>
c10::intrusive_ptr<Node> pointer_to(Node* node, c10::intrusive_ptr<Node>*) {
  return c10::intrusive_ptr<Node>::reclaim_copy(node);
}
template <class Node>
std::shared_ptr<Node> owned(Node* made, std::shared_ptr<Node>*) {
  return std::shared_ptr<Node>(made, [](Node* node) { deleteNode(node); });
}
template <class Node>
c10::intrusive_ptr<Node> owned(Node* made, c10::intrusive_ptr<Node>*) {
  return c10::intrusive_ptr<Node>::unsafe_steal_from_new(made);
}

// Older versions save eps as well.
template <class Node>
auto copy_eps(Node& to, const Node& from, int) -> decltype(to.eps, void()) {
  to.eps = from.eps;
}
template <class Node>
void copy_eps(Node&, const Node&, long) {}

// libtorch's node with everything that it has saved, in its place.
class GroupNormBackward final : public Libtorch {
 public:
  explicit GroupNormBackward(Libtorch& from) : Libtorch(autograd::edge_list(from.next_edges())) {
    N = from.N;
    C = from.C;
    HxW = from.HxW;
    copy_eps<Libtorch>(*this, from, 0);
    group = from.group;
    input_ = std::move(from.input_);
    weight_ = std::move(from.weight_);
    result1_ = std::move(from.result1_);
    result2_ = std::move(from.result2_);
  }

  autograd::variable_list apply(autograd::variable_list&& grads) override {
    // The condition under which libtorch's formula calls native_group_norm_backward.
    bool plain = grads[0].defined() && !grads[1].defined() && !grads[2].defined();
    if (at::GradMode::is_enabled() || !plain) return Libtorch::apply(std::move(grads));
    std::lock_guard<std::mutex> lock(mutex_);
    std::array<bool, 3> wanted{};
    for (size_t i = 0; i < wanted.size(); i++) wanted[i] = task_should_compute_output(i);
    auto self = pointer_to(static_cast<autograd::Node*>(this), static_cast<NodePointer*>(nullptr));
    auto input = input_.unpack();
    auto format = input.suggest_memory_format();
    auto [dx, dweight, dbias] = at::native_group_norm_backward_symint(
        grads[0].contiguous(format), input.contiguous(format), result1_.unpack(self), result2_.unpack(self),
        weight_.unpack(), N, C, HxW, group, wanted);
    return {dx, dweight, dbias};
  }
};

Results group_norm(c10::DispatchKeySet keys, const at::Tensor& input, const std::optional<at::Tensor>& weight,
                   const std::optional<at::Tensor>& bias, c10::SymInt n, c10::SymInt channels, c10::SymInt pixels,
                   int64_t groups, double eps) {
  // libtorch's own kernel, which serves every device. This one hides it from ours, but not from AutogradOther.
  auto libtorch = keys.remove(c10::DispatchKey::AutogradPrivateUse1).add(c10::DispatchKey::AutogradOther);
  auto results = at::_ops::native_group_norm::redispatch(libtorch, input, weight, bias, n, channels, pixels, groups,
                                                         eps);
  auto node = std::get<0>(results).grad_fn();
  auto* inner = dynamic_cast<Libtorch*>(node.get());
  if (inner != nullptr && !input.is_contiguous() && !machine_of(input.device()).on_cuda() &&
      input.suggest_memory_format() != at::MemoryFormat::Contiguous) {
    autograd::Node* ours = new GroupNormBackward(*inner);
    autograd::set_history(std::vector<at::Tensor>{std::get<0>(results), std::get<1>(results), std::get<2>(results)},
                          owned(ours, static_cast<NodePointer*>(nullptr)));
  }
  return results;
}

}  // namespace
}  // namespace remora

TORCH_LIBRARY_IMPL(aten, AutogradPrivateUse1, m) { m.impl("native_group_norm", remora::group_norm); }
