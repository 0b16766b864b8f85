"""Every command has help, every field of its config is a documented option, and what an option says arrives."""

import json
import typing
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import typer
from kit.command import tuneport
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tuneport.cli.app import app
from tuneport.cli.fields import option_type
from tuneport.cli.finetune import FLAGS as FINETUNE_FLAGS
from tuneport.cli.predict import PredictConfig
from tuneport.cli.serve import SECRETS, ServeConfig
from tuneport.scoring.config import ScoreConfig
from tuneport.signing import make_keys
from tuneport.stages.benchmarks.config import BenchConfig, EndpointConfig, PlanConfig
from tuneport.stages.export.config import ExportConfig
from tuneport.stages.finetune.config import FinetuneConfig
from tuneport.stages.serve.settings import Settings
from tuneport.tasks import all_tasks
from tuneport.version import VERSION

COMMANDS = (
    "average", "bench", "bench-endpoint", "build", "combine", "containerize", "demo", "doctor", "export", "finetune",
    "init", "inspect", "keygen", "models", "plan", "predict", "pull", "push", "score", "search", "serve", "sign",
    "verify",
)  # fmt: skip
CONFIGS: dict[str, tuple[type[BaseModel], ...]] = {
    "export": (ExportConfig,),
    "predict": (PredictConfig,),
    "score": (ScoreConfig,),
    "bench": (BenchConfig,),
    "bench-endpoint": (EndpointConfig,),
    "serve": (ServeConfig, Settings),
}
"""Config classes whose fields are all options of the command."""
OWN_OPTIONS = {
    "compare", "max_regression", "out", "overwrite", "resume", "config", "set", "space", "trials", "help",
    "quiet", "as_json", "more",
}  # fmt: skip
"""Options that say where to write and how to proceed; no config has them."""
COMMAND_LINE = typer.main.get_command(app)


def options_of(command: str) -> dict[str, Any]:
    """Map the parameters of a command by name, `--max-drop` as max_drop."""
    return {parameter.name.rstrip("_"): parameter for parameter in COMMAND_LINE.commands[command].params}  # type: ignore[attr-defined]


def fields_of(command: str) -> dict[str, FieldInfo]:
    fields = {name: field for config in CONFIGS[command] for name, field in config.model_fields.items()}
    return {name: field for name, field in fields.items() if name not in SECRETS}


def example(name: str, field: FieldInfo) -> tuple[list[str], Any]:
    """Return arguments for an option, and the value that they stand for: never the default."""
    kind, flag = option_type(field.annotation), f"--{name.replace('_', '-')}"
    if kind is bool:
        return [flag if not field.default else f"--no-{flag[2:]}"], not field.default
    if get_origin(kind) is Literal:
        value: Any = next(choice for choice in get_args(kind) if choice != field.default)
    elif kind is tuple:
        is_number = int in typing.get_args(field.annotation) or "int" in str(field.annotation)
        return [flag, "2, 3"], (2, 3) if is_number else ("2", "3")
    elif kind is dict:
        return [flag, "text=review, label=stars"], {"text": "review", "label": "stars"}
    elif kind in (int, float):
        value = kind((field.default or 8) / 2 if kind is float else (field.default or 8) + 1)
    elif kind is Path:
        value = Path("some/path")
    else:
        value = {"task": "regression", "parameters": '{"top_k": 2}'}.get(name, "some-name")
    return [flag, str(value)], value


def test_the_commands_are_these() -> None:
    assert tuple(sorted(COMMAND_LINE.commands)) == COMMANDS  # type: ignore[attr-defined]


def test_help_lists_every_command() -> None:
    out = tuneport("--help").out
    assert all(f"  {command} " in out for command in COMMANDS)


def test_the_list_of_commands_says_what_each_does_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert "..." not in tuneport("--help").out.partition("Commands:")[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_shows_an_example(command: str) -> None:
    text = " ".join(tuneport(command, "--help").out.split())
    assert f"Example: tuneport {command} " in text


def test_the_shell_completes_commands_and_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TUNEPORT_COMPLETE", "complete_bash")
    for words, expected in {"tuneport fine": ["finetune"], "tuneport export --max-d": ["--max-drop"]}.items():
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
        assert tuneport().out.split() == expected


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_documents_every_option(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    answer = tuneport(command, "--help")
    assert answer.code == 0
    assert f"tuneport {command}" in answer.out
    for name, parameter in options_of(command).items():
        assert len(parameter.help or "") > 8, f"--{name} has no help"
        assert all(spelling in answer.out for spelling in parameter.opts)


def test_the_help_says_which_options_are_required() -> None:
    required = {name for name, option in options_of("plan").items() if option.help.endswith(" Required.")}
    assert required == {name for name, field in PlanConfig.model_fields.items() if field.is_required()} != set()


@pytest.mark.parametrize("command", CONFIGS)
def test_every_field_of_a_config_is_an_option_and_nothing_else_is(command: str) -> None:
    options = options_of(command)
    assert fields_of(command).keys() == options.keys() - OWN_OPTIONS - {"texts"}
    for name, field in fields_of(command).items():
        assert " ".join((field.description or "").split()) in options[name].help


@pytest.mark.parametrize("command", ["finetune", "search"])
def test_options_of_fine_tuning_are_settings_of_its_config(command: str) -> None:
    options = options_of(command)
    assert options.keys() - OWN_OPTIONS == set(FINETUNE_FLAGS) <= FinetuneConfig.model_fields.keys()
    assert {"set", "config"} <= options.keys()


@pytest.mark.parametrize("command", ["demo", "average", "combine", "verify", "inspect", "build"])
def test_commands_without_a_config_have_only_shared_options(command: str) -> None:
    arguments = {
        "average": {"runs", "allow_repeated_runs"}, "demo": set(), "verify": {"artifact", "public_key"},
        "build": {"artifact", "variants"}, "combine": {"artifact", "others", "name"},
    }.get(command, {"artifact"})  # fmt: skip
    assert options_of(command).keys() - OWN_OPTIONS == arguments


@pytest.mark.parametrize(
    ("command", "config", "function"),
    [
        ("export", ExportConfig, "tuneport.stages.export.pipeline.export"),
        ("score", ScoreConfig, "tuneport.scoring.pipeline.score"),
        ("bench", BenchConfig, "tuneport.stages.benchmarks.engine.bench"),
        ("bench-endpoint", EndpointConfig, "tuneport.stages.benchmarks.endpoint.main.bench_endpoint"),
    ],
)
def test_every_option_arrives_in_the_config(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, config: type[BaseModel], function: str
) -> None:
    class Done(Exception):
        pass

    def receive(config: BaseModel, out: Path, *, overwrite: bool, **_: Any) -> None:
        received.append((config, out, overwrite))
        raise Done

    received: list[tuple[Any, Path, bool]] = []
    monkeypatch.setattr(function, receive)
    required = {name: "some/path" for name, field in config.model_fields.items() if field.is_required()}
    names = [name for name in config.model_fields if name not in required]
    examples = {name: example(name, config.model_fields[name]) for name in names}
    arguments = [argument for given, _ in examples.values() for argument in given]
    for given in ([], [*arguments, "--overwrite"]):
        with pytest.raises(Done):
            tuneport(command, *required.values(), "--out", tmp_path, *given)
    assert received == [
        (config.model_validate(required), tmp_path, False),
        (
            config.model_validate({**required, **{n: value for n, (_, value) in examples.items()}}),
            tmp_path,
            True,
        ),
    ]
    assert all(getattr(received[1][0], name) != getattr(received[0][0], name) for name in names)


def test_every_setting_of_fine_tuning_can_be_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def receive(config: FinetuneConfig, *_: Any, **__: Any) -> None:
        received.append(config)
        raise KeyboardInterrupt

    received: list[FinetuneConfig] = []
    monkeypatch.setattr("tuneport.stages.finetune.train.finetune", receive)
    required = {"task": "regression", "model": "m", "data": "d"}
    defaults = FinetuneConfig.model_validate(required)
    settings = {name: value for name, value in defaults.model_dump(mode="json").items() if value not in (None, {})}
    arguments = [f"--set={name}={json.dumps(value)}" for name, value in settings.items()]
    assert tuneport("finetune", "--out", tmp_path, *arguments).code == 130
    flags = ["--task", "regression", "--model", "m", "--data", "d", "--columns", "text=a", "--trust-remote-code"]
    assert tuneport("finetune", "--out", tmp_path, *flags, "--set", "seed=7").code == 130
    assert received == [
        defaults,
        defaults.model_copy(update={"columns": {"text": "a"}, "trust_remote_code": True, "seed": 7}),
    ]


def test_every_setting_of_the_service_arrives_in_its_environment(
    monkeypatch: pytest.MonkeyPatch, tiny_artifact: Path, tmp_path: Path
) -> None:
    def receive(command: list[str], environment: dict[str, str]) -> int:
        received.append((command, Settings(), environment))
        return 0

    received: list[tuple[list[str], Settings, dict[str, str]]] = []
    monkeypatch.setattr("tuneport.stages.serve.process.run_service", receive)
    monkeypatch.setattr("tuneport.stages.serve.process.check_ports", lambda _: None)  # the examples may be taken
    monkeypatch.setenv("TUNEPORT_WORKERS", "7")
    (tmp_path / "keys").write_text("key\n")
    monkeypatch.chdir(tmp_path)
    public_key = make_keys(tmp_path / "signing").read_text(encoding="ascii").split()[-1]
    paths = {
        "api_keys_file": "keys", "tls_certfile": None, "tls_keyfile": None, "cors_origins": "https://a.example",
        "public_key": public_key, "variant": "int8",
    }  # fmt: skip
    examples = {
        name: ([f"--{name.replace('_', '-')}", paths[name]], paths[name]) if name in paths else example(name, field)
        for name, field in Settings.model_fields.items()
        if name not in SECRETS and paths.get(name, "") is not None
    }
    arguments = [argument for given, _ in examples.values() for argument in given]
    for name in Settings.model_fields:  # set here so that monkeypatch removes what the command sets
        monkeypatch.setenv(f"TUNEPORT_{name}".upper(), "")
        monkeypatch.delenv(f"TUNEPORT_{name}".upper())
    assert tuneport("serve", tiny_artifact, "--host", "127.0.0.2", *arguments).code == 0
    [(command, settings, environment)] = received
    assert command[command.index("--host") + 1] == "127.0.0.2"
    assert environment["TUNEPORT_API_KEYS_FILE"] == str(tmp_path / "keys")
    for name, (_, value) in examples.items():
        assert str(getattr(settings, name)) == str(value)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("predicct",),
        ("predict",),
        ("predict", "artifact", "--threads", "0"),
        ("export", "checkpoint"),
        ("export", "checkpoint", "--out", "out", "--device", "tpu"),
        ("export", "checkpoint", "--out", "out", "--max-drop", "2"),
        ("export", "checkpoint", "--out", "out", "--max-drop", "much"),
        ("export", "checkpoint", "--out", "out", "--columns", "text"),
        ("export", "checkpoint", "--out", "out", "--name", "No Name"),
        ("export", "checkpoint", "--out", "out", "--task", "translating"),
        ("bench", "artifact", "--out", "out", "--num-inputs", "0"),
        ("bench-endpoint", "artifact", "--out", "out", "--connections", "1,many"),
        ("search", "--out", "out", "--space", "space.toml", "--trials", "0"),
        ("serve", "artifact", "--port", "0"),
        ("serve", "artifact", "--grpc-port", "70000"),
        ("serve", "artifact", "--workers", "0"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...]) -> None:
    answer = tuneport(*arguments)
    assert answer.code == 2
    assert "Usage: tuneport" in answer.out + answer.err
    if len(arguments) > 2 and arguments[-2].startswith("--"):
        assert arguments[-2] in answer.err


def test_the_version_is_printed() -> None:
    answer = tuneport("--version")
    assert (answer.code, answer.out) == (0, f"tuneport {VERSION}\n")
    assert tuneport("--help").out.startswith("Usage: tuneport [OPTIONS] COMMAND [ARGS]...\n\n  Fine-tune a transformer")


def test_the_help_of_fine_tuning_shows_every_task_with_its_columns() -> None:
    lines = [line.split() for line in tuneport("finetune", "--help").out.splitlines()]
    for name, spec in all_tasks().items():
        assert [name, *spec.column_help.split()] in lines
