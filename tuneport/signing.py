"""Signatures of artifacts in minisign's format: who vouches for a manifest, and through its hashes for every file.

The signature is `manifest.json.minisig` beside the manifest, so that `minisign -V -m manifest.json -p KEY.pub` checks
it without tuneport.
"""

import base64
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import minisign

from tuneport.errors import SignatureError, TuneportError
from tuneport.folders import sha256
from tuneport.schema.artifact import MANIFEST
from tuneport.schema.loading import load_manifest

SIGNATURE = f"{MANIFEST}.minisig"
PASSWORD = "TUNEPORT_SIGNING_PASSWORD"
"""Variable with the password of a secret key that has one."""
State = Literal["unsigned", "unchecked", "valid"]
KINDS = {42: "a public key", 74: "a signature", 158: "a secret key"}
"""What minisign's files hold, by the size of what their lines of base64 encode, in bytes."""


@dataclass(frozen=True)
class SignatureCheck:
    """What is known of an artifact's signature."""

    state: State
    """`unchecked`: there is a signature, and no key to check it with."""
    key_id: str | None = None
    """Of the public key that the signature is valid for, as minisign writes it."""
    comment: str | None = None
    """The trusted comment, which the signature covers."""


def make_keys(secret: Path, password: str | None = None) -> Path:
    """Write a new secret key, and beside it with the suffix .pub its public key; returns the public key's path."""
    public = secret.with_name(f"{secret.name}.pub")
    for path in (secret, public):
        if path.exists():
            raise TuneportError(f"{path} exists", "choose another file: a key that is replaced is lost")
    pair = minisign.KeyPair.generate()
    if password:
        pair.secret_key.encrypt(password)
    try:
        descriptor = os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(bytes(pair.secret_key))
        public.write_bytes(bytes(pair.public_key))
    except OSError as error:
        raise TuneportError(f"{secret} cannot be written ({error.strerror})", "choose another file") from error
    return public


def sign(artifact: Path, secret: Path) -> SignatureCheck:
    """Sign an artifact's manifest with a secret key; a signature that is there is replaced.

    Raises ArtifactError for a manifest that cannot be read, SignatureError for a key that cannot be used.
    """
    manifest = load_manifest(artifact)
    comment = f"tuneport {manifest.name} {manifest.version} sha256:{sha256(artifact / MANIFEST)}"
    return sign_file(artifact / MANIFEST, artifact / SIGNATURE, secret, comment)


def sign_file(file: Path, signature: Path, secret: Path, comment: str) -> SignatureCheck:
    """Sign a file with a secret key; the signature covers the comment. A signature that is there is replaced."""
    try:
        key = minisign.SecretKey.from_file(secret)
        if key.is_encrypted():
            key.decrypt(os.environ.get(PASSWORD, ""))
        signature.write_bytes(bytes(key.sign(file.read_bytes(), trusted_comment=comment)))
        return SignatureCheck("valid", key_id(key.get_public_key()), comment)
    except OSError as error:
        raise SignatureError(f"{error.filename} cannot be used ({error.strerror})", "correct its path") from error
    except minisign.Error as error:
        kind = _kind_of(secret.read_text(encoding="utf-8", errors="replace"))
        if kind not in (None, "a secret key"):
            remedy = "give the file of the secret key, which `tuneport keygen` names without .pub"
            raise SignatureError(f"{secret} is {kind}, and signing takes a secret key", remedy) from error
        remedy = f"give a secret key of minisign's; if it has a password, set {PASSWORD}"
        raise SignatureError(f"{secret} cannot sign ({error})", remedy) from error


def read_public_key(text: str, source: str = "the key") -> minisign.PublicKey:
    """Read a public key: its line of base64, or the two lines of minisign's file.

    Raises SignatureError, which says by `source` where the text is from.
    """
    line = _last_line(text)
    try:
        return minisign.PublicKey.from_base64(line)
    except minisign.Error as error:
        kind = _kind_of(text)
        if kind is not None:
            problem = f"{source} is {kind}, and a signature is checked with a public key"
            raise SignatureError(problem, "give the .pub file beside the secret key, or its last line") from error
        remedy = "give the last line of minisign's .pub file, which begins with RW"
        raise SignatureError(f"{source}: {line[:60]!r} is no public key ({error})", remedy) from error


def find_public_key(given: str) -> str:
    """Return the public key that is given as minisign's .pub file, or as the last line of it.

    Raises SignatureError for a file that cannot be read, and for another kind of key.
    """
    if not given.strip():  # such as a variable that is not set, which must not turn the check off
        raise SignatureError("the public key is empty", "give minisign's .pub file, or its last line")
    path = Path(given)
    if given.startswith("RW") and not path.exists():
        text, source = given, "the given key"
    else:
        try:
            text, source = path.read_text(encoding="utf-8"), str(path)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise SignatureError(f"{path} cannot be read ({reason})", "give minisign's .pub file") from error
    read_public_key(text, source)
    return text


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1].strip() if text.strip() else ""


def _kind_of(text: str) -> str | None:
    """Name the kind of a key or a signature of minisign's; None for any other text."""
    encoded = [line for line in text.splitlines() if line.startswith(("RW", "RU"))]
    try:
        return KINDS.get(len(base64.b64decode(encoded[0].strip(), validate=True))) if encoded else None
    except ValueError:
        return None


def check_signature(artifact: Path, public_key: str | None, *, is_required: bool = False) -> SignatureCheck:
    """Check an artifact's signature with a public key; the hashes of the files are checked where they are opened.

    Raises SignatureError for a signature that is not the key's or not of this manifest, and for none if it is
    required; ArtifactError for a manifest that cannot be read.
    """
    load_manifest(artifact)
    path = artifact / SIGNATURE
    if not path.is_file():
        if is_required:
            raise SignatureError(f"{artifact} is not signed", "sign it with `tuneport sign`")
        return SignatureCheck("unsigned")
    if public_key is None:
        return SignatureCheck("unchecked")
    return check_file_signature(artifact / MANIFEST, path, public_key)


def check_file_signature(file: Path, signature: Path, public_key: str) -> SignatureCheck:
    """Check the signature of a file; raises SignatureError for none, and for that of another key or file."""
    key = read_public_key(public_key)
    try:
        read = minisign.Signature.from_file(signature)
        key.verify(file.read_bytes(), read)
    except (minisign.Error, OSError) as error:
        problem = f"{signature} is not a signature of this {file.name} with the key {key_id(key)} ({error})"
        raise SignatureError(problem, "restore it from its source, or give the key that signed it") from error
    return SignatureCheck("valid", key_id(key), read.trusted_comment)


def key_id(key: minisign.PublicKey) -> str:
    """Return a key's id in the hexadecimal form that minisign prints."""
    return base64.b64decode(key.to_base64())[2:10][::-1].hex().upper()
