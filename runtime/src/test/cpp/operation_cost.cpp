// SPDX-License-Identifier: AGPL-3.0-or-later
//
// What a small operation costs on each side, apart from Java, Python and the network: records operations without a node
// and executes the recorded batches, with the same operations on local tensors beside it. Prints nanoseconds of this
// thread's CPU time per operation, the least of several rounds, and the wire bytes per operation when a step is recorded
// first and when it is recorded again. benchmarks/operation builds it.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "api/remora.h"

namespace {

constexpr int kOperations = 20'000;
constexpr int kRounds = 25;

std::vector<std::string> batches;
bool keeping = true;

int32_t submit(int64_t machine, int64_t batch, char*, int32_t) {
  if (keeping) {
    batches.emplace_back(reinterpret_cast<const char*>(remora_batch_data(batch)), remora_batch_bytes(batch));
  }
  remora_machine_executed(machine, remora_batch_sequence(batch));
  remora_batch_release(batch);
  return 0;
}

int32_t no_answer(int64_t, int64_t, char* error, int32_t capacity) {
  std::snprintf(error, capacity, "there is no node that could answer");
  return -1;
}

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

double least_nanos(const std::function<void(int round)>& operations) {
  double least = 1e9;
  for (int i = 0; i < kRounds; i++) {
    double start = cpu_seconds();
    operations(i);
    least = std::min(least, (cpu_seconds() - start) / kOperations * 1e9);
  }
  return least;
}

struct Work {
  const char* name;
  int operations;  // in one step
  std::function<at::Tensor(const at::Tensor& z, const at::Tensor& y, const at::Tensor& b)> step;
};

void execute(int64_t executor, const std::vector<std::string>& all) {
  for (const auto& batch : all) {
    auto result = remora_executor_execute(executor, reinterpret_cast<const uint8_t*>(batch.data()),
                                          static_cast<int64_t>(batch.size()));
    if (result < 0) {
      std::fprintf(stderr, "%s\n", remora_last_error());
      std::exit(1);
    }
    remora_result_release(result);
  }
}

double bytes_of(const std::vector<std::string>& all) {
  double bytes = 0;
  for (const auto& batch : all) bytes += static_cast<double>(batch.size());
  return bytes;
}

}  // namespace

int main() {
  remora_set_compute_threads(1);
  if (remora_install(submit, no_answer, nullptr) != 0) {
    std::fprintf(stderr, "%s\n", remora_last_error());
    return 1;
  }
  at::NoGradGuard no_grad;
  std::printf("%-32s %8s %8s %8s %8s %8s\n", "ns per operation", "local", "record", "execute", "bytes", "again");
  const Work all[] = {
      {"chained adds 8x8", 1, [](auto& z, auto& y, auto&) { return at::add(z, y); }},
      {"add_ 8x8", 1, [](auto& z, auto& y, auto&) { return at::Tensor(z).add_(y); }},
      {"addmm, relu, mul, add 8x8", 4,
       [](auto& z, auto& y, auto& b) { return at::add(at::relu(at::addmm(b, z, y)).mul(0.5), y); }},
  };
  for (const auto& work : all) {
    auto machine = remora_machine_open("cost", 1, 1 << 20);
    at::Device device(c10::DeviceType::PrivateUse1, static_cast<int8_t>(remora_machine_slot(machine, 0)));
    auto program = [&](at::Device where, int operations, int64_t size) {
      auto options = at::TensorOptions().device(where);
      auto y = at::full({size, size}, 1e-6, options);
      auto b = at::ones({size}, options);
      auto z = at::ones({size, size}, options);
      if (keeping) remora_machine_flush(machine);
      for (int i = 0; i < operations; i += work.operations) z = work.step(z, y, b);
    };
    auto recorded_batches = [&](int operations, int64_t size) {
      batches.clear();
      program(device, operations, size);
      remora_machine_flush(machine);
      return batches;
    };
    keeping = true;
    auto start = recorded_batches(work.operations, 4);  // defines the operators
    auto made = recorded_batches(0, 8);                 // what is made before the first step
    auto first = recorded_batches(work.operations, 8);
    std::vector<std::vector<std::string>> rounds;
    for (int i = 0; i <= kRounds; i++) rounds.push_back(recorded_batches(kOperations, 8));
    keeping = false;

    auto executor = remora_executor_create("cpu", "");
    for (const auto* each : {&start, &made, &first}) execute(executor, *each);
    auto local = least_nanos([&](int) { program(at::kCPU, kOperations, 8); });
    auto executed = least_nanos([&](int round) { execute(executor, rounds[round]); });
    auto recorded = least_nanos([&](int) {
      program(device, kOperations, 8);
      remora_machine_flush(machine);
    });
    std::printf("%-32s %8.0f %8.0f %8.0f %8.1f %8.2f\n", work.name, local, recorded, executed,
                static_cast<double>(first.back().size()) / work.operations, bytes_of(rounds.back()) / kOperations);
    remora_executor_destroy(executor);
    remora_machine_close(machine);
  }
}
