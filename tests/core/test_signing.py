"""Signatures of artifacts: who signed, what a change of the artifact does to it, and what the commands say."""

from pathlib import Path

import minisign
import pytest
from kit.artifacts import change_byte
from kit.command import assert_one_line, tuneport

from tuneport.errors import ArtifactError, SignatureError, TuneportError
from tuneport.schema.artifact import MANIFEST
from tuneport.schema.loading import load_manifest
from tuneport.signing import PASSWORD, SIGNATURE, check_signature, key_id, make_keys, read_public_key, sign


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A secret key and its public key."""
    secret = tmp_path_factory.mktemp("keys") / "release.key"
    return secret, make_keys(secret)


@pytest.fixture
def signed(artifact: Path, keys: tuple[Path, Path]) -> Path:
    sign(artifact, keys[0])
    return artifact


def test_a_signed_artifact_names_key_and_version(signed: Path, keys: tuple[Path, Path]) -> None:
    found = check_signature(signed, keys[1].read_text(), is_required=True)
    manifest = load_manifest(signed)
    assert found.state == "valid"
    assert found.key_id == key_id(read_public_key(keys[1].read_text()))
    assert found.comment is not None
    assert found.comment.startswith(f"tuneport tiny {manifest.version} sha256:")


def test_the_signature_is_in_minisigns_format(signed: Path, keys: tuple[Path, Path]) -> None:
    """Read by the library alone, as `minisign -V` would."""
    minisign.PublicKey.from_file(keys[1]).verify_file(signed / MANIFEST)


def test_the_key_id_is_what_minisign_prints() -> None:
    """The public key of minisign's own releases, whose id its documentation gives."""
    assert key_id(read_public_key("RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3")) == "E7620F1842B4E81F"


def test_the_secret_key_is_for_its_owner_alone(keys: tuple[Path, Path]) -> None:
    assert keys[0].stat().st_mode & 0o777 == 0o600


def test_a_key_is_never_replaced(keys: tuple[Path, Path]) -> None:
    with pytest.raises(TuneportError, match=r"release\.key exists"):
        make_keys(keys[0])


def test_another_key_does_not_fit(signed: Path, tmp_path: Path) -> None:
    other = make_keys(tmp_path / "other.key").read_text()
    with pytest.raises(SignatureError, match=r"is not a signature of this manifest.json with the key [0-9A-F]{16}"):
        check_signature(signed, other)


def test_a_manifest_that_was_sealed_again_is_refused(signed: Path, keys: tuple[Path, Path]) -> None:
    """Whoever can write the files can compute seal and hashes, too, but not sign."""
    load_manifest(signed).model_copy(update={"default_because": "it says so"}).save(signed)
    with pytest.raises(SignatureError, match="is not a signature of this manifest"):
        check_signature(signed, keys[1].read_text())


def test_a_changed_manifest_and_a_damaged_signature_are_refused(signed: Path, keys: tuple[Path, Path]) -> None:
    change_byte(signed / SIGNATURE)
    with pytest.raises(SignatureError):
        check_signature(signed, keys[1].read_text())
    change_byte(signed / MANIFEST)
    with pytest.raises(ArtifactError):
        check_signature(signed, keys[1].read_text())


def test_without_a_signature_only_a_required_one_is_missed(artifact: Path, keys: tuple[Path, Path]) -> None:
    assert check_signature(artifact, keys[1].read_text()).state == "unsigned"
    with pytest.raises(SignatureError, match="is not signed; sign it with `tuneport sign`"):
        check_signature(artifact, keys[1].read_text(), is_required=True)


def test_without_a_key_a_signature_is_unchecked(signed: Path) -> None:
    assert check_signature(signed, None).state == "unchecked"


def test_a_key_with_a_password_needs_it(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    public = make_keys(tmp_path / "locked.key", "a password")
    with pytest.raises(SignatureError, match=r"locked\.key cannot sign .*set TUNEPORT_SIGNING_PASSWORD"):
        sign(artifact, tmp_path / "locked.key")
    monkeypatch.setenv(PASSWORD, "a password")
    sign(artifact, tmp_path / "locked.key")
    assert check_signature(artifact, public.read_text()).state == "valid"


def test_a_key_of_the_wrong_kind_is_named(artifact: Path, tmp_path: Path) -> None:
    secret, public = tmp_path / "key", make_keys(tmp_path / "key")
    assert_one_line(
        tuneport("sign", artifact, "--secret-key", public).err, f"{public} is a public key", "takes a secret key"
    )
    sign(artifact, secret)
    line = secret.read_text().splitlines()[-1]
    for given, name in ((secret, str(secret)), (line, "the given key")):
        refused = tuneport("verify", artifact, "--public-key", given).err
        assert_one_line(refused, f"{name} is a secret key", "with a public key; give the .pub file")
        assert line[:20] not in refused
    refused = tuneport("verify", artifact, "--public-key", artifact / SIGNATURE).err
    assert_one_line(refused, f"{artifact / SIGNATURE} is a signature")


@pytest.mark.parametrize("command", [("verify",), ("pull", "--out", "out")])
def test_an_empty_key_does_not_turn_the_check_off(artifact: Path, command: tuple[str, ...]) -> None:
    name, *options = command
    answer = tuneport(name, artifact, *options, "--public-key", "")
    assert answer.code == 1
    assert_one_line(answer.err, "the public key is empty")


def test_verify_says_what_it_knows_of_the_signature(artifact: Path, keys: tuple[Path, Path]) -> None:
    assert tuneport("verify", artifact).out.startswith("not signed\n")
    sign(artifact, keys[0])
    assert tuneport("verify", artifact).out.startswith("signature not checked: give --public-key\n")


def test_the_commands_sign_and_verify(artifact: Path, tmp_path: Path) -> None:
    secret, public = tmp_path / "k", tmp_path / "k.pub"
    made = tuneport("keygen", secret)
    assert made.code == 0
    assert public.read_text().splitlines()[-1] in made.out
    refused = tuneport("verify", artifact, "--public-key", public)
    assert_one_line(refused.err, "is not signed", "tuneport sign")
    assert tuneport("sign", artifact, "--secret-key", secret).code == 0
    line = public.read_text().splitlines()[-1]
    for key in (public, line):
        verified = tuneport("verify", artifact, "--public-key", key)
        assert verified.code == 0
        assert verified.out.startswith("signature valid: ")
    tuneport("keygen", tmp_path / "other")
    other = (tmp_path / "other.pub").read_text().splitlines()[-1]
    assert_one_line(tuneport("verify", artifact, "--public-key", other).err, "is not a signature of this manifest.json")
    change_byte(artifact / "onnx" / "fp32" / "model.onnx")
    assert_one_line(tuneport("verify", artifact, "--public-key", public).err, "is not the file that passed the gate")


@pytest.mark.parametrize("content", [None, "", "not a key", "RWQ"])
def test_what_is_no_key_is_one_line(artifact: Path, tmp_path: Path, content: str | None) -> None:
    key = tmp_path / "key"
    if content is not None:
        key.write_text(content)
    for command, option in (("sign", "--secret-key"), ("verify", "--public-key")):
        (artifact / SIGNATURE).write_text("a signature")
        done = tuneport(command, artifact, option, key)
        assert done.code == 1
        assert_one_line(done.err, "key")
