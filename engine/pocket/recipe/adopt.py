"""Go on from what was exported:  python -m engine.pocket.recipe.adopt FOLDER --work DIR

    FOLDER/{config.json, model.safetensors, mimi.*, tokenizer.model, ear.*}
    -> WORK/codec, WORK/tokenizer.model, WORK/layout.json, WORK/lm and WORK/ear, each with model.pt and a checkpoint for
       `--again`

For whom the work folder of the shipped weights is no more. Data is to be generated and encoded anew; the heads that a
training throws away begin anew, too.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from engine.model.listening import EAR_CONFIG
from engine.pocket.recipe.corpus import Labels
from engine.pocket.recipe.encode import LAYOUT
from engine.pocket.recipe.export import SETTINGS, SHARED
from engine.pocket.recipe.export_codec import CONFIG, WEIGHTS
from engine.pocket.recipe.training import store


def adopt(folder: Path, work: Path) -> None:
    """Raises ValueError where WORK has a training already, or FOLDER no model."""
    for place in ("lm", "ear", "codec"):
        if (work / place).exists():
            raise ValueError(f"{work / place} is there already; adopt into an empty folder")
    if not (folder / "config.json").exists():
        raise ValueError(f"{folder} has no config.json; give a folder that `export` wrote")
    (work / "codec").mkdir(parents=True)
    for name in (WEIGHTS, CONFIG):
        shutil.copyfile(folder / name, work / "codec" / name)
    shutil.copyfile(folder / "tokenizer.model", work / "tokenizer.model")
    prompt = json.loads((folder / "config.json").read_text(encoding="utf-8"))["prompt_config"]
    (work / LAYOUT).write_text(json.dumps(prompt) + "\n", encoding="utf-8")
    _adopt_model(folder, "config.json", work / "lm", "lm.pt", {"heads": {}, "labels": Labels((), ())})
    if (folder / EAR_CONFIG).exists():
        _adopt_model(folder, EAR_CONFIG, work / "ear", "ear.pt", {})


def _adopt_model(folder: Path, config: str, to: Path, checkpoint: str, more: dict[str, Any]) -> None:
    content = json.loads((folder / config).read_text(encoding="utf-8"))
    weights = {name: tensor.float() for name, tensor in load_file(folder / content["moshi_name"]).items()}
    sizes = {name: value for name, value in content.items() if name not in {"moshi_name", *SHARED, *SETTINGS}}
    store(to / "model.pt", {"sizes": sizes, "weights": weights})
    store(to / checkpoint, {"task": {"moshi": weights, **more}})


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="adopt", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="what export wrote; the shipped weights are engine/pocket")
    parser.add_argument("--work", type=Path, default=Path("build/pocket"), help="where it goes (build/pocket)")
    options = parser.parse_args(arguments)
    adopt(options.folder, options.work)


if __name__ == "__main__":
    main()
