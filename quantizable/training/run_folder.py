"""The folder of a run: where it lies, what it continues, and how nothing in it is ever lost."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning_fabric.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

import quantizable
from quantizable.report.files import make_folder, write_text, written_whole
from quantizable.storage.checkpoint import read_checkpoint
from quantizable.training.run_names import named_folder, resumed
from quantizable.training.same_settings import check_same_settings


@contextmanager
def run_folder(cfg: dict[str, Any]) -> Iterator[tuple[Path, Path | None]]:
    """The run's folder, made here by the first process, and the checkpoint to resume from, if any.

    If the block fails, folders that were made here and are still empty are removed again.

    Raises:
        FileNotFoundError, ValueError: there is no such checkpoint, or it cannot be read.
        OSError: the folder cannot be written.
    """
    folder, resume = named_folder(cfg), resumed(cfg)
    if resume is not None:
        read_checkpoint(resume)
        check_same_settings(cfg, resume)
        folder = resume.parent
    made: list[Path] = []
    if is_first_process():  # Lightning tells the others
        if resume is None:
            folder, made = claimed(folder)
        else:
            make_folder(folder)
    try:
        yield folder, resume
    except BaseException:
        with suppress(OSError):  # rmdir refuses a folder that holds something
            for path in made:
                path.rmdir()
        raise


def is_first_process() -> bool:
    """True in the process that writes; known before the processes of a distributed run have met."""
    return getattr(rank_zero_only, "rank", 0) == 0


def claimed(folder: Path) -> tuple[Path, list[Path]]:
    """The folder, or the first of folder-2, folder-3, ... that is not there, and what was made of them.

    An empty one is another run's that has just begun: nothing is overwritten.

    Raises:
        OSError: a folder cannot be made there.
    """
    made = [path for path in folder.parents if not path.exists()]
    make_folder(folder.parent)
    number, candidate = 1, folder
    while True:
        try:
            candidate.mkdir()
            return candidate, [candidate, *made]
        except FileExistsError:
            number += 1
            candidate = folder.with_name(f"{folder.name}-{number}")


def best_of(folder: Path) -> Path:
    """The best checkpoint of a run; of one that ended before its first validation the last."""
    best = folder / "best.ckpt"
    return best if best.is_file() else folder / "last.ckpt"


def write_config(config: DictConfig, folder: Path) -> None:
    """The resolved configuration and the command, next to what they produced."""
    header = (
        f"# {command()}\n# quantizable {quantizable.__version__}, torch {torch.__version__}, {commit()}\n"
    )
    write_text(folder / "config.yaml", header + OmegaConf.to_yaml(config, resolve=True))


def command() -> str:
    """The command line of this run."""
    return " ".join(sys.argv)


def commit() -> str:
    """The commit of this library, if it runs from a git checkout."""
    git, here = shutil.which("git"), Path(__file__).parent
    if git is None:
        return "no commit"
    done = subprocess.run([git, "-C", here, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return f"commit {done.stdout.strip()}" if done.returncode == 0 else "no commit"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the old checkpoint and renames: a kill or a full disk leaves the old one whole.

    Lightning's own goes through the system's temporary folder, and where that is another file system
    the last step is a copy, which can be cut short.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save to ``path``; ``OSError`` if it cannot be written."""
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(path) as temporary:
                torch.save(checkpoint, temporary)
        except (OSError, RuntimeError) as error:  # torch's file writer raises RuntimeError
            reason = str(error).splitlines()[0]
            raise OSError(f"cannot save {path} ({reason}); what was saved before is intact") from error
