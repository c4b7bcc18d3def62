// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Records of calls: whole ones, and references to calls and frees that the program sent before. See wire.h.
#include <algorithm>

#include "node/call.h"

namespace remora {

void Executor::read_operands(Reader& r, const PreparedCall& form) {
  if (form.operands.size() > r.remaining()) r.fail("the operands are missing");
  operands_.resize(form.operands.size());
  for (size_t i = 0; i < operands_.size(); i++) operands_[i] = read_operand(r, form.operands[i], newest_);
}

void Executor::note_newest(const PreparedCall& form, const int64_t* operands) {
  for (auto i : form.storages) newest_ = std::max(newest_, operands[i]);
}

// Adds a call or a free to the history. Returns where its operands are until the next one is added.
int64_t* Executor::keep(PreparedCall* form, const Mode* modes, const std::vector<int64_t>& operands) {
  auto& record = history_.add(form, newest_, 0, static_cast<uint32_t>(operands.size()));
  auto* kept = history_.operands(record);
  std::copy(operands.begin(), operands.end(), kept);
  std::copy(modes, modes + operands.size(), history_.modes(record));
  if (form != nullptr) {
    note_newest(*form, kept);
  } else {
    newest_ = std::max(newest_, kept[0]);
  }
  return kept;
}

void Executor::call(Reader& r) {
  auto reference = r.varint();
  if (reference == kWholeUnnumbered) {
    auto form = prepare(r, false);
    read_operands(r, *form);
    note_newest(*form, operands_.data());
    auto operands = operands_;
    execute(*form, operands.data());
    return;
  }
  PreparedCall* form = nullptr;
  if (reference == kWhole) {
    auto prepared = prepare(r, false);
    forms_bytes_ += prepared->bytes.size();
    if (forms_.size() >= kMaxForms || forms_bytes_ > kMaxFormsBytes || prepared->bytes.size() > kMaxFormBytes ||
        prepared->operands.size() > History<PreparedCall>::kMostOperandsOfOne) {
      r.fail("a form is beyond the limits of forms");
    }
    forms_.push_back(std::move(prepared));
    form = forms_.back().get();
  } else if (reference - kNumbered < forms_.size()) {
    form = forms_[reference - kNumbered].get();
  } else {
    r.fail("there is no form " + std::to_string(reference - kNumbered));
  }
  read_operands(r, *form);
  modes_.clear();
  for (auto kind : form->operands) modes_.push_back(kind == Operand::kStorage ? Mode::kRelative : Mode::kSame);
  execute(*form, keep(form, modes_.data(), operands_));
}

// Where a reference starts.
uint64_t Executor::start(Reader& r) {
  auto back = r.varint();
  auto position = back == 0 ? cursor_ : history_.end() - back;
  if (!history_.has(position)) {
    r.fail("a reference to a record that is not in the history");
  }
  return position;
}

void Executor::repeat(Reader& r) {
  auto position = start(r);
  for (auto n = r.bounded(kMaxRepeats, "a count of records"); n > 0; n--, position++) {
    if (!history_.has(position)) {
      r.fail("a reference to a record that is not in the history");
    }
    const auto record = history_.at(position);
    const auto* operands = history_.operands(record);
    const auto* modes = history_.modes(record);
    auto moved = newest_ - record.newest;
    operands_.resize(record.operands);
    for (size_t i = 0; i < operands_.size(); i++) {
      operands_[i] = operands[i];
      if (modes[i] == Mode::kRelative && (__builtin_add_overflow(operands[i], moved, &operands_[i]))) {
        r.fail("a storage number is not valid");
      }
    }
    modes_.assign(modes, modes + record.operands);
    auto* kept = keep(record.form, modes_.data(), operands_);
    if (record.form != nullptr) {
      execute(*record.form, kept);
    } else {
      free(kept[0]);
    }
  }
  cursor_ = position;
}

void Executor::like(Reader& r) {
  auto position = start(r);
  const auto record = history_.at(position);
  if (record.form == nullptr) {
    r.fail("a free is no call");
  }
  const auto& kinds = record.form->operands;
  const auto* operands = history_.operands(record);
  const auto* modes = history_.modes(record);
  auto moved = newest_ - record.newest;
  modes_.assign(modes, modes + record.operands);
  operands_.resize(record.operands);
  auto relative = [&](size_t i) {
    int64_t id = 0;
    if (kinds[i] != Operand::kStorage || __builtin_add_overflow(operands[i], moved, &id)) {
      r.fail("an operand is no storage");
    }
    return id;
  };
  for (size_t i = 0; i < operands_.size(); i++) {
    operands_[i] = modes[i] == Mode::kRelative ? relative(i) : operands[i];
  }
  size_t next = 0;
  for (auto n = r.bounded(record.operands, "a count of changes"); n > 0; n--) {
    auto code = r.varint();
    if (code / 4 >= record.operands - next) r.fail("a call has no such operand");
    auto i = next + code / 4;
    next = i + 1;
    switch (static_cast<Change>(code % 4)) {
      case Change::kRelative:
        operands_[i] = relative(i);
        modes_[i] = Mode::kRelative;
        break;
      case Change::kSame:
        operands_[i] = operands[i];
        modes_[i] = Mode::kSame;
        break;
      case Change::kValue:
        operands_[i] = read_operand(r, kinds[i], newest_);
        if (kinds[i] == Operand::kStorage) modes_[i] = Mode::kRelative;
        break;
      default: r.fail("unknown change");
    }
  }
  execute(*record.form, keep(record.form, modes_.data(), operands_));
  cursor_ = position + 1;
}

void Executor::forget() {
  history_.clear();
  forms_.clear();
  forms_bytes_ = 0;
  cursor_ = history_.end();
}

}  // namespace remora
