// SPDX-License-Identifier: AGPL-3.0-or-later
//
// How calls and frees that were sent before travel as references to the history.
#include <algorithm>

#include "client/machine/batch_writer.h"
#include "client/storage.h"

namespace remora {

namespace {

constexpr uint32_t kMostLooks = 16;
constexpr uint32_t kMissesOfDeepSearch = 16;
constexpr int kMostFreesSkipped = 64;
// More frees at a time are those of a garbage collection, which do not repeat.
constexpr size_t kMostFreesKept = 64;

}  // namespace

// ---------------------------------------------------------------- the history

bool BatchWriter::repeats(const History<CallForm>::Record& record) const {
  const auto* operands = history_.operands(record);
  const auto* modes = history_.modes(record);
  auto moved = newest_ - record.newest;
  for (size_t i = 0; i < operands_.size(); i++) {
    if (operands_[i] != operands[i] + (modes[i] == Mode::kRelative ? moved : 0)) return false;
  }
  return true;
}

BatchWriter::Fit BatchWriter::fit(const History<CallForm>::Record& record) const {
  const auto* operands = history_.operands(record);
  const auto* modes = history_.modes(record);
  auto moved = newest_ - record.newest;
  Fit fit;
  for (size_t i = 0; i < operands_.size(); i++) {
    bool same = operands_[i] == operands[i];
    if (kinds_[i] != Operand::kStorage) {
      fit.values += !same;
    } else {
      bool relative = operands_[i] == operands[i] + moved;
      if (modes[i] == Mode::kRelative ? relative : same) continue;
      (same || relative ? fit.modes : fit.others)++;
    }
  }
  return fit;
}

void BatchWriter::keep(CallForm* form, const Mode* modes) {
  auto position = history_.end();
  auto& record = history_.add(form, newest_, form == nullptr ? 0 : form->last, static_cast<uint32_t>(operands_.size()));
  auto* kept = history_.operands(record);
  auto* kept_modes = history_.modes(record);
  auto newest = newest_;
  for (size_t i = 0; i < operands_.size(); i++) {
    kept[i] = operands_[i];
    kept_modes[i] = modes[i];
    if (kinds_[i] == Operand::kStorage && operands_[i] > newest) newest = operands_[i];
  }
  newest_ = newest;
  if (form != nullptr) form->last = position;
}

// ---------------------------------------------------------------- references

void BatchWriter::end_repetition() {
  if (repeated_ == 0) {
    return;
  }
  Writer::code(Record::kRepeat);
  varint(repeated_from_);
  varint(repeated_);
  repeated_ = 0;
  // Nothing of the current record has been written yet.
  if (recording_) before_record_.bytes = size();
}

void BatchWriter::repeat(uint64_t position) {
  if (repeated_ > 0 && (position != expected_ || repeated_ == kMaxRepeats)) {
    end_repetition();
  }
  if (repeated_++ == 0) {
    repeated_from_ = position == node_expects_ ? 0 : history_.end() - position;
  }
  const auto& record = history_.at(position);
  saved_ += record.form == nullptr ? 3 : record.form->size + 2 * record.operands;
  keep(record.form, history_.modes(record));
  expected_ = node_expects_ = position + 1;
}

void BatchWriter::write_start(uint64_t position) { varint(position == node_expects_ ? 0 : history_.end() - position); }

void BatchWriter::write_like(uint64_t position) {
  auto& record = history_.at(position);
  auto* form = record.form;
  code(Record::kLike);
  write_start(position);
  varint(fit(record).changes());
  const auto* operands = history_.operands(record);
  const auto* modes = history_.modes(record);
  auto moved = newest_ - record.newest;
  uint64_t left_out = 0;
  modes_.assign(modes, modes + operands_.size());
  for (size_t i = 0; i < operands_.size(); i++) {
    auto change = Change::kValue;
    if (operands_[i] == operands[i] + (modes[i] == Mode::kRelative ? moved : 0)) {
      left_out++;
      continue;
    }
    bool storage = kinds_[i] == Operand::kStorage;
    if (storage && operands_[i] == operands[i]) {
      change = Change::kSame;
    } else if (storage && operands_[i] == operands[i] + moved) {
      change = Change::kRelative;
    }
    varint(left_out * 4 + static_cast<uint64_t>(change));
    if (change == Change::kValue) write_operand(*this, kinds_[i], operands_[i], newest_);
    if (storage) modes_[i] = change == Change::kSame ? Mode::kSame : Mode::kRelative;
    left_out = 0;
  }
  saved_ += form->size;
  keep(form, modes_.data());
  expected_ = node_expects_ = position + 1;
}

void BatchWriter::write_whole(CallForm* form) {
  if (form == nullptr && !forms_.has_room_for(form_)) {
    code(Record::kForget);
    forms_.clear();
    history_.clear();
    expected_ = node_expects_ = history_.end();
  }
  code(Record::kCall);
  if (form == nullptr) {
    varint(kWhole);
    raw(form_.data(), form_.size());
    form = forms_.add(form_);
  } else {
    varint(kNumbered + form->number);
  }
  write_operands();
  modes_.clear();
  for (auto kind : kinds_) modes_.push_back(kind == Operand::kStorage ? Mode::kRelative : Mode::kSame);
  keep(form, modes_.data());
}

// Writes the call as a reference to an earlier one of its form, if that is shorter. The earlier one is the one that
// follows what was repeated last, or else one that the call repeats exactly, or with few changes.
bool BatchWriter::refer(CallForm& form) {
  uint64_t best = 0;
  uint32_t least = 0;
  bool found = false;
  bool is_expected = history_.has(expected_) && history_.at(expected_).form == &form;
  if (is_expected) {
    const auto& record = history_.at(expected_);
    if (repeats(record)) {
      misses_ = 0;
      repeat(expected_);
      return true;
    }
    auto here = fit(record);
    best = expected_;
    least = here.changes();
    found = here.others == 0 || least * 2 <= operands_.size();
    if (here.others == 0 && here.modes == 0) {
      write_like(expected_);
      return true;
    }
  } else {
    // The frees of a repeated stretch may come earlier or later than before.
    auto position = expected_;
    for (int skipped = 0; skipped < kMostFreesSkipped && history_.has(position); skipped++) {
      if (history_.at(position).form != nullptr) break;
      position++;
    }
    if (history_.has(position) && history_.at(position).form == &form && repeats(history_.at(position))) {
      repeat(position);
      return true;
    }
  }
  auto looks = misses_ % kMissesOfDeepSearch == kMissesOfDeepSearch - 1 ? 2 * kMostLooks : patience_;
  for (auto position = form.last; looks > 0 && history_.has(position); looks--) {
    const auto& record = history_.at(position);
    if (repeats(record)) {
      patience_ = kMostLooks;
      misses_ = 0;
      repeat(position);
      return true;
    }
    auto there = fit(record);
    if (there.others == 0 && (!found || there.changes() < least)) {
      best = position;
      least = there.changes();
      found = true;
    }
    position = record.before;
  }
  if (found) {
    patience_ = kMostLooks;
    misses_ = 0;
    write_like(best);
    return true;
  }
  patience_ = std::max(1U, patience_ / 2);
  misses_++;
  if (is_expected) expected_++;
  return false;
}

// ---------------------------------------------------------------- frees

// Whether the node knows the storage.
bool BatchWriter::note_free(const StorageContext& storage) {
  if (storage.born == 0) {
    return false;
  }
  if (storage.born == sequence_) {
    born_[storage.birth] = 0;
  } else {
    freed_.push_back(storage.id);
  }
  return true;
}

// A free continues a repetition and never starts one, so that a batch of frees alone is known as such.
void BatchWriter::write_free(int64_t id) {
  operands_.assign({id});
  kinds_.assign({Operand::kStorage});
  bool is_expected = history_.has(expected_) && history_.at(expected_).form == nullptr &&
                     repeats(history_.at(expected_));
  if (is_expected && repeated_ > 0) {
    repeat(expected_);
  } else {
    code(Record::kFree);
    zigzag(id - newest_);
    auto mode = Mode::kRelative;
    keep(nullptr, &mode);
    if (is_expected) expected_++;
  }
  end_parts();
}

void BatchWriter::write_frees(c10::ArrayRef<StorageContext*> storages) {
  if (storages.size() <= kMostFreesKept) {
    for (auto* storage : storages) {
      if (note_free(*storage)) write_free(storage->id);
    }
    return;
  }
  std::vector<int64_t> ids;
  ids.reserve(storages.size());
  for (auto* storage : storages) {
    if (note_free(*storage)) ids.push_back(storage->id);
  }
  if (ids.empty()) {
    return;
  }
  code(Record::kFreeMany);
  varint(ids.size());
  auto previous = newest_;
  for (auto id : ids) {
    zigzag(id - previous);
    previous = id;
  }
}

}  // namespace remora
