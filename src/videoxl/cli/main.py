"""``videoxl ...``: each command parses its arguments, calls one function and prints what came back.

Answers go to stdout, everything else to stderr. Exit status: 0, 1 (failed), 2 (bad usage or bad input), 130
(interrupted). An error is one line (:mod:`videoxl.cli.errors`); ``--debug`` shows where it came from.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Annotated, Literal, cast

import typer

from videoxl._version import __version__
from videoxl.cli import configuration
from videoxl.cli.ask import ask
from videoxl.cli.chapters import chapters
from videoxl.cli.chat import chat
from videoxl.cli.clip import clip
from videoxl.cli.encoding import encode as encode_video
from videoxl.cli.errors import (
    EXPECTED,
    LAST_RESORT,
    USAGE_ERROR,
    UsageError,
    error_line,
    exit_status,
    is_bug,
    usage_line,
)
from videoxl.cli.evaluate import app as evaluations
from videoxl.cli.examples import epilog
from videoxl.cli.index import index
from videoxl.cli.many import encode_many
from videoxl.cli.mcp import mcp
from videoxl.cli.options import (
    Decode,
    Device,
    Dtype,
    Json,
    LoadOptions,
    MaxNewTokens,
    Model,
    OpenOptions,
    Quiet,
    Reader,
    SamplingOptions,
    SavedAs,
    SavedLevel,
    Siglip,
    Stream,
    Subtitles,
    WordOptions,
    grouped,
)
from videoxl.cli.output import (
    OutputError,
    finish,
    forget_stdout,
    hold_standard_streams,
    log_to_stderr,
    print_facts,
    print_json,
    say,
    stop_logging,
    tell,
    tell_text,
)
from videoxl.cli.read import read
from videoxl.cli.scenarios import add_scenarios
from videoxl.cli.search import search
from videoxl.cli.serve import serve
from videoxl.cli.train import train
from videoxl.cli.transcribe import transcribe
from videoxl.cli.watch import watch
from videoxl.config import DEFAULT_MODEL, TINY

app = typer.Typer(
    name="videoxl",
    help="Ask questions about hours of video on one GPU.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)

SaveDtype = Literal["auto", "bf16", "int8", "fp8"]
Level = Literal["dense", "pooled"]
Video = Annotated[str, typer.Argument(help="A video file, a picture, or a folder of pictures.")]


def _version(wanted: bool) -> None:
    if wanted:
        say(f"videoxl {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tell what is done, with times.")] = False,
    config: Annotated[
        str | None,
        typer.Option(help="A configuration file, instead of videoxl.toml here and in the user's folder."),
    ] = None,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Ask questions about hours of video on one GPU."""
    if verbose:
        log_to_stderr()
    context.default_map = configuration.use(config, context.command).commands


app.command(epilog=epilog("ask"))(ask)


@app.command(epilog=epilog("encode"))
@grouped
def encode(
    video: Video,
    output: Annotated[str, typer.Option("--output", "-o", help="The memory file to write: film.vxl, say.")],
    loading: LoadOptions,
    frames: SamplingOptions,
    opening: OpenOptions,
    words: WordOptions,
    subtitles: Subtitles = None,
    siglip: Siglip = None,
    save_dtype: SavedAs = "auto",
    level: SavedLevel = "dense",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Read a video once and keep the memory in a file, which ask, chat and info take in its place."""
    from videoxl.memory.file.save import check_save, check_target

    frames.check()
    check_save(save_dtype, level)
    check_target(output)
    _, memory = encode_video(
        video, loading, frames, opening, subtitles=subtitles, words=words, siglip=siglip, progress=not quiet
    )
    memory.save(output, dtype=cast(SaveDtype, save_dtype), level=cast(Level, level))
    size = os.path.getsize(output)
    if as_json:
        rate = round(memory.frames / memory.duration, 6) if memory.duration > 0 else None
        print_json({"memory": output, "file_bytes": size, "frames_per_second": rate, **memory.usage.to_dict()})
    else:
        say(f"{output}: {memory}, {size / 1e6:,.1f} MB on disk")


app.command(epilog=epilog("encode-many"))(encode_many)
app.command(epilog=epilog("index"))(index)
app.command(epilog=epilog("search"))(search)


app.command(epilog=epilog("chat"))(chat)


app.command(epilog=epilog("transcribe"))(transcribe)


@app.command(epilog=epilog("info"))
def info(
    target: Annotated[
        str | None, typer.Argument(help="A video, a memory, a model folder, or an embedded model ('tiny').")
    ] = None,
    system: Annotated[
        bool,
        typer.Option(
            "--system", help="Versions, hardware, its fast kernels, and how decoder processes are confined here."
        ),
    ] = False,
    stream: Stream = None,
    reader: Reader = "auto",
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare a model folder, or a memory, with its checksums.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what a video, a memory or a model folder is, or what this system offers."""
    from videoxl.cli.info import describe, draw_timeline
    from videoxl.cli.system import describe_system, lines

    if system != (target is None):
        raise ValueError("give either a video, a memory or a model, or --system")
    if target is None:
        about = describe_system(reader)
        print_facts(about if as_json else lines(about), as_json)
        return
    facts = describe(target, stream=stream, reader=reader, verify=verify)
    timeline = None if as_json else cast("list[dict[str, float]] | None", facts.pop("timeline", None))
    print_facts(facts, as_json)
    if timeline:
        say(draw_timeline(timeline))


@app.command(epilog=epilog("plan"))
@grouped
def plan(
    video: Video,
    frames: SamplingOptions,
    words: WordOptions,
    model: Model = DEFAULT_MODEL,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, or a GPU to plan for: h200, a100-80g ...")] = "auto",
    dtype: Dtype = "auto",
    quantization: Annotated[str | None, typer.Option(help="Weights in int8 or nf4.")] = None,
    question: Annotated[str, typer.Option(help="Counted exactly when given.")] = "",
    subtitles: Subtitles = None,
    decode: Decode = "dense",
    max_new_tokens: MaxNewTokens = 256,
    as_json: Json = False,
) -> None:
    """Predict tokens, memory and time of a run; no frame is decoded. Exits with 2 when it would not fit."""
    from videoxl.inference.plan.model_spec import model_spec
    from videoxl.inference.plan.planner import plan as make_plan
    from videoxl.inference.video_input import open_for_model

    frames.check()
    with open_for_model(video, fps=frames.fps, stream=frames.stream) as source:
        config = model_spec(model, dtype, on_cpu=True).config if words.names else None
        made = make_plan(
            source,
            model=model,
            device=device,
            dtype=dtype,
            question=question,
            max_new_tokens=max_new_tokens,
            prefill=frames.prefill,
            kv_dtype=frames.kv_dtype,
            quantization=quantization,
            decode=decode,
            subtitles=subtitles,
            tracks=words.of(config, source, ask=True, progress=not as_json) if config else (),
            **frames.sampling,
        )
    if as_json:
        print_json(made.to_dict())
    else:
        say(made)
    if not made.fits:
        raise typer.Exit(2)


@app.command(epilog=epilog("convert"))
def convert(
    source: Annotated[str, typer.Argument(help="A model folder in either layout, or 'tiny'/'tiny-v1'.")],
    target: Annotated[str, typer.Argument(help="A folder that does not exist yet.")],
    to: Annotated[str, typer.Option(help="videoxl or released.")] = "videoxl",
    as_json: Json = False,
) -> None:
    """Rewrite a checkpoint in our layout or the released one, with a sha256 manifest."""
    from videoxl.cli.convert import convert_checkpoint

    print_facts({"target": target, **convert_checkpoint(source, target, to)}, as_json)


@app.command(epilog=epilog("parity"))
def parity(
    golden: Annotated[
        str, typer.Argument(help="A folder with cases.json and recorded arrays; with --against, a model.")
    ],
    kinds: Annotated[
        list[str] | None, typer.Option(help="Only these kinds; may be repeated or comma-separated.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(help="transformers: load the model there too, and compare both on the same frames."),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Compare with recorded numbers of the released code, or with transformers; exits with 1 on any miss."""
    from dataclasses import asdict

    if against not in (None, "transformers"):
        raise ValueError(f"--against must be transformers, got {against!r}")
    if against:
        from videoxl.parity.against import run_against_transformers

        found = run_against_transformers(golden, device=device, dtype=dtype)
    else:
        from videoxl.parity import run_parity

        chosen = [kind for item in kinds for kind in item.split(",")] if kinds else None
        found = run_parity(Path(golden), chosen)
    results = []
    for result in found:
        results.append(result)
        if not as_json:
            say(result, flush=True)
    passed = sum(result.passed for result in results)
    if as_json:
        print_json({"passed": passed, "total": len(results), "cases": [asdict(result) for result in results]})
    else:
        say(f"{passed} of {len(results)} cases agree")
    if passed < len(results) or not results:
        raise typer.Exit(1)


@app.command(epilog=epilog("demo"))
def demo(
    model: Model = TINY,
    device: Device = "auto",
    keep: Annotated[str | None, typer.Option(help="Write the film to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Make a short film, read it, ask about it, and print what each step took and which answers are right."""
    from videoxl.cli.demo import run_demo

    result = run_demo(model, device, keep=Path(keep) if keep else None, say=None if as_json else say)
    if as_json:
        print_json(result)


app.command(epilog=epilog("chapters"))(chapters)
app.command(epilog=epilog("read"))(read)
app.command(epilog=epilog("clip"))(clip)
app.command(epilog=epilog("train"))(train)
app.command(epilog=epilog("serve"))(serve)
app.command(epilog=epilog("watch"))(watch)
app.command(epilog=epilog("mcp"))(mcp)
app.add_typer(evaluations)
add_scenarios(app)


def _show_bug(debug: bool, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show where an error came from that no one expected: a fault of this package, which should be reported."""
    tell_text("".join(traceback.format_exception(kind, error, trace)), end="")
    if not debug and kind is not KeyboardInterrupt:
        tell("videoxl", f"this is a fault of videoxl {__version__}: please report it, with what you ran")


def _show_warning(message: Warning | str, *rest: object, **more: object) -> None:
    tell("warning", message)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the ``videoxl`` command. Always ends in ``SystemExit``, whose ``code`` is a number."""
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    hold_standard_streams()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            # what typer.Exit was raised with, else what the command returned: nothing
            status = app(given, prog_name="videoxl", standalone_mode=False) or 0
        finish()
        sys.exit(status)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has left
        forget_stdout()
        sys.exit(1)
    except USAGE_ERROR as error:
        usage = cast(UsageError, error)
        if line := usage_line(usage):
            tell("videoxl", line)
        else:
            usage.show()
        sys.exit(usage.exit_code)
    except (*EXPECTED, *LAST_RESORT) as error:
        if isinstance(error, OutputError):
            forget_stdout()
        if debug or is_bug(error):
            raise
        tell("videoxl", error_line(error))
        sys.exit(exit_status(error))
    finally:
        stop_logging()
        sys.excepthook = partial(_show_bug, debug)  # now, because typer sets its own when it is called


if __name__ == "__main__":
    main()
