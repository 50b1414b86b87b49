"""Isolation of a process that is about to read hostile bytes: it may only compute, and answer on the socket that it was given.

On Linux, the kernel enforces it with a network namespace, dropped capabilities, a seccomp filter, and Landlock for files, each where
the kernel and the container permit it. On every system, an audit hook also refuses calls that go through Python. The hook stops a
parser that is misled, but not one that runs an attacker's machine code.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Iterable

from rag.ingest.parsing.memory import Memory

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
_READ_FILES = 1 << 2 | 1 << 3  # files and directories
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | 1  # EPERM

# machine → (architecture, call numbers of: socket connect execve execveat ptrace process_vm_readv process_vm_writev unshare setns mount
# bpf perf_event_open io_uring_setup pidfd_getfd keyctl, numbers of: fork vfork clone clone3 kill tkill tgkill pidfd_send_signal
# rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open setpgid setsid prctl setpriority ioprio_set sched_setparam sched_setscheduler
# sched_setaffinity sched_setattr migrate_pages move_pages process_madvise process_mrelease kcmp, numbers of: prlimit64 fcntl ioctl)
_CALLS = {
    "x86_64": (
        0xC000003E,
        (41, 42, 59, 322, 101, 310, 311, 272, 308, 165, 321, 298, 425, 438, 250),
        (57, 58, 56, 435, 62, 200, 234, 424, 129, 297, 434, 109, 112, 157, 141, 251, 142, 144, 203, 314, 256, 279, 440, 448,
         312),
        (302, 72, 16),
    ),
    "aarch64": (
        0xC00000B7,
        (198, 203, 221, 281, 117, 270, 271, 97, 268, 40, 280, 241, 425, 438, 219),
        (220, 435, 129, 130, 131, 424, 138, 240, 434, 154, 157, 167, 140, 30, 118, 119, 122, 274, 238, 239, 440, 448, 272),
        (261, 25, 29),
    ),
}  # fmt: skip
_SET_OWNER_FCNTL = (8, 10, 15)  # F_SETOWN F_SETSIG F_SETOWN_EX: the kernel sends signals to the owner
_SET_OWNER_IOCTL = (0x8901, 0x8902)  # FIOSETOWN SIOCSPGRP
_AUDITED = ("socket.", "subprocess.", "os.exec", "os.posix_spawn", "os.system", "os.fork", "ctypes.dlopen", "urllib.")


def leave_network() -> bool:
    """Move into an empty network namespace, where even the loopback is down. Call this with one thread only. Return whether it worked."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.unshare(_CLONE_NEWNET) == 0 or libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0)


def drop_capabilities() -> None:
    """Drop all capabilities. Without them, root is bound by its own limits, but can still read the files that it owns."""
    if sys.platform == "linux":
        ctypes.CDLL(None).capset(struct.pack("Ii", 0x20080522, 0), bytes(24))


def landlock_version() -> int:
    """Return the version of Landlock in the kernel, 0 when it has none."""
    if sys.platform != "linux":
        return 0
    return max(0, int(ctypes.CDLL(None, use_errno=True).syscall(444, None, ctypes.c_size_t(0), 1)))


def refuse_files(readable: Iterable[str]) -> bool:
    """Refuse, by Landlock, to write files, to read files outside of ``readable``, to use TCP and to send signals to other processes.

    Older versions of Landlock cannot refuse TCP or signals. Return whether the restriction is in force.
    """
    version = landlock_version()
    if not version:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    handled = (1 << (13 if version < 2 else 14 if version < 3 else 15 if version < 5 else 16)) - 1
    attributes = struct.pack("QQQ", handled, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = libc.syscall(444, attributes, ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return False
    try:
        return (
            all(_permit(libc, ruleset, path) for path in readable)
            and libc.prctl(_PR_SET_NO_NEW_PRIVS, *[ctypes.c_ulong(n) for n in (1, 0, 0, 0)]) == 0
            and libc.syscall(446, ruleset, 0) == 0
        )
    finally:
        os.close(ruleset)


def _permit(libc: ctypes.CDLL, ruleset: int, path: str) -> bool:
    """Add the right to read below a directory. Return whether the kernel accepted it."""
    try:
        directory = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return bool(libc.syscall(445, ruleset, 1, struct.pack("=Qi", _READ_FILES, directory), 0) == 0)
    finally:
        os.close(directory)


def refuse_system_calls(*, alone: bool = False) -> bool:
    """Install a seccomp filter, which all children inherit. Return whether it is in force.

    It refuses sockets, programs and tracing. With ``alone`` it also refuses processes, threads, signals, and changes of the limits,
    priorities and groups of processes. A process may then still lower its own limits.
    """
    if sys.platform != "linux" or platform.machine() not in _CALLS:
        return False
    architecture, calls, others, by_argument = _CALLS[platform.machine()]
    program = _program(architecture, calls + others, by_argument) if alone else _program(architecture, calls)
    libc = ctypes.CDLL(None, use_errno=True)
    length, address = len(program) // 8, ctypes.create_string_buffer(program)
    filter_ = struct.pack("HxxxxxxP", length, ctypes.addressof(address))
    no_more = [ctypes.c_ulong(0)] * 2
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), ctypes.c_ulong(0), *no_more) != 0:
        return False
    return bool(libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), filter_, *no_more) == 0)


def _program(architecture: int, refused: tuple[int, ...], by_argument: tuple[int, ...] = ()) -> bytes:
    """Return a filter in classic BPF over ``struct seccomp_data`` (number at 0, architecture at 4, arguments at 16, 24).

    ``by_argument`` are the numbers of prlimit64, which is refused for other processes, and of fcntl and ioctl, which are refused to
    set a receiver of signals.
    """
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
    steps = [(load, 0, 0, 4), (equal, 1, 0, architecture), (answer, 0, 0, _REFUSE), (load, 0, 0, 0)]
    steps += [(at_least, 0, 1, 0x40000000), (answer, 0, 0, _REFUSE)]  # the x32 numbers of x86_64
    for call in refused:
        steps += [(equal, 0, 1, call), (answer, 0, 0, _REFUSE)]
    if by_argument:
        limit, fcntl, ioctl = by_argument
        steps += [(equal, 0, 4, limit), (load, 0, 0, 16), (equal, 1, 0, 0), (answer, 0, 0, _REFUSE), (load, 0, 0, 0)]
        for call, commands in ((fcntl, _SET_OWNER_FCNTL), (ioctl, _SET_OWNER_IOCTL)):
            for command in commands:
                steps += [
                    (equal, 0, 4, call),
                    (load, 0, 0, 24),
                    (equal, 0, 1, command),
                    (answer, 0, 0, _REFUSE),
                    (load, 0, 0, 0),
                ]
    steps.append((answer, 0, 0, _ALLOW))
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def refuse_in_python() -> None:
    def hook(event: str, _: object) -> None:
        if event.startswith(_AUDITED):
            raise PermissionError(f"{event} is refused while documents are parsed")

    sys.addaudithook(hook)


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends. ``parent`` is the expected pid: exit now if that process has already ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), *[ctypes.c_ulong(0)] * 3)
    if os.getppid() != parent:
        os._exit(1)


def limit_resources(*, seconds: float, allowed: Memory) -> None:
    """Limit the CPU seconds from now on, and the memory."""
    signal.setitimer(signal.ITIMER_PROF, seconds)  # counts CPU time in fractions; its default is to kill
    hard_seconds = int(seconds) + 2  # the kernel's own limit, which no code in the process can lift
    resource.setrlimit(resource.RLIMIT_CPU, (hard_seconds, hard_seconds))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (allowed.size,) * 2)
        resource.setrlimit(resource.RLIMIT_DATA, (allowed.data,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
