"""Check the files of a checkpoint's folder, and load its tokenizer."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerFast

from tuneport.errors import CheckpointError
from tuneport.schema.base import parse_json
from tuneport.schema.paths import check_relative_path

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "spm.model")
UNKNOWN = "\U0010fffd \u2fff \ue000"
"""Characters that no vocabulary has."""
LFS_POINTER = b"version https://git-lfs"


def check_files(path: Path, folder: Path) -> None:
    """Raise a CheckpointError unless `folder` has configuration, weights in safetensors, and a tokenizer.

    `path` is what the user named: the folder itself, or the run that it belongs to.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"{path} {_why_missing(path)}", "give the folder that `tuneport finetune … --out` wrote, or a checkpoint"
        )
    if (folder / "adapter_config.json").is_file():
        raise _unmerged_adapter(folder)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} has no config.json", "give a folder that save_pretrained wrote")
    _check_weights(folder)
    if not any((folder / name).is_file() for name in TOKENIZERS):
        remedy = f"run AutoTokenizer.from_pretrained(BASE_MODEL).save_pretrained({str(folder)!r})"
        raise CheckpointError(f"{folder} has no tokenizer", remedy)


def loading_error(folder: Path, error: Exception) -> CheckpointError:
    """Summarize an exception of transformers or tokenizers in one line."""
    reason = " ".join(str(error).split())[:250] or type(error).__name__
    remedy = "save it again with this version of transformers; custom code needs --trust-remote-code"
    return CheckpointError(f"{folder} cannot be loaded ({reason})", remedy)


def load_fast_tokenizer(folder: Path, trust_remote_code: bool, options: dict[str, bool]) -> PreTrainedTokenizerFast:
    """Load the tokenizer in its fast form, the only one that runs without transformers; else a CheckpointError."""
    settings = folder / "tokenizer_config.json"
    name = json.loads(settings.read_text(encoding="utf-8")).get("tokenizer_class") if settings.is_file() else None
    # transformers 5 writes a class name that 4.57 does not know; the tokenizer.json beside it is readable.
    loader: Any = PreTrainedTokenizerFast if name == "TokenizersBackend" else AutoTokenizer
    tokenizer = loader.from_pretrained(folder, trust_remote_code=trust_remote_code, **options)
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"{folder} has a tokenizer without a fast form ({type(tokenizer).__name__})",
            "convert it with AutoTokenizer.from_pretrained(…, use_fast=True).save_pretrained(…)",
        )
    return tokenizer


def check_tokenizer(tokenizer: PreTrainedTokenizerFast, config: PretrainedConfig, folder: Path) -> None:
    """Raise a CheckpointError for a tokenizer that cannot pad or encode, truncates on the left, or has too many tokens.

    Those are tokens for which the model has no embedding.
    """
    if tokenizer.pad_token_id is None:
        remedy = "set tokenizer.pad_token and config.pad_token_id (to those of the end token, say), and save both again"
        raise CheckpointError(f"{folder} has a tokenizer without a padding token", remedy)
    if tokenizer.truncation_side != "right":
        problem = f"{folder} has a tokenizer that truncates on the left, and serving truncates on the right"
        remedy = "train with truncation_side = right, or set it in tokenizer_config.json if no input is that long"
        raise CheckpointError(problem, remedy)
    length, special = tokenizer.model_max_length, tokenizer.num_special_tokens_to_add()
    if not isinstance(length, int | float) or not length > special:
        problem = f"the tokenizer's model_max_length is {length!r}, and special tokens alone take {special}"
        raise CheckpointError(problem, "correct it in tokenizer_config.json")
    try:
        tokenizer(UNKNOWN, add_special_tokens=False)
    except Exception as error:  # the library raises a bare one
        problem = f"{folder} has a tokenizer that cannot encode rare characters ({error})"
        raise CheckpointError(problem, "save it again; its unknown token must be in its vocabulary") from error
    embedded = getattr(config, "vocab_size", None) or len(tokenizer)
    if len(tokenizer) > embedded:
        raise CheckpointError(
            f"{folder} has {len(tokenizer)} tokens and the model embeds {embedded}",
            "call model.resize_token_embeddings(len(tokenizer)), fine-tune, and save both again",
        )


def _why_missing(path: Path) -> str:
    if path.is_file():
        return "is a file"
    return "holds a run that did not finish" if (path / "trainer").exists() else "does not exist"


def _check_weights(folder: Path) -> None:
    """Raise a CheckpointError for weights that are missing, only pickled, or pointers of git-lfs."""
    if not any((folder / name).is_file() for name in WEIGHTS):
        others = [file.name for pattern in ("*.bin", "*.pt") for file in folder.glob(pattern)]
        found = f", only {', '.join(others)}, which can run code when loaded" if others else ""
        remedy = "save the model with save_pretrained(…, safe_serialization=True)"
        raise CheckpointError(f"{folder} has no model.safetensors{found}", remedy)
    _check_shards(folder)
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as opened:
            if opened.read(len(LFS_POINTER)) == LFS_POINTER:
                raise CheckpointError(f"{file} is a pointer of git-lfs and not the weights", "run `git lfs pull` there")


def _check_shards(folder: Path) -> None:
    """Raise a CheckpointError unless the index of the weights, if there is one, names files of the folder only.

    Files may be links, as in the cache of Hugging Face's hub.
    """
    index = folder / WEIGHTS[1]
    if not index.is_file() or (folder / WEIGHTS[0]).is_file():
        return
    try:
        shards = set(parse_json(index.read_text(encoding="utf-8"))["weight_map"].values())
        for name in shards:
            check_relative_path(name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"{index} does not map weights to files of its folder ({error})"
        raise CheckpointError(problem, "save the model again with save_pretrained") from error
    if missing := sorted(name for name in shards if not (folder / name).is_file()):
        raise CheckpointError(f"{folder} lacks {missing[0]}, which its index names", "copy all of its files")


def _unmerged_adapter(folder: Path) -> CheckpointError:
    try:
        kind = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("peft_type", "adapter")
    except (ValueError, AttributeError):  # whatever it holds, it is no checkpoint of a whole model
        kind = "damaged"
    if kind == "PREFIX_TUNING":
        problem = f"{folder} holds the prefix of prefix tuning, which cannot be part of an ONNX graph"
        return CheckpointError(problem, "fine-tune with another strategy, such as lora, which is merged")
    remedy = "load it with peft, call merge_and_unload(), and save the model"
    return CheckpointError(f"{folder} holds a {kind} adapter that is not merged into the weights", remedy)
