"""The image's recipe: linted always, replayed in an empty environment by `make acceptance`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, arguments), continued lines joined."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "deploy/Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def arguments(instruction: str) -> list[str]:
    return [rest for name, rest in instructions() if name == instruction]


def test_the_base_image_is_named_exactly() -> None:
    (base,) = arguments("FROM")
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", base)


def test_everything_that_is_copied_is_there() -> None:
    sources = [source for rest in arguments("COPY") for source in rest.split()[:-1]]
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert {"signaling", "media", "engine", "voipagent", "LICENSE"} <= set(sources)


def test_it_runs_as_nobody_special_in_exec_form() -> None:
    names = [name for name, _ in instructions()]
    assert names.count("USER") == 1
    assert names.index("USER") > max(index for index, name in enumerate(names) if name == "RUN")
    assert all(rest.startswith("[") for name in ("ENTRYPOINT", "CMD") for rest in arguments(name))


def test_pip_keeps_to_the_constraints_and_leaves_no_cache() -> None:
    installs = [rest for rest in arguments("RUN") if rest.startswith("pip install")]
    assert len(installs) == 2
    assert all("constraints.txt" in rest for rest in installs)
    assert any("PIP_NO_CACHE_DIR=1" in rest for rest in arguments("ENV"))


def test_no_shell_trap() -> None:
    for rest in arguments("RUN"):
        assert not re.search(r"\bsudo\b|\bcd\b|;|\|", rest), rest


@pytest.mark.parametrize(("host", "asked"), [("", "127.0.0.1"), ("127.0.0.2", "127.0.0.2"), ("0.0.0.0", "127.0.0.1")])
def test_the_health_check_asks_where_the_agent_listens(host: str, asked: str) -> None:
    class Ready(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/readyz" else 404)
            self.end_headers()

    (check,) = arguments("HEALTHCHECK")
    with ThreadingHTTPServer((asked, 0), Ready) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environ = os.environ | {"VOIPAGENT_HTTP__HOST": host, "VOIPAGENT_HTTP__PORT": str(server.server_port)}
        environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
        command = ["sh", "-c", check.split("CMD ", 1)[1]]
        try:
            subprocess.run(command, env=environ, check=True, timeout=30, capture_output=True)
        finally:
            server.shutdown()
    assert subprocess.run(command, env=environ, timeout=30, capture_output=True).returncode != 0


@pytest.mark.acceptance
def test_its_pip_lines_build_an_environment_that_runs(tmp_path: Path) -> None:
    source, venv = tmp_path / "src", tmp_path / "venv"
    source.mkdir()
    for rest in arguments("COPY"):
        for name in rest.split()[:-1]:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, source / name)
    environ = {**os.environ, "PATH": f"{venv}/bin:{os.environ['PATH']}", "TORCH_INDEX": ""}
    environ = {name: value for name, value in environ.items() if not name.startswith(("VIRTUAL_ENV", "PYTHONPATH"))}
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    for rest in arguments("RUN"):
        if rest.startswith("pip install"):
            subprocess.run(rest, shell=True, cwd=source, env=environ, check=True, timeout=1800)
    shown = subprocess.run(["voipagent", "config"], cwd=tmp_path, env=environ, check=True, capture_output=True)
    assert b"VOIPAGENT_SIP__PORT=5060" in shown.stdout
