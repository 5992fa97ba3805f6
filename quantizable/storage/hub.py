"""Networks in a folder and on the Hugging Face Hub: safetensors and ``.qz``, never a pickle."""

from __future__ import annotations

import json
import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from quantizable.interface.sharing import Results
from quantizable.network import QuantizableNetwork
from quantizable.report.files import finite, make_folder, write_json, write_text, written_whole
from quantizable.report.plots import plot_modes
from quantizable.storage.card import merged, model_card
from quantizable.storage.checkpoint import FORMAT, build_described, check_description
from quantizable.storage.golden import SPAN, drawn
from quantizable.storage.preprocessing import preprocessing
from quantizable.storage.qz import UNNAMED, describe_architecture, integer_modes, save_qz
from quantizable.storage.signature import as_inputs, signature_of

CONFIG, WEIGHTS, INTEGERS, CARD, PICTURE = (
    *("config.json", "model.safetensors", "model.qz"),
    *("README.md", "modes.png"),
)
OURS = (CONFIG, WEIGHTS, INTEGERS, PICTURE)
ADDRESS = re.compile(r"hf:/{1,2}(?P<repo>[^@]+)(@(?P<revision>.+))?")  # a Path has one slash

Accuracies = dict[str, dict[str, float]]

log = logging.getLogger(__name__)


def save_pretrained(
    network: QuantizableNetwork,
    folder: str | Path,
    results: Results | None = None,
    integers: bool = True,
    repo: str | None = None,
) -> list[Path]:
    """As :meth:`quantizable.interface.sharing.Sharing.save_pretrained`.

    Args:
        repo: the name that the card tells a reader to load; by default the folder's.
    """
    folder, accuracies = Path(folder), read_results(results, network)
    names = _write_network(network, folder, accuracies, integers)
    _write_card(network, folder, names, accuracies, repo or folder.resolve().name)
    return [folder / name for name in (*names, CARD)]


def _write_network(
    network: QuantizableNetwork, folder: Path, accuracies: Accuracies | None, integers: bool
) -> list[str]:
    """All files but the card; their names."""
    make_folder(folder)
    names = [CONFIG] if network.stores_integers else [CONFIG, WEIGHTS]
    write_json(folder / CONFIG, finite(describe(network)))
    if not network.stores_integers:
        write_weights(folder / WEIGHTS, network)
        if not _is_built_again(network, folder):
            log.warning("%s does not say how to build its network: it loads with model=... only", folder)
            write_json(folder / CONFIG, finite(describe(network) | {"model": None}))
    if network.stores_integers or (integers and integer_modes(network)):
        try:
            save_qz(network, folder / INTEGERS)
        except ValueError as error:
            raise ValueError(
                f"{INTEGERS} cannot be written ({error}); leave it out: integers=False"
            ) from error
        names.append(INTEGERS)
    if accuracies:
        plot_modes(folder / PICTURE, {"": accuracies}, "top-1 accuracy by mode")
        names.append(PICTURE)
    for stale in {*OURS} - {*names}:  # of another network that was saved here before
        (folder / stale).unlink(missing_ok=True)
    return names


def _write_card(
    network: QuantizableNetwork, folder: Path, names: list[str], accuracies: Accuracies | None, repo: str
) -> None:
    """The card of those files, into one that is there; ``repo`` is what it tells a reader to load."""
    sizes = {name: (folder / name).stat().st_size for name in names}
    card = model_card(network, repo, accuracies, sizes, PICTURE if accuracies else "")
    old = (folder / CARD).read_text() if (folder / CARD).is_file() else None
    task = "text-classification" if network.info.get("vocabulary") else "image-classification"
    write_text(folder / CARD, merged(card, old, task))


def describe(network: QuantizableNetwork) -> dict[str, Any]:
    """``config.json``: what a checkpoint says of its network, without the folders of training."""
    return {
        "library_name": "quantizable",
        "format": FORMAT,
        **(describe_architecture(network) or UNNAMED),
        "quantize": network.config,
        "modes": [mode.name for mode in network.modes],
        "data": preprocessing(network),
    }


def read_results(results: Results | None, network: QuantizableNetwork) -> Accuracies | None:
    """The accuracies of the network's modes; ``ValueError`` if that is not what was given."""
    if results is None:
        return None
    try:
        held = json.loads(Path(results).read_text()) if isinstance(results, str | Path) else results
        modes = held.get("modes", held)
        read = {str(mode): {**row, "top1": float(row["top1"])} for mode, row in modes.items()}
        if not all(0 <= row["top1"] <= 1 for row in read.values()):
            raise ValueError("a top-1 is no fraction")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no file {results}; give results.json of a run") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"results {results!r:.80} hold no accuracies; give results.json of a run, or "
            '{"4": {"top1": 0.91}}'
        ) from error
    names = [*network.assignments, *(mode.name for mode in network.modes)]
    own = {name: read[name] for name in names if name in read}
    if read and not own:
        held = ", ".join(names)
        raise ValueError(f"results are of modes {', '.join(read)}; the network has {held}")
    if left := [mode for mode in read if mode not in own]:
        log.warning("left out of the model card, as the network has no such mode: %s", ", ".join(left))
    return own


def write_weights(path: Path, network: QuantizableNetwork) -> None:
    """The state dict as safetensors; weights that are shared are written under each of their names."""
    state = {key: value.detach().cpu().contiguous().clone() for key, value in network.state_dict().items()}
    with written_whole(path) as temporary:
        # written by Python, as safetensors' own file is for its owner's eyes only
        temporary.write_bytes(save(state, {"format": "pt"}))


def _is_built_again(network: QuantizableNetwork, folder: Path) -> bool:
    """Whether the description gives this network: timm does not keep every argument it was made with."""
    try:
        again = load_folder(folder)
    except ValueError:
        return False
    try:
        inputs = as_inputs(drawn([0], signature_of(network), SPAN))
    except ValueError:
        return True  # the keys and shapes fit, which is all that can be asked
    device = next(network.parameters()).device
    training = network.training
    try:
        with network.eval().at_bits(network.modes[-1]), torch.no_grad():
            expected = inputs.to(device)(network)
        found = inputs.to(device)(again.to(device))
    finally:
        network.train(training)
    return not isinstance(expected, torch.Tensor) or torch.allclose(found, expected, atol=1e-4, rtol=1e-3)


def load_folder(folder: Path, model: nn.Module | None = None) -> QuantizableNetwork:
    """The network of ``config.json`` and ``model.safetensors``, in evaluation mode, in its highest mode.

    Raises:
        FileNotFoundError: the folder holds no network of this library.
        ValueError: a file is damaged, or does not fit the model.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no network of this library: it has no {name}")
    try:
        about = json.loads((folder / CONFIG).read_text())
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG} is damaged ({error}); copy or download it again") from error
    if not isinstance(about, dict) or about.get("library_name") != "quantizable":
        raise ValueError(f"{folder / CONFIG} describes no network of this library")
    check_description(about, folder / CONFIG)
    try:
        state = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{folder / WEIGHTS} is truncated or damaged; copy or download it again") from error
    network = build_described(about, folder / CONFIG, model)
    for key, tensor in network.state_dict(keep_vars=True).items():
        if key in state:  # in the type they were saved in: torch would convert bfloat16 to what is there
            tensor.data = tensor.data.to(state[key].dtype)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()[:200]
        raise ValueError(f"{folder / WEIGHTS} does not fit the network: {reason}") from error
    return network.eval()


def is_shared(name: str | Path) -> bool:
    """Whether ``quantizable.load`` is to read a folder of :func:`save_pretrained`, or ``hf://user/name``."""
    return bool(ADDRESS.fullmatch(str(name))) or (Path(name) / CONFIG).is_file()


def check_address(name: str | Path) -> None:
    """``ValueError`` if a name begins like an address on the Hub and is none."""
    if str(name).startswith("hf:") and not ADDRESS.fullmatch(str(name)):
        raise ValueError(f"{name} is no address on the Hub; write hf://user/name, or hf://user/name@revision")


def fetch(name: str | Path, revision: str | None = None, token: str | None = None, **options: Any) -> Path:
    """The folder of a network: the one that is named, or the Hub's cache after a download.

    Args:
        name: a folder, ``user/name``, or ``hf://user/name@revision``.
        revision, token: of the Hub.
        options: ``cache_dir`` and ``local_files_only``, as ``snapshot_download`` takes them.

    Raises:
        FileNotFoundError, OSError, ValueError: as ``from_pretrained``.
    """
    check_address(name)
    if found := ADDRESS.fullmatch(str(name)):
        name, revision = found["repo"], found["revision"] or revision
    elif Path(name).is_dir():
        return Path(name)
    with explained(str(name)) as api:
        for file in (WEIGHTS, INTEGERS):  # the integers only where there is nothing else
            held = api(token=token).snapshot_download(
                str(name), revision=revision, allow_patterns=[CONFIG, file], **options
            )
            if (Path(held) / file).is_file():
                return Path(held)
    raise FileNotFoundError(
        f"{name} on the Hub holds no network of this library: no {WEIGHTS}, no {INTEGERS}"
    )


def push_to_hub(
    network: QuantizableNetwork, repo: str, results: Results | None, integers: bool, private: bool | None,
    token: str | None, message: str,
) -> str:  # fmt: skip
    """As :meth:`quantizable.interface.sharing.Sharing.push_to_hub`."""
    with tempfile.TemporaryDirectory() as temporary, explained(repo) as api:
        from huggingface_hub.utils import validate_repo_id

        hub, folder, accuracies = api(token=token), Path(temporary), read_results(results, network)
        validate_repo_id(repo)
        # both before the repository is made: what is wrong here leaves no empty one
        names = _write_network(network, folder, accuracies, integers)
        _write_card(network, folder, names, accuracies, repo)
        (folder / CARD).unlink()
        repo = hub.create_repo(repo, private=private, exist_ok=True).repo_id
        if hub.file_exists(repo, CARD):  # with the license and the words of its owner
            hub.hf_hub_download(repo, CARD, local_dir=folder)
        _write_card(network, folder, names, accuracies, repo)
        done = hub.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=[*names, CARD],
            delete_patterns=[*OURS],  # those that are not written anew
            commit_message=message,
        )
    return str(done.commit_url)


@contextmanager
def explained(repo: str) -> Iterator[Any]:
    """``HfApi``, and its errors as one line that says what to do."""
    try:
        from huggingface_hub import HfApi, errors
    except ImportError as error:
        raise ImportError("the Hub needs huggingface_hub: pip install quantizable[hub]") from error
    login = "log in with: hf auth login"
    try:
        yield HfApi
    except errors.HFValidationError as error:
        raise ValueError(f"{repo!r} is no name on the Hub; write user/name") from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(f"{repo} on the Hub has no such revision") from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"there is no folder {repo} and on the Hub no such repository, or it is private; "
            f"check the name, or {login}"
        ) from error
    except errors.LocalTokenNotFoundError as error:
        raise PermissionError(f"nobody is logged in to the Hub; {login}") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            raise PermissionError(
                f"the Hub refuses access to {repo} ({status}); {login}, as its owner"
            ) from error
        raise OSError(f"the Hub answered {status} for {repo}; try again later") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.HTTPError) as error:  # type: ignore[attr-defined]
        raise ConnectionError(
            f"the Hub cannot be reached, and {repo} is neither a folder here nor in the cache; "
            "check the name and the network, and try again"
        ) from error
