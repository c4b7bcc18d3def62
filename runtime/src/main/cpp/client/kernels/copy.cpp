// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Kernels that move bytes between this process and a machine, or between machines.
#include <ATen/ATen.h>
#include <ATen/ExpandUtils.h>
#include <ATen/MemoryOverlap.h>
#include <torch/library.h>

#include <algorithm>

#include "client/machine/machine.h"
#include "client/machine/slots.h"
#include "client/read.h"
#include "client/recorder/recorder.h"
#include "client/storage.h"
#include "client/transfer.h"

namespace remora {

namespace {

constexpr int64_t kUploadChunk = 1024 * 1024;
constexpr int64_t kRelayChunk = 8 * 1024 * 1024;

// Sends `bytes` bytes to the storage of `target`, starting at `offset`, in chunks, so that other threads' operations
// and reads can run in between.
void write_bytes(const at::Tensor& target, int64_t offset, const uint8_t* data, int64_t bytes) {
  auto& storage = storage_of(target);
  auto& machine = *storage.machine;
  machine.check_usable(storage.id);
  offset += byte_shift(target, storage);
  for (int64_t done = 0; done < bytes;) {
    auto chunk = std::min(kUploadChunk, bytes - done);
    Machine::Lock lock(machine);
    machine.begin_record();
    machine.open.reserve(chunk + 64);
    machine.open.code(Record::kWrite);
    machine.open.write_storage(storage);
    machine.open.varint(offset + done);
    machine.open.varint(chunk);
    machine.open.raw(data + done, chunk);
    machine.uploaded.fetch_add(chunk, std::memory_order_relaxed);
    machine.end_record(done == 0);
    done += chunk;
  }
}

void copy_on_machine(const at::Tensor& source, const at::Tensor& target) {
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("aten::copy_", "");
  torch::jit::Stack stack{target, source, false};
  record_call(op, {}, &stack);
}

void upload(const at::Tensor& source, const at::Tensor& target) {
  if (target.numel() == 0) {
    return;
  }
  bool smaller = source.element_size() < target.element_size();
  bool direct = target.is_non_overlapping_and_dense() && !target.is_conj() && !target.is_neg() &&
                (source.scalar_type() == target.scalar_type() || !smaller);
  if (!direct) {  // send the source's bytes; the node places and converts them
    auto plain = source.resolve_conj().resolve_neg();
    auto staged = at::empty(plain.sizes(), plain.options().device(target.device()));
    upload(plain, staged);
    copy_on_machine(staged, target);
    return;
  }
  auto same = source.sizes() == target.sizes() && source.strides() == target.strides() &&
              source.scalar_type() == target.scalar_type() && !source.is_conj() && !source.is_neg();
  auto laid_out = source;
  if (!same) {
    laid_out = at::empty_strided(target.sizes(), target.strides(), source.options().dtype(target.scalar_type()));
    laid_out.copy_(source);
  }
  auto itemsize = static_cast<int64_t>(target.element_size());
  write_bytes(target, target.storage_offset() * itemsize, static_cast<const uint8_t*>(laid_out.const_data_ptr()),
              target.numel() * itemsize);
}

void download(const at::Tensor& source, const at::Tensor& target, std::string_view what) {
  if (source.numel() == 0) {
    return;
  }
  auto sizes = source.sizes();
  bool direct = target.scalar_type() == source.scalar_type() && target.sizes() == sizes && target.is_contiguous() &&
                !target.is_conj() && !target.is_neg();
  auto received = direct ? target : at::empty(sizes, source.options().device(c10::kCPU));
  auto& machine = *storage_of(source).machine;
  await_read(machine, record_read(source, received), what);
  if (!direct) {
    const_cast<at::Tensor&>(target).copy_(received);
  }
}

// Copies from one machine to another: directly from node to node, or else through this process, one chunk at a time.
// This process never holds the whole tensor.
void copy_between_machines(const at::Tensor& source, const at::Tensor& target) {
  auto plain = source.resolve_conj().resolve_neg().contiguous().view(-1);
  auto direct = target.is_contiguous() && !target.is_conj() && !target.is_neg() &&
                target.scalar_type() == source.scalar_type() && target.sizes() == source.sizes();
  auto received = direct ? target : at::empty(source.sizes(), plain.options().device(target.device()));
  auto flat = received.view(-1);
  auto step = std::max<int64_t>(1, kRelayChunk / static_cast<int64_t>(plain.element_size()));
  bool temporary = context_of(plain) != context_of(source);
  for (auto start = copy_direct(plain, flat, temporary); start < plain.numel(); start += step) {
    auto length = std::min(step, plain.numel() - start);
    upload(plain.narrow(0, start, length).cpu(), flat.narrow(0, start, length));
  }
  if (!direct) {
    copy_on_machine(received, target);
  }
}

at::Tensor copy_from(const at::Tensor& source, const at::Tensor& target, bool) {
  bool from_remote = source.device().type() == kRemora;
  bool to_remote = target.device().type() == kRemora;
  if (source.sizes() != target.sizes()) {
    auto sizes = at::infer_size(target.sizes(), source.sizes());
    TORCH_CHECK(target.sizes() == c10::IntArrayRef(sizes), "output with shape ", target.sizes(),
                " doesn't match the broadcast shape ", c10::IntArrayRef(sizes));
  }
  at::assert_no_internal_overlap(target);
  if (from_remote && to_remote) {
    if (source._is_zerotensor() || storage_of(source).machine == storage_of(target).machine) {
      copy_on_machine(source, target);
    } else {
      copy_between_machines(source, target);
    }
  } else if (to_remote) {
    TORCH_CHECK(source.device().is_cpu(), "cannot copy from ", source.device(), " to ", target.device(),
                " directly; use tensor.cpu() first");
    upload(source.sizes() == target.sizes() ? source : source.expand(target.sizes()), target);
  } else {
    TORCH_CHECK(target.device().is_cpu(), "cannot copy from ", source.device(), " to ", target.device(),
                " directly; use tensor.cpu() first");
    download(source, target, "a copy to the CPU");
  }
  return target;
}

at::Tensor copy_from_and_resize(const at::Tensor& source, const at::Tensor& target) {
  target.resize_(source.sizes());
  return copy_from(source, target, false);
}

c10::Scalar local_scalar_dense(const at::Tensor& self) {
  auto value = at::empty({}, self.options().device(c10::kCPU));
  download(self.dim() == 0 ? self : self.as_strided({}, {}), value, "item()");  // the first element
  return value.item();
}

}  // namespace

}  // namespace remora

// Conjugate and negative tensors are copied unchanged: the copy keeps their bits.
TORCH_LIBRARY_IMPL(aten, Conjugate, m) { m.impl("_copy_from", torch::CppFunction::makeFallthrough()); }
TORCH_LIBRARY_IMPL(aten, Negative, m) { m.impl("_copy_from", torch::CppFunction::makeFallthrough()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  using namespace remora;
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("_local_scalar_dense", local_scalar_dense);
}
