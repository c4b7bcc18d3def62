// SPDX-License-Identifier: AGPL-3.0-or-later
#include "common/settings.h"

#include <ATen/Context.h>
#include <c10/core/DefaultDtype.h>
#include <c10/core/ScalarTypeToTypeMeta.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <stdexcept>
#include <string>

#include "common/torch_version.h"

namespace remora {

namespace {

// The flags of at::Context that batches carry, in the order of their bits on the wire.
struct Flag {
  bool (*get)(const at::Context&);
  void (*set)(at::Context&, bool);
};
#define REMORA_FLAG(getter, setter)                                                                      \
  Flag {                                                                                                 \
    [](const at::Context& c) { return bool(c.getter()); }, [](at::Context& c, bool on) { c.setter(on); } \
  }
constexpr Flag kFlags[] = {
    {[](const at::Context& c) { return c.deterministicAlgorithms(); },
     [](at::Context& c, bool on) { c.setDeterministicAlgorithms(on, c.deterministicAlgorithmsWarnOnly()); }},
    {[](const at::Context& c) { return c.deterministicAlgorithmsWarnOnly(); },
     [](at::Context& c, bool on) { c.setDeterministicAlgorithms(c.deterministicAlgorithms(), on); }},
    REMORA_FLAG(deterministicFillUninitializedMemory, setDeterministicFillUninitializedMemory),
    REMORA_FLAG(userEnabledMkldnn, setUserEnabledMkldnn),
    REMORA_FLAG(deterministicMkldnn, setDeterministicMkldnn),
    REMORA_FLAG(userEnabledNNPACK, setUserEnabledNNPACK),
    REMORA_FLAG(allowFP16ReductionCPU, setAllowFP16ReductionCPU),
    REMORA_FLAG(userEnabledCuDNN, setUserEnabledCuDNN),
    REMORA_FLAG(deterministicCuDNN, setDeterministicCuDNN),
    REMORA_FLAG(benchmarkCuDNN, setBenchmarkCuDNN),
};
#undef REMORA_FLAG
constexpr size_t kFlagCount = sizeof kFlags / sizeof kFlags[0];

// After the flags: the precision of float32 products (two bits), and whether cuDNN's convolutions may use TF32.
constexpr uint32_t kPrecisionShift = kFlagCount;
constexpr uint32_t kPrecisionMask = uint32_t{3} << kPrecisionShift;
constexpr uint32_t kConvolutionBit = uint32_t{1} << (kPrecisionShift + 2);
constexpr uint32_t kPrecisionBits = kPrecisionMask | kConvolutionBit;
constexpr uint32_t kAllBits = (uint32_t{1} << (kPrecisionShift + 3)) - 1;
constexpr const char* kPrecisions[] = {"highest", "high", "medium"};

uint32_t precision_bits(const at::Context& context) {
  uint32_t precision = 0;
  bool convolution = false;
#if REMORA_TORCH >= 210
  using at::Float32Backend;
  using at::Float32Op;
  using at::Float32Precision;
  auto onednn = context.float32Precision(Float32Backend::MKLDNN, Float32Op::MATMUL);
  auto cuda = context.float32Precision(Float32Backend::CUDA, Float32Op::MATMUL);
  if (onednn == Float32Precision::BF16) {
    precision = 2;
  } else if (onednn == Float32Precision::TF32 || cuda == Float32Precision::TF32) {
    precision = 1;
  }
  convolution = context.float32Precision(Float32Backend::CUDA, Float32Op::CONV) == Float32Precision::TF32;
#else
  precision = static_cast<uint32_t>(context.float32MatmulPrecision());
  convolution = context.allowTF32CuDNN();
#endif
  return precision << kPrecisionShift | (convolution ? kConvolutionBit : 0);
}

}  // namespace

// The current settings of the process, whoever installed them.
static Settings of_process() {
  const auto& context = at::globalContext();
  Settings settings;
  settings.default_dtype = c10::typeMetaToScalarType(c10::get_default_dtype());
  for (size_t i = 0; i < kFlagCount; i++) {
    settings.flags |= static_cast<uint32_t>(kFlags[i].get(context)) << i;
  }
  return settings;
}

static Settings all_of_process() {
  auto settings = of_process();
  settings.flags |= precision_bits(at::globalContext());
  return settings;
}

void Settings::add_precision(const Settings& before) {
  flags = (flags & ~kPrecisionBits) | (before.flags & kPrecisionBits);
}

void Settings::install() const {
  auto& context = at::globalContext();
  auto now = all_of_process();
  if (now.default_dtype != default_dtype) {
    c10::set_default_dtype(c10::scalarTypeToTypeMeta(default_dtype));
  }
  auto changed = now.flags ^ flags;
  for (size_t i = 0; i < kFlagCount; i++) {
    if (changed >> i & 1) kFlags[i].set(context, flags >> i & 1);
  }
  if (changed & kPrecisionMask) {
    context.setFloat32MatmulPrecision(kPrecisions[(flags & kPrecisionMask) >> kPrecisionShift]);
  }
  if (changed & kConvolutionBit) {
    context.setAllowTF32CuDNN((flags & kConvolutionBit) != 0);
  }
}

void Settings::write(Writer& w) const {
  w.code(default_dtype);
  w.varint(flags);
}

Settings Settings::read(Reader& r) {
  auto dtype = r.dtype();
  try {
    return checked(dtype, r.varint());
  } catch (const std::invalid_argument& e) {
    r.fail(e.what());
  }
}

Settings Settings::checked(c10::ScalarType dtype, uint64_t flags) {
  if (dtype >= c10::ScalarType::NumOptions || !c10::isFloatingType(dtype)) {
    throw std::invalid_argument("the default dtype must be a floating point type");
  }
  if (flags > kAllBits || (flags & kPrecisionMask) == kPrecisionMask) {
    throw std::invalid_argument("unknown settings " + std::to_string(flags));
  }
  return {dtype, static_cast<uint32_t>(flags)};
}

// ---------------------------------------------------------------- leases

namespace {

struct Installed {
  std::mutex mutex;
  std::condition_variable changed;
  uint64_t arrived = 0;   // tickets given out
  uint64_t admitted = 0;  // tickets admitted so far
  int users = 0;
  Settings settings;                 // the settings that all users share
  Settings own;                      // the process's own settings, while `foreign`
  std::atomic<bool> foreign{false};  // a session's settings are installed instead of the process's own
  std::atomic<bool> awaited{false};  // a session waits for other settings

  static Installed& instance() {
    static auto* installed = new Installed();  // outlives the sessions of static destructors
    return *installed;
  }
};

}  // namespace

// Calls `use` with the program's settings and returns true while a session has other settings installed; otherwise
// returns false.
template <class Use>
static bool while_foreign(Use use) {
  auto& installed = Installed::instance();
  if (!installed.foreign.load(std::memory_order_acquire)) {
    return false;
  }
  std::lock_guard<std::mutex> lock(installed.mutex);
  if (!installed.foreign.load(std::memory_order_relaxed)) {
    return false;
  }
  use(installed.own);
  return true;
}

Settings Settings::of_program() {
  Settings settings;
  if (!while_foreign([&](const Settings& own) { settings = own; })) {
    settings = of_process();
  }
  settings.flags &= ~kPrecisionBits;
  return settings;
}

void Settings::add_precision() {
  if (!while_foreign([&](const Settings& own) { add_precision(own); })) {
    flags = (flags & ~kPrecisionBits) | precision_bits(at::globalContext());
  }
}

void SettingsLease::acquire(const Settings& settings) {
  if (held_ && settings == settings_) {
    return;
  }
  release();
  auto& installed = Installed::instance();
  std::unique_lock<std::mutex> lock(installed.mutex);
  auto ticket = installed.arrived++;
  auto admitted = [&] {
    return ticket == installed.admitted && (installed.users == 0 || installed.settings == settings);
  };
  if (!admitted()) {
    installed.awaited.store(true, std::memory_order_relaxed);
    installed.changed.wait(lock, admitted);
  }
  installed.admitted++;
  installed.awaited.store(installed.admitted != installed.arrived, std::memory_order_relaxed);
  installed.changed.notify_all();  // the next session may want the same settings
  if (installed.users == 0) {
    installed.own = all_of_process();
    installed.settings = settings;
    if (settings != installed.own) {
      installed.foreign.store(true, std::memory_order_release);
      try {
        settings.install();
      } catch (...) {  // a CPU without fast half precision refuses one of them
        installed.own.install();
        installed.foreign.store(false, std::memory_order_release);
        throw;
      }
    }
  }
  installed.users++;
  settings_ = settings;
  held_ = true;
}

void SettingsLease::release() {
  if (!held_) {
    return;
  }
  held_ = false;
  auto& installed = Installed::instance();
  std::lock_guard<std::mutex> lock(installed.mutex);
  if (--installed.users == 0 && installed.foreign.load(std::memory_order_relaxed)) {
    // Keeps what the program itself has changed meanwhile.
    auto now = all_of_process();
    auto untouched = ~(now.flags ^ installed.settings.flags);
    if ((untouched & kPrecisionMask) != kPrecisionMask) untouched &= ~kPrecisionMask;  // the two bits are one setting
    Settings back;
    back.default_dtype = now.default_dtype == installed.settings.default_dtype ? installed.own.default_dtype
                                                                               : now.default_dtype;
    back.flags = (installed.own.flags & untouched) | (now.flags & ~untouched);
    back.install();
    installed.foreign.store(false, std::memory_order_release);
  }
  installed.changed.notify_all();
}

void SettingsLease::yield() {
  auto& installed = Installed::instance();
  if (held_ &&
      (installed.foreign.load(std::memory_order_relaxed) || installed.awaited.load(std::memory_order_relaxed) ||
       of_process().key() != (settings_.key() & ~uint64_t{kPrecisionBits}))) {
    release();
  }
}

}  // namespace remora
