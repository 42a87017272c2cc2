// The page of the server: the same API as every other client, no framework, no build. Text of others is only ever text.

const $ = (id) => document.getElementById(id);
const PART_BYTES = 16 * 2 ** 20;
const state = { key: sessionStorage.getItem("key") || "", model: "", memories: new Map(), files: new Map(), chosen: [], asking: null };

// ------------------------------------------------------------------------------------------------ the server

async function call(method, path, body, signal) {
  const headers = state.key ? { Authorization: `Bearer ${state.key}` } : {};
  const form = body instanceof FormData;
  if (body && !form) headers["Content-Type"] = "application/json";
  const reply = await fetch(path, { method, headers, signal, body: body && !form ? JSON.stringify(body) : body });
  if (reply.ok) return reply;
  const problem = await reply.json().then((found) => found.error, () => null);
  throw Object.assign(new Error(problem?.message || `the server replied ${reply.status}`), { status: reply.status, code: problem?.code });
}

async function json(method, path, body) {
  return (await call(method, path, body)).json();
}

async function* events(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    waiting += value;
    const blocks = waiting.split("\n\n");
    waiting = blocks.pop();
    for (const block of blocks) {
      if (block.startsWith("data: ") && block !== "data: [DONE]") yield JSON.parse(block.slice(6));
    }
  }
}

function tell(error) {
  $("problem").textContent = error ? error.message : "";
  $("problem").hidden = !error;
}

const guarded = (action) => async (...given) => {
  try {
    tell(null);
    await action(...given);
  } catch (error) {
    if (error.name !== "AbortError") tell(error);
  }
};

function made(tag, text, classes) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (classes) element.className = classes;
  return element;
}

function clock(seconds) {
  const [whole, two] = [Math.floor(seconds), (n) => String(n).padStart(2, "0")];
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

// --------------------------------------------------------------------------------------------------- start

async function start() {
  try {
    const [model] = (await json("GET", "/v1/models")).data;
    state.model = model.id;
    $("model").textContent = `${model.id} on ${model.device}`;
    $("login").hidden = true;
    $("main").hidden = false;
    await refresh();
  } catch (error) {
    if (error.status === 401) return askForKey();
    if (error.status !== 503) throw error;
    $("model").textContent = "the model is being loaded ...";
    setTimeout(guarded(start), 1000);
  }
}

function askForKey() {
  $("model").textContent = "";
  $("login").hidden = false;
  $("key").focus();
  if (state.key) tell(new Error("The server does not know this key."));
}

$("login").addEventListener("submit", guarded(async (event) => {
  event.preventDefault();
  state.key = $("key").value;
  sessionStorage.setItem("key", state.key);
  await start();
}));

// ------------------------------------------------------------------------------------------------- uploads

const drop = $("drop");
drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => { event.preventDefault(); drop.classList.remove("over"); add(event.dataTransfer.files); });
$("file").addEventListener("change", () => add($("file").files));

function add(files) {
  for (const file of files) guarded(upload)(file);
}

async function upload(file) {
  const line = made("li", file.name);
  const bar = made("progress");
  bar.max = file.size;
  line.append(bar);
  $("uploads").append(line);
  try {
    const kept = await inParts(file, (sent) => { bar.value = sent; });
    const fps = Number($("fps").value) || 1;
    const memory = await json("POST", "/v1/video/memories", { file_id: kept.id, fps });
    await refresh();
    choose(memory.id);
  } finally {
    line.remove();
    $("file").value = "";
  }
}

// Parts that came stay: a part that fails is sent again, three times.
async function inParts(file, progress) {
  const begun = await json("POST", "/v1/uploads", { filename: file.name, bytes: file.size, purpose: "user_data" });
  const ids = [];
  for (let at = 0; at < file.size; at += PART_BYTES) {
    ids.push((await part(begun.id, file.slice(at, at + PART_BYTES))).id);
    progress(Math.min(file.size, at + PART_BYTES));
  }
  return (await json("POST", `/v1/uploads/${begun.id}/complete`, { part_ids: ids })).file;
}

async function part(upload, blob) {
  for (let attempt = 1; ; attempt++) {
    const form = new FormData();
    form.append("data", blob);
    try {
      return await json("POST", `/v1/uploads/${upload}/parts`, form);
    } catch (error) {
      if (attempt === 3 || (error.status && error.status < 500)) throw error;
    }
  }
}

// ------------------------------------------------------------------------------------------------ memories

async function refresh() {
  const [memories, files] = await Promise.all([json("GET", "/v1/video/memories"), json("GET", "/v1/files")]);
  state.files = new Map(files.data.map((file) => [file.id, file]));
  const known = new Set(memories.data.map((memory) => memory.id));
  for (const id of state.memories.keys()) if (!known.has(id)) state.memories.delete(id);
  for (const memory of memories.data) changed(memory);
  $("memories").replaceChildren(...memories.data.map((memory) => state.memories.get(memory.id).line));
  $("empty").hidden = memories.data.length > 0;
}

const nameOf = (memory) => state.files.get(memory.file_id)?.filename || memory.id;

function changed(memory) {
  const held = state.memories.get(memory.id) || { line: row(memory) };
  held.memory = memory;
  state.memories.set(memory.id, held);
  draw(held);
  if (["queued", "in_progress"].includes(memory.status) && !held.watched) {
    held.watched = true;
    guarded(watch)(held);
  }
}

async function watch(held) {
  const id = held.memory.id;
  for await (const memory of events(await call("GET", `/v1/video/memories/${id}/events`))) changed(memory);
  held.watched = false;
}

function row(memory) {
  const line = made("li");
  line.tabIndex = 0;
  line.dataset.id = memory.id;
  const pick = (event) => choose(memory.id, event.ctrlKey || event.metaKey || event.shiftKey);
  line.addEventListener("click", pick);
  line.addEventListener("keydown", (event) => { if (event.key === "Enter") pick(event); });
  return line;
}

function draw({ line, memory }) {
  const top = made("div", undefined, "top");
  const box = made("input");
  box.type = "checkbox";
  box.checked = state.chosen.includes(memory.id);
  box.setAttribute("aria-label", `ask about ${nameOf(memory)} too`);
  box.addEventListener("click", (event) => { event.stopPropagation(); choose(memory.id, true); });
  const remove = made("button", "×", "plain");
  const working = ["queued", "in_progress"].includes(memory.status);
  remove.setAttribute("aria-label", `${working ? "cancel" : "remove"} ${nameOf(memory)}`);
  remove.addEventListener("click", guarded(async (event) => {
    event.stopPropagation();
    if (working) await json("POST", `/v1/video/memories/${memory.id}/cancel`);
    else await json("DELETE", `/v1/video/memories/${memory.id}`);
    await refresh();
  }));
  top.append(box, made("span", nameOf(memory), "name"), remove);
  line.replaceChildren(top, ...details(memory));
  line.setAttribute("aria-selected", state.chosen.includes(memory.id));
}

function details(memory) {
  if (memory.error) return [made("p", memory.error.message, "bad")];
  if (memory.status === "ready") {
    const facts = `${clock(memory.seconds)} · ${memory.frames} frames · ${(memory.bytes / 1e6).toFixed(1)} MB`;
    return [made("div", facts, "facts"), ...memory.warnings.map((text) => made("div", text, "warning"))];
  }
  const bar = made("progress");
  if (memory.progress?.total) [bar.max, bar.value] = [memory.progress.total, memory.progress.done];
  const phase = memory.progress ? `${memory.progress.phase} ${memory.progress.done} of ${memory.progress.total ?? "?"}` : memory.status;
  return [made("div", phase.replace("_", " "), "facts"), bar];
}

function choose(id, also = false) {
  const before = state.chosen[0];
  if (!also) state.chosen = [id];
  else if (state.chosen.includes(id)) state.chosen = state.chosen.filter((one) => one !== id);
  else state.chosen = [...state.chosen, id];
  for (const held of state.memories.values()) draw(held);
  $("watch").hidden = state.chosen.length === 0;
  $("ask").hidden = false;
  $("about").textContent = state.chosen.map((one) => nameOf(state.memories.get(one).memory)).join(", ");
  if (state.chosen.length && state.chosen[0] !== before) guarded(show)(state.chosen[0]);
}

async function show(id) {
  const memory = state.memories.get(id).memory;
  mark([], memory);
  $("unplayable").hidden = true;
  $("player").hidden = false;
  drawHistory();
  if (!state.files.has(memory.file_id)) { $("player").hidden = true; return; }
  $("player").src = (await json("POST", `/v1/files/${memory.file_id}/link`)).url;
}

$("player").addEventListener("error", () => { $("player").hidden = true; $("unplayable").hidden = false; });

// --------------------------------------------------------------------------------------------- the timeline

let length = 0;

function mark(spans, memory) {
  length = memory?.seconds || $("player").duration || length;
  const most = Math.max(...spans.map((span) => span.share), 1e-9);
  const marks = spans.map((span) => {
    const one = made("button");
    one.style.left = `${(100 * span.start) / length}%`;
    one.style.width = `${(100 * (span.end - span.start)) / length}%`;
    one.style.opacity = 0.3 + 0.7 * (span.share / most);
    one.title = `${clock(span.start)} to ${clock(span.end)}: ${Math.round(100 * span.share)} % of what the answer looked at`;
    one.setAttribute("aria-label", one.title);
    one.addEventListener("click", (event) => { event.stopPropagation(); seek(span.start); });
    return one;
  });
  const now = made("div", undefined, "now");
  $("timeline").replaceChildren(...marks, now);
  $("ticks").replaceChildren(...[0, 0.25, 0.5, 0.75, 1].map((share) => made("span", length ? clock(share * length) : "")));
}

function seek(seconds) {
  $("player").currentTime = seconds;
}

$("timeline").addEventListener("click", (event) => {
  const box = $("timeline").getBoundingClientRect();
  if (length) seek(((event.clientX - box.left) / box.width) * length);
});
$("player").addEventListener("timeupdate", () => {
  const now = $("timeline").querySelector(".now");
  if (now && length) now.style.left = `${(100 * $("player").currentTime) / length}%`;
});

// ------------------------------------------------------------------------------------------------ questions

$("ask").addEventListener("submit", (event) => { event.preventDefault(); guarded(ask)(); });
$("stop").addEventListener("click", () => state.asking?.abort());

async function ask() {
  const text = $("question").value.trim();
  if (!text || state.asking) return;
  const chosen = [...state.chosen];
  const videos = chosen.map((id) => ({ type: "video_url", video_url: { url: `memory://${id}` } }));
  const body = { model: state.model, stream: true, messages: [{ role: "user", content: [...videos, { type: "text", text }] }] };
  const turn = { question: text, answer: "", evidence: [], warnings: [], id: chosen[0] };
  const line = drawTurn(turn);
  $("history").prepend(line);
  busy(new AbortController());
  try {
    const reply = await call("POST", "/v1/chat/completions", body, state.asking.signal);
    for await (const event of events(reply)) {
      if (event.error) throw new Error(event.error.message);
      turn.answer += event.choices[0]?.delta.content || "";
      line.querySelector(".said").textContent = turn.answer;
      const about = event.videoxl?.answers ? event.videoxl.answers[0] : event.videoxl;
      if (about?.evidence) Object.assign(turn, { evidence: about.evidence, warnings: about.warnings });
    }
    $("question").value = "";
    keep(turn);
    line.replaceWith(drawTurn(turn));
    mark(turn.evidence, state.memories.get(turn.id)?.memory);
  } catch (error) {
    if (error.name !== "AbortError") line.append(made("p", error.message, "bad"));
    else line.append(made("p", "stopped", "warning"));
  } finally {
    busy(null);
  }
}

function busy(controller) {
  state.asking = controller;
  $("send").hidden = Boolean(controller);
  $("stop").hidden = !controller;
}

function drawTurn(turn) {
  const line = made("li");
  line.append(made("div", turn.question, "asked"), made("div", turn.answer, "said"));
  const spans = made("div", undefined, "spans");
  for (const span of turn.evidence) {
    const one = made("button", `${clock(span.start)}–${clock(span.end)} · ${Math.round(100 * span.share)} %`);
    one.addEventListener("click", () => { mark(turn.evidence, state.memories.get(turn.id)?.memory); seek(span.start); });
    spans.append(one);
  }
  line.append(spans, ...turn.warnings.map((text) => made("div", text, "warning")));
  return line;
}

const kept = (id) => { try { return JSON.parse(localStorage.getItem(`asked ${id}`)) || []; } catch { return []; } };

function keep(turn) {
  localStorage.setItem(`asked ${turn.id}`, JSON.stringify([turn, ...kept(turn.id)].slice(0, 50)));
}

function drawHistory() {
  $("history").replaceChildren(...kept(state.chosen[0]).map(drawTurn));
}

// ----------------------------------------------------------------------------------------------------- keys

$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); $("ask").requestSubmit(); }
});
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, textarea, button, video, li[tabindex]") || event.ctrlKey || event.metaKey || event.altKey) return;
  const player = $("player");
  const keys = {
    "/": () => $("question").focus(),
    ArrowLeft: () => seek(Math.max(0, player.currentTime - 5)),
    ArrowRight: () => seek(player.currentTime + 5),
    " ": () => (player.paused ? player.play() : player.pause()),
  };
  if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
});

export { $, call, choose, clock, events, guarded, json, made, mark, nameOf, refresh, seek, state };
guarded(start)();
