// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/node_calls.h"

#include <map>
#include <mutex>

#include "client/machine/batch_writer.h"
#include "client/machine/machine.h"
#include "client/machine/slots.h"
#include "client/storage.h"

namespace remora {

namespace {

std::mutex runs_mutex;
struct Run {
  int64_t timeout_millis;
  std::string name;
};
std::map<int64_t, std::map<int64_t, Run>> runs;  // by machine and request

const at::Tensor& tensor_at(int64_t address) { return *reinterpret_cast<at::Tensor*>(address); }

std::string name_of_run(int64_t machine, int64_t request) {
  std::lock_guard<std::mutex> guard(runs_mutex);
  return runs[machine][request].name;
}

void forget_run(int64_t machine, int64_t request) {
  std::lock_guard<std::mutex> guard(runs_mutex);
  auto it = runs.find(machine);
  if (it == runs.end()) return;
  it->second.erase(request);
  if (it->second.empty()) runs.erase(it);
}

}  // namespace

int64_t longest_run(int64_t machine) {
  std::lock_guard<std::mutex> guard(runs_mutex);
  int64_t longest = 0;
  auto it = runs.find(machine);
  if (it == runs.end()) return 0;
  for (const auto& [request, run] : it->second) longest = std::max(longest, run.timeout_millis);
  return longest;
}

int64_t record_run(Machine& machine, Callee callee, int device, int64_t timeout_millis, const char* name,
                   const uint8_t* payload, size_t bytes, const int64_t* tensors, size_t count) {
  TORCH_CHECK(device >= 0 && device < machine.devices, "machine '", machine.name, "' has no device ", device);
  TORCH_CHECK(timeout_millis > 0 && static_cast<uint64_t>(timeout_millis) <= kMaxRunMillis,
              "a function's time limit must be positive and at most ", kMaxRunMillis / 1000, " s");
  for (size_t i = 0; i < count; i++) {
    const auto& t = tensor_at(tensors[i]);
    if (t.device().type() != kRemora || storage_of(t).machine != &machine) {
      raise("CrossMachineException", std::string("the function runs on machine '") + machine.name + "', tensor " +
                                         std::to_string(i) + " is on " + t.device().str());
    }
  }
  auto request = machine.next_request();
  {
    std::lock_guard<std::mutex> guard(runs_mutex);
    runs[machine.handle][request] = {timeout_millis, name};
  }
  try {
    Machine::Lock lock(machine);
    machine.begin_record();
    auto& open = machine.open;
    open.code(callee == Callee::kWorker ? Record::kRun : Record::kCallNode);
    open.varint(request);
    open.varint(device);
    open.varint(timeout_millis);
    open.string(name);
    open.varint(bytes);
    open.raw(payload, bytes);
    open.varint(count);
    for (size_t i = 0; i < count; i++) machine.open.write_tensor(tensor_at(tensors[i]));
    machine.operations.fetch_add(1, std::memory_order_relaxed);
    machine.submit_open_batch(request);
  } catch (...) {
    forget_run(machine.handle, request);
    throw;
  }
  return request;
}

std::string await_run(Machine& machine, int64_t request) {
  struct Forget {
    int64_t machine, request;
    ~Forget() { forget_run(machine, request); }
  } forget{machine.handle, request};
  return machine.await_outputs(request, Waits::kOther, name_of_run(machine.handle, request));
}

void bind_run(Machine& machine, int64_t request, const std::vector<at::Tensor>& tensors) {
  Machine::Lock lock(machine);
  machine.begin_record();
  machine.write_bind(request, tensors);
}

NodeAnswer await_node(Machine& machine, int64_t request) {
  auto bytes = await_run(machine, request);
  Reader r(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  NodeAnswer answer;
  if (r.u8() != kFunctionVersion) r.fail("the node uses another version of the calls' format");
  answer.payload = read_bytes(r, "an answer's size");
  std::vector<at::Tensor> storages;
  for (auto n = r.count("a count of storages"); n > 0; n--) {
    TensorMeta whole;
    whole.dtype = at::kByte;
    whole.sizes.push_back(static_cast<int64_t>(r.bounded(kMaxStorageBytes, "a storage's size")));
    whole.strides.push_back(1);
    auto device = r.bounded(static_cast<uint64_t>(machine.devices) - 1, "a device");
    storages.push_back(new_tensor(machine, machine.first_slot + static_cast<int>(device), whole, whole.bytes()));
  }
  if (!storages.empty()) {
    bind_run(machine, request, storages);
  }
  for (auto n = r.count("a count of tensors"); n > 0; n--) {
    auto source = static_cast<Source>(r.u8());
    auto number = r.varint();
    if (source != Source::kNew || number >= storages.size()) r.fail("a tensor has no new storage");
    auto storage = storages[number].storage();
    auto meta = read_tensor(r, storage.nbytes());
    auto t = at::detail::make_tensor<c10::TensorImpl>(
        std::move(storage), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::scalarTypeToTypeMeta(meta.dtype));
    t.unsafeGetTensorImpl()->set_sizes_and_strides(meta.sizes, meta.strides, meta.offset);
    t._set_conj(meta.conj);
    t._set_neg(meta.neg);
    answer.tensors.push_back(std::move(t));
  }
  return answer;
}

}  // namespace remora
