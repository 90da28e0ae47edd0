"""`voipagent personas`, and what it says of weights that will not obey."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from engine.slot import PromptError, PromptSize
from voipagent.advice import POCKET_NAMES, advice
from voipagent.cli import cli
from voipagent.outbound import UnknownPersona
from voipagent.persona import Persona

DOMAIN = Path(__file__).parents[2] / "engine" / "pocket" / "recipe" / "domain.yaml"

SEVERAL = {
    "VOIPAGENT_PERSONA__PROMPT": "You help [red]everybody[/red].\nReally.",
    "VOIPAGENT_PERSONAS__SALES__NAME": "Grace",
    "VOIPAGENT_PERSONAS__SALES__NUMBERS": "100,+4930*",
    "VOIPAGENT_PERSONAS__SALES__CALLERS": "boss",
    "VOIPAGENT_PERSONAS__SALES__PROMPT": "You sell to {caller}. " + "Much. " * 20,
    "VOIPAGENT_PERSONAS__SALES__GREETING": "Hi {caller}, a {{smile}}.",
    "VOIPAGENT_PERSONAS__SALES__LANGUAGE": "de",
    "VOIPAGENT_ENGINE__MODEL": "echo",
}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setenv("COLUMNS", "200")
    for name, value in SEVERAL.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> str:
        return CliRunner().invoke(cli, ["personas", *arguments], catch_exceptions=False).stdout

    return run


def test_ls_has_a_line_for_each_and_says_which_calls_it_gets(run: Callable[..., str]) -> None:
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in run("ls").splitlines() if "│" in line]
    assert rows == [
        ["", "agent", "", "", "", "", "", "You help [red]everybody[/red]. Really."],
        ["sales", "Grace", "100, +4930*", "boss", "", "", "de", rows[1][-1]],
    ]
    assert rows[1][-1].endswith("…") and len(rows[1][-1]) == 60


@pytest.mark.parametrize("name", ["sales", "Grace"])
def test_show_has_the_whole_of_one_as_a_call_would_be_told_it(run: Callable[..., str], name: str) -> None:
    told = run("show", name)
    assert "prompt: You sell to unknown. Much." in told and told.count("Much.") == 20
    assert "greeting: Hi unknown, a {smile}." in told
    assert "numbers: 100, +4930*" in told and "language: de" in told and "voice" not in told


def test_without_a_name_it_is_the_default_one(run: Callable[..., str]) -> None:
    assert "name: agent" in run("show") and "[red]everybody[/red]" in run("show")


@pytest.mark.parametrize("verb", ["show", "test"])
def test_who_is_not_there_is_said_with_who_is(run: Callable[..., str], verb: str) -> None:
    with pytest.raises(UnknownPersona, match="there is no persona 'bob'; known: agent, sales"):
        run(verb, "bob")


def test_test_says_what_a_prompt_costs_and_what_does_nothing(run: Callable[..., str]) -> None:
    cost, *beware = run("test", "sales").splitlines()
    assert re.fullmatch(r"Grace: 24 tokens, 24 frames \(1\.9 s, 0\.8% of the window of 3000\), primed in \d+ ms", cost)
    assert beware == ["beware: these weights are told nothing: PROMPT has no effect"]


def test_test_primes_the_weights_that_are_set(
    run: Callable[..., str], nano: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the nano checkpoint, which takes a prompt into its text stream: a frame a token, and six before and behind."""
    monkeypatch.setenv("VOIPAGENT_ENGINE__MODEL", str(nano))
    monkeypatch.setenv("VOIPAGENT_ENGINE__DEVICE", "cpu")
    monkeypatch.setenv("VOIPAGENT_PERSONA__PROMPT", "You are a voice agent.")
    cost, *beware = run("test").splitlines()
    found = re.fullmatch(r"agent: (\d+) tokens, (\d+) frames .* of the window of 500\), primed in (\d+) ms", cost)
    assert found and int(found[2]) == int(found[1]) + 12 and int(found[1]) > 4
    assert len(beware) == 1 and "binds little" in beware[0]


def test_test_refuses_what_no_call_could_have(run: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOIPAGENT_PERSONA__PROMPT", "word " * 700)
    with pytest.raises(PromptError, match="'agent' takes 700 frames, and may take 600 of the model's window of 3000"):
        run("test")


# --- what will not be obeyed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("persona", "model", "style", "expected"),
    [
        (Persona(), "pocket", "system", []),
        (Persona(greeting="Welcome."), "pocket", "system", ["greets by itself: GREETING"]),
        (Persona(prompt="You are Emma."), "pocket", "system", ["heeds little of a prompt"]),
        (
            Persona(prompt="You are Wilhelmina at Blue Harbor."),
            "pocket",
            "system",
            ["heeds little of a prompt", "and will not call itself Wilhelmina"],
        ),
        (Persona(prompt="You are Bob."), "kyutai/moshiko-pytorch-bf16", "text", ["not trained on prompts"]),
        (Persona(prompt="You are Bob.", greeting="Hi."), "nvidia/personaplex-7b-v1", "system", []),
        (Persona(prompt="You are Bob."), "echo", "none", ["told nothing"]),
        (Persona(language="fr"), "kyutai/moshika-pytorch-q8@abc", "text", ["speak English: LANGUAGE=fr"]),
        (Persona(language="en-GB"), "pocket", "system", []),
        (Persona(language="fr"), "/srv/my-own-weights", "system", []),
    ],
)
def test_advice_names_what_the_weights_will_not_obey(
    persona: Persona, model: str, style: str, expected: list[str]
) -> None:
    told = advice(persona, model, style, PromptSize(len(persona.prompt.split()), len(persona.prompt.split())))
    assert len(told) == len(expected)
    assert all(part in line for part, line in zip(expected, told, strict=True))


def test_the_names_are_those_of_the_recipe() -> None:
    names = re.search(r"^  agent: (\[.*\])", DOMAIN.read_text(encoding="utf-8"), re.M)
    assert names and tuple(yaml.safe_load(names[1])) == POCKET_NAMES
