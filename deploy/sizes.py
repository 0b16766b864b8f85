"""Add up what the images' packages weigh: `python deploy/sizes.py [FILE …]`, by default each file in serve/.

Downloads the wheels for this Python and processor into a temporary folder. TensorRT's is left out: it is not on the
ordinary index.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from pin import IMAGES, ROOT, TENSORRT, pins_of

MB = 10**6
LARGEST = 6


def download(pins: list[str], folder: Path) -> None:
    """Download the wheels of pins into a folder."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*command, "--dest", str(folder), *pins], check=True)


def unpacked_bytes(wheel: Path) -> int:
    """Return the size of a wheel's files once installed."""
    with zipfile.ZipFile(wheel) as archive:
        return sum(file.file_size for file in archive.infolist())


def main() -> None:
    """Print each image's size: wheels, installed, and the largest packages."""
    for name in sys.argv[1:] or IMAGES:
        with tempfile.TemporaryDirectory() as folder:
            pins = pins_of(ROOT / "serve" / name)
            download([pin for pin in pins if pin != TENSORRT], Path(folder))
            found = {wheel.name.partition("-")[0]: wheel for wheel in Path(folder).glob("*.whl")}
            installed = {package: unpacked_bytes(wheel) for package, wheel in found.items()}
            downloaded = sum(wheel.stat().st_size for wheel in found.values())
        print(f"{name}: {len(found)} wheels, {downloaded // MB} MB, installed {sum(installed.values()) // MB} MB")
        for package, size in sorted(installed.items(), key=lambda each: -each[1])[:LARGEST]:
            print(f"  {package} {size // MB} MB")
        if TENSORRT in pins:
            print(f"  not counted: {TENSORRT}")


if __name__ == "__main__":
    main()
