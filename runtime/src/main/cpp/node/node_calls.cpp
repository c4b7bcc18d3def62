// SPDX-License-Identifier: AGPL-3.0-or-later
#include "node/node_calls.h"

#include <c10/core/DeviceGuard.h>

#include <algorithm>
#include <optional>

#include "node/device.h"
#include "node/file_bytes.h"
#include "node/shared_memory.h"

namespace remora {

namespace {

enum class Memory : uint8_t {
  kNone = 0,    // no bytes
  kShared = 1,  // path of a sealed memory file
  kCuda = 2,    // CUDA's handle of an allocation (64 bytes), offset in it
  kFile = 3,    // path, offset, 1 = may be mapped: bytes of a file; only the node itself may send this
};

remora_run_callback run_callbacks[2] = {};  // by callee

// The call that this thread runs, until its callback has returned.
struct Running {
  const std::vector<c10::Device>& devices;
  at::Generator generator;
  const FunctionCall& call;
  std::vector<uint32_t> first_tensor;  // by storage number: the first argument over it
  FunctionResult result;
  bool answered = false;
};
thread_local Running* running = nullptr;

// How a device's memory gets to a worker. Only CUDA lets another process open its allocations.
Memory shared_as(c10::Device device) {
  TORCH_CHECK_NOT_IMPLEMENTED(device.is_cpu() || device.is_cuda(), "a Python function takes and returns tensors on ",
                              "cpu and cuda devices; their memory on device ", device,
                              " cannot be shared with its process");
  return device.is_cpu() ? Memory::kShared : Memory::kCuda;
}

Writer write_request(Running& run) {
  Writer w;
  w.u8(kFunctionVersion);
  write_bytes(w, run.call.payload);
  if (run.call.callee == Callee::kNode) {
    w.string(run.devices[run.call.device].str());
    w.varint(run.call.device);
    w.varint(run.call.available);
    return w;
  }
  w.varint(run.devices.size());
  for (const auto& device : run.devices) w.string(device.str());
  w.varint(run.call.device);
  auto state = run.generator.get_state().contiguous();
  write_bytes(w, {static_cast<const char*>(state.const_data_ptr()), state.nbytes()});

  std::vector<const c10::StorageImpl*> storages;
  std::vector<size_t> numbers;
  Writer memory;
  for (size_t i = 0; i < run.call.tensors.size(); i++) {
    auto* storage = run.call.tensors[i].storage().unsafeGetStorageImpl();
    auto found = std::find(storages.begin(), storages.end(), storage);
    numbers.push_back(static_cast<size_t>(found - storages.begin()));
    if (found != storages.end()) {
      continue;
    }
    storages.push_back(storage);
    run.first_tensor.push_back(static_cast<uint32_t>(i));
    auto device = run.devices[run.call.tensor_devices[i]];
    memory.code(storage->nbytes() == 0 ? Memory::kNone : shared_as(device));
    memory.varint(storage->nbytes());
    memory.varint(run.call.tensor_devices[i]);
    if (storage->nbytes() == 0) {
      continue;
    }
    if (shared_as(device) == Memory::kShared) {
      memory.string(share(storage));
    } else {
      write_cuda(memory, storage);
    }
  }
  w.varint(storages.size());
  w.raw(memory.data(), memory.size());
  w.varint(run.call.tensors.size());
  for (size_t i = 0; i < run.call.tensors.size(); i++) {
    w.varint(numbers[i]);
    write_tensor(w, TensorMeta::of(run.call.tensors[i]));
  }
  for (const auto& device : run.devices) synchronize(device);
  return w;
}

void read_answer(Running& run, Reader& r) {
  auto& answer = run.result.answer;
  auto version = r.u8();
  if (version != kFunctionVersion) {
    r.fail("the worker uses protocol version " + std::to_string(version) + ", the node " +
           std::to_string(kFunctionVersion) + ": install the same version of remora on both");
  }
  answer.u8(version);
  write_bytes(answer, read_bytes(r, "a result's size"));
  auto state = read_bytes(r, "a generator state's size");
  if (!state.empty()) {
    auto bytes = at::empty({static_cast<int64_t>(state.size())}, at::TensorOptions().dtype(at::kByte));
    std::memcpy(bytes.mutable_data_ptr(), state.data(), state.size());
    run.generator.set_state(bytes);
  }
  auto storages = r.count("a count of storages");
  std::vector<std::optional<FileBytes>> files(storages);
  std::vector<uint64_t> sizes, storage_devices;
  answer.varint(storages);
  for (uint64_t i = 0; i < storages; i++) {
    auto kind = static_cast<Memory>(r.u8());
    auto bytes = r.bounded(kMaxStorageBytes, "a storage's size");
    auto device = r.bounded(run.devices.size() - 1, "a device");
    auto options = at::TensorOptions().dtype(at::kByte).device(run.devices[device]);
    auto by_node = run.call.callee == Callee::kNode;
    at::Tensor memory;
    if (kind == Memory::kNone && bytes == 0) {
      memory = at::empty({0}, options);
    } else if (kind == Memory::kFile && by_node && bytes > 0) {
      std::string path(r.string());
      auto offset = r.bounded(kMaxStorageBytes, "an offset");
      files[i] = FileBytes{std::move(path), offset, bytes, r.u8() != 0};
    } else if (kind == Memory::kShared && !by_node && bytes > 0 && kind == shared_as(run.devices[device])) {
      c10::Storage storage(c10::Storage::use_byte_size_t(), static_cast<int64_t>(bytes), open_shared(r.string(), bytes),
                           c10::GetAllocator(c10::kCPU), true);
      memory = at::empty({0}, options).set_(storage, 0, {static_cast<int64_t>(bytes)}, {1});
    } else if (kind == Memory::kCuda && !by_node && bytes > 0 && kind == shared_as(run.devices[device])) {
      memory = read_cuda(r, run.devices[device], bytes);
    } else {
      r.fail("a result's memory is of kind " + std::to_string(static_cast<int>(kind)) + ", which device " +
             run.devices[device].str() + " cannot use");
    }
    answer.varint(bytes);
    answer.varint(device);
    sizes.push_back(bytes);
    storage_devices.push_back(device);
    run.result.created.push_back(memory);
  }
  auto tensors = r.count("a count of tensors");
  answer.varint(tensors);
  for (uint64_t i = 0; i < tensors; i++) {
    auto source = static_cast<Source>(r.u8());
    uint64_t bytes = 0;
    FileBytes* file = nullptr;
    answer.code(source);
    if (source == Source::kArgument) {
      auto number = r.varint();
      if (number >= run.first_tensor.size()) r.fail("there is no storage " + std::to_string(number));
      auto tensor = run.first_tensor[number];
      bytes = run.call.tensors[tensor].storage().nbytes();
      answer.varint(tensor);
    } else if (source == Source::kNew) {
      auto number = r.varint();
      if (number >= sizes.size()) r.fail("there is no new storage " + std::to_string(number));
      bytes = sizes[number];
      file = files[number] ? &*files[number] : nullptr;
      answer.varint(number);
    } else {
      r.fail("unknown source of a tensor");
    }
    auto meta = read_tensor(r, bytes);
    if (file) file->element = std::max(file->element, c10::elementSize(meta.dtype));
    write_tensor(answer, meta);
  }
  if (!r.done()) {
    r.fail("bytes follow the answer");
  }
  FileStorages from_files;
  for (uint64_t i = 0; i < storages; i++) {
    if (files[i]) run.result.created[i] = from_files.make(*files[i], run.devices[storage_devices[i]]);
  }
  run.answered = true;
}

}  // namespace

void set_run_callback(Callee callee, remora_run_callback callback) {
  run_callbacks[static_cast<size_t>(callee)] = callback;
}

FunctionResult run_function(int64_t executor, const std::vector<c10::Device>& devices, at::Generator generator,
                            const FunctionCall& call) {
  auto run_callback = run_callbacks[static_cast<size_t>(call.callee)];
  TORCH_CHECK(run_callback != nullptr,
              call.callee == Callee::kWorker ? "this node runs no Python functions" : "this node loads no models");
  Running run{devices, std::move(generator), call, {}, {}, false};
  auto request = write_request(run);
  char error[64 * 1024] = "";
  running = &run;
  auto code = run_callback(executor, request.data(), static_cast<int64_t>(request.size()), call.timeout_millis, error,
                           sizeof error);
  running = nullptr;
  if (code != 0) {
    throw std::runtime_error(error[0] != 0 ? error : "the call failed without a message");
  }
  TORCH_CHECK(run.answered, "the call returned without an answer");
  return std::move(run.result);
}

void run_answer(const uint8_t* data, size_t bytes) {
  TORCH_CHECK(running != nullptr && !running->answered, "no function waits for an answer on this thread");
  Reader r(data, bytes);
  read_answer(*running, r);
}

void run_write(size_t tensor, const char* path, uint64_t offset, uint64_t bytes) {
  TORCH_CHECK(running != nullptr && !running->answered, "no call waits for an answer on this thread");
  TORCH_CHECK(tensor < running->call.tensors.size(), "the call has no tensor ", tensor);
  auto t = running->call.tensors[tensor].resolve_conj().resolve_neg();
  TORCH_CHECK(static_cast<uint64_t>(t.nbytes()) == bytes, "tensor ", tensor, " has ", t.nbytes(), " bytes, not ",
              bytes);
  c10::DeviceGuard guard(t.device());
  write_values(File(path, O_WRONLY), t, offset);
}

}  // namespace remora
