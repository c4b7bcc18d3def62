// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once

#include <c10/core/Stream.h>

#include <functional>

#include "memory.h"

namespace accelerator {

// The device and the streams of the calling thread, as CUDA has them.
c10::DeviceIndex current_device();
void set_current_device(c10::DeviceIndex device);
c10::Stream current_stream(c10::DeviceIndex device);

// Runs work on the stream's thread, after everything that was enqueued on the stream before and after a random delay.
void enqueue(const c10::Stream& stream, std::function<void()> work);

// Wait for all work of a stream, or of all streams of a device.
void synchronize(const c10::Stream& stream);
void synchronize_device(c10::DeviceIndex device);

}  // namespace accelerator
