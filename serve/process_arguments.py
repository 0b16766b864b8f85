"""The command line of the processes that a supervisor keeps: workers and engines."""

import argparse
import socket
import sys
from pathlib import Path
from typing import NamedTuple


class ProcessArguments(NamedTuple):
    """What such a process is started with."""

    artifact: Path
    listening: socket.socket
    """A socket that the supervisor has opened."""
    number: int
    """Among those of its kind, from 1."""
    manifest_hash: str
    """Of the manifest that the service was started with."""

    def command(self, module: str) -> list[str]:
        """Return the command that runs a module with these arguments."""
        options = ["--fd", str(self.listening.fileno()), "--number", str(self.number), "--manifest", self.manifest_hash]
        return [sys.executable, "-P", "-m", module, str(self.artifact), *options]

    @classmethod
    def parse(cls) -> "ProcessArguments":
        """Read them from the command line of this process."""
        parser = argparse.ArgumentParser()
        parser.add_argument("artifact", type=Path)
        parser.add_argument("--fd", type=int, required=True)
        parser.add_argument("--number", type=int, required=True)
        parser.add_argument("--manifest", required=True)
        options = parser.parse_args()
        return cls(options.artifact, socket.socket(fileno=options.fd), options.number, options.manifest)
