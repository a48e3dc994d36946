"""Takes away from a process what decoding does not need, so that a decoder that is taken over can do no harm.

Covered, on Linux, x86-64 and aarch64:
- system calls: a seccomp filter allows some 60 that reading, memory and threads need; all others fail with EPERM:
  no sockets, no programs, no other processes (signals, tracing, their memory), no new executable memory, no writing
  but to what is open already;
- files: Landlock allows reading the one video, if it is a file, and nothing else; files cannot grow (RLIMIT_FSIZE);
- memory, processor time, open files, core dumps: resource limits.
Not covered: a bug in the kernel; what is in the process's own memory; sizes and times of other files, which stat()
tells. Elsewhere than on Linux only the resource limits hold. confine() says what could not be had.
"""

import ctypes
import errno
import os
import platform
import resource
import struct
import sys

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _PR_SET_PDEATHSIG, _PR_SET_NAME = 38, 22, 1, 15

_X86_64 = {
    "read": 0, "write": 1, "close": 3, "fstat": 5, "lseek": 8, "munmap": 11, "brk": 12, "rt_sigaction": 13,
    "rt_sigprocmask": 14, "rt_sigreturn": 15, "pread64": 17, "readv": 19, "writev": 20, "sched_yield": 24,
    "mremap": 25, "madvise": 28, "nanosleep": 35, "getpid": 39, "exit": 60, "getrusage": 98, "times": 100,
    "uname": 63, "sysinfo": 99, "sigaltstack": 131, "gettid": 186, "futex": 202,
    "sched_getaffinity": 204, "set_tid_address": 218, "restart_syscall": 219, "fadvise64": 221,
    "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231, "newfstatat": 262,
    "set_robust_list": 273, "preadv": 295, "getcpu": 309, "getrandom": 318,
    "membarrier": 324, "statx": 332, "rseq": 334, "poll": 7, "stat": 4, "gettimeofday": 96, "time": 201,
    "arch_prctl": 158, "setitimer": 38,
}  # fmt: skip
_X86_64_CHECKED = {"openat": 257, "open": 2, "mmap": 9, "mprotect": 10, "clone": 56, "clone3": 435, "prctl": 157,
                   "tgkill": 234}  # fmt: skip
_AARCH64 = {
    "read": 63, "write": 64, "close": 57, "fstat": 80, "lseek": 62, "munmap": 215, "brk": 214, "rt_sigaction": 134,
    "rt_sigprocmask": 135, "rt_sigreturn": 139, "pread64": 67, "readv": 65, "writev": 66, "sched_yield": 124,
    "mremap": 216, "madvise": 233, "nanosleep": 101, "getpid": 172, "exit": 93, "getrusage": 165, "times": 153,
    "uname": 160, "sysinfo": 179, "sigaltstack": 132, "gettid": 178, "futex": 98,
    "sched_getaffinity": 123, "set_tid_address": 96, "restart_syscall": 128, "fadvise64": 223,
    "clock_gettime": 113, "clock_getres": 114, "clock_nanosleep": 115, "exit_group": 94, "newfstatat": 79,
    "set_robust_list": 99, "preadv": 69, "getcpu": 168, "getrandom": 278,
    "membarrier": 283, "statx": 291, "rseq": 293, "ppoll": 73, "gettimeofday": 169, "setitimer": 103,
}  # fmt: skip
_AARCH64_CHECKED = {"openat": 56, "mmap": 222, "mprotect": 226, "clone": 220, "clone3": 435, "prctl": 167,
                    "tgkill": 131}  # fmt: skip
_MACHINES = {
    "x86_64": (0xC000003E, _X86_64, _X86_64_CHECKED),
    "aarch64": (0xC00000B7, _AARCH64, _AARCH64_CHECKED),
}
"""AUDIT_ARCH of each, the system calls that are allowed whatever their arguments, and those that are looked into."""


def confine(video_fd: int | None, *, memory: int, cpu_seconds: int | None, open_files: int = 64) -> list[str]:
    """Confines this process for good; to be called while it has one thread. memory is in bytes, on top of what it has.

    Without video_fd no file at all may be opened. Without cpu_seconds processor time stays as it was limited before.
    Returns what could not be had, in words, for a log. Raises OSError or ValueError where even limits are refused.
    """
    limit = _address_space() + memory
    for what, value in (
        (resource.RLIMIT_AS, limit),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, open_files),
    ):
        if value is None:
            continue
        _, hard = resource.getrlimit(what)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (value, value))
    if sys.platform != "linux":
        return [f"no system call filter and no file filter on {sys.platform}"]
    missing = []
    if _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return [f"no system call filter and no file filter: no_new_privs is refused ({_error()})"]
    for refused in (_allow_files(video_fd), _filter_system_calls()):
        if refused:
            missing.append(refused)
    return missing


def die_with_parent(signal_number: int) -> None:
    """This process gets the signal when the one that forked it ends. Linux only; elsewhere nothing is done."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)


def _address_space() -> int:
    """Bytes that this process has mapped now; without /proc 512 MiB, about what the decoders' libraries take."""
    if sys.platform != "linux":
        return 512 << 20
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()


def _error() -> str:
    return os.strerror(ctypes.get_errno())


# Landlock (linux/landlock.h)

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_READ_FILE = 1 << 2
_ACCESS_BITS = {1: 13, 2: 14, 3: 15, 4: 15}  # by version; from 5 on 16


def _allow_files(fd: int | None) -> str | None:
    """Only the open file may be read, by its path under /proc, if any; returns why not, where the kernel cannot."""
    version = _LIBC.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return f"no file filter: the kernel has no Landlock ({_error()})"
    rules = struct.pack("Q", (1 << _ACCESS_BITS.get(version, 16)) - 1)
    if version >= 4:
        rules += struct.pack("Q", 0b11)  # TCP: bind, connect
    if version >= 6:
        rules += struct.pack("Q", 0b11)  # abstract sockets, signals
    ruleset = _LIBC.syscall(_LANDLOCK_CREATE, rules, ctypes.c_size_t(len(rules)), ctypes.c_uint32(0))
    if ruleset < 0:
        return f"no file filter: Landlock is refused ({_error()})"
    try:
        if fd is not None:
            rule = struct.pack("=Qi", _READ_FILE, fd)
            if _LIBC.syscall(_LANDLOCK_ADD, ruleset, 1, rule, 0) != 0:
                return f"no file filter: Landlock does not know this file ({_error()})"
        if _LIBC.syscall(_LANDLOCK_RESTRICT, ruleset, 0) != 0:
            return f"no file filter: Landlock is refused ({_error()})"
    finally:
        os.close(ruleset)
    return None


# seccomp (linux/seccomp.h, linux/filter.h). struct seccomp_data: int nr, u32 arch, u64 ip, u64 args[6]

_LOAD, _EQUAL, _ANY_BIT, _AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PROT_EXEC, _CLONE_THREAD = 4, 0x10000


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _filter_system_calls() -> str | None:
    machine = platform.machine()
    if machine not in _MACHINES:
        return f"no system call filter on {machine}"
    code = _filter(*_MACHINES[machine], os.getpid())
    program = _Program(len(code) // 8, code)
    if _LIBC.prctl(_PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0) != 0:
        return f"no system call filter: seccomp is refused ({_error()})"
    return None


def _filter(arch: int, allowed: dict[str, int], checked: dict[str, int], pid: int) -> bytes:
    """The filter's program: system calls of another architecture and all that are not named fail with EPERM."""
    refuse = _step(_RETURN, _ERRNO | errno.EPERM)
    allow = _step(_RETURN, _ALLOW)
    code = _step(_LOAD, 4) + _step(_EQUAL, arch, 1, 0) + refuse + _step(_LOAD, 0)
    if arch == _MACHINES["x86_64"][0]:
        code += _step(_AT_LEAST, 0x40000000, 0, 1) + refuse  # the x32 interface
    for number in allowed.values():
        code += _step(_EQUAL, number, 0, 1) + allow

    def when(name: str, argument: int, test: int, value: int, yes: bytes, no: bytes) -> bytes:
        """If the call is `name`: load the low half of an argument, test it, and end with yes or no."""
        if name not in checked:
            return b""
        body = _step(_LOAD, 16 + 8 * argument) + _step(test, value, 0, 1) + yes + no
        return _step(_EQUAL, checked[name], 0, len(body) // 8) + body

    code += when("openat", 2, _ANY_BIT, _WRITING, refuse, allow)
    code += when("open", 1, _ANY_BIT, _WRITING, refuse, allow)
    code += when("mmap", 2, _ANY_BIT, _PROT_EXEC, refuse, allow)
    code += when("mprotect", 2, _ANY_BIT, _PROT_EXEC, refuse, allow)
    code += when("clone", 0, _ANY_BIT, _CLONE_THREAD, allow, refuse)
    code += when("prctl", 0, _EQUAL, _PR_SET_NAME, allow, refuse)
    code += when("tgkill", 0, _EQUAL, pid, allow, refuse)  # abort() of itself
    # glibc tries clone3 first, whose arguments a filter cannot see, and takes clone when there is none.
    code += _step(_EQUAL, checked["clone3"], 0, 1) + _step(_RETURN, _ERRNO | errno.ENOSYS)
    return code + refuse


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
