// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/device/generator.h"

#include <ATen/ATen.h>

#include <map>
#include <mutex>

#include "client/machine/machine.h"
#include "client/machine/slots.h"

namespace remora {

namespace {

// A generator whose state lives on the node. Seeding is a record in the operation stream, so that the random numbers do
// not depend on when batches are sent.
struct RemoteGenerator final : c10::GeneratorImpl {
  RemoteGenerator(Machine& machine, int slot, int64_t id)
      : c10::GeneratorImpl(remora_device(slot), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)),
        machine(machine),
        id(id),
        seed_(id < kSlots ? machine.first_seed : c10::default_rng_seed_val) {}
  ~RemoteGenerator() override {
    if (id >= kSlots) {
      machine.free_handle(Record::kFreeGenerator, id);
    }
  }
  int device_number() const { return machine.device_of_slot(device_.index()); }

  // torch::manual_seed() seeds every device. A device whose machine is closed or has failed must not keep the others
  // from being seeded. The next operation that draws from that device reports the machine's state.
  void set_current_seed(uint64_t seed) override {
    seed_ = seed;
    Machine::Lock lock(machine);
    if (id < kSlots && !machine.open_for_work()) {
      return;
    }
    machine.begin_record();
    machine.open.write_seed(id, device_number(), seed);
    machine.end_record(false);
  }
  uint64_t current_seed() const override { return seed_; }
  uint64_t seed() override {
    auto random = c10::detail::getNonDeterministicRandom();
    set_current_seed(random);
    return random;
  }
  // The state includes the offset. Python reads an offset when it pickles a generator, and sets it again.
  void set_offset(uint64_t offset) override {
    TORCH_CHECK(offset == 0, "a remora generator has no offset; set its state instead");
  }
  uint64_t get_offset() const override { return 0; }
  void set_state(const c10::TensorImpl& state) override {
    at::detail::check_rng_state(state);
    auto bytes = static_cast<const uint8_t*>(state.data());
    Machine::Lock lock(machine);
    machine.begin_record();
    machine.open.code(Record::kWriteRandomState);
    machine.open.varint(id);
    machine.open.varint(device_number());
    machine.open.varint(state.numel());
    machine.open.raw(bytes, state.numel());
    machine.end_record(false);
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    auto bytes = machine.question(Question::kRandomState,
                                  {static_cast<uint64_t>(id), static_cast<uint64_t>(device_number())});
    auto state = at::empty({static_cast<int64_t>(bytes.size())}, at::TensorOptions().dtype(at::kByte));
    std::memcpy(state.mutable_data_ptr(), bytes.data(), bytes.size());
    return state.getIntrusivePtr();
  }
  c10::GeneratorImpl* clone_impl() const override {
    auto* copy = new RemoteGenerator(machine, device_.index(), machine.next_generator());
    copy->seed_ = seed_;
    copy->set_state(*get_state());
    return copy;
  }

  Machine& machine;
  const int64_t id;

 private:
  uint64_t seed_;
};

}  // namespace

const at::Generator& default_generator(int slot) {
  static std::mutex mutex;
  static auto* generators = new std::map<std::pair<int64_t, int>, at::Generator>();
  auto& machine = last_machine_of(slot);
  std::lock_guard<std::mutex> guard(mutex);
  auto& generator = (*generators)[{machine.handle, slot}];
  if (!generator.defined()) {
    generator = at::make_generator<RemoteGenerator>(machine, slot, machine.device_of_slot(slot));
  }
  return generator;
}

at::Generator new_generator(int slot) {
  auto& machine = machine_of(remora_device(slot));
  return at::make_generator<RemoteGenerator>(machine, slot, machine.next_generator());
}

int64_t generator_id(const at::Generator& generator) {
  return static_cast<RemoteGenerator*>(generator.unsafeGetGeneratorImpl())->id;
}

}  // namespace remora
