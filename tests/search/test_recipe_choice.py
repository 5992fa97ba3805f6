"""Which of the searches' assignments a recipe goes on with."""

from pathlib import Path

import pytest
import yaml

from quantizable.search.recipe import choose_best


@pytest.mark.parametrize(("objective", "best"), [("accuracy", "b"), ("kl", "a")])
def test_the_best_is_chosen_whichever_way_the_objective_goes(
    tmp_path: Path, objective: str, best: str
) -> None:
    (tmp_path / "search").mkdir()
    for name, method, accuracy, kl in (
        ("a", "integer", 0.8, 0.1),
        ("b", "fisher", 0.9, 0.3),
        ("u", "uniform", 0.7, 0.5),
    ):
        about = {"method": method, "accuracy": accuracy, "kl": kl}
        (tmp_path / "search" / f"{name}.yaml").write_text(
            yaml.safe_dump({"about": about, "bits": {"name": name}})
        )
    choose_best(tmp_path, objective)
    chosen = {name: yaml.safe_load((tmp_path / f"{name}.yaml").read_text()) for name in ("found", "uniform")}
    assert chosen["found"]["bits"]["name"] == best
    assert chosen["uniform"]["bits"]["name"] == "u"
