// SPDX-License-Identifier: AGPL-3.0-or-later
#include "node/functions.h"

#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "client/machine.h"
#include "common/tensor_meta.h"

namespace remora {

// What the core and a callee say to each other; integers are varints, texts and bytes have their length before them.
//   request  of a worker: version, payload, devices (count, names), device number, state of its default generator,
//            storages (count, Memory, bytes, device number, where), tensors (count, storage number, tensor)
//            of the node: version, payload, device's name, device number, bytes it has left (0 = not known)
//   answer   version, payload, generator state, new storages (as above), tensors (count, Source, number, tensor)
//   tensor   name of its dtype, 1 = conjugated | 2 = negated, dimensions, sizes, strides (zigzag), offset
// The program gets of the answer: version, payload, new storages (count, bytes, device number), tensors as above.

namespace {

constexpr uint8_t kFunctionVersion = 2;

enum class Memory : uint8_t {
  kNone = 0,   // of no bytes
  kShared = 1, // path of a sealed memory file
  kCuda = 2,   // CUDA's handle of an allocation (64 bytes), offset in it
  kFile = 3,   // path, offset, 1 = may be mapped: bytes of a file, from the node itself alone
};

enum class Source : uint8_t {
  kArgument = 0,  // the storage of argument number n
  kNew = 1,       // new storage number n
};

[[noreturn]] void fail_with_errno(const std::string& what) {
  auto code = errno;
  TORCH_CHECK(false, what, ": ", std::strerror(code),
              code == EMFILE ? "; every tensor given to a remote function takes one: raise the node's limit (ulimit -n)"
                             : "");
}

// ---------------------------------------------------------------- memory shared with a worker on the CPU

// A memory file without a name, which goes when its last user does, however that ends. Sealed: whoever has it cannot
// make it shorter under the other's feet.
struct SharedMemory {
  void* address;
  size_t bytes;
  int file;
};

void unmap(void* context) {
  auto* memory = static_cast<SharedMemory*>(context);
  munmap(memory->address, memory->bytes);
  close(memory->file);
  delete memory;
}

SharedMemory* shared_memory(const c10::DataPtr& data) {
  return data.get_deleter() == &unmap ? static_cast<SharedMemory*>(data.get_context()) : nullptr;
}

// Takes the file over.
c10::DataPtr map(int file, size_t bytes) {
  if (fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0 && errno != EPERM) {
    close(file);
    fail_with_errno("memory to share with a Python function cannot be sealed");
  }
  struct stat status {};
  auto seals = fcntl(file, F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || fstat(file, &status) != 0 ||
      static_cast<uint64_t>(status.st_size) < bytes) {
    close(file);
    TORCH_CHECK(false, "what a Python function's worker shares is not sealed memory of ", bytes, " bytes");
  }
  void* address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (address == MAP_FAILED) {
    close(file);
    fail_with_errno(std::to_string(bytes) + " bytes cannot be shared with a Python function");
  }
  return {address, new SharedMemory{address, bytes, file}, &unmap, c10::Device(c10::kCPU)};
}

// Moves a storage's bytes into shared memory, once; tensors over it see no difference.
SharedMemory* share(c10::StorageImpl* storage) {
  if (auto* memory = shared_memory(storage->data_ptr())) {
    return memory;
  }
  auto bytes = storage->nbytes();
  int file = memfd_create("remora", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (file < 0) {
    fail_with_errno("memory to share with a Python function cannot be had");
  }
  if (ftruncate(file, static_cast<off_t>(bytes)) != 0) {
    close(file);
    fail_with_errno(std::to_string(bytes) + " bytes to share with a Python function cannot be had");
  }
  auto data = map(file, bytes);
  std::memcpy(data.mutable_get(), storage->data(), bytes);
  auto* memory = shared_memory(data);
  storage->set_data_ptr_noswap(std::move(data));
  return memory;
}

c10::DataPtr open_shared(std::string_view path, size_t bytes) {
  // Only what another process has open: no file of the node's, and nothing that opening could block on.
  int pid = 0, number = 0, end = 0;
  std::string text(path);
  TORCH_CHECK(std::sscanf(text.c_str(), "/proc/%9d/fd/%9d%n", &pid, &number, &end) == 2 &&
                  static_cast<size_t>(end) == text.size(),
              "'", text, "' is not memory of a worker");
  int file = open(text.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) {
    fail_with_errno("the memory of a Python function's result cannot be opened");
  }
  return map(file, bytes);
}

// ---------------------------------------------------------------- memory shared with a worker on CUDA

// The driver's own interface, as in api.cpp.
struct CudaSharing {
  struct Handle {
    char bytes[64];
  };
  int (*range)(uint64_t*, size_t*, uint64_t) = nullptr;
  int (*get)(Handle*, uint64_t) = nullptr;
  int (*open)(uint64_t*, Handle, unsigned) = nullptr;
  int (*close)(uint64_t) = nullptr;

  static const CudaSharing& instance() {
    static const CudaSharing found = [] {
      CudaSharing c;
      if (void* library = dlopen("libcuda.so.1", RTLD_NOW)) {
        c.range = reinterpret_cast<decltype(c.range)>(dlsym(library, "cuMemGetAddressRange_v2"));
        c.get = reinterpret_cast<decltype(c.get)>(dlsym(library, "cuIpcGetMemHandle"));
        c.open = reinterpret_cast<decltype(c.open)>(dlsym(library, "cuIpcOpenMemHandle_v2"));
        c.close = reinterpret_cast<decltype(c.close)>(dlsym(library, "cuIpcCloseMemHandle"));
      }
      return c;
    }();
    TORCH_CHECK(found.range && found.get && found.open && found.close, "the CUDA driver cannot share memory");
    return found;
  }
};

void check_cuda(int code, const char* what) {
  TORCH_CHECK(code == 0, "CUDA memory cannot be shared with a Python function: ", what, " answers ", code);
}

void synchronize(c10::Device device) {
  c10::impl::VirtualGuardImpl(device.type()).synchronizeDevice(device.index());
}

void write_cuda(Writer& w, const c10::StorageImpl* storage) {
  const auto& cuda = CudaSharing::instance();
  c10::DeviceGuard guard(storage->device());
  auto address = reinterpret_cast<uint64_t>(storage->data());
  uint64_t base = 0;
  size_t size = 0;
  CudaSharing::Handle handle{};
  check_cuda(cuda.range(&base, &size, address), "cuMemGetAddressRange");
  check_cuda(cuda.get(&handle, base), "cuIpcGetMemHandle");
  w.raw(handle.bytes, sizeof handle.bytes);
  w.varint(address - base);
}

// A copy of a worker's memory: its own allocator may want that back at any time.
at::Tensor read_cuda(Reader& r, c10::Device device, size_t bytes) {
  const auto& cuda = CudaSharing::instance();
  CudaSharing::Handle handle{};
  std::memcpy(handle.bytes, r.raw(sizeof handle.bytes), sizeof handle.bytes);
  auto offset = r.bounded(kMaxStorageBytes, "an offset");
  c10::DeviceGuard guard(device);
  auto copy = at::empty({static_cast<int64_t>(bytes)}, at::TensorOptions().dtype(at::kByte).device(device));
  uint64_t base = 0;
  check_cuda(cuda.open(&base, handle, 1), "cuIpcOpenMemHandle");
  try {
    uint64_t start = 0;
    size_t size = 0;
    check_cuda(cuda.range(&start, &size, base), "cuMemGetAddressRange");
    TORCH_CHECK(offset <= size && bytes <= size - offset, "a result ends outside its memory");
    copy.copy_(at::from_blob(reinterpret_cast<void*>(base + offset), {static_cast<int64_t>(bytes)},
                             at::TensorOptions().dtype(at::kByte).device(device)));
    synchronize(device);
  } catch (...) {
    cuda.close(base);
    throw;
  }
  check_cuda(cuda.close(base), "cuIpcCloseMemHandle");
  return copy;
}

// ---------------------------------------------------------------- bytes of files

constexpr size_t kStagingBytes = 64 * 1024 * 1024;
// Less is read: a mapping of its own costs more than it spares.
constexpr uint64_t kLeastMappedBytes = 64 * 1024;

struct File {
  int descriptor;
  std::string path;

  File(std::string name, int flags) : descriptor(open(name.c_str(), flags | O_CLOEXEC)), path(std::move(name)) {
    if (descriptor < 0) {
      fail_with_errno(path + " cannot be opened");
    }
  }
  ~File() { close(descriptor); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  // Fails where the bytes are not all there.
  void require(uint64_t offset, uint64_t bytes) const {
    struct stat status {};
    TORCH_CHECK(fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode), path, " is no file");
    TORCH_CHECK(static_cast<uint64_t>(status.st_size) >= offset + bytes, path, " has ", status.st_size,
                " bytes, and a tensor ends at byte ", offset + bytes, ": it was changed meanwhile");
  }
  void read(void* to, uint64_t offset, uint64_t bytes) const {
    for (uint64_t done = 0; done < bytes;) {
      auto n = pread(descriptor, static_cast<char*>(to) + done, bytes - done, static_cast<off_t>(offset + done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail_with_errno(path + " cannot be read");
      TORCH_CHECK(n > 0, path, " ends too early: it was changed meanwhile");
      done += static_cast<uint64_t>(n);
    }
  }
  void write(const void* from, uint64_t offset, uint64_t bytes) const {
    for (uint64_t done = 0; done < bytes;) {
      auto n = pwrite(descriptor, static_cast<const char*>(from) + done, bytes - done,
                      static_cast<off_t>(offset + done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail_with_errno(path + " cannot be written");
      done += static_cast<uint64_t>(n);
    }
  }
};

struct FileMapping {
  void* address;
  size_t bytes;
};

void unmap_file(void* context) {
  auto* mapping = static_cast<FileMapping*>(context);
  munmap(mapping->address, mapping->bytes);
  delete mapping;
}

// Privately: pages come from the file when they are first used, and a page that is written to is the tensor's own.
c10::DataPtr map_file(const File& file, uint64_t offset, uint64_t bytes) {
  auto before = offset % static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  auto size = before + bytes;
  void* address = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file.descriptor,
                       static_cast<off_t>(offset - before));
  if (address == MAP_FAILED) {
    fail_with_errno(file.path + " cannot be mapped");
  }
  return {static_cast<char*>(address) + before, new FileMapping{address, size}, &unmap_file, c10::Device(c10::kCPU)};
}

// What a storage is to hold.
struct FileBytes {
  std::string path;
  uint64_t offset = 0;
  uint64_t bytes = 0;
  bool map = false;
  size_t element = 1;  // the largest of the tensors over it: these want their elements aligned
};

// Makes storages of files' bytes, those of one file one after the other.
class FileStorages {
 public:
  at::Tensor make(const FileBytes& from, c10::Device device) {
    if (!file_ || file_->path != from.path) {
      file_ = std::make_unique<File>(from.path, O_RDONLY);
    }
    file_->require(from.offset, from.bytes);
    auto size = static_cast<int64_t>(from.bytes);
    auto options = at::TensorOptions().dtype(at::kByte);
    if (device.is_cpu() && from.map && from.bytes >= kLeastMappedBytes && from.offset % from.element == 0) {
      c10::Storage storage(c10::Storage::use_byte_size_t(), size, map_file(*file_, from.offset, from.bytes),
                           c10::GetAllocator(c10::kCPU), true);
      return at::empty({0}, options).set_(storage, 0, {size}, {1});
    }
    c10::DeviceGuard guard(device);
    auto memory = at::empty({size}, options.device(device));
    if (device.is_cpu()) {
      file_->read(memory.mutable_data_ptr(), from.offset, from.bytes);
      return memory;
    }
    if (!staging_.defined()) {
      staging_ = at::empty({static_cast<int64_t>(kStagingBytes)}, options.pinned_memory(true));
    }
    for (int64_t done = 0; done < size;) {
      auto part = std::min<int64_t>(kStagingBytes, size - done);
      file_->read(staging_.mutable_data_ptr(), from.offset + static_cast<uint64_t>(done), static_cast<uint64_t>(part));
      memory.narrow(0, done, part).copy_(staging_.narrow(0, 0, part));  // waits: the staging memory is used again
      done += part;
    }
    return memory;
  }

 private:
  std::unique_ptr<File> file_;
  at::Tensor staging_;
};

// Writes a tensor's values in order, from `offset` on, in parts of a bounded size; answers where they end.
uint64_t write_values(const File& file, const at::Tensor& t, uint64_t offset) {
  auto bytes = static_cast<uint64_t>(t.nbytes());
  if (bytes <= kStagingBytes || t.dim() == 0 || (t.is_contiguous() && t.is_cpu())) {
    auto plain = t.contiguous().cpu();
    file.write(plain.const_data_ptr(), offset, bytes);
    return offset + bytes;
  }
  auto rows = std::max<int64_t>(1, static_cast<int64_t>(kStagingBytes / (bytes / static_cast<uint64_t>(t.size(0)))));
  for (int64_t row = 0; row < t.size(0); row += rows) {
    auto part = t.narrow(0, row, std::min(rows, t.size(0) - row));
    offset = write_values(file, part.size(0) == 1 ? part.squeeze(0) : part, offset);
  }
  return offset;
}

// ---------------------------------------------------------------- tensors in words

void write_bytes(Writer& w, std::string_view bytes) {
  w.varint(bytes.size());
  w.raw(bytes.data(), bytes.size());
}

std::string_view read_bytes(Reader& r, const char* what) {
  auto n = r.count(what);
  return {reinterpret_cast<const char*>(r.raw(n)), n};
}

void write_tensor(Writer& w, const TensorMeta& meta) {
  w.string(c10::getDtypeNames(meta.dtype).first);
  w.u8((meta.conj ? 1 : 0) | (meta.neg ? 2 : 0));
  w.varint(meta.sizes.size());
  for (auto size : meta.sizes) w.varint(size);
  for (auto stride : meta.strides) w.zigzag(stride);
  w.varint(meta.offset);
}

c10::ScalarType dtype_of(Reader& r, std::string_view name) {
  for (int8_t i = 0; i < static_cast<int8_t>(c10::ScalarType::NumOptions); i++) {
    auto dtype = static_cast<c10::ScalarType>(i);
    if (dtype != c10::ScalarType::Undefined && c10::getDtypeNames(dtype).first == name) {
      return dtype;
    }
  }
  r.fail("unknown dtype " + std::string(name));
}

// Fails where the tensor ends outside a storage of `bytes`.
TensorMeta read_tensor(Reader& r, uint64_t bytes) {
  TensorMeta meta;
  meta.dtype = dtype_of(r, r.string());
  auto bits = r.u8();
  meta.conj = bits & 1;
  meta.neg = bits & 2;
  meta.read_layout(r);
  for (auto stride : meta.strides) {
    if (stride < 0) r.fail("a stride is negative");
  }
  if (meta.end() > bytes) r.fail("a tensor ends outside its storage of " + std::to_string(bytes) + " bytes");
  return meta;
}

// ---------------------------------------------------------------- the node's side

remora_run_callback run_callbacks[2] = {};  // by callee

// The call that this thread has answered, between the callback and its answer.
struct Running {
  const std::vector<c10::Device>& devices;
  at::Generator generator;
  const FunctionCall& call;
  std::vector<uint32_t> first_tensor;  // by storage number: the first argument over it
  FunctionResult result;
  bool answered = false;
};
thread_local Running* running = nullptr;

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
    memory.code(storage->nbytes() == 0 ? Memory::kNone : device.is_cpu() ? Memory::kShared : Memory::kCuda);
    memory.varint(storage->nbytes());
    memory.varint(run.call.tensor_devices[i]);
    if (storage->nbytes() == 0) {
      continue;
    }
    if (device.is_cpu()) {
      auto* shared = share(storage);
      memory.string("/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(shared->file));
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
  for (const auto& device : run.devices) {
    if (!device.is_cpu()) synchronize(device);
  }
  return w;
}

void read_answer(Running& run, Reader& r) {
  auto& answer = run.result.answer;
  auto version = r.u8();
  if (version != kFunctionVersion) {
    r.fail("the worker speaks version " + std::to_string(version) + ", the node " + std::to_string(kFunctionVersion) +
           ": install the same version of remora on both");
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
    auto on_cpu = run.devices[device].is_cpu();
    auto by_node = run.call.callee == Callee::kNode;
    at::Tensor memory;
    if (kind == Memory::kNone && bytes == 0) {
      memory = at::empty({0}, options);
    } else if (kind == Memory::kFile && by_node && bytes > 0) {
      std::string path(r.string());
      auto offset = r.bounded(kMaxStorageBytes, "an offset");
      files[i] = FileBytes{std::move(path), offset, bytes, r.u8() != 0};
    } else if (kind == Memory::kShared && on_cpu && !by_node && bytes > 0) {
      c10::Storage storage(c10::Storage::use_byte_size_t(), static_cast<int64_t>(bytes),
                           open_shared(r.string(), bytes), c10::GetAllocator(c10::kCPU), true);
      memory = at::empty({0}, options).set_(storage, 0, {static_cast<int64_t>(bytes)}, {1});
    } else if (kind == Memory::kCuda && !on_cpu && !by_node && bytes > 0) {
      memory = read_cuda(r, run.devices[device], bytes);
    } else {
      r.fail("a result's memory is of kind " + std::to_string(static_cast<int>(kind)) + ", which device " +
             run.devices[device].str() + " cannot take");
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
    r.fail("there is more than an answer");
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
    throw std::runtime_error(error[0] != 0 ? error : "it did not run, and nothing says why");
  }
  TORCH_CHECK(run.answered, "there was no answer");
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

// ---------------------------------------------------------------- the program's side

namespace {

std::mutex runs_mutex;
std::map<int64_t, std::map<int64_t, int64_t>> runs;  // by machine and request: how long it may take

const at::Tensor& tensor_at(int64_t address) { return *reinterpret_cast<at::Tensor*>(address); }

void forget_run(int64_t machine, int64_t request) {
  std::lock_guard<std::mutex> guard(runs_mutex);
  runs[machine].erase(request);
}

}  // namespace

int64_t longest_run(int64_t machine) {
  std::lock_guard<std::mutex> guard(runs_mutex);
  int64_t longest = 0;
  for (const auto& [request, millis] : runs[machine]) longest = std::max(longest, millis);
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
    runs[machine.handle][request] = timeout_millis;
  }
  try {
    Machine::Lock lock(machine);
    machine.begin_record();
    NamedTensors named;
    auto& open = machine.open;
    open.code(callee == Callee::kWorker ? Record::kRun : Record::kCallNode);
    open.varint(request);
    open.varint(device);
    open.varint(timeout_millis);
    open.string(name);
    open.varint(bytes);
    open.raw(payload, bytes);
    open.varint(count);
    for (size_t i = 0; i < count; i++) machine.write_tensor(tensor_at(tensors[i]), named);
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
  return machine.await_outputs(request);
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
  if (r.u8() != kFunctionVersion) r.fail("the node speaks another version");
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
    if (source != Source::kNew || number >= storages.size()) r.fail("a tensor has no storage");
    auto storage = storages[number].storage();
    auto meta = read_tensor(r, storage.nbytes());
    auto t = at::detail::make_tensor<c10::TensorImpl>(std::move(storage),
                                                      c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                                      c10::scalarTypeToTypeMeta(meta.dtype));
    t.unsafeGetTensorImpl()->set_sizes_and_strides(meta.sizes, meta.strides, meta.offset);
    t._set_conj(meta.conj);
    t._set_neg(meta.neg);
    answer.tensors.push_back(std::move(t));
  }
  return answer;
}

}  // namespace remora
