"""How a network is shared. The methods are here, on the network; what they do is in ``storage``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

Results = str | Path | Mapping[str, Any]


class Sharing:
    """Saves a network to a folder or to the Hugging Face Hub and reads it back, bit for bit in every mode.

    The folder holds ``config.json``, ``model.safetensors`` (all modes), ``model.qz`` (the integer modes, to
    deploy), a model card, and a picture where accuracies are given. Nothing in it is a pickle.
    """

    def save_pretrained(
        self, folder: str | Path, results: Results | None = None, integers: bool = True
    ) -> list[Path]:
        """Write the network to a folder, which is made; the files that were written.

        Args:
            folder: where; a model card that is there keeps what was written outside our part of it.
            results: accuracies for the model card: ``results.json`` of a run, or what it holds under
                ``"modes"``: ``{"4": {"top1": 0.91}, ...}``, fractions.
            integers: write ``model.qz``, too.

        Raises:
            ValueError: results that are none, or integers of a network that was not calibrated.
            OSError: the folder cannot be written.
        """
        return _storage("hub").save_pretrained(self, folder, results, integers)

    def push_to_hub(
        self,
        repo: str,
        results: Results | None = None,
        integers: bool = True,
        *,
        private: bool | None = None,
        token: str | None = None,
        message: str = "Push a network of quantizable",
    ) -> str:
        """Write the network to the Hub, in one commit; the page of the commit.

        Args:
            repo: ``"user/name"``; it is made unless it is there.
            results, integers: as for :meth:`save_pretrained`.
            private: of a new repository; None: as the account is set.
            token: of the Hub; by default that of ``hf auth login``.
            message: of the commit.

        Raises:
            ImportError: huggingface_hub is not installed.
            ValueError: as for :meth:`save_pretrained`, or a name that is none.
            OSError: nobody is logged in, the repository is another's, or there is no network.
        """
        return _storage("hub").push_to_hub(self, repo, results, integers, private, token, message)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        model: Any = None,
        *,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> Any:
        """A network from a folder of :meth:`save_pretrained` or from the Hub, in evaluation mode.

        Args:
            name: a folder, or ``"user/name"`` on the Hub; a folder that exists comes first.
            model: the float network, needed only if the files do not say how to build it.
            revision: branch, tag or commit on the Hub.
            token: of the Hub; by default that of ``hf auth login``.
            cache_dir: where downloads are kept; by default the Hub's cache.
            local_files_only: use what was downloaded before, and no network.

        Raises:
            ImportError: huggingface_hub is not installed.
            FileNotFoundError: there is no such folder or repository, or it holds no network of ours.
            ValueError: the files are damaged, or do not fit the model.
            OSError: no network and nothing downloaded before, or no access.
        """
        return _storage("load").from_pretrained(
            name,
            model,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )


def _storage(name: str) -> Any:
    return import_module(f"quantizable.storage.{name}")  # asked for by name: it is above the network
