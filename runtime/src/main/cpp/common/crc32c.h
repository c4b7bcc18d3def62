// SPDX-License-Identifier: AGPL-3.0-or-later
//
// CRC-32C (Castagnoli), the checksum of java.util.zip.CRC32C. Uses SSE 4.2 if the processor has it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace remora {

constexpr std::array<uint32_t, 256> crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ ((crc & 1) ? 0x82F63B78U : 0);
    table[i] = crc;
  }
  return table;
}

inline uint32_t crc_portable(uint32_t crc, const uint8_t* p, size_t bytes) {
  static constexpr auto table = crc_table();
  for (; bytes > 0; bytes--) crc = (crc >> 8) ^ table[(crc ^ *p++) & 0xFF];
  return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) inline uint32_t crc_sse42(uint32_t crc, const uint8_t* p, size_t bytes) {
  uint64_t wide = crc;
  for (; bytes >= 8; bytes -= 8, p += 8) {
    uint64_t word;
    std::memcpy(&word, p, sizeof word);
    wide = _mm_crc32_u64(wide, word);
  }
  crc = static_cast<uint32_t>(wide);
  for (; bytes > 0; bytes--) crc = _mm_crc32_u8(crc, *p++);
  return crc;
}
#endif

// The checksum of the bytes added so far.
class Crc32c {
 public:
  void add(const void* data, size_t bytes) {
    auto* p = static_cast<const uint8_t*>(data);
#if defined(__x86_64__)
    static const bool sse42 = __builtin_cpu_supports("sse4.2");
    state_ = sse42 ? crc_sse42(state_, p, bytes) : crc_portable(state_, p, bytes);
#else
    state_ = crc_portable(state_, p, bytes);
#endif
  }
  uint32_t value() const { return ~state_; }
  static uint32_t of(const void* data, size_t bytes) {
    Crc32c sum;
    sum.add(data, bytes);
    return sum.value();
  }

 private:
  uint32_t state_ = 0xFFFFFFFFU;
};

}  // namespace remora
