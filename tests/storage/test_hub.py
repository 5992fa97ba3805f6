"""Networks saved to a folder and to a Hub on this machine, and read back bit for bit in every mode."""

import ast
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

import quantizable
from quantizable import QuantizableNetwork
from quantizable.cli import main
from quantizable.interface.errors import mendable
from quantizable.storage.card import BEGIN, END, file_size, merged
from quantizable.storage.checkpoint import build_described
from quantizable.storage.load import _build
from quantizable.storage.qz import save_qz
from quantizable.training.classifier import QuantizableClassifier
from tests.small_net import SmallNet
from tests.storage.hub_server import Hub

constants = pytest.importorskip("huggingface_hub.constants", reason="the hub extra is not installed")
Make = Callable[..., QuantizableNetwork]
RESULTS = {"2": {"top1": 0.5}, "8": {"top1": 0.75}, "32": {"top1": 0.8125, "top5": 1.0}}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A Hub on this machine, where one is logged in, and an empty cache."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    at(monkeypatch, server.url, tmp_path / "cache")
    monkeypatch.setenv("HF_TOKEN", "secret")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def at(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    """Make huggingface_hub look for the Hub at an address, and keep downloads in a folder."""
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    for name, value in {"ENDPOINT": url, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": False}.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "0")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))


def mixed(**options: object) -> QuantizableNetwork:
    """A calibrated timm network with a float mode and one of two widths; norms differ between modes."""
    model = timm.create_model("test_resnet", num_classes=5, **options)
    network = quantizable.quantize(model, [2, "w4a8", 8, 32])
    images = torch.randn(4, 3, 16, 16)
    network.calibrate([images])
    network.reestimate_norms([images])
    network.info = {"in_chans": 3, "image_size": 16}
    return network.eval()


def same_in_all_modes(one: QuantizableNetwork, other: QuantizableNetwork, images: Tensor) -> None:
    assert one.modes == other.modes
    for mode in one.modes:
        with one.at_bits(mode), other.at_bits(mode), torch.no_grad():
            assert torch.equal(one(images), other(images)), mode.name


def test_a_folder_gives_the_same_network_back_in_all_modes(tmp_path: Path) -> None:
    network, images = mixed(), torch.randn(3, 3, 16, 16)
    written = network.save_pretrained(tmp_path / "net", RESULTS)
    assert {path.name for path in written} == {
        *("config.json", "model.safetensors", "model.qz", "modes.png", "README.md")
    }
    for again in (
        quantizable.load(tmp_path / "net"),
        QuantizableNetwork.from_pretrained(tmp_path / "net"),
        QuantizableNetwork.from_pretrained(str(tmp_path / "net")),
    ):
        same_in_all_modes(network, again, images)
        assert again.state_dict().keys() == network.state_dict().keys()
    integers = quantizable.load(tmp_path / "net" / "model.qz")
    assert [mode.name for mode in integers.modes] == ["2", "w4a8", "8"]


def test_the_hub_gives_the_same_network_back_in_all_modes(hub: Hub, tmp_path: Path) -> None:
    network, images = mixed(), torch.randn(3, 3, 16, 16)
    url = network.push_to_hub("ann/net", RESULTS)
    assert url == f"{hub.url}/ann/net/commit/{'0' * 39}1"
    assert set(hub.repositories["ann/net"]) == {
        *("config.json", "model.safetensors", "model.qz", "modes.png", "README.md")
    }
    same_in_all_modes(network, quantizable.load("hf://ann/net"), images)
    same_in_all_modes(network, quantizable.load("hf://ann/net@main"), images)
    same_in_all_modes(network, quantizable.load(Path("hf://ann/net")), images)  # which has one slash
    same_in_all_modes(network, QuantizableNetwork.from_pretrained("ann/net"), images)
    offline = QuantizableNetwork.from_pretrained("ann/net", local_files_only=True)
    same_in_all_modes(network, offline, images)


def test_a_second_push_keeps_what_the_owner_wrote_into_the_card(hub: Hub) -> None:
    network = mixed()
    network.push_to_hub("ann/net", RESULTS)
    files = hub.repositories["ann/net"]
    card = files["README.md"].decode()
    assert "license:" not in card.partition(BEGIN)[0]
    files["README.md"] = (card.replace("---\nlibrary", "---\nlicense: mit\nlibrary") + "My words.\n").encode()
    network.push_to_hub("ann/net", {"2": {"top1": 0.625}}, integers=False, message="again")
    assert set(files) == {"config.json", "model.safetensors", "modes.png", "README.md"}  # no old integers
    card = files["README.md"].decode()
    assert card.startswith("---\nlicense: mit\nlibrary_name: quantizable\n")
    assert card.endswith("My words.\n")
    assert "62.50" in card
    assert "81.25" not in card
    assert card.count(BEGIN) == card.count(END) == 1
    assert hub.commits == ["Push a network of quantizable", "again"]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (614, "614 B"), (999.6, "1 kB"), (67_600, "67.6 kB"), (999_999, "1 MB"), (1.25e6, "1.25 MB"),
     (999_600_000, "1 GB"), (2.5e9, "2.5 GB")],
)  # fmt: skip
def test_sizes_have_three_digits_and_a_unit_that_fits(size: float, text: str) -> None:
    assert file_size(size) == text


def test_the_card_says_modes_accuracies_sizes_and_how_to_switch(tmp_path: Path, make: Make) -> None:
    network = make(bits=(2, 8, 32), first_last="mode")
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"modes": RESULTS, "set": "test"}))
    network.save_pretrained(tmp_path / "net", results)
    card = (tmp_path / "net" / "README.md").read_text()
    # 162 + 324 + 54 + 24 + 50 = 614 weights: 154 bytes at 2 bits (layer by layer: 41 + 81 + 14 + 6 + 13)
    assert "| 2 | 50.00 |  | 155 B |" in card
    assert "| 8 | 75.00 |  | 614 B |" in card
    assert "| 32 | 81.25 | 100.00 | 2.46 kB |" in card
    for words in (
        'quantizable.load("net")',
        "network.set_bits(2)",
        "5 classes: ant, bee",
        "mean: 0.5, 0.5, 0.5",
    ):
        assert words in card
    assert "![Top-1 accuracy against bits](modes.png)" in card
    make().save_pretrained(tmp_path / "bare", integers=False)
    card = (tmp_path / "bare" / "README.md").read_text()
    assert "accuracies were not given" in card
    assert not {"modes.png", "model.qz"} & {path.name for path in (tmp_path / "bare").iterdir()}


def test_words_from_elsewhere_are_words_in_the_card(tmp_path: Path, make: Make) -> None:
    network, bad = (
        make(),
        ["<script>alert(1)</script>", END, "x\n# Heading\n", "`a` [b](http://c) | d", BEGIN],
    )
    network.info |= {"class_names": bad, "data": f"`{END}`\n\n# Data", "mean": [END, 0.5, 0.5]}
    network.info["in_chans"] = "<b>3</b>"
    folder = tmp_path / "net<b>`x`<!-- written by quantizable: end -->"
    cards = []
    for _ in range(3):
        network.save_pretrained(folder, integers=False)
        cards.append((folder / "README.md").read_text())
    assert cards[0] == cards[1] == cards[2]
    assert cards[0].count(BEGIN) == cards[0].count(END) == cards[0].count("## License") == 1
    outside = cards[0].replace(BEGIN, "").replace(END, "")
    assert "<" not in outside
    assert "\n# Heading" not in outside
    assert "\n# Data" not in outside
    assert r"\`a\` \[b\](http\://c) \| d" in outside
    (line,) = (line for line in outside.splitlines() if "quantizable.load(" in line)
    assert ast.literal_eval(line.partition("load(")[2].partition(")  #")[0]) == folder.name


def test_a_card_of_the_owners_own_is_kept() -> None:
    new = f"{BEGIN}\nnew\n{END}\n"
    assert merged(new, "---\nlicense: mit\n---\nMine.\n") == f"---\nlicense: mit\n---\nMine.\n\n{new}"
    assert merged(new, f"a\n{BEGIN}\nold\n{END}\nb") == f"a\n{BEGIN}\nnew\n{END}\nb"
    assert merged(new, None).endswith(new)


def test_a_network_of_a_module_needs_its_module(tmp_path: Path, make: Make, images: Tensor) -> None:
    network = make(bits=(2, 8, 32))
    network.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"module of your own; pass it: load\(path, model=...\)"):
        quantizable.load(tmp_path)
    again = QuantizableNetwork.from_pretrained(tmp_path, SmallNet())
    same_in_all_modes(network, again, images)
    assert again.info["class_names"] == network.info["class_names"]


@pytest.mark.parametrize("options", [{"in_chans": 1}, {"act_layer": nn.SiLU}])
def test_a_description_that_would_build_another_network_is_not_written(tmp_path: Path, options: dict) -> None:
    """timm tells neither: the network would be refused when it is loaded, or silently be another one."""
    network = quantizable.quantize(timm.create_model("test_resnet", num_classes=5, **options), [2, 32])
    images = torch.randn(2, options.get("in_chans", 3), 160, 160)
    network.calibrate([images])
    network.eval().save_pretrained(tmp_path, integers=False)
    assert json.loads((tmp_path / "config.json").read_text())["model"] is None
    again = quantizable.load(tmp_path, timm.create_model("test_resnet", num_classes=5, **options))
    same_in_all_modes(network, again, images)


def test_integers_are_shared_as_integers(tmp_path: Path, hub: Hub, make: Make, images: Tensor) -> None:
    save_qz(make(), tmp_path / "first.qz")
    network = quantizable.load(tmp_path / "first.qz", SmallNet())
    network.push_to_hub("ann/integers")
    assert set(hub.repositories["ann/integers"]) == {"config.json", "model.qz", "README.md"}
    same_in_all_modes(network, quantizable.load("hf://ann/integers", SmallNet()), images)


def test_a_folder_keeps_no_file_of_a_network_before(tmp_path: Path, make: Make, images: Tensor) -> None:
    make(bits=(2, 8, 32)).save_pretrained(tmp_path / "net", RESULTS)
    save_qz(make(), tmp_path / "other.qz")
    integers = quantizable.load(tmp_path / "other.qz", SmallNet())
    integers.save_pretrained(tmp_path / "net")
    assert {path.name for path in (tmp_path / "net").iterdir()} == {"config.json", "model.qz", "README.md"}
    same_in_all_modes(integers, quantizable.load(tmp_path / "net", SmallNet()), images)


def test_training_state_and_added_modes_survive(tmp_path: Path, make: Make, images: Tensor) -> None:
    network = make(bits=(2, 8, 32)).train()
    network.add_mode(3, like=2)
    network.calibrate([images], modes=[3])
    network.set_bits(2)
    network.save_pretrained(tmp_path, integers=False)
    assert network.training
    assert network.bits == 2
    same_in_all_modes(network.eval(), QuantizableNetwork.from_pretrained(tmp_path, SmallNet()), images)


def test_the_type_of_the_numbers_survives(tmp_path: Path, make: Make, images: Tensor) -> None:
    network = make(bits=(2, 8, 32)).to(torch.bfloat16)
    network.save_pretrained(tmp_path, integers=False)
    again = QuantizableNetwork.from_pretrained(tmp_path, SmallNet())
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}
    same_in_all_modes(network, again, images.bfloat16())


class Tagger(nn.Module):
    """Words in, classes out: an embedding, a recurrent layer, a tied pair of linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.steps = nn.Embedding(20, 8), nn.LSTM(8, 8, batch_first=True)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(self.steps(self.words(x))[0][:, -1]).relu())


def test_networks_without_images_are_shared_too(tmp_path: Path) -> None:
    words = torch.randint(0, 20, (6, 7))
    network = quantizable.quantize(Tagger(), [2, 8, 32])
    network.calibrate([words])
    network.eval().save_pretrained(tmp_path)
    again = QuantizableNetwork.from_pretrained(tmp_path, Tagger())
    same_in_all_modes(network, again, words)
    assert again.model.second.weight is again.model.first.weight


def test_nothing_of_the_training_machine_is_shared(tmp_path: Path, make: Make) -> None:
    network = make()
    network.info |= {"data": "folder", "settings": {"root": "/home/ann/secret"}}
    network.save_pretrained(tmp_path)
    for path in tmp_path.iterdir():
        assert b"/home/ann" not in path.read_bytes(), path.name


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    assert mendable(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_the_hub_lacks_is_said_in_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError) as error:
        quantizable.load("hf://ann/absent")
    assert "no folder ann/absent and on the Hub no such repository" in one_line(error)
    hub.repositories["ann/other"] = {"README.md": b"", "pytorch_model.bin": b"\x80"}
    with pytest.raises(FileNotFoundError) as error:
        quantizable.load("hf://ann/other")
    assert "holds no network of this library" in one_line(error)
    with pytest.raises(FileNotFoundError) as error:
        quantizable.load("hf://ann/other@absent")
    assert "no such revision" in one_line(error)
    with pytest.raises(ValueError, match="no name on the Hub; write user/name") as bad:
        quantizable.load("hf://ann/other/deeper/still")
    one_line(bad)
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(OSError, match="hf auth login") as refused:
        mixed().push_to_hub("ann/net")
    one_line(refused)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(OSError, match="hf auth login") as refused:
        mixed().push_to_hub("ann/net")
    one_line(refused)
    assert "ann/net" not in hub.repositories


def test_what_is_wrong_here_leaves_no_repository(hub: Hub, make: Make) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file nothere\.json") as missing:
        make().push_to_hub("ann/net", "nothere.json")
    one_line(missing)
    with pytest.raises(ValueError, match="integers=False"):
        quantizable.quantize(timm.create_model("test_resnet", num_classes=5), [4]).push_to_hub("ann/net")
    broken = make()
    broken.info["mean"] = 5
    with pytest.raises(TypeError):
        broken.push_to_hub("ann/net", integers=False)
    with pytest.raises(ValueError, match="no name on the Hub; write user/name"):
        make().push_to_hub("ann/net/deeper")
    assert not hub.repositories


def test_without_the_library_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install quantizable\[hub\]") as error:
        quantizable.load("hf://ann/net")
    one_line(error)


def test_without_a_network_it_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Make
) -> None:
    with socket.socket() as closed:  # nobody listens on a port that was free a moment ago
        closed.bind(("127.0.0.1", 0))
        at(monkeypatch, f"http://127.0.0.1:{closed.getsockname()[1]}", tmp_path)
    with pytest.raises(OSError, match="the Hub cannot be reached") as error:
        quantizable.load("hf://ann/net")
    one_line(error)
    monkeypatch.setenv("HF_TOKEN", "secret")
    with pytest.raises(OSError, match="the Hub cannot be reached") as error:
        make().push_to_hub("ann/net")
    one_line(error)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", b"{", "damaged"),
        ("config.json", b'{"model_type": "bert"}', "describes no network of this library"),
        ("config.json", b'{"library_name": "quantizable", "format": 1}', "damaged: it does not say"),
        ("model.safetensors", b"\x80\x04pickle", "truncated or damaged"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, make: Make, name: str, content: bytes, words: str) -> None:
    make().save_pretrained(tmp_path, integers=False)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words) as error:
        quantizable.load(tmp_path, SmallNet())
    assert name in one_line(error)


def test_another_networks_weights_are_refused(tmp_path: Path, make: Make) -> None:
    make().save_pretrained(tmp_path, integers=False)
    with pytest.raises(ValueError, match="does not fit the network") as error:
        quantizable.load(tmp_path, nn.Sequential(nn.Conv2d(3, 4, 3)))
    one_line(error)


def test_no_option_of_a_description_reads_another_file(tmp_path: Path) -> None:
    network = mixed()
    network.save_pretrained(tmp_path, integers=False)
    about = json.loads((tmp_path / "config.json").read_text())
    about["model_options"] = {"checkpoint_path": str(tmp_path / "absent.bin"), "pretrained": True}
    (tmp_path / "config.json").write_text(json.dumps(about))
    same_in_all_modes(network, quantizable.load(tmp_path), torch.randn(2, 3, 16, 16))


@pytest.mark.parametrize(
    "source", ["hf-hub:", "hf_hub:", "HF-HUB:", "local-dir:", "Local-Dir:", "torchvision:hf-hub:"]
)
def test_no_name_in_a_file_fetches_or_reads_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    asked: list[int] = []
    about = {"model": f"{source}{tmp_path}", "num_classes": 5, "model_options": {}}
    about["quantize"] = {"bits": [8], "quantizer": "lsq"}
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: asked.append(1))
    with pytest.raises(ValueError, match="names a network of elsewhere") as error:
        build_described(about, "x.ckpt")
    assert "x.ckpt" in one_line(error)
    with pytest.raises(ValueError, match=r"x\.qz.*names a network of elsewhere"):
        _build("x.qz", about)
    with pytest.raises(ValueError, match="names a network of elsewhere"):
        QuantizableClassifier._settings_to_load(about, {})
    assert not asked


@pytest.mark.parametrize(
    "results",
    [
        *({"4": {"loss": 1.0}}, {"modes": []}, "absent.json", [1]),
        *({"4": {"top1": float("nan")}}, {"4": {"top1": 91.0}}, {"5": {"top1": 0.9}}),
    ],
)
def test_results_that_are_none_are_refused(tmp_path: Path, make: Make, results: object) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        make().save_pretrained(tmp_path / "net", results)  # type: ignore[arg-type]
    one_line(error)
    assert not (tmp_path / "net").exists()


def test_integers_of_an_uncalibrated_network_are_refused(tmp_path: Path) -> None:
    network = quantizable.quantize(SmallNet(), [2, 32])
    with pytest.raises(ValueError, match="integers=False"):
        network.save_pretrained(tmp_path)
    network.save_pretrained(tmp_path, integers=False)


def test_the_command_line_says_where_a_network_of_the_hub_goes(capsys: pytest.CaptureFixture) -> None:
    assert main(["evaluate", "hf://ann/net"]) == 2
    assert "hf download ann/net" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("modes", ["4"], "it lists modes 4, its network has 2, w4a8, 8, 32"),
        ("data", {"mean": "x"}, "does not say data.mean"),
        ("data", {"std": [1, "x"]}, "does not say data.std"),
    ],
)
def test_a_description_that_contradicts_itself_is_damaged(
    tmp_path: Path, key: str, value: object, words: str
) -> None:
    mixed().save_pretrained(tmp_path, integers=False)
    about = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**about, key: value}))
    with pytest.raises(ValueError, match="is damaged") as error:
        quantizable.load(tmp_path)
    assert words in one_line(error)


def test_a_network_larger_than_memory_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mixed().save_pretrained(tmp_path, integers=False)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:128] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("quantizable.storage.checkpoint.build_network", fail)
    with pytest.raises(ValueError, match="needs more memory than there is") as error:
        quantizable.load(tmp_path)
    one_line(error)


@pytest.mark.parametrize("address", ["hf://ann/net@", "hf:///ann/net@", "hf:"])
def test_half_an_address_is_none(address: str) -> None:
    for read in (quantizable.load, QuantizableNetwork.from_pretrained):
        with pytest.raises(ValueError, match="no address on the Hub; write hf://user/name, or"):
            read(address)


def test_the_card_says_where_the_integers_are(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = mixed()
    network.push_to_hub("ann/net", {**RESULTS, "5": {"top1": 0.5}})
    assert "no such mode: 5" in caplog.text
    lines = hub.repositories["ann/net"]["README.md"].decode().splitlines()
    at = lines.index('session = Session("model.qz", engine="openvino", bits=2)')
    assert lines[at - 1] == '# the file itself: hf download "ann/net" model.qz --local-dir .'
    network.save_pretrained(tmp_path / "net")
    assert 'Session("net/model.qz", ' in (tmp_path / "net" / "README.md").read_text()
