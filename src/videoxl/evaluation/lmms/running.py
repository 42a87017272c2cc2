"""Run lmms-eval in a process of its own, and read what it wrote."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from videoxl.errors import EvaluationError, MissingDependencyError
from videoxl.evaluation.comparing import SAMPLES
from videoxl.evaluation.lmms.presets import PRESETS
from videoxl.evaluation.lmms.published import Published
from videoxl.evaluation.lmms.scores import judged, read_logs, scored
from videoxl.evaluation.log import Json, write_bytes, write_json
from videoxl.json_lines import dump_line, read_json, read_json_lines
from videoxl.text import tell_text

RESULT = "result.json"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One task of lmms-eval."""

    task: str
    model_args: Mapping[str, object]
    """Arguments of the plug-in: see :class:`~videoxl.evaluation.lmms.models.VideoXLSimple`."""
    folder: Path
    """Where all files of the run go."""
    preset: str | None = None
    mode: str = "full"
    categories: tuple[str, ...] = ()
    include_path: str | None = None
    limit: int | None = None
    processes: int = 1
    interface: str = "chat"
    resume: bool = False

    def command(self) -> list[str]:
        """Return the command line, which can be run by hand as well."""
        start = [sys.executable, "-m"]
        if self.processes > 1:
            start += ["accelerate.commands.launch", "--multi_gpu", "--num_processes", str(self.processes)]
            start += ["--main_process_port", "0", "-m"]
        given = {"log": str(self.folder / "logs"), "resume": self.resume, "check_outcome": True, **self.model_args}
        model_args = ",".join(f"{name}={_argument(name, value)}" for name, value in given.items() if value is not None)
        command = [*start, "lmms_eval", "--model", "videoxl", "--model_args", model_args, "--tasks", self.task]
        command += ["--output_path", str(self.folder / "lmms-eval"), "--log_samples", "--batch_size", "1"]
        command += ["--include_path", self.include_path] if self.include_path else []
        command += ["--limit", str(self.limit)] if self.limit is not None else []
        command += ["--force_simple"] if self.interface == "simple" else []
        return command


def _argument(name: str, value: object) -> str:
    """Write a value as ``--model_args`` takes it. Commas end an argument: strategies get semicolons, paths fail."""
    text = str(value)
    if name in ("prefill", "decode"):
        return text.replace(",", ";")
    forbidden = ",\"'[]" if name == "subtitles" else ",\"'{}[]"
    if set(text) & set(forbidden):
        raise ValueError(
            f"{name}={text!r} holds a comma, quote or bracket, which lmms-eval's --model_args cannot: rename"
        )
    return text


def require_lmms_eval() -> str:
    """Return the version of lmms-eval. Raises :class:`MissingDependencyError` if it is not installed."""
    if importlib.util.find_spec("lmms_eval") is None:
        raise MissingDependencyError(
            "lmms-eval is not installed: pip install 'videoxl[eval]', in an environment of its own (it needs av<16)"
        )
    return importlib.metadata.version("lmms_eval")


def _show(command: Sequence[str]) -> int:
    """Run a command, show on stderr what it prints, and return its status. Progress bars may rewrite their line."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None  # for the type checker
        lines = io.TextIOWrapper(process.stdout, "utf-8", errors="backslashreplace", newline="")  # \r ends one too
        try:
            for line in lines:
                shown = line.rstrip("\r\n")
                tell_text(shown, end=line[len(shown) :])
        except BaseException:
            process.kill()
            raise
    return process.returncode


def run_lmms(run: Run) -> Json:
    """Run lmms-eval and return the result, which is also written to ``folder/result.json``.

    All that lmms-eval prints goes to stderr. Raises :class:`EvaluationError` if it ends without scores.
    """
    version = require_lmms_eval()
    before = set(_written(run))
    status = _show(run.command())
    written = [path for path in _written(run) if path not in before]
    if status or not written:
        raise EvaluationError(
            f"lmms-eval ended with status {status} and no scores; what it said is above. The answers so far "
            f"are in {run.folder / 'logs'}: go on with --resume"
        )
    result = result_of(run, written[-1])
    result["run"]["versions"]["lmms_eval"] = version
    write_bytes(run.folder / SAMPLES, b"".join(map(dump_line, result.pop("samples"))))
    write_json(run.folder / RESULT, result)
    return result


def result_of(run: Run, samples_file: Path) -> Json:
    """Make the result from the files of a run; ``samples`` says of every question whether it was answered rightly."""
    made, records, failed = read_logs(run.folder / "logs")
    samples = [sample for _, sample in read_json_lines(samples_file, EvaluationError)]
    scores = scored(samples, records, failed, task=run.task, categories=run.categories)
    published = Published.named(_named(run.model_args.get("protocol")))
    if published is not None:  # the task judged answers to other prompts by another rule
        shown = [*records.values()]
        scores |= {"by_task": {name: scores[name] for name in ("accuracy", "macro")}, **published.scores(shown, failed)}
        right = published.right(records)
    else:
        right = {one["key"]: one["correct"] for one in judged(samples, records, failed, task=run.task)}
    aggregated = samples_file.with_name(samples_file.name.replace(f"_samples_{run.task}.jsonl", "_results.json"))
    results = read_json(aggregated, EvaluationError).get("results") if aggregated.exists() else None
    own = results.get(run.task) if isinstance(results, dict) else None
    return {
        "benchmark": run.preset or run.task,
        "mode": run.mode,
        "prompts": run.model_args.get("protocol") or "lmms",
        "headline": PRESETS[run.preset].headline if run.preset else "micro",
        "scores": scores,
        "lmms_eval": {name: value for name, value in (own or {}).items() if isinstance(value, int | float)},
        "run": {**made, "task": run.task, "limit": run.limit},
        "samples": [
            {"key": key, "video": one["video"], "text": one.get("text"), "right": right.get(key, 0.0)}
            for key, one in {**records, **failed}.items()
        ],
    }


def _named(value: object) -> str | None:
    return None if value is None else str(value)


def _written(run: Run) -> list[Path]:
    return sorted((run.folder / "lmms-eval").rglob(f"*_samples_{run.task}.jsonl"))


def text(result: Json) -> str:
    """Show a result in a terminal."""
    scores = result["scores"]
    low, high = scores["interval"] or (None, None)
    lines = [
        f"{result['benchmark']}, {result['mode']}: {scores['samples']} questions about {scores['videos']} videos",
        f"prompts {result.get('prompts', 'lmms')}",
        f"micro   {_percent(scores['accuracy'])} ({_percent(low)} to {_percent(high)})",
        f"macro   {_percent(scores['macro'])}",
    ]
    for name, averages in scores["by"].items():
        lines.append(f"{name}: " + ", ".join(f"{k} {_percent(v['accuracy'])}" for k, v in averages["by"].items()))
    costs = scores["costs"]
    if costs:
        lines.append(
            f"cost    {costs['mean_frames']:.0f} frames and {costs['mean_memory_tokens']:,.0f} tokens a video, "
            f"{costs['reading_seconds_per_video']:.1f} s to read it, {costs['seconds_per_answer']:.2f} s an answer"
        )
    if scores["with_subtitles"] is not None:
        lines.append(
            f"said    {scores['with_subtitles']} of {scores['samples']} questions are about videos with subtitles"
        )
    lines.append(f"failed  {len(scores['failed'])}, which count as wrong; {scores['empty_answers']} empty answers")
    lines += [f"  {key}: {why}" for key, why in scores["failed"].items()]
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "n.a." if share is None else f"{100 * share:.1f} %"
