"""Where data lie: what can be refused by looking at folders alone, before torch is imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantizable.interface.errors import nearest

PARTS = ("train", "val", "test")
PUBLISHED = ("CIFAR10", "CIFAR100", "SVHN")  # are downloaded where they are missing
IMAGENET = (
    "Download ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from "
    "https://image-net.org/download-images (free registration) and unpack them so that each "
    "class is a folder (n01440764, ...). "
)


def class_folders(root: Path, name: str = "The image folder", how: str = "") -> tuple[str, ...]:
    """The folders of ``root``/train/, sorted: the names of the classes.

    Args:
        root: holds train/CLASS/ and val/CLASS/.
        name: of the data, for the message.
        how: where the images come from, for the message.

    Raises:
        FileNotFoundError: there are none; the message says what is there instead.
    """
    train = root / "train"
    found = _folders(train)
    if not found:
        place = f"{root}/train/CLASS/ and {root}/val/CLASS/"
        if not root.is_dir():
            why = f"there is no folder {root}. {how}Put the images in {place}, one folder for each class, or"
        elif train.is_dir() and any(train.iterdir()):
            why = f"{train} holds files and no folders. Put the images of each class in a folder, {place}, or"
        elif classes := [folder for folder in _folders(root) if folder not in PARTS]:
            why = (
                f"{root} has no train/. If {', '.join(classes[:3])} are classes, move them into {train}/ and "
                f"images to test on into {root}/val/CLASS/, or"
            )
        elif any(entry.is_file() for entry in root.iterdir()):
            why = f"{root} holds files and no folders. Put the images of each class in a folder, {place}, or"
        else:
            why = f"no {train}/CLASS/ folders. {how}Put the images in {place}, one folder for each class, or"
        raise FileNotFoundError(f"{name} is missing: {why} set data.root to the folder where they lie.")
    return tuple(found)


def has_validation(data: dict[str, Any]) -> bool:
    """True if a run validates: on images that are held out, a file of its own, or val/ beside test/.

    Args:
        data: settings of the data module.
    """
    if data.get("val_size", 1) != 0 or data.get("val") is not None:
        return True
    kind, root = str(data.get("_target_")).rpartition(".")[2], Path(str(data.get("root")))
    return kind == "Folder" and all((root / part).is_dir() for part in ("val", "test"))


def check_tested(root: Path) -> None:
    """``FileNotFoundError`` if ``root`` has neither val/ nor test/."""
    if not any((root / part).is_dir() for part in ("val", "test")):
        raise FileNotFoundError(
            f"{root} has neither val/ nor test/: put images to test on, which are not "
            f"in {root}/train, into {root}/val/CLASS/"
        )


def check_there(kind: str, options: Mapping[str, Any]) -> None:
    """Refuse data that are not where their settings say, as far as a look at folders tells.

    Args:
        kind: name of the class in ``quantizable.data``.
        options: its settings; only those given are looked at.

    Raises:
        FileNotFoundError: no such folder or file, or no folders of classes in it.
    """
    if kind in ("Folder", "ImageNet") and options.get("root") is not None:
        root = Path(options["root"])
        if not (options.get("class_names") and _tests_alone(root)):
            class_folders(root, *(("ImageNet", IMAGENET) if kind == "ImageNet" else ()))
        check_tested(root)
    if kind in PUBLISHED and str(options.get("download")).lower() == "false":
        root = Path(options.get("root") or "data")
        if not root.is_dir():
            raise FileNotFoundError(
                f"{kind} is missing: there is no folder {root}, and download is off; "
                "set data.root to the folder where it lies"
            )
    if kind == "Text" and options.get("root") is not None:
        check_texts(options)
    if kind == "Scene" and options.get("file") is not None:
        check_scene(Path(options["file"]))


def check_scene(file: Path) -> None:
    """``FileNotFoundError`` if there is no such file."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no scene {file}; set data.file to a MATLAB file")


def check_texts(options: Mapping[str, Any]) -> None:
    """``FileNotFoundError`` if a file of texts is not there.

    Args:
        options: ``root`` and, of ``PARTS``, names of files; None: none.
    """
    root = Path(str(options.get("root") or "."))
    for part in PARTS:
        name = options.get(part)
        if name in (None, "null") or (root / str(name)).is_file():
            continue
        held = [entry.name for entry in root.iterdir() if entry.is_file()] if root.is_dir() else []
        close = nearest(str(name), held)
        hint = f"did you mean {close}?" if close else f"set data.root and data.{part}"
        raise FileNotFoundError(f"there is no file of {part} texts {root / str(name)}; {hint}")


def _tests_alone(root: Path) -> bool:
    """Whether there are images to test on, in folders of classes, and none to train on."""
    return not (root / "train").is_dir() and any(_folders(root / part) for part in ("val", "test"))


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
