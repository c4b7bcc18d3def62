// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Lets several sessions compute at once, then feeds the native core's decoders with damaged copies of what it has written
// itself: batches, reports, snapshot files, answers of Python workers. Built with sanitizers, which end it at the first
// mistake; it prints what it did.
//
//   fuzz_decoders [INPUTS [SEED [DEVICES LIBRARY]]]
//
// INPUTS is for each decoder, by default 20000; SEED by default from the clock. The node's side runs on the CPU, or on
// DEVICES (names with commas between them), which LIBRARY has.
#include <ATen/ATen.h>
#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "api/remora.h"

namespace {

using Bytes = std::vector<uint8_t>;

std::mt19937_64 random_numbers;

size_t below(size_t bound) { return bound == 0 ? 0 : random_numbers() % bound; }

void require(bool condition, const std::string& what) {
  if (!condition) {
    throw std::runtime_error(what + ": " + remora_last_error());
  }
}

// ---------------------------------------------------------------- what damage is done

void put_varint(Bytes& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) {
    out.push_back(static_cast<uint8_t>(value | 0x80));
  }
  out.push_back(static_cast<uint8_t>(value));
}

// A number as hostile senders like them: small, near a power of two, or the largest there are.
uint64_t hostile_number() {
  switch (below(4)) {
    case 0: return below(256);
    case 1: return (uint64_t{1} << below(64)) - 1 + below(3);
    case 2: return UINT64_MAX - below(16);
    default: return random_numbers();
  }
}

Bytes damaged(const std::vector<Bytes>& corpus) {
  Bytes bytes = corpus[below(corpus.size())];
  for (size_t changes = 1 + below(4); changes > 0; --changes) {
    size_t at = below(bytes.size());
    switch (below(7)) {
      case 0:  // flipped bits
        for (size_t flips = 1 + below(4); flips > 0 && !bytes.empty(); --flips) {
          bytes[below(bytes.size())] ^= static_cast<uint8_t>(1u << below(8));
        }
        break;
      case 1:  // cut short
        bytes.resize(at);
        break;
      case 2: {  // a length, or any number, inflated
        Bytes number;
        put_varint(number, hostile_number());
        if (!bytes.empty()) {
          bytes.erase(bytes.begin() + static_cast<ptrdiff_t>(at));
        }
        bytes.insert(bytes.begin() + static_cast<ptrdiff_t>(at), number.begin(), number.end());
        break;
      }
      case 3: {  // the head of one, the tail of another
        const Bytes& other = corpus[below(corpus.size())];
        size_t from = below(other.size());
        bytes.resize(at);
        bytes.insert(bytes.end(), other.begin() + static_cast<ptrdiff_t>(from), other.end());
        break;
      }
      case 4: {  // a piece twice
        size_t length = below(std::min<size_t>(64, bytes.size() - at) + 1);
        Bytes piece(bytes.begin() + static_cast<ptrdiff_t>(at), bytes.begin() + static_cast<ptrdiff_t>(at + length));
        bytes.insert(bytes.begin() + static_cast<ptrdiff_t>(at), piece.begin(), piece.end());
        break;
      }
      case 5: {  // a piece missing
        size_t length = below(std::min<size_t>(64, bytes.size() - at) + 1);
        bytes.erase(bytes.begin() + static_cast<ptrdiff_t>(at), bytes.begin() + static_cast<ptrdiff_t>(at + length));
        break;
      }
      default:  // noise
        if (!bytes.empty()) {
          bytes[at] = static_cast<uint8_t>(random_numbers());
        }
    }
  }
  return bytes;
}

// ---------------------------------------------------------------- the corpus, recorded

struct Corpus {
  std::vector<Bytes> batches;
  std::vector<Bytes> reports;
  std::vector<Bytes> answers;
};

std::string node_devices = "cpu";

int device_count() { return 1 + static_cast<int>(std::count(node_devices.begin(), node_devices.end(), ',')); }

int64_t executor() {
  int64_t handle = remora_executor_create(node_devices.c_str(), "aten::from_file,c10d::*");
  require(handle > 0, "no executor");
  return handle;
}

// The node's side of one machine: executes what it records, and keeps a copy of all that passes.
class Node {
 public:
  Node(int64_t machine, Corpus& corpus) : machine_(machine), corpus_(corpus), executor_(executor()) {
    thread_ = std::thread([this] { run(); });
  }

  ~Node() {
    thread_.join();
    remora_executor_destroy(executor_);
  }

  int64_t handle() const { return executor_; }

 private:
  void run() {
    while (true) {
      int64_t batch = remora_session_take(machine_, 100'000);
      if (batch < 0) {
        return;
      }
      if (batch == 0) {
        continue;
      }
      const auto* data = reinterpret_cast<const uint8_t*>(remora_batch_data(batch));
      int64_t size = remora_batch_bytes(batch);
      corpus_.batches.emplace_back(data, data + size);
      int64_t result = remora_executor_execute(executor_, data, size);
      if (result < 0) {
        std::fprintf(stderr, "a sound batch was refused: %s\n", remora_last_error());
        std::abort();
      }
      for (int64_t i = 0; i < remora_result_value_count(result); ++i) {
        remora_session_value(machine_, remora_result_value_request(result, i), 0,
                             reinterpret_cast<const uint8_t*>(remora_result_value(result, i)),
                             remora_result_value_bytes(result, i));
      }
      const auto* report = reinterpret_cast<const uint8_t*>(remora_result_report(result));
      int64_t report_size = remora_result_report_bytes(result);
      corpus_.reports.emplace_back(report, report + report_size);
      remora_session_executed(machine_, remora_batch_sequence(batch), report, report_size);
      remora_result_release(result);
    }
  }

  int64_t machine_;
  Corpus& corpus_;
  int64_t executor_;
  std::thread thread_;
};

int64_t open_machine() {
  int64_t machine = remora_machine_open("fuzz", device_count(), 64 * 1024);
  require(machine > 0, "no machine");
  return machine;
}

at::Device device_of(int64_t machine, int number = 0) {
  return at::Device(at::kPrivateUse1, static_cast<at::DeviceIndex>(remora_machine_slot(machine, number)));
}

// Work with uploads, copies between devices, writes into views, storages that grow, and values that the program reads.
std::vector<at::Tensor> work(at::Device first, at::Device second, int rounds) {
  std::vector<at::Tensor> seen;
  at::Tensor x = at::arange(600, at::kFloat).reshape({20, 30}).div(600).to(first);
  at::Tensor weight = at::arange(900, at::kFloat).reshape({30, 30}).sub(450).div(5000).to(first);
  for (int i = 0; i < rounds; ++i) {
    at::Tensor y = at::mm(x, weight).tanh();
    at::Tensor there = y.to(second).mul(2).add_(1);
    x = there.to(first).softmax(1).add(at::full({20, 30}, i, at::kFloat).to(first), 0.125);
    x.select(0, i % 20).fill_(0.5);
    weight.add_(y.t().mm(x), -0.001);
    at::Tensor grows = at::zeros({3}, at::TensorOptions(first));
    grows.resize_({100 + i}).fill_(1);
    seen.push_back(grows.cpu());
    seen.push_back(x.gt(0.3).nonzero().cpu());
    if (i % 3 == 0) seen.push_back(y.sum().cpu());
  }
  seen.push_back(weight.cpu());
  return seen;
}

// Several programs' sessions at once, each with threads of its own for the program and for the node.
void compute_at_once(int sessions, int rounds) {
  auto start = std::chrono::steady_clock::now();
  const auto expected = work(at::kCPU, at::kCPU, rounds);
  std::vector<std::thread> programs;
  std::atomic<int> wrong{0};
  for (int i = 0; i < sessions; ++i) {
    programs.emplace_back([&] {
      Corpus corpus;
      int64_t machine = open_machine();
      {
        Node node(machine, corpus);
        {
          auto got = work(device_of(machine), device_of(machine, device_count() - 1), rounds);
          bool same = got.size() == expected.size();
          for (size_t k = 0; same && k < got.size(); ++k) same = got[k].equal(expected[k]);
          if (!same) wrong++;
        }
        remora_machine_synchronize(machine);
        remora_machine_close(machine);
      }
    });
  }
  for (auto& each : programs) each.join();
  auto took = std::chrono::steady_clock::now() - start;
  std::printf("%d sessions at once, %d rounds of work each, %d of them with wrong values, %5.1f s\n", sessions, rounds,
              wrong.load(), std::chrono::duration<double>(took).count());
  std::fflush(stdout);
  require(wrong == 0, "values differ from the CPU's");
}

// An operator of the host alone is refused on an accelerator, and the node computes on.
void refuse_operators_of_the_host() {
  Corpus corpus;
  int64_t machine = open_machine();
  Node node(machine, corpus);
  std::string refusal;
  double sum = 0;
  {
    at::Tensor x = at::ones({64}, at::kFloat).to(device_of(machine));
    try {
      at::choose_qparams_optimized(x, 64, 200, 0.16, 8);
    } catch (const std::exception& e) {
      refusal = e.what();
    }
    sum = x.sum().cpu().item<double>();
  }
  remora_machine_close(machine);
  std::printf("choose_qparams_optimized: %s\n", refusal.substr(0, refusal.find('\n')).c_str());
  require(refusal.find("host's memory only") != std::string::npos && sum == 64, "not refused, or the node is broken");
}

Corpus record(const std::string& snapshot) {
  Corpus corpus;
  int64_t machine = open_machine();
  {
    Node node(machine, corpus);
    at::Device device = device_of(machine);
    {
      at::Tensor a = at::arange(12, at::kFloat).reshape({3, 4}).to(device);
      at::Tensor b = a.mul(2.5).add(a, 1).sin().transpose(0, 1).contiguous();
      at::Tensor c = at::mm(a, b).relu().sum(0, true);
      a.add_(c.sum());
      at::Tensor index = at::arange(3, at::kLong).to(device).remainder(2);
      at::Tensor d = a.index_select(0, index).softmax(1);
      at::Tensor e = at::cat({a, d}, 0).to(at::kDouble);
      at::Tensor f = at::empty({2, 3, 8, 8}, at::TensorOptions(device)).normal_();
      at::Tensor g = at::conv2d(f, at::ones({4, 3, 3, 3}, at::kFloat).to(device));
      std::get<0>(e.max(1));
      g.cpu();
      e.cpu();
      a.gt(2).nonzero().cpu();
      for (int i = 0; i < 6; ++i) {  // repeated calls, exactly and with changes
        a = at::relu(a.mul(0.5)).add(b.sum(), 2);
        if (i == 3) a = a.mul(0.25).add_(e.sum().to(at::kFloat));
      }
      a.cpu();
      require(remora_machine_synchronize(machine) == 0, "not in step");
      int64_t memory[5];
      require(remora_machine_memory(machine, 0, memory) == 0, "no memory figures");
      int64_t summary[4];
      require(remora_executor_save(node.handle(), 1, snapshot.c_str(), summary) == 0, "not saved");
    }
    require(remora_machine_synchronize(machine) == 0, "not in step");
    remora_machine_close(machine);
  }
  // A function that is given a new tensor of four floats, and its worker's answer: the first two of them, and a new
  // tensor without bytes. node_call.h describes both.
  const Bytes run = {0xB7, 3,   17,  1,   0,   0x88, 0x27, 1, 'f', 7, 'p', 'a',
                     'y',  'l', 'o', 'a', 'd', 1,    0xA0, 1, 6,   1, 4,   2};
  corpus.batches.push_back(run);
  Bytes of_the_node = run;
  of_the_node[2] = 18;
  corpus.batches.insert(corpus.batches.end() - 1, of_the_node);
  corpus.answers.push_back({2, 6, 'r', 'e', 's', 'u', 'l', 't', 0,   1,   0, 0, 0, 2,
                            0, 0, 7,   'f', 'l', 'o', 'a', 't', '3', '2', 0, 1, 2, 2,
                            0, 1, 0,   5,   'i', 'n', 't', '6', '4', 0,   1, 0, 2, 0});
  return corpus;
}

// ---------------------------------------------------------------- the decoders

std::vector<Bytes> answers_to_give;
bool answer_taken;

int32_t answer_run(int64_t, const uint8_t*, int64_t, int64_t, char*, int32_t) {
  Bytes answer = damaged(answers_to_give);
  answer_taken = remora_run_answer(answer.data(), static_cast<int64_t>(answer.size())) == 0;
  return 0;
}

// The node's own answers may name files: bytes of one that is there, read and mapped.
int32_t answer_call(int64_t, const uint8_t*, int64_t, int64_t, char*, int32_t) {
  static const std::vector<Bytes> sound = [] {
    const std::string file = "/proc/self/exe";
    std::vector<Bytes> answers;
    for (Bytes size : {Bytes{8}, Bytes{0x80, 0x80, 0x04}}) {
      Bytes answer = {2, 1, 'p', 0, 1, 3};
      answer.insert(answer.end(), size.begin(), size.end());
      answer.insert(answer.end(), {0, static_cast<uint8_t>(file.size())});
      answer.insert(answer.end(), file.begin(), file.end());
      answer.insert(answer.end(), {0, 1, 1, 1, 0, 7, 'f', 'l', 'o', 'a', 't', '3', '2', 0, 1, 2, 2, 0});
      answers.push_back(answer);
    }
    return answers;
  }();
  Bytes answer = damaged(sound);
  answer_taken = remora_run_answer(answer.data(), static_cast<int64_t>(answer.size())) == 0;
  return 0;
}

bool execute(int64_t handle, const Bytes& batch) {
  int64_t result = remora_executor_execute(handle, batch.data(), static_cast<int64_t>(batch.size()));
  if (result < 0) {
    return false;
  }
  remora_result_release(result);
  return true;
}

Bytes contents(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return Bytes(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
}

uint32_t checksum(const Bytes& bytes, size_t size) {  // CRC-32C
  static const auto table = [] {
    std::array<uint32_t, 256> entries{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) {
        value = (value >> 1) ^ (value & 1 ? 0x82F63B78u : 0);
      }
      entries[i] = value;
    }
    return entries;
  }();
  uint32_t value = UINT32_MAX;
  for (size_t i = 0; i < size; ++i) {
    value = table[(value ^ bytes[i]) & 0xFF] ^ (value >> 8);
  }
  return ~value;
}

// A snapshot file of one chunk with these contents and right checksums, so that the contents are looked at.
Bytes forged(const Bytes& contents, const Bytes& sound) {
  Bytes file(sound.begin(), sound.begin() + 12);  // the magic and the version
  auto put = [&file](uint32_t value) {
    for (int shift = 0; shift < 32; shift += 8) {
      file.push_back(static_cast<uint8_t>(value >> shift));
    }
  };
  put(checksum(file, file.size()));
  put(static_cast<uint32_t>(contents.size()));
  put(checksum(contents, contents.size()));
  file.insert(file.end(), contents.begin(), contents.end());
  uint32_t whole = checksum(file, file.size());
  put(0);
  put(whole);
  return file;
}

// Feeds one decoder; `accepts` says whether the input was taken for sound.
void feed(const char* decoder, int inputs, const std::function<bool(int)>& accepts) {
  auto start = std::chrono::steady_clock::now();
  int accepted = 0;
  for (int i = 0; i < inputs; ++i) {
    accepted += accepts(i);
  }
  auto took = std::chrono::steady_clock::now() - start;
  std::printf("%-16s %6d inputs, %6d of them sound enough to be taken, %5.1f s\n", decoder, inputs, accepted,
              std::chrono::duration<double>(took).count());
  std::fflush(stdout);
}

int run(int inputs, uint64_t seed) {
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  random_numbers.seed(seed);
  remora_set_compute_threads(1);
  require(remora_install_sessions(nullptr, nullptr, nullptr) == 0, "not installed");
  compute_at_once(3, 60);
  if (node_devices != "cpu") refuse_operators_of_the_host();
  std::string snapshot = "fuzz-" + std::to_string(getpid()) + ".session";
  Corpus corpus = record(snapshot);
  answers_to_give = corpus.answers;
  std::vector<Bytes> snapshots = {contents(snapshot)};
  std::vector<Bytes> sessions = {Bytes(snapshots[0].begin() + 24, snapshots[0].end() - 8)};
  size_t recorded = 0;
  for (const Bytes& batch : corpus.batches) {
    recorded += batch.size();
  }
  std::printf("recorded %zu batches of %zu bytes, %zu reports, a snapshot of %zu bytes\n", corpus.batches.size(),
              recorded, corpus.reports.size(), snapshots[0].size());

  // A few sound batches before each damaged one, so that it finds storages and operators.
  feed("batches", inputs, [&](int) {
    int64_t handle = executor();
    for (size_t i = 0, sound = below(corpus.batches.size()); i < sound; ++i) {
      execute(handle, corpus.batches[i]);
    }
    bool taken = execute(handle, damaged(corpus.batches));
    remora_executor_destroy(handle);
    return taken;
  });

  remora_set_run_callback(answer_run);
  remora_set_node_callback(answer_call);
  feed("worker answers", inputs, [&](int) {
    int64_t handle = executor();
    execute(handle, corpus.batches.back());
    remora_executor_destroy(handle);
    return answer_taken;
  });

  feed("node answers", inputs, [&](int) {
    int64_t handle = executor();
    execute(handle, corpus.batches.end()[-2]);
    remora_executor_destroy(handle);
    return answer_taken;
  });

  int64_t machine = open_machine();
  feed("reports", inputs, [&](int i) {
    Bytes report = damaged(corpus.reports);
    if (i % 500 == 499) {  // a machine that has failed refuses all that follows
      remora_machine_close(machine);
      machine = open_machine();
    }
    return remora_session_executed(machine, i + 1, report.data(), static_cast<int64_t>(report.size())) == 0;
  });
  remora_machine_close(machine);

  feed("snapshots", inputs / 10, [&](int i) {
    Bytes file = i % 4 == 0 ? damaged(snapshots) : forged(damaged(sessions), snapshots[0]);
    {
      std::ofstream out(snapshot, std::ios::binary | std::ios::trunc);
      out.write(reinterpret_cast<const char*>(file.data()), static_cast<std::streamsize>(file.size()));
    }
    int64_t handle = executor();
    int64_t summary[4];
    bool taken = remora_executor_load(handle, snapshot.c_str(), summary) == 0;
    remora_executor_destroy(handle);
    return taken;
  });
  std::remove(snapshot.c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    int inputs = argc > 1 ? std::atoi(argv[1]) : 20'000;
    uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10)
                             : static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch().count());
    if (argc > 4) {
      node_devices = argv[3];
      if (dlopen(argv[4], RTLD_NOW | RTLD_GLOBAL) == nullptr) throw std::runtime_error(dlerror());
    }
    return run(inputs, seed);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "fuzz_decoders: %s\n", e.what());
    return 1;
  }
}
