"""What a confined process may do: compute, read files, and talk over the pipes that it has. Linux only.

Resource limits bound memory, processor time and files; a seccomp filter (an allow list, kept by the kernel until the
process ends; Linux 3.17 and later) leaves out whatever makes a process, a thread, a socket or a file, changes a file,
or reaches another process. Only Python's standard library is used, and nothing of Luthier: the confined run this alone.
"""

from __future__ import annotations

import ctypes
import platform
import resource
import struct

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, PR_SET_DUMPABLE, SECCOMP_MODE_FILTER = 38, 22, 4, 2
ALLOW, KILL, DENY = 0x7FFF0000, 0x80000000, 0x00050001  # DENY answers EPERM
LOAD, EQUAL, AND, RETURN = 0x20, 0x15, 0x54, 0x06
WRITES = 0o1 | 0o2 | 0o100 | 0o1000 | 0o2000  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_APPEND

# The kernel's numbers: of an architecture its audit number, of a call (x86_64, aarch64), None where there is no such.
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CALLS: dict[str, tuple[int | None, int]] = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "lseek": (8, 62), "mmap": (9, 222),
    "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "pread64": (17, 67), "readv": (19, 65),
    "writev": (20, 66), "sched_yield": (24, 124), "mremap": (25, 216), "madvise": (28, 233), "dup": (32, 23),
    "nanosleep": (35, 101), "getpid": (39, 172), "exit": (60, 93), "uname": (63, 160), "getcwd": (79, 17),
    "gettimeofday": (96, 169), "getrusage": (98, 165), "sysinfo": (99, 179), "times": (100, 153),
    "getuid": (102, 174), "getgid": (104, 176), "geteuid": (107, 175), "getegid": (108, 177),
    "sigaltstack": (131, 132), "gettid": (186, 178), "futex": (202, 98), "sched_getaffinity": (204, 123),
    "getdents64": (217, 61), "restart_syscall": (219, 128), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115), "exit_group": (231, 94), "newfstatat": (262, 79), "readlinkat": (267, 78),
    "faccessat": (269, 48), "set_robust_list": (273, 99), "getrandom": (318, 278), "membarrier": (324, 283),
    "statx": (332, 291), "rseq": (334, 293), "faccessat2": (439, 439),
}  # fmt: skip
OLD_CALLS = (4, 6, 21, 89, 201)  # of x86_64 alone: stat, lstat, access, readlink, time
OPEN = {"x86_64": ((2, 1), (257, 2)), "aarch64": ((56, 2),)}  # open and openat, with the argument that holds the flags


def supported() -> str:
    """Empty where this machine can confine a process, else why not."""
    if platform.system() != "Linux" or platform.machine() not in AUDIT:
        return f"{platform.system()} on {platform.machine()}: a process is confined on Linux, on x86_64 and aarch64"
    return ""


def confine(memory_mb: int, seconds: int) -> None:
    """From here on this process is confined, for good. Raises OSError where the kernel refuses."""
    limits = {
        resource.RLIMIT_AS: memory_mb * 2**20,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 32,
        resource.RLIMIT_CORE: 0,
    }
    for which, most in limits.items():
        resource.setrlimit(which, (most, most))
    libc = ctypes.CDLL(None, use_errno=True)
    program = _filter(platform.machine())

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))

    filled = Program(len(program) // 8, program)
    for told in (
        (PR_SET_DUMPABLE, 0, 0, 0, 0),  # no other process may look into its memory
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(filled), 0, 0),
    ):
        if libc.prctl(*told) != 0:
            raise OSError(ctypes.get_errno(), "the kernel does not let this process be confined")


def _filter(machine: str) -> bytes:
    """The allow list as a program for the kernel (`struct sock_filter`, classic BPF)."""
    column = 0 if machine == "x86_64" else 1
    plain = [call[column] for call in CALLS.values() if call[column] is not None]
    made = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, AUDIT[machine]), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    for number in [*plain, *(OLD_CALLS if machine == "x86_64" else ())]:
        made += [(EQUAL, 0, 1, int(number)), (RETURN, 0, 0, ALLOW)]
    for number, argument in OPEN[machine]:  # allowed for reading
        made += [(EQUAL, 0, 5, number), (LOAD, 0, 0, 16 + 8 * argument), (AND, 0, 0, WRITES)]
        made += [(EQUAL, 0, 1, 0), (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, DENY)]
    made.append((RETURN, 0, 0, DENY))
    return b"".join(struct.pack("HBBI", *one) for one in made)
