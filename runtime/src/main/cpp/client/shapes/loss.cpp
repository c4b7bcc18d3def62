// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Losses that are not computed element by element.
#include <algorithm>

#include "client/shapes/rule.h"

namespace remora {

namespace {

constexpr int64_t kNoReduction = 0;

// Alignments of sequences: (time, batch, classes), with a list of the targets' lengths.
Results alignment(const Call& call) {
  auto odds = call.tensor(0), targets = call.tensor(1);
  auto lengths = call.ints(2), target_lengths = call.ints(3);
  if (odds.dim() != 3 || !odds.is_floating_point() || odds.numel() == 0 ||
      (targets.scalar_type() != at::kLong && targets.scalar_type() != at::kInt) ||
      static_cast<int64_t>(lengths.size()) != odds.size(1) || target_lengths.size() != lengths.size()) {
    unsure("the arguments");
  }
  int64_t sum = 0, longest = 0;
  for (size_t i = 0; i < lengths.size(); i++) {
    if (lengths[i] < 0 || lengths[i] > odds.size(0) || target_lengths[i] < 0) unsure("the lengths");
    sum += target_lengths[i];
    longest = std::max(longest, target_lengths[i]);
  }
  bool fits = targets.dim() == 1 ? targets.size(0) == sum
                                 : targets.dim() == 2 && targets.size(0) == odds.size(1) && targets.size(1) >= longest;
  if (!fits || call.integer(4) < 0 || call.integer(4) >= odds.size(2)) unsure("the targets");
  return {shape_tensor({odds.size(1)}, odds.scalar_type()),
          shape_tensor({odds.size(1), odds.size(0), 2 * longest + 1}, odds.scalar_type())};
}

// A row of scores for each element of a batch.
void check_rows(const at::Tensor& rows) {
  if (rows.dim() != 2 || rows.numel() == 0 || !rows.is_floating_point()) unsure("the scores");
}

c10::DimVector reduced_rows(const Call& call) {
  bool each = call.integer(call.named("reduction")) == kNoReduction;
  return each ? c10::DimVector{call.tensor(0).size(0)} : c10::DimVector();
}

Results margin(const Call& call) {
  auto rows = call.tensor(0), target = call.tensor(1);
  auto power = call.number(2);
  check_rows(rows);
  if (target.scalar_type() != at::kLong || target.dim() != 1 || target.size(0) != rows.size(0) ||
      (power != 1 && power != 2) ||
      (call.given(4) && (call.tensor(4).dim() != 1 || call.tensor(4).numel() != rows.size(1)))) {
    unsure("the arguments");
  }
  return {shape_tensor(reduced_rows(call), rows.scalar_type())};
}

Results margin_of_many(const Call& call) {
  auto rows = call.tensor(0), target = call.tensor(1);
  check_rows(rows);
  if (target.scalar_type() != at::kLong || target.sizes() != rows.sizes()) unsure("the target");
  return {shape_tensor(reduced_rows(call), rows.scalar_type()), shape_tensor(target.sizes(), rows.scalar_type())};
}

}  // namespace

Rules loss_rules() {
  return {
      {alignment, {"_ctc_loss"}},
      {like_second,
       {"_ctc_loss_backward", "_ctc_loss_backward.Tensor", "multi_margin_loss_backward",
        "multilabel_margin_loss_backward"}},
      {margin, {"multi_margin_loss", "multi_margin_loss.out"}},
      {margin_of_many, {"multilabel_margin_loss_forward"}},
  };
}

}  // namespace remora
