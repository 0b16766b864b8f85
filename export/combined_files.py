"""Names and files of the variants of several artifacts in one: each name once, and each folder of graphs once.

The graphs of a folder stay together, because a graph may name a file of weights beside it.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tuneport.errors import ArtifactError
from tuneport.runtime.backends.tensorrt import is_engine
from tuneport.schema.artifact import Execution, File, Manifest, Name, Variant

GRAPHS = "onnx"
Folder = dict[str, File]
"""The files of a folder of graphs, by their paths within it."""


@dataclass(frozen=True)
class Taken:
    """What is taken of an artifact."""

    names: dict[str, str]
    """Name of a variant → its name in the combined artifact."""
    left_out: tuple[str, ...]
    """Variants that are there already; of those for TensorRT, engines for another GPU are added to them."""


class Layout:
    """The variants and the folders of graphs of a combined artifact; the files are copied as they are taken."""

    def __init__(self, source: Path, manifest: Manifest, target: Path) -> None:
        """Copy the graphs of the first artifact, which keep their names."""
        self._target = target
        self._variants: dict[str, Variant] = {each.name: each for each in manifest.variants}
        """As their artifacts have them, by their names in the combined artifact."""
        self.executions: dict[str, Execution] = {each.name: each.execution for each in manifest.variants}
        """Of all variants, by the same names, with their files in the combined artifact."""
        self._folders: dict[str, Folder] = {}
        for name, files in _folders(manifest.variants).items():
            self._copy(source, files, name)

    def take(self, source: Path, manifest: Manifest) -> Taken:
        """Take the variants of another artifact that are not there already, and copy their graphs.

        Raises ArtifactError if there is none, for another conversion of a variant that is there, and for a name or
        folder that is taken even with the device before it.
        """
        there = {each.name: name for each in manifest.variants if (name := self._same(source, each))}
        variants = tuple(each for each in manifest.variants if each.name not in there)
        gains = [self._add_engines(source, manifest.variant(name), to) for name, to in there.items()]
        if not variants and not any(gains):
            problem = f"{source} has no variant that the artifacts before it lack"
            raise ArtifactError(problem, "leave it out, or export other --variants")
        moved = self._copy_graphs(source, variants)
        names = {}
        for variant in variants:
            names[variant.name] = name = self._free_name(source, variant)
            self._variants[name] = variant
            files = tuple(moved[file.path] for file in variant.execution.files)
            self.executions[name] = variant.execution.model_copy(update={"files": files})
        return Taken(names, tuple(there))

    def _same(self, source: Path, variant: Variant) -> str | None:
        """Return the name of a variant that is there already; raises ArtifactError if it has other files."""
        for name, other in self._variants.items():
            if _identity(other) != _identity(variant):
                continue
            if _hashes(other.execution) == _hashes(variant.execution):
                return name
            problem = f"{source} has {variant.name} for {variant.execution.device}, and {name} before it is the same"
            remedy = "export both with the same versions of the packages"
            if _identity(variant)[0] != "fp32":  # which every export has
                remedy += f", or one of them with --variants that do not include {variant.name}"
            raise ArtifactError(f"{problem} variant with other files", remedy)
        return None

    def _add_engines(self, source: Path, variant: Variant, name: str) -> bool:
        """Add TensorRT's engines for further GPUs to a variant that is there; returns whether there are any.

        Those that were built for other shapes are not taken. A GPU's engines are never mixed with those of another
        build.
        """
        there = self.executions[name]
        known = {Path(file.path).parent.name for file in there.files if is_engine(file)}
        added = [
            file for file in variant.execution.files if is_engine(file) and Path(file.path).parent.name not in known
        ]
        if not added or variant.execution.provider_options != there.provider_options:
            return False
        target = _split(there.files[0].path)[0]
        files = [self._copy_file(source, file, target) for file in added]
        self.executions[name] = there.model_copy(update={"files": (*there.files, *files)})
        return True

    def _free_name(self, source: Path, variant: Variant) -> str:
        """Return the name of a variant, with its device before it if another one has that name."""
        for name in (variant.name, f"{variant.execution.device}-{variant.name}"):
            if name not in self._variants and _is_name(name):
                return name
        problem = f"{source} has a variant {variant.name}, and {name} is taken, too, or too long"
        raise ArtifactError(problem, "combine fewer artifacts")

    def _copy_graphs(self, source: Path, variants: tuple[Variant, ...]) -> dict[str, File]:
        """Copy the folders of graphs that variants use; returns the files by their old paths."""
        moved: dict[str, File] = {}
        devices = {_split(file.path)[0]: each.execution.device for each in variants for file in each.execution.files}
        for name, files in _folders(variants).items():
            for target in (name, f"{devices[name]}-{name}"):
                there = self._folders.get(target)
                if there is None:
                    self._copy(source, files, target)
                    break
                if all(path in there and there[path].sha256 == file.sha256 for path, file in files.items()):
                    break
            else:
                problem = f"the graphs in {source / GRAPHS / name} have no free place, because {target} is taken, too"
                raise ArtifactError(problem, "combine fewer artifacts")
            moved |= {file.path: self._folders[target][path] for path, file in files.items()}
        return moved

    def _copy(self, source: Path, files: Folder, target: str) -> None:
        """Copy a folder of graphs under a name."""
        self._folders[target] = {}
        for file in files.values():
            self._copy_file(source, file, target)

    def _copy_file(self, source: Path, file: File, target: str) -> File:
        """Copy a file of a folder of graphs to another such folder; returns its record there."""
        path = _split(file.path)[1]
        place = f"{GRAPHS}/{target}/{path}"
        (self._target / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file.path, self._target / place)
        self._folders[target][path] = copy = file.model_copy(update={"path": place})
        return copy


def _folders(variants: tuple[Variant, ...]) -> dict[str, Folder]:
    """Return the folders of graphs that variants use, which may share one."""
    folders: dict[str, Folder] = {}
    for variant in variants:
        for file in variant.execution.files:
            name, path = _split(file.path)
            folders.setdefault(name, {})[path] = file
    return folders


def _split(path: str) -> tuple[str, str]:
    """Split the path of a graph into the name of its folder and its path there."""
    parts = path.split("/", 2)
    if len(parts) < 3 or parts[0] != GRAPHS:
        raise ArtifactError(f"{path}, a file of a variant, is not below {GRAPHS}/<variant>/", "export it again")
    return parts[1], parts[2]


def _identity(variant: Variant) -> tuple[object, ...]:
    """Return what two exports of one variant share: its name, how it runs, and which hosts it is for."""
    execution = variant.execution
    name = variant.name.removeprefix(f"{execution.device}-")  # which an earlier combination may have put there
    kind = (execution.engine, execution.precision, execution.device, execution.layout)
    return (name, *kind, execution.reduce_range, execution.min_compute_capability)


def _hashes(execution: Execution) -> list[str]:
    """Return the hashes of a variant's graph, without TensorRT's engines, which belong to one GPU."""
    return sorted(file.sha256 for file in execution.files if not is_engine(file))


def _is_name(name: str) -> bool:
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        return False
    return True
