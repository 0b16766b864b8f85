"""GET /evidence, and serving that asks for a signature."""

import asyncio
import json
from pathlib import Path

import bentoml
import grpc
import httpx
import pytest
from kit.artifacts import change_byte
from kit.command import assert_one_line, tuneport
from kit.serving import local_service

from tuneport.errors import ArtifactError, SignatureError, TuneportError
from tuneport.folders import sha256
from tuneport.schema.artifact import MANIFEST
from tuneport.schema.loading import load_manifest
from tuneport.schema.selection import SELECTION
from tuneport.signing import SIGNATURE, make_keys, sign
from tuneport.stages.serve.admission import AdmissionController
from tuneport.stages.serve.bento import build, register
from tuneport.stages.serve.grpc import open_inference_pb2 as messages
from tuneport.stages.serve.grpc.server import GrpcServer
from tuneport.stages.serve.grpc.servicer import SERVICE
from tuneport.stages.serve.inference import Inference
from tuneport.stages.serve.models.registry import ModelRegistry
from tuneport.stages.serve.origin import Origin
from tuneport.stages.serve.process import free_port
from tuneport.stages.serve.settings import Settings, read_settings


@pytest.fixture
def public_key(artifact: Path, tmp_path: Path) -> str:
    """Sign the artifact; returns the public key's line."""
    public = make_keys(tmp_path / "key")
    sign(artifact, tmp_path / "key")
    return public.read_text().splitlines()[-1]


def test_the_evidence_is_that_of_the_variant_that_serves(artifact: Path, public_key: str) -> None:
    manifest = load_manifest(artifact)
    with local_service(artifact, variant="int8", public_key=public_key, require_signature=True) as service:
        response = service.get("/evidence")
        content = response.json()
    assert response.status_code == 200
    assert content["model"] == {"name": "tiny", "version": manifest.version, "variant": "int8"}
    variant = manifest.variant("int8")
    assert content["execution"] == json.loads(variant.execution.model_dump_json())
    assert content["evidence"] == json.loads(variant.evidence.model_dump_json())
    assert content["measured_on"] == json.loads(manifest.host.model_dump_json())
    assert content["golden_difference_here"] <= variant.evidence.tolerance
    assert content["manifest_sha256"] == sha256(artifact / MANIFEST)
    assert content["provenance"]["checkpoint_sha256"] == manifest.provenance.checkpoint_sha256
    assert manifest.provenance.data is not None
    assert content["provenance"]["data"]["fingerprint"] == manifest.provenance.data.fingerprint
    assert content["signature"]["state"] == "valid"
    assert len(content["signature"]["key_id"]) == 16


def test_folders_of_the_machine_that_trained_are_not_shown(artifact: Path) -> None:
    provenance = load_manifest(artifact).provenance
    assert provenance.data is not None
    with local_service(artifact) as service:
        text = service.get("/evidence").text
    assert provenance.checkpoint not in text
    assert provenance.data.source not in text


def test_the_evidence_needs_the_key_of_the_api(artifact: Path) -> None:
    with local_service(artifact, api_keys="secret") as service:
        assert service.get("/evidence").status_code == 401
        assert service.get("/evidence", headers={"x-api-key": "secret"}).status_code == 200


def test_without_a_key_the_state_is_honest(artifact: Path, public_key: str) -> None:
    with local_service(artifact) as service:
        assert service.get("/evidence").json()["signature"]["state"] == "unchecked"
    (artifact / SIGNATURE).unlink()
    with local_service(artifact, public_key=public_key) as service:
        assert service.get("/evidence").json()["signature"] == {"state": "unsigned", "key_id": None, "comment": None}


def test_serving_refuses_a_wrong_key_a_missing_signature_and_a_changed_file(
    artifact: Path, public_key: str, tmp_path: Path
) -> None:
    other = make_keys(tmp_path / "other").read_text().splitlines()[-1]
    with pytest.raises(SignatureError, match="is not a signature of this manifest"):
        Inference.open(artifact, Settings(public_key=other))
    required = Settings(public_key=public_key, require_signature=True, variant="fp32")
    change_byte(artifact / "onnx" / "fp32" / "model.onnx")
    with pytest.raises(ArtifactError, match="is not the file that passed the gate"):
        Inference.open(artifact, required)
    (artifact / SIGNATURE).unlink()
    with pytest.raises(SignatureError, match="is not signed"):
        Inference.open(artifact, required)


def test_the_command_refuses_in_one_line(tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEPORT_PUBLIC_KEY", make_keys(tmp_path / "key").read_text().splitlines()[-1])
    monkeypatch.setenv("TUNEPORT_REQUIRE_SIGNATURE", "1")
    monkeypatch.setenv("TUNEPORT_GRPC_PORT", "0")
    done = tuneport("serve", tiny_artifact, "--port", str(free_port()))
    assert done.code == 1
    assert_one_line(done.err.splitlines(keepends=True)[-1], "is not signed", "tuneport sign")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"TUNEPORT_REQUIRE_SIGNATURE": "1"}, "set TUNEPORT_PUBLIC_KEY"),
        ({"TUNEPORT_PUBLIC_KEY": "nonsense"}, "'nonsense' is no public key"),
    ],
)
def test_settings_that_check_nothing_are_refused(
    variables: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TuneportError, match=words):
        read_settings()


def test_a_signature_made_later_reaches_the_store_and_the_bento(artifact: Path, tmp_path: Path) -> None:
    load_manifest(artifact).model_copy(update={"default_because": "signed later"}).save(artifact)
    stored = Path(bentoml.models.get(register(artifact)).path)
    assert not (stored / SIGNATURE).exists()
    make_keys(tmp_path / "key")
    sign(artifact, tmp_path / "key")
    [model] = build(artifact).info.all_models
    packed = Path(model.to_model().resolve().path)
    assert (packed / SIGNATURE).read_bytes() == (stored / SIGNATURE).read_bytes() == (artifact / SIGNATURE).read_bytes()


def test_grpc_s_metadata_names_manifest_and_signature(artifact: Path, public_key: str) -> None:
    async def ask() -> dict[str, str | bytes]:
        settings = Settings(
            variant="fp32", public_key=public_key, grpc_port=free_port(), grpc_host="127.0.0.1", log_requests=False
        )
        inference = Inference.open(artifact, settings)
        server = GrpcServer(ModelRegistry(AdmissionController(inference, settings)))
        port = await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                request = messages.ModelMetadataRequest(name="tiny").SerializeToString()
                call = channel.unary_unary(f"/{SERVICE}/ModelMetadata")(request)
                await call
                return dict(await call.trailing_metadata())
        finally:
            await server.stop(1)
            inference.close()

    metadata = asyncio.run(ask())
    assert metadata["manifest-sha256"] == sha256(artifact / MANIFEST)
    assert metadata["signature-state"] == "valid"
    assert len(metadata["signature-key-id"]) == 16
    assert metadata["x-request-id"]


def test_a_bento_shows_its_evidence(client: httpx.Client, tiny_artifact: Path) -> None:
    content = client.get("/evidence").json()
    assert content["manifest_sha256"] == sha256(tiny_artifact / MANIFEST)
    assert content["model"]["version"] == load_manifest(tiny_artifact).version


def select(artifact: Path, *names: str) -> None:
    (artifact / SELECTION).write_text(json.dumps({"variants": names}))


def test_a_changed_selection_cannot_change_what_serves_where_a_signature_is_required(
    artifact: Path, public_key: str
) -> None:
    manifest = load_manifest(artifact)
    default = manifest.default_variant
    other = next(each.name for each in manifest.variants if each.name != default)
    select(artifact, other, default)
    assert load_manifest(artifact).default_variant == other
    assert load_manifest(artifact).default_because != manifest.default_because
    assert Origin.check(artifact, Settings()).signature.state == "unchecked"
    required = Settings(public_key=public_key, require_signature=True)
    with pytest.raises(SignatureError, match=rf"makes {other} the default variant, and the signed manifest {default}"):
        Origin.check(artifact, required)
    Origin.check(artifact, required.model_copy(update={"variant": other}))
    select(artifact, default)
    Origin.check(artifact, required)


@pytest.mark.parametrize("names", [("nowhere",), ("fp32", "fp32"), ()])
def test_a_selection_names_variants_of_the_manifest_each_once(artifact: Path, names: tuple[str, ...]) -> None:
    select(artifact, *names)
    with pytest.raises(ArtifactError):
        load_manifest(artifact)
