"""Certificates of a set: arithmetic by hand, and runs that are cut off."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from quantizable.certify.certification import (
    Certification,
    Certified,
    average_certified_radius,
    certified_accuracy,
    read_log,
)
from quantizable.certify.smoothing import ABSTAIN, CertifiedRadius, Smoothing


def certified(predicted: int, label: int, radius: float) -> Certified:
    return Certified(0, label, CertifiedRadius(predicted, radius, 0.9, predicted, 1.0, 10), 0.0)


# right with 0.5, wrong with 0.9, abstained, right with 0.25
RESULTS = [certified(1, 1, 0.5), certified(2, 1, 0.9), certified(ABSTAIN, 1, 0.0), certified(3, 3, 0.25)]


def test_acr_by_hand() -> None:
    assert average_certified_radius(RESULTS) == pytest.approx((0.5 + 0 + 0 + 0.25) / 4)


@pytest.mark.parametrize(
    ("radius", "share"), [(0.0, 0.5), (0.25, 0.5), (0.26, 0.25), (0.5, 0.25), (0.51, 0.0)]
)
def test_certified_accuracy_by_hand(radius: float, share: float) -> None:
    assert certified_accuracy(RESULTS, radius) == share


def test_a_published_log(tmp_path: Path) -> None:
    """Lines of the form that the published code writes; sigma 0.25, 100 000 samples."""
    path, head = tmp_path / "log.tsv", "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"
    lines = [
        "0\t3\t3\t0.411\t1\t0:00:12.532",
        "20\t7\t-1\t0.0\t0\t0:01:02.0",
        "40\t4\t5\t0.953\t0\t1:00:00.5",
    ]
    path.write_text(head + "\n".join(lines) + "\n")
    found = read_log(path, 0.25, 100_000)
    assert [(one.image, one.label, one.certificate.predicted) for one in found] == [
        *((0, 3, 3), (20, 7, ABSTAIN), (40, 4, 5))
    ]
    assert [one.seconds for one in found] == pytest.approx([12.532, 62.0, 3600.5])
    assert average_certified_radius(found) == pytest.approx(0.411 / 3)
    assert [certified_accuracy(found, radius) for radius in (0.4, 0.5)] == pytest.approx([1 / 3, 0])
    # the largest radius that 100 000 samples can give is 3.811 sigma, at p = 0.001 ** (1 / 100 000)
    assert found[2].certificate.p_lower == pytest.approx(0.001 ** (1 / 100_000), abs=1e-6)
    assert found[1].certificate.p_lower == 0
    path.write_text(head + "0\t3\tthree\t0.411\t1\t0:00:12\n")
    with pytest.raises(ValueError, match="line 2 is no certificate"):
        read_log(path, 0.25, 100)
    path.write_text("a table\n")
    with pytest.raises(ValueError, match="is no log of certificates"):
        read_log(path, 0.25, 100)
    with pytest.raises(ValueError, match="sigma is 0"):
        read_log(path, 0, 100)


def sign(x: Tensor) -> Tensor:
    return torch.stack([-x.flatten(1).sum(1), x.flatten(1).sum(1)], 1)


class Killed(Exception):
    pass


def test_a_killed_run_resumes_where_it_was(tmp_path: Path) -> None:
    images, labels = torch.randn(6, 1, 2, 2), torch.ones(6)
    smoothing = Smoothing(0.5, n=100, n0=10)
    whole = Certification(tmp_path / "whole", "4", smoothing, {"network": "a"}).run(sign, images, labels)
    calls = 0

    def fails_later(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > 7:  # two calls per image: in the middle of the fourth
            raise Killed
        return sign(x)

    with pytest.raises(Killed):
        Certification(tmp_path / "cut", "4", smoothing, {"network": "a"}).run(fails_later, images, labels)
    journal = tmp_path / "cut" / "4.jsonl"
    with journal.open("a") as file:
        file.write('{"image": 3, "lab')  # the line that was being written
    resumed = Certification(tmp_path / "cut", "4", smoothing, {"network": "a"})
    assert sorted(resumed.results) == [0, 1, 2]
    assert [r.certificate for r in resumed.run(sign, images, labels)] == [r.certificate for r in whole]
    for image in range(6):
        assert torch.equal(resumed.votes(image), smoothing.votes(sign, images[image], image, 1, 100))


def test_results_of_other_settings_are_refused(tmp_path: Path) -> None:
    Certification(tmp_path, "4", Smoothing(0.5, n=100), {"network": "a"})
    with pytest.raises(ValueError, match=r"other settings \(network, sigma\)"):
        Certification(tmp_path, "4", Smoothing(0.25, n=100), {"network": "b"})
    Certification(
        tmp_path, "4", Smoothing(0.5, n=100, batch=7), {"network": "a"}
    )  # the batch changes nothing


def test_more_images_keep_the_votes_of_the_first(tmp_path: Path) -> None:
    images, labels = torch.randn(4, 1, 2, 2), torch.ones(4)
    smoothing = Smoothing(0.5, n=100, n0=10)
    Certification(tmp_path, "4", smoothing, {}).run(sign, images[:2], labels[:2])
    more = Certification(tmp_path, "4", smoothing, {})
    assert len(more.run(sign, images, labels)) == 4
    assert torch.equal(more.votes(1), smoothing.votes(sign, images[1], 1, 1, 100))


def test_lost_votes_are_taken_again_and_never_made_up(tmp_path: Path) -> None:
    images, labels = torch.randn(3, 1, 2, 2), torch.ones(3)
    smoothing = Smoothing(0.5, n=100, n0=10)
    run = Certification(tmp_path, "4", smoothing, {})
    whole, votes = run.run(sign, images, labels), [run.votes(i) for i in range(3)]
    (tmp_path / "4.votes.npy").unlink()
    again = Certification(tmp_path, "4", smoothing, {})
    assert sorted(again.results) == [0, 1, 2]
    assert [r.certificate for r in again.run(sign, images, labels)] == [r.certificate for r in whole]
    assert all(torch.equal(again.votes(i), votes[i]) for i in range(3))
    (tmp_path / "5.votes.npy").write_bytes((tmp_path / "4.votes.npy").read_bytes())
    with pytest.raises(ValueError, match="votes an image and not 50"):
        Certification(tmp_path, "5", Smoothing(0.5, n=50, n0=10), {}).run(sign, images, labels)


def test_logits_that_are_not_finite_are_no_answer() -> None:
    with pytest.raises(ValueError, match="not finite for noisy copies of image 0"):
        Smoothing(0.5, n=20, n0=5).certify(lambda x: torch.full((len(x), 3), torch.nan), torch.zeros(1, 2, 2))
