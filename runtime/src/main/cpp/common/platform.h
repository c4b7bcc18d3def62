// SPDX-License-Identifier: AGPL-3.0-or-later
//
// What Linux and macOS do differently. The rest of the native core uses POSIX only, apart from hints that are left out
// where a system does not have them (huge_pages.h, freed_memory.h).
#pragma once

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/sockios.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#else
#include <pthread.h>
#endif

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string>

namespace remora {

// ---------------------------------------------------------------- waking a thread that waits in poll(2)

// An event with a descriptor that has input from nudge() until clear(). Neither of them waits. Thread-safe.
class WakeEvent {
 public:
#ifdef __linux__
  WakeEvent() : input_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)), output_(input_) {}
  ~WakeEvent() {
    if (valid()) ::close(input_);
  }
#else
  WakeEvent() {
    int ends[2];
    if (::pipe(ends) != 0) return;
    for (int end : ends) {
      ::fcntl(end, F_SETFL, O_NONBLOCK);
      ::fcntl(end, F_SETFD, FD_CLOEXEC);
    }
    input_ = ends[0];
    output_ = ends[1];
  }
  ~WakeEvent() {
    if (!valid()) return;
    ::close(input_);
    ::close(output_);
  }
#endif
  WakeEvent(const WakeEvent&) = delete;
  WakeEvent& operator=(const WakeEvent&) = delete;

  bool valid() const { return input_ >= 0; }  // false if the process has no descriptors left
  int descriptor() const { return input_; }

  void nudge() {
    uint64_t one = 1;
    [[maybe_unused]] auto written = ::write(output_, &one, sizeof one);
  }
  void clear() {
#ifdef __linux__
    uint64_t count;
    [[maybe_unused]] auto got = ::read(input_, &count, sizeof count);
#else
    char bytes[512];
    while (::read(input_, bytes, sizeof bytes) == static_cast<ssize_t>(sizeof bytes)) {
    }
#endif
  }

 private:
  int input_ = -1, output_ = -1;
};

// ---------------------------------------------------------------- sockets

// Flags for send(2): do not wait, and raise no signal if the peer has closed the connection.
#ifdef __linux__
constexpr int kSendFlags = MSG_DONTWAIT | MSG_NOSIGNAL;
#else
constexpr int kSendFlags = MSG_DONTWAIT;  // and ignore_broken_pipe()
#endif

// To be called once for each socket that kSendFlags is used with.
inline void ignore_broken_pipe([[maybe_unused]] int socket) {
#ifndef __linux__
  int one = 1;
  ::setsockopt(socket, SOL_SOCKET, SO_NOSIGPIPE, &one, sizeof one);
#endif
}

// A stream socket of an address family, which child processes do not inherit. Negative, with errno, if there is none.
inline int stream_socket(int family) {
#ifdef __linux__
  return ::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
#else
  int socket = ::socket(family, SOCK_STREAM, 0);
  if (socket >= 0) ::fcntl(socket, F_SETFD, FD_CLOEXEC);
  return socket;
#endif
}

// The number of bytes that the peer of a TCP socket has not confirmed yet; 0 if the system does not tell.
inline int unconfirmed_bytes(int socket) {
  int bytes = 0;
#ifdef __linux__
  ::ioctl(socket, SIOCOUTQ, &bytes);
#else
  socklen_t size = sizeof bytes;
  ::getsockopt(socket, SOL_SOCKET, SO_NWRITE, &bytes, &size);
#endif
  return bytes;
}

// ---------------------------------------------------------------- memory that processes share

// A file without a name, in memory. Negative, with errno, if there is none.
inline int make_memory_file() {
#ifdef __linux__
  return ::memfd_create("remora", MFD_CLOEXEC | MFD_ALLOW_SEALING);
#else
  errno = ENOTSUP;
  return -1;
#endif
}

// Fixes the size of a memory file for all processes that have it open. False, with errno, if that fails.
inline bool seal_size([[maybe_unused]] int file) {
#ifdef __linux__
  return ::fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0;
#else
  errno = ENOTSUP;
  return false;
#endif
}

// Whether no process can make the file shorter any more.
inline bool cannot_shrink([[maybe_unused]] int file) {
#ifdef __linux__
  auto seals = ::fcntl(file, F_GET_SEALS);
  return seals >= 0 && (seals & F_SEAL_SHRINK) != 0;
#else
  return false;
#endif
}

// The path under which other processes of the same user open a file that this process has open.
inline std::string path_for_others(int file) {
  return "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(file);
}

// ---------------------------------------------------------------- threads

// The system's number of the calling thread.
inline uint64_t thread_number() {
#ifdef __linux__
  return static_cast<uint64_t>(::syscall(SYS_gettid));
#else
  uint64_t number = 0;
  ::pthread_threadid_np(nullptr, &number);
  return number;
#endif
}

// Lets other threads run before the calling one where the processors do not suffice for all.
inline void lower_own_priority() {
#ifdef __linux__
  ::setpriority(PRIO_PROCESS, static_cast<id_t>(thread_number()), 10);
#else
  ::pthread_set_qos_class_self_np(QOS_CLASS_UTILITY, 0);
#endif
}

// ---------------------------------------------------------------- random numbers

// Fills memory of at most 256 bytes with random numbers that nobody can guess. False if the system has none.
inline bool fill_with_random(void* memory, std::size_t bytes) {
#ifdef __linux__
  return ::getrandom(memory, bytes, 0) == static_cast<ssize_t>(bytes);
#else
  return ::getentropy(memory, bytes) == 0;
#endif
}

}  // namespace remora
