"""The tools through the official client: in one process, and as the command that an agent starts."""

from __future__ import annotations

import base64
import io
import json
import os
import sys
import threading
import time

import anyio
import numpy as np
import pytest
from PIL import Image

from tests import media
from tests.conftest import require
from videoxl.agents.session import Session

pytestmark = pytest.mark.anyio
mcp = require("mcp")
QUESTION = "What color is the star?"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("tools")
    media.write_video(made / "film.mp4", frames=80, fps=10, size=(96, 64))
    return made


def facts_of(result) -> dict:
    assert not result.is_error, result.content
    return json.loads(result.content[0].text)


async def test_a_conversation(folder, tiny):
    from mcp.client import Client

    from videoxl.agents.mcp_server import mcp_server

    told = []

    async def progress(done, total, message):
        told.append((message, done, total))

    async with Client(
        mcp_server(Session([folder], lambda: tiny, planned={"model": "tiny", "device": "cpu"}))
    ) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {
            *("list_videos", "plan_video", "open_video", "ask_video", "show_evidence"),
            *("look_at", "search_videos", "close_video"),
        }
        assert all(tool.description and tool.annotations.read_only_hint for tool in tools.values())
        assert "context" not in tools["open_video"].input_schema["properties"]
        listed = facts_of(await client.call_tool("list_videos", {}))
        assert [os.path.basename(file["path"]) for file in listed["files"]] == ["film.mp4"]
        assert facts_of(await client.call_tool("plan_video", {"path": "film.mp4", "fps": 2}))["frames"] == 16
        opened = await client.call_tool("open_video", {"path": "film.mp4", "fps": 2}, progress_callback=progress)
        name = facts_of(opened)["video"]
        assert told[-1][1] == told[-1][2]
        answer = facts_of(await client.call_tool("ask_video", {"video": name, "question": QUESTION}))
        assert answer["answer"] == tiny.ask(tiny.encode(folder / "film.mp4", fps=2), QUESTION).text
        shown = await client.call_tool("show_evidence", {"video": name, "question": QUESTION})
        assert [part.type for part in shown.content[1:3]] == ["text", "image"]
        looked = await client.call_tool("look_at", {"video": name, "seconds": [1.0, 7.0]})
        images = [part for part in looked.content if part.type == "image"]
        pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(image.data)))) for image in images]
        assert [picture.shape for picture in pictures] == [(64, 96, 3)] * 2
        assert [part.text for part in looked.content if part.type == "text"] == ["1.00 s", "7.00 s"]
        assert facts_of(await client.call_tool("close_video", {"video": name})) == {"closed": [name]}


async def test_what_is_wrong_is_one_line_and_the_server_goes_on(folder, tiny):
    from mcp.client import Client

    from videoxl.agents.mcp_server import mcp_server

    async with Client(mcp_server(Session([folder], lambda: tiny))) as client:
        for tool, given, said in [
            ("open_video", {"path": "nothing.mp4"}, "no such file in"),
            ("open_video", {"path": "../\x1b[2J"}, r"\x1b[2J: no such file in"),
            ("open_video", {"path": "film.mp4", "fps": -1}, "greater than 0"),
            ("open_video", {"path": "film.mp4", "start": 100.0}, "lies after the end"),
            ("open_video", {"path": "film.mp4", "tracks": ["smell"]}, "a track must be one of"),
            ("ask_video", {"video": "video-7", "question": "?"}, "open are none: open one first"),
            ("look_at", {"video": "film.mp4", "seconds": []}, "at least 1"),
            ("search_videos", {"query": "star"}, "videoxl index FOLDER"),
        ]:
            result = await client.call_tool(tool, given)
            assert result.is_error
            assert said in result.content[0].text, result.content[0].text
        assert not (await client.call_tool("list_videos", {})).is_error


async def test_a_client_that_leaves_ends_the_reading(folder, tiny):
    from mcp.client import Client

    from videoxl.agents.mcp_server import mcp_server

    begun, ended, held = threading.Event(), threading.Event(), []

    class Slow(Session):
        def open(self, path, progress, **settings):
            begun.set()
            try:
                for done in range(1000):
                    time.sleep(0.01)
                    progress("prefill", done, None)
                held.append(path)
                return {}
            finally:
                ended.set()

    async with Client(mcp_server(Slow([folder], lambda: tiny))) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "open_video", {"path": "film.mp4"})
            await anyio.to_thread.run_sync(begun.wait)
            group.cancel_scope.cancel()
        await anyio.to_thread.run_sync(ended.wait, 5.0)
        assert ended.is_set()
        assert not held


@pytest.mark.slow
async def test_as_a_command(folder):
    from mcp.client import Client
    from mcp.client.stdio import StdioServerParameters, stdio_client

    command = ["-m", "videoxl", "mcp", str(folder), "--model", "tiny", "--device", "cpu"]
    server = StdioServerParameters(command=sys.executable, args=command, env=dict(os.environ))
    with open(os.devnull, "w") as quiet:
        async with Client(stdio_client(server, errlog=quiet)) as client:
            name = facts_of(await client.call_tool("open_video", {"path": "film.mp4"}))["video"]
            answer = facts_of(await client.call_tool("ask_video", {"video": name, "question": QUESTION}))
            assert answer["answer"]
