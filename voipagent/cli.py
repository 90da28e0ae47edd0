"""The verbs. Every error that a user can mend is one clear line and a non-zero exit."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from engine.slot import EngineError
from media.leg import LegError
from signaling.call import NotAllowed, SignalingError
from voipagent.callscli import calls
from voipagent.environment import SettingsError, effective
from voipagent.outbound import UnknownPersona
from voipagent.personascli import personas
from voipagent.record import FolderError
from voipagent.settings import Settings, example
from voipagent.talk import AudioFileError
from voipagent.web.api import HttpError

USER_ERRORS = (
    SettingsError,
    EngineError,
    SignalingError,
    LegError,
    FolderError,
    AudioFileError,
    HttpError,
    UnknownPersona,
)

cli = typer.Typer(
    help="A self-hosted voice agent on a full-duplex speech model. `voipagent config` shows its settings.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
bench = typer.Typer(help="Measure, with the numbers that the README quotes.", no_args_is_help=True)
checkpoint = typer.Typer(help="Make checkpoints.", no_args_is_help=True)
cli.add_typer(bench, name="bench")
cli.add_typer(calls, name="calls")
cli.add_typer(checkpoint, name="checkpoint")
cli.add_typer(personas, name="personas")


QUIET = {"uvicorn": logging.WARNING, "aioice": logging.WARNING, "httpx2": logging.WARNING, "websockets": logging.INFO}
"""What others tell from which level on: httpx2 writes addresses with the tokens in them, websockets whole headers."""


def main() -> None:
    """The console command."""
    try:
        cli()
    except USER_ERRORS as error:
        for line in str(error).splitlines():
            print(f"voipagent: {line}", file=sys.stderr)
        sys.exit(1)


def _settings() -> Settings:
    """The environment's settings, and logging as they say."""
    settings = Settings.load(os.environ)
    logging.basicConfig(
        level=settings.log.level.upper(), format="%(asctime)s %(levelname).1s %(name)s %(message)s", stream=sys.stderr
    )
    for name, level in QUIET.items():
        logging.getLogger(name).setLevel(level)
    return settings


@cli.command()
def serve() -> None:
    """Answer the phone until SIGINT or SIGTERM."""
    from voipagent.app import serve as run

    asyncio.run(run(_settings(), os.environ))


@cli.command()
def talk(
    source: Annotated[Path, typer.Argument(metavar="IN", help="any audio file")],
    target: Annotated[Path, typer.Argument(metavar="OUT.wav", help="what the agent says, exactly as long")],
    transcript: Annotated[Path | None, typer.Option(help="write what is said here, as JSON lines")] = None,
) -> None:
    """Let the agent hear a file as if it were a live call, as fast as the machine allows."""
    from voipagent.app import talk as run

    asyncio.run(run(_settings(), source, target, transcript))


@cli.command()
def dial(
    target: Annotated[str, typer.Argument(metavar="NUMBER|URI|USER", help="+49301234567, sip:ada@example.com, alice")],
    persona: Annotated[str, typer.Option(help="who speaks; empty: the default persona")] = "",
    trunk: Annotated[str, typer.Option(help="the trunk to call by; empty: the first that may")] = "",
    digits: Annotated[str, typer.Option(help="keys to press once it is answered; pauses: , (2 s), w (0.5 s)")] = "",
) -> None:
    """Call somebody and talk until one of you hangs up. Nothing may be called until a setting allows it.

    A user with phones of our own is called by the agent that serves, which knows where they are.
    """
    from voipagent.app import dial as run
    from voipagent.asking import ask_to_call
    from voipagent.outbound import Wanted, explained

    settings, wanted = _settings(), Wanted(target, trunk, persona, digits)
    if not trunk and target.lower() in settings.sip.users:
        print(f"begun: {ask_to_call(settings.http, wanted)}")
        return
    try:
        ended = asyncio.run(run(settings, wanted))
    except NotAllowed as error:
        raise SignalingError(explained(error)) from None
    print(f"{ended.outcome.value if ended.outcome else 'over'}: {ended.reason}")
    sys.exit(1 if ended.outcome else 0)


@cli.command()
def join(
    meeting: Annotated[
        str, typer.Argument(metavar="URL|NAME", help="janus://meet.example.com/1234, livekit://…, standup")
    ],
    persona: Annotated[str, typer.Option(help="who takes part; empty: the meeting's persona, or the default one")] = "",
) -> None:
    """Take part in a meeting elsewhere until one of you has enough.

    A name is that of VOIPAGENT_MEETINGS__<NAME>__URL.
    """
    from voipagent.app import dial as run
    from voipagent.outbound import Wanted

    ended = asyncio.run(run(_settings(), Wanted(meeting, persona=persona), meeting=True))
    print(f"{ended.outcome.value if ended.outcome else 'over'}: {ended.reason}")
    sys.exit(1 if ended.outcome else 0)


@cli.command()
def config(
    env_example: Annotated[bool, typer.Option("--example", help="print deploy/env.example instead")] = False,
) -> None:
    """Print the effective settings, secrets masked, as a shell reads them."""
    if env_example:
        print(example(), end="")
        return
    for name, value in effective(Settings.load(os.environ)):
        print(f"{name}={shlex.quote(value) if value else ''}")


@checkpoint.command()
def nano(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="made if it is not there")],
    seed: Annotated[int, typer.Option(help="the same seed gives the same weights")] = 0,
) -> None:
    """Write a complete small random checkpoint in the published format."""
    from voipagent.engines import write_nano_checkpoint

    write_nano_checkpoint(folder, seed)
    print(f"wrote {folder}; run it with VOIPAGENT_ENGINE__MODEL={folder}")


@bench.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def engine(context: typer.Context) -> None:
    """Ticks of the model, by part and against what the device's memory allows (--help: its options)."""
    from engine.bench import main as run

    sys.exit(run(context.args))


@bench.command()
def latency(
    target: Annotated[
        str, typer.Option(help="sip:user@host:port of an agent that echoes (VOIPAGENT_ENGINE__MODEL=echo)")
    ],
    codec: Annotated[str, typer.Option(help="pcmu, pcma or g722")] = "pcmu",
    loss: Annotated[
        float, typer.Option(help="share of packets dropped in each direction, 0 to 1", min=0, max=0.5)
    ] = 0.0,
    bursts: Annotated[int, typer.Option(help="how many bursts; at least 30", min=30)] = 40,
    seed: Annotated[int, typer.Option(help="of bursts and losses")] = 0,
    csv: Annotated[Path | None, typer.Option(help="write each burst here")] = None,
) -> None:
    """Round trip that the transport adds: noise bursts, from the wire to the wire."""
    from voipagent.lab.latency import measure, write_csv

    report = measure(target, codec, bursts=bursts, loss=loss, seed=seed)
    Console().print(str(report))
    if csv is not None:
        write_csv(report, csv)
