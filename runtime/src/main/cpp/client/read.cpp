// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/read.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include <algorithm>
#include <atomic>

#include "client/machine/batch_writer.h"
#include "client/machine/machine.h"
#include "client/storage.h"
#include "common/huge_pages.h"

namespace remora {

namespace {

// A node holds a copy of each value that it has not sent yet, and pauses execution while these copies take many bytes.
// In pieces, a large tensor is never copied whole.
std::atomic<int64_t> read_piece{int64_t{64} << 20};

void record_read_piece(Machine& machine, int64_t request, const at::Tensor& source, const at::Tensor& destination) {
  Machine::Lock lock(machine);
  machine.begin_record();
  machine.open.code(Record::kRead);
  machine.open.varint(request);
  machine.open.write_tensor(source);
  machine.downloaded.fetch_add(static_cast<int64_t>(destination.nbytes()), std::memory_order_relaxed);
  machine.submit_open_batch(request, destination);
}

}  // namespace

void set_read_piece(int64_t bytes) {
  TORCH_CHECK(bytes > 0 && bytes <= static_cast<int64_t>(kMaxValueBytes), "a piece has 1 to ", kMaxValueBytes,
              " bytes, not ", bytes);
  read_piece.store(bytes);
}

Reads record_read(const at::Tensor& source, const at::Tensor& destination) {
  auto& storage = storage_of(source);
  auto& machine = *storage.machine;
  machine.check_usable(storage.id);
  prefer_huge_pages(destination.mutable_data_ptr(), destination.nbytes());
  auto step = std::max<int64_t>(1, read_piece.load() / static_cast<int64_t>(source.element_size()));
  if (source.numel() <= step) {
    auto request = machine.next_request();
    record_read_piece(machine, request, source, destination);
    return {request, 1};
  }
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  auto from = source.resolve_conj().resolve_neg().contiguous().view(-1);
  auto to = destination.view(-1);
  auto count = (from.numel() + step - 1) / step;
  auto first = machine.next_request(count);
  for (int64_t piece = 0; piece < count; piece++) {
    auto start = piece * step;
    auto length = std::min(step, from.numel() - start);
    record_read_piece(machine, first + piece, from.narrow(0, start, length), to.narrow(0, start, length));
  }
  return {first, count};
}

void await_read(Machine& machine, const Reads& reads, std::string_view what) {
  for (auto request = reads.first; request < reads.first + reads.count; request++) {
    machine.await(request, Waits::kValue, what);
  }
}

}  // namespace remora
