# SPDX-License-Identifier: AGPL-3.0-or-later
"""Models that the node downloads from a hub, loads from its disk, and saves."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from conftest import await_that

import remora
from remora import _gateway, exceptions, models
from remora._settings import Settings

pytestmark = [pytest.mark.fast, pytest.mark.gateway]

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
HUB_CLASSES = ROOT / "testkit/models/target/classes"
CPU = torch.device("cpu")


class Hub:
    """The tests' hub (HubServer.java), which serves the repositories of a folder."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            ["java", "-XX:+UseSerialGC", "io.remora.models.testkit.HubServer", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"CLASSPATH": f"{HUB_CLASSES}:{_gateway.class_path()}"},
            text=True,
        )
        self.endpoint = self._process.stdout.readline().split()[-1]

    def tell(self, command: str) -> str:
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def stop(self) -> None:
        self._process.stdin.close()
        self._process.wait(60)


class Planted:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Tied(torch.nn.Module):
    """A module with two names for one parameter, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(20, 8)
        self.norm = torch.nn.BatchNorm1d(8)
        self.head = torch.nn.Linear(8, 20, bias=False)
        self.tie()

    def tie(self) -> None:
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.embed(tokens)))


@pytest.fixture(scope="module")
def example():
    pytest.importorskip("transformers")
    sys.path.insert(0, str(EXAMPLES))
    import generate_text
    import load_model

    generate_text.linked_model = load_model.linked_model
    return generate_text


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def llama(example, folder):
    """Makes a small model and its repository, in several shards."""
    model = example.make_model("llama")
    model.save_pretrained(folder / "hub/org/llama", max_shard_size="100KB")
    assert len([*(folder / "hub/org/llama").glob("*.safetensors")]) > 2
    return model


@pytest.fixture(scope="module")
def hub(llama, folder):
    from safetensors.torch import save_file, save_model

    torch.manual_seed(0)
    (folder / "hub/org/model").mkdir()
    save_model(Tied(), str(folder / "hub/org/model/model.safetensors"))
    for name in ("gated", "cut", "stalled", "slow", "pipeline/unet", "pipeline/vae"):
        path = folder / "hub/org" / name
        path.mkdir(parents=True)
        save_file({"w": torch.randn(300, 300)}, path / "model.safetensors")
        if "pipeline" in name:
            save_file({"w": torch.randn(3).half()}, path / "model.fp16.safetensors")
    if not HUB_CLASSES.is_dir():
        pytest.skip(f"the hub for tests is not built: {HUB_CLASSES}")
    made = Hub(folder / "hub")
    made.tell("gate org/gated secret")
    yield made
    made.stop()


@pytest.fixture(scope="module")
def machine(hub, folder):
    """A machine whose node may use the hub, and load and save in the folder."""
    enabled = remora.is_remote_execution_enabled()
    remora.enable_remote_execution()
    allowed = {
        "node.models.directories.0": folder / "disk",
        "node.models.directories.1": silero_folder() or "/nowhere",
        "node.models.save-directories.0": folder / "disk/saved",
        "hub.range-size": "64KiB",
        "hub.retry-delay": "20ms",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
            patch.delenv(name)
        patch.setenv("HF_ENDPOINT", hub.endpoint)
        patch.setenv("HF_HOME", str(folder / "cache"))
        patch.setenv(
            "REMORA_GATEWAY_JVM_OPTIONS",
            " ".join(f"-Dremora.{key}={value}" for key, value in allowed.items()),
        )
        gateway = _gateway.GatewayProcess(_gateway.class_path(), Settings.from_environment())
    try:
        with remora.RemoteMachine.connect(
            gateway.address, token=gateway.token, provider="mock", gpu_count=2
        ) as opened:
            yield opened
    finally:
        gateway.stop()
        if not enabled:
            remora.disable_remote_execution()


@pytest.fixture
def disk(folder, request) -> Path:
    """A new folder from which the node may load."""
    path = folder / "disk" / request.node.name
    path.mkdir(parents=True)
    return path


def silero_folder() -> Path | None:
    found = importlib.util.find_spec("silero_vad")
    return Path(found.origin).parent / "data" if found else None


def same(remote: dict[str, torch.Tensor], local: dict[str, torch.Tensor]) -> bool:
    return set(remote) == set(local) and all(
        remote[name].dtype == tensor.dtype and torch.equal(remote[name].cpu(), tensor)
        for name, tensor in local.items()
    )


def linked(module: torch.nn.Module, weights: dict[str, torch.Tensor]) -> bool:
    return all(
        remora.storage_id(tensor) == remora.storage_id(weights[name])
        for name, tensor in module.state_dict().items()
    )


# ---------------------------------------------------------------- loading


@pytest.mark.skipif(silero_folder() is None, reason="no silero-vad")
def test_a_real_models_tensors_are_those_that_safetensors_reads(machine):
    from safetensors.torch import load_file

    (file,) = silero_folder().glob("*.safetensors")
    before = machine.stats()["uploaded_bytes"]
    by_folder = machine.load_state_dicts(file.parent)
    assert [*by_folder] == [""]
    assert same(by_folder[""], load_file(file))
    assert same(machine.load_state_dicts(file)[""], load_file(file))
    assert machine.stats()["uploaded_bytes"] == before


def test_a_sharded_model_of_the_hub(machine, llama):
    weights = remora.load_huggingface_state_dicts("org/llama", machine.device())[""]
    assert same(weights, llama.state_dict())
    assert {tensor.device for tensor in weights.values()} == {machine.device()}
    # Again, from the cache.
    half = machine.load_state_dicts(
        "org/llama", machine.device("cuda:1"), dtype=torch.bfloat16, revision="main"
    )[""]
    assert same(half, {name: each.bfloat16() for name, each in llama.state_dict().items()})
    assert {str(tensor.device) for tensor in half.values()} == {str(machine.device("cuda:1"))}


def test_a_pipelines_directories_and_some_of_them(machine, folder):
    from safetensors.torch import load_file

    files = {name: f"{name}/model.safetensors" for name in ("unet", "vae")}
    local = {name: load_file(folder / "hub/org/pipeline" / file) for name, file in files.items()}
    both = remora.load_huggingface_state_dicts("org/pipeline", machine)
    assert {*both} == {*local}
    assert all(same(both[name], local[name]) for name in local)
    some = remora.load_huggingface_state_dicts(
        "org/pipeline", str(machine.device()), allow_patterns="unet/*"
    )
    assert [*some] == ["unet"]
    others = machine.load_state_dicts("org/pipeline", ignore_patterns=["unet/*"])
    assert [*others] == ["vae"]
    small = machine.load_state_dicts("org/pipeline", variant="fp16")
    assert small["unet"]["w"].dtype == torch.float16


def test_a_checkpoint_of_torch_save_and_one_that_would_run_something(machine, disk):
    tensors = {"w": torch.randn(40, 50), "count": torch.tensor(7), "half": torch.randn(3).half()}
    tensors["tied"] = tensors["w"].t()
    torch.save(tensors, disk / "pytorch_model.bin")
    weights = machine.load_state_dicts(disk)[""]
    assert same(weights, tensors)
    assert remora.storage_id(weights["tied"]) == remora.storage_id(weights["w"])
    hostile, mark = disk / "hostile", disk / "mark"
    hostile.mkdir()
    torch.save({"w": Planted(mark)}, hostile / "pytorch_model.bin")
    with pytest.raises(exceptions.ModelFileException, match=r"pytorch_model\.bin"):
        machine.load_state_dicts(hostile)
    (hostile / "pytorch_model.bin").write_bytes(pickle.dumps(Planted(mark)))
    with pytest.raises(exceptions.ModelFileException):
        machine.load_state_dicts(hostile)
    assert not mark.exists()


def test_a_model_that_is_larger_than_the_memory(machine, disk):
    size = 1 << 43
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    header += b" " * (-len(header) % 8)
    with (disk / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        try:
            file.truncate(8 + len(header) + size)
        except OSError as e:
            pytest.skip(f"no file with a hole of {size} bytes: {e}")
    with pytest.raises(exceptions.NotEnoughMemoryException, match=f"{size:,}"):
        machine.load_state_dicts(disk)


def test_a_download_that_is_cut_goes_on_where_it_was(machine, hub, folder):
    from safetensors.torch import load_file

    hub.tell("cut 3 20000")
    weights = machine.load_state_dicts("org/cut")[""]
    assert same(weights, load_file(folder / "hub/org/cut/model.safetensors"))
    downloads = int(hub.tell("downloads"))
    assert same(machine.load_state_dicts("org/cut")[""], {"w": weights["w"].cpu()})
    assert int(hub.tell("downloads")) == downloads


def test_what_the_hub_refuses_has_an_exception_of_its_own(machine):
    with pytest.raises(exceptions.RepositoryNotFoundException, match="org/nothing"):
        machine.load_state_dicts("org/nothing")
    with pytest.raises(exceptions.RevisionNotFoundException, match="v9"):
        machine.load_state_dicts("org/llama", revision="v9")
    with pytest.raises(exceptions.GatedRepositoryException, match="org/gated") as gated:
        machine.load_state_dicts("org/gated")
    assert gated.value.access_page.endswith("/org/gated")
    assert isinstance(gated.value, exceptions.HubException)
    assert isinstance(gated.value, RuntimeError)
    assert pickle.loads(pickle.dumps(gated.value)).access_page == gated.value.access_page
    assert [*machine.load_state_dicts("org/gated", token="secret")[""]] == ["w"]


def test_what_the_node_does_not_allow(machine, disk, folder):
    with pytest.raises(exceptions.ModelException, match=r"models\.directories"):
        machine.load_state_dicts(folder / "hub/org/llama")
    with pytest.raises(exceptions.ModelException, match=r"models\.endpoints"):
        machine.load_state_dicts("org/llama", endpoint="http://127.0.0.1:1")
    with pytest.raises(exceptions.ModelException, match=r"save-directories"):
        weights = {"w": torch.ones(1, device=machine.device())}
        machine.save(weights, disk / "model.safetensors", where="node")


def test_arguments_are_checked_before_anything_is_asked(machine):
    for wrong in ({"timeout": 0}, {"dtype": torch.int8}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            machine.load_state_dicts("org/llama", **wrong)
    with pytest.raises(ValueError, match="cpu"):
        remora.load_huggingface_state_dicts("org/llama", "cpu")
    with pytest.raises(ValueError, match="where"):
        machine.save({}, "x.safetensors", where="here")


def test_a_machine_in_this_process_says_that_it_cannot(machine):
    remora.disable_remote_execution()
    try:
        with (
            remora.RemoteMachine("mock") as local,
            pytest.raises(exceptions.MachineStateException, match="node"),
        ):
            local.load_state_dicts("org/llama")
    finally:
        remora.enable_remote_execution()


# ---------------------------------------------------------------- giving up


@contextlib.contextmanager
def the_node_gives_up(caplog, repository: str):
    """Waits until the node has logged that it stops a load."""
    caplog.set_level(logging.INFO, "remora.gateway")
    yield
    await_that(
        lambda: any(repository in text and "cannot be loaded" in text for text in caplog.messages),
        lambda: caplog.text,
    )


def test_ctrl_c_ends_the_load_on_the_node(machine, hub, caplog, monkeypatch):
    hub.tell("stall 1 1000")
    caplog.set_level(logging.INFO, "remora")
    monkeypatch.setattr(models, "_BETWEEN_LOG_LINES", 0)
    seen: list[remora.LoadProgress] = []
    fetching = threading.Event()

    def watch(now: remora.LoadProgress) -> None:
        seen.append(now)
        if "fetches org/stalled: 0 of 1 files" in caplog.text:
            fetching.set()

    def interrupt() -> None:
        if fetching.wait(60):
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with the_node_gives_up(caplog, "org/stalled"), pytest.raises(KeyboardInterrupt):
        machine.load_state_dicts("org/stalled", progress=watch)
    thread.join()
    assert (seen[-1].files_done, seen[-1].files) == (0, 1)
    assert 360_000 < seen[-1].bytes < 361_000
    assert 0 <= seen[-1].bytes_done < seen[-1].bytes
    assert torch.ones(3, device=machine.device()).sum().item() == 3
    assert [*machine.load_state_dicts("org/stalled")[""]] == ["w"]


def test_a_load_that_takes_too_long(machine, hub, caplog):
    hub.tell("stall 1 1000")
    downloads = hub.tell("downloads")
    seconds = 0.5
    with the_node_gives_up(caplog, "org/slow"):
        while hub.tell("downloads") == downloads:  # a slow node may not have come to the download
            with pytest.raises(exceptions.RemoraException, match="within"):
                machine.load_state_dicts("org/slow", timeout=seconds)
            seconds *= 4


# ---------------------------------------------------------------- linking


@pytest.mark.parametrize("where", ["meta", "remote", "cpu"])
def test_assigning_links_without_copying(machine, disk, where):
    from safetensors.torch import save_model

    torch.manual_seed(1)
    original = Tied()
    save_model(original, str(disk / "model.safetensors"))
    weights = machine.load_state_dicts(disk)[""]
    assert remora.storage_id(weights["head.weight"]) == remora.storage_id(weights["embed.weight"])
    with torch.device(machine.device() if where == "remote" else where):
        module = Tied()
    assert module.load_state_dict(weights, assign=True) == ([], [])
    assert linked(module, weights)
    module.tie()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    module(torch.arange(20, device=machine.device())).square().sum().backward()
    optimizer.step()
    expected = torch.optim.SGD(original.parameters(), lr=0.5)
    original(torch.arange(20)).square().sum().backward()
    expected.step()
    torch.testing.assert_close(weights["embed.weight"].cpu(), original.embed.weight.detach())
    torch.testing.assert_close(weights["norm.running_mean"].cpu(), original.norm.running_mean)
    # Without assign, PyTorch copies.
    with torch.device(machine.device()):
        copied = Tied()
    copied.load_state_dict(weights)
    assert not linked(copied, weights)
    assert same(copied.state_dict(), {name: each.cpu() for name, each in weights.items()})


def test_the_manuals_program_runs(machine, folder, tmp_path, monkeypatch):
    from safetensors.torch import load_file

    manual = (ROOT / "docs/models.md").read_text()
    program = manual.split("```python\n", 1)[1].split("```", 1)[0]
    monkeypatch.chdir(tmp_path)
    names = {"remora": remora, "torch": torch, "machine": machine, "Net": Tied}
    exec(program.replace("/data", str(folder / "disk/saved")), names)
    assert linked(names["model"], names["weights"])
    for file in (tmp_path, folder / "disk/saved/out"):
        saved = load_file(file / "model.safetensors")
        assert same(saved, load_file(folder / "hub/org/model/model.safetensors"))


def test_what_does_not_fit_is_said_and_the_rest_linked_if_wanted(machine, disk):
    from safetensors.torch import save_file

    save_file({"weight": torch.randn(3, 4), "more": torch.ones(2)}, disk / "model.safetensors")
    weights = machine.load_state_dicts(disk)[""]
    with torch.device("meta"):
        module = torch.nn.Linear(4, 3)
    with pytest.raises(RuntimeError, match=r"(?s)bias.*more"):
        module.load_state_dict(weights, assign=True)
    result = module.load_state_dict(weights, strict=False, assign=True)
    assert (result.missing_keys, result.unexpected_keys) == (["bias"], ["more"])
    assert remora.storage_id(module.weight) == remora.storage_id(weights["weight"])
    with torch.device("meta"), pytest.raises(RuntimeError, match="size mismatch"):
        torch.nn.Linear(5, 3).load_state_dict(weights, strict=False, assign=True)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_linked_model_generates_the_cpus_tokens(machine, example, disk, kind):
    local = example.make_model(kind)
    local.save_pretrained(disk, max_shard_size="100KB")
    weights = machine.load_state_dicts(disk)[""]
    if kind == "gpt2":  # transformers saves tied weights once, and without the model's prefix
        assert "lm_head.weight" not in weights
    before = machine.stats()["uploaded_bytes"]
    model = example.linked_model(local.config, weights, machine.device())
    assert machine.stats()["uploaded_bytes"] - before < 10_000
    ids = {remora.storage_id(tensor) for tensor in weights.values()}
    assert {remora.storage_id(parameter) for parameter in model.parameters()} == ids
    remote = example.generate(model, machine.device(), 12, True)
    assert remote == example.generate(local, CPU, 12, True)


# ---------------------------------------------------------------- saving


@pytest.mark.parametrize("where", ["program", "node"])
def test_saving_brings_back_what_was_loaded(machine, folder, tmp_path, where):
    from safetensors import safe_open
    from safetensors.torch import load_file

    base = torch.randn(6, 8)
    local = {
        "b.matrix": base,
        "a.rows": base[1:3],
        "columns": base.t(),
        "conj": torch.randn(4, dtype=torch.complex64).conj(),
        "half": torch.randn(5).bfloat16(),
        "eight": torch.randn(5).to(torch.float8_e4m3fn),
        "flag": torch.tensor(True),
        "none": torch.empty(0, 3),
        "ü": torch.arange(3),
    }
    remote = {name: tensor.to(machine.device()) for name, tensor in local.items()}
    remote["a.rows"], remote["columns"] = remote["b.matrix"][1:3], remote["b.matrix"].t()
    remote["tied"] = remote["b.matrix"].view(6, 8)
    path = folder / "disk/saved/new/model.safetensors"
    if where == "program":
        path = tmp_path / "model.safetensors"
        path.write_text("before")
    machine.save(remote, path, metadata={"step": "3"}, where=where)
    loaded = load_file(path)
    assert {*loaded} == {*local}
    for name, tensor in local.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(
            loaded[name].view(torch.uint8), tensor.resolve_conj().contiguous().view(torch.uint8)
        ), name
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "step": "3", "tied": "b.matrix"}
    assert [each.name for each in path.parent.iterdir()] == ["model.safetensors"]
    if where == "node":
        again = machine.load_state_dicts(path)[""]
        assert again["tied"] is again["b.matrix"]


@pytest.mark.parametrize("where", ["program", "node"])
def test_a_tensor_cannot_have_the_metadata_s_name(machine, folder, tmp_path, where):
    path = folder / "disk/saved/m.safetensors" if where == "node" else tmp_path / "m.safetensors"
    tensor = torch.ones(2, device=machine.device())
    with pytest.raises(ValueError, match="cannot be named '__metadata__'.*another name"):
        machine.save({"__metadata__": tensor}, path, where=where)
    assert not path.exists()


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("where", ["program", "node"])
def test_a_file_that_cannot_be_finished_leaves_what_was_there(machine, folder, tmp_path, where):
    parent = folder / "disk/saved" if where == "node" else tmp_path
    parent.mkdir(parents=True, exist_ok=True)
    path = parent / "kept.safetensors"
    path.write_bytes(b"before")
    x = torch.ones(4, device=machine.device())
    failed = x[torch.tensor([9], device=machine.device())]
    with pytest.raises(exceptions.RemoteOperationException, match="out of bounds"):
        machine.save({"a": x, "b": failed}, path, where=where)
    assert path.read_bytes() == b"before"
    with contextlib.suppress(exceptions.RemoteOperationException):
        machine.synchronize()
    with pytest.raises(exceptions.ModelException, match="complex32"):
        machine.save({"a": x.to(torch.complex32)}, path, where=where)
    with pytest.raises(ValueError, match="on cpu"):
        machine.save({"a": torch.ones(2)}, path, where=where)
    with pytest.raises(ValueError, match="metadata"):
        machine.save({"a": x, "b": x}, path, metadata={"b": ""}, where=where)
    assert not [*parent.glob(".*")]


@pytest.mark.parametrize("where", ["program", "node"])
def test_what_a_killed_writer_has_left_is_removed(machine, folder, tmp_path, where):
    parent = folder / "disk/saved" if where == "node" else tmp_path
    parent.mkdir(parents=True, exist_ok=True)
    old, other, young = (
        parent / f".{name}.part" for name in ("x.safetensors.1", "y.1", "x.safetensors.2")
    )
    for each in (old, other, young):
        each.touch()
    for each in (old, other):
        os.utime(each, (0, 0))
    machine.save(
        {"a": torch.ones(2, device=machine.device())}, parent / "x.safetensors", where=where
    )
    assert not old.exists() and other.exists() and young.exists()
    other.unlink()
    young.unlink()


def test_a_file_of_this_computer_that_cannot_be_made(machine, tmp_path):
    with pytest.raises(exceptions.ModelException, match="nowhere"):
        machine.save(
            {"a": torch.ones(2, device=machine.device())}, tmp_path / "nowhere/x.safetensors"
        )
