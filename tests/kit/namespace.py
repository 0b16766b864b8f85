"""Run a command in a network of its own, whose resolver records every name that is looked up.

Run as a script inside of `unshare --map-root-user --net --mount`: the arguments are a file for the names, one a line,
the seconds after which the command is interrupted, and the command.
"""

import fcntl
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

UNSHARE = ("unshare", "--map-root-user", "--net", "--mount")
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
DNS_PORT, HEADER_BYTES = 53, 12
NAME_ERROR = b"\x81\x83"


def is_possible() -> bool:
    """Tell whether this machine lets a user create such a namespace."""
    try:
        mount = [*UNSHARE, "mount", "--bind", "/dev/null", "/etc/resolv.conf"]
        return subprocess.run(mount, capture_output=True, timeout=20, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def names_looked_up(command: Sequence[str], seconds: float, environment: dict[str, str]) -> tuple[int, set[str], str]:
    """Run a command there for at most some seconds; returns its exit code, the names, and what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        names = Path(folder, "names")
        names.touch()
        inside = [*UNSHARE, sys.executable, __file__, str(names), str(seconds), *command]
        done = subprocess.run(
            inside, env=environment, cwd=folder, capture_output=True, text=True, timeout=seconds + 120, check=False
        )
        return done.returncode, set(names.read_text().split()), done.stdout + done.stderr


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))


def _name_in(question: bytes) -> str:
    labels, position = [], HEADER_BYTES
    while size := question[position]:
        labels.append(question[position + 1 : position + 1 + size].decode(errors="replace"))
        position += size + 1
    return ".".join(labels)


def _record(server: socket.socket, names: Path) -> None:
    while True:
        question, sender = server.recvfrom(4096)
        with names.open("a") as out:
            out.write(_name_in(question) + "\n")
        server.sendto(question[:2] + NAME_ERROR + question[4:6] + bytes(6) + question[HEADER_BYTES:], sender)


def main(names: str, seconds: str, *command: str) -> int:
    """Bring up the loopback interface and the resolver, and run the command."""
    _raise_loopback()
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as resolver:
        resolver.write("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        resolver.flush()
        subprocess.run(["mount", "--bind", resolver.name, "/etc/resolv.conf"], check=True)
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("127.0.0.1", DNS_PORT))
        threading.Thread(target=_record, args=(server, Path(names)), daemon=True).start()
        process = subprocess.Popen(command)
        try:
            return process.wait(float(seconds))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
