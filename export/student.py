"""The student of an export: a model with fewer layers that is trained once, shared by its variants, and kept.

It is kept beside the checkpoint, under a hash of all that determines it, so that the next export need not train it.
"""

import contextlib
import fcntl
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from pydantic import ValidationError

from tuneport.errors import EngineError, TuneportError
from tuneport.folders import digest, new_folder
from tuneport.schema.artifact import File, Student
from tuneport.schema.base import Frozen

from .config import ExportConfig
from .graph import Graph
from .memory import release_memory
from .source import Reference, Source
from .steps import Steps
from .student_training import check_worth, train_inputs, train_student

STUDENTS, RECORD = "students", "student.json"
METHOD = 3
"""Changes when students are trained in another way, so that those of before are not used."""
SETTINGS = {"prune_layers", "distill_steps", "distill_minutes", "seed", "max_drop", "max_length", "max_gate_rows"}
"""Settings of an export that determine its student."""


class KeptStudent(Frozen):
    """student.json: how the student beside it was made, and its graph."""

    student: Student
    files: tuple[File, ...]


class StudentSource:
    """Writes the graph of the student of one export; the first call trains it, unless an export before this one did."""

    def __init__(self, config: ExportConfig, source: Source, reference: Reference, steps: Steps) -> None:
        """Train nothing yet."""
        self._config, self._source, self._reference, self._steps = config, source, reference, steps
        self._inputs: Sequence[Any] | None = None
        """What it is trained on, once it was read."""
        self._made: tuple[Student, Graph] | EngineError | None = None

    @property
    def record(self) -> Student:
        """How it was made, once it has been written."""
        assert isinstance(self._made, tuple)
        return self._made[0]

    def check(self) -> None:
        """Raise EngineError with the reason why a student is not worth its training, if that is known before it."""
        self._inputs = self._steps.run(lambda: check_worth(self._config, self._source, self._reference))

    def make(self) -> None:
        """Find or train it, once; that there is none is told by `write`."""
        if self._made is not None:
            return
        try:
            self._made = self._find_or_train()
        except TuneportError as error:  # whatever prevents a student, the other variants go on
            self._made = error if isinstance(error, EngineError) else EngineError(error.problem, error.remedy)

    def write(self, folder: Path) -> Graph:
        """Write the fp32 graph into a folder; raises EngineError with the reason why there is no student."""
        self.make()
        if isinstance(self._made, EngineError):
            raise self._made
        assert self._made is not None
        graph = self._made[1]
        for name in graph.files:
            shutil.copyfile(graph.folder / name, folder / name)
        return Graph(folder, graph.files)

    def _find_or_train(self) -> tuple[Student, Graph]:
        place = self._config.checkpoint.resolve() / STUDENTS / self._key()
        with self._alone(place):
            if kept := read_kept(place):
                self._steps.progress("reading the student that an earlier export trained")
                return kept
            scratch = tempfile.mkdtemp(prefix="tuneport-student-")
            weakref.finalize(self, shutil.rmtree, scratch, ignore_errors=True)
            record, graph, is_worth_keeping = self._steps.run(lambda: self._train(Path(scratch)))
            if is_worth_keeping:
                self._keep(graph, record, place)
            return record, graph

    def _train(self, folder: Path) -> tuple[Student, Graph, bool]:
        """Train a student and write its graph into a folder; also tells whether the next export may use it."""
        inputs = self._inputs or train_inputs(self._config, self._source, self._reference)
        trained, record = train_student(self._config, self._reference, inputs, self._steps.progress)
        release_memory()
        self._steps.progress("converting the student to ONNX")
        graph = self._source.family.to_onnx(trained.student.model, self._source.checkpoint, folder)
        is_complete = trained.steps >= self._config.distill_steps  # else the next export may have more time
        return record, graph, is_complete or trained.loses_at_most(self._config.max_drop)

    @contextlib.contextmanager
    def _alone(self, place: Path) -> Iterator[None]:
        """Let one export at a time make the student of a place; where no lock can be written, each makes its own."""
        path = place.with_name(f".{place.name}.lock")
        try:
            place.parent.mkdir(exist_ok=True)
            lock = path.open("w")
        except OSError:
            yield
            return
        with lock:
            self._wait_for(lock)
            try:
                yield
            finally:  # whoever waits for a file that is gone finds the student, or trains beside a third export
                path.unlink(missing_ok=True)

    def _wait_for(self, lock: TextIO) -> None:
        """Wait for a lock; go on without it on a file system that has none."""
        if not _lock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
            self._steps.progress("waiting for another export, which trains the same student")
            _lock(lock, fcntl.LOCK_EX)

    def _keep(self, graph: Graph, record: Student, place: Path) -> None:
        try:
            with new_folder(place, marker=RECORD, overwrite=True) as folder:
                for name in graph.files:
                    shutil.copyfile(graph.folder / name, folder / name)
                described = KeptStudent(student=record, files=tuple(File.of(folder, name) for name in graph.files))
                (folder / RECORD).write_text(described.model_dump_json(indent=2) + "\n", encoding="utf-8")
        except (OSError, TuneportError) as error:
            self._steps.progress(f"the student is not kept for the next export: {error}")

    def _key(self) -> str:
        data = self._source.sample.source
        settings = self._config.model_dump(mode="json", include=SETTINGS)
        return digest([METHOD, self._source.checkpoint.sha256, data and data.fingerprint, settings])[:16]


def _lock(file: TextIO, operation: int) -> bool:
    """Lock a file; returns False if another process has it, and True on a file system without locks."""
    try:
        fcntl.flock(file, operation)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def read_kept(place: Path) -> tuple[Student, Graph] | None:
    """Return a student that was kept in a folder; None if there is none, or if a file has changed."""
    try:
        kept = KeptStudent.model_validate_json((place / RECORD).read_bytes())
        if any(File.of(place, file.path) != file for file in kept.files):
            return None
    except (OSError, ValidationError, TuneportError):
        return None
    return kept.student, Graph(place, tuple(file.path for file in kept.files))
