// Live streams on the page: a list, what was told, a question to each. Text of others is only ever text.

const $ = (id) => document.getElementById(id);
const SHOWN = 6, EVERY = 3000;
const streams = new Map(); // id -> {item, status, lines, last, reading}

async function call(method, path, body) {
  const key = sessionStorage.getItem("key") || "";
  const headers = { ...(key ? { Authorization: `Bearer ${key}` } : {}), ...(body ? { "Content-Type": "application/json" } : {}) };
  const reply = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  if (reply.ok) return reply;
  const problem = await reply.json().then((found) => found.error, () => null);
  throw Object.assign(new Error(problem?.message || `the server replied ${reply.status}`), { status: reply.status });
}

const json = async (method, path, body) => (await call(method, path, body)).json();

function tell(error) {
  $("problem").textContent = error ? error.message : "";
  $("problem").hidden = !error;
}

function made(tag, text, classes) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (classes) element.className = classes;
  return element;
}

function clock(seconds) {
  const two = (n) => String(Math.floor(n) % 60).padStart(2, "0");
  return `${Math.floor(seconds / 3600)}:${two(seconds / 60)}:${two(seconds)}`;
}

function words(event) {
  if (event.kind === "alert") return `${event.state === "fired" ? "⚠ " : "✓ "}${event.question}`;
  if (event.kind === "answer") return `${event.question} ${event.answer}`;
  if (event.kind === "gap") return `gap of ${(event.end - event.start).toFixed(1)} s (${event.reason})`;
  if (event.kind === "state") return `${event.state}${event.message ? `: ${event.message}` : ""}`;
  return event.kind === "note" ? event.message : null;
}

function line(stream, text, classes) {
  stream.lines.prepend(made("li", text, classes));
  while (stream.lines.children.length > SHOWN) stream.lines.lastChild.remove();
}

async function follow(id, stream) {
  stream.reading = true;
  try {
    const reply = await call("GET", `/v1/video/streams/${id}/events`);
    const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let waiting = ""; ;) {
      const { done, value } = await reader.read();
      if (done) break;
      const blocks = (waiting + value).split("\n\n");
      waiting = blocks.pop();
      for (const block of blocks) {
        const data = block.split("\n").find((one) => one.startsWith("data: "));
        const number = Number(block.match(/^id: (\d+)/)?.[1] || 0);
        if (!data || number <= stream.last) continue;
        stream.last = number;
        const event = JSON.parse(data.slice(6));
        const text = words(event);
        if (text) line(stream, `${clock(event.seconds || 0)} ${text}`, event.kind);
      }
    }
  } catch { /* asked again with the next look */ } finally { stream.reading = false; }
}

async function ask(id, stream, about) {
  const question = stream.question.value.trim();
  if (!question) return;
  const content = [{ type: "video_url", video_url: { url: `stream://${id}` } }, { type: "text", text: question }];
  const model = (await json("GET", "/v1/models")).data[0].id;
  const body = { model, messages: [{ role: "user", content }], videoxl: { about } };
  const found = await json("POST", "/v1/chat/completions", body);
  const live = found.videoxl.live;
  line(stream, `${question} ${found.choices[0].message.content} (${clock(live.start)} - ${clock(live.end)})`, "answer");
  for (const note of live.notes) line(stream, note, "note");
}

const guarded = (action) => async (event) => {
  event?.preventDefault();
  try { tell(null); await action(); } catch (error) { tell(error); }
};

function shown(one) {
  const stream = { item: made("li"), lines: made("ol"), last: 0, reading: false, status: made("span", "", "status") };
  const form = made("form");
  stream.question = made("input");
  stream.question.setAttribute("aria-label", "Question about the stream");
  stream.question.placeholder = "What is shown?";
  const [now, all, remove] = [made("button", "Ask now"), made("button", "Ask the past"), made("button", "Remove")];
  for (const other of [all, remove]) other.type = "button";
  form.addEventListener("submit", guarded(() => ask(one.id, stream, "now")));
  all.addEventListener("click", guarded(() => ask(one.id, stream, "all")));
  remove.addEventListener("click", guarded(async () => { await call("DELETE", `/v1/video/streams/${one.id}`); await look(); }));
  form.append(stream.question, now, all, remove);
  stream.item.append(made("strong", one.url), " ", stream.status, form, stream.lines);
  $("stream-list").prepend(stream.item);
  return stream;
}

async function look() {
  const found = (await json("GET", "/v1/video/streams")).data;
  for (const [id, stream] of streams) {
    if (!found.some((one) => one.id === id)) { stream.item.remove(); streams.delete(id); }
  }
  for (const one of [...found].reverse()) {
    if (!streams.has(one.id)) streams.set(one.id, shown(one));
    const stream = streams.get(one.id);
    stream.status.textContent = `${one.status}, ${clock(one.seconds)}, ${(one.bytes / 1e6).toFixed(1)} MB${one.error ? `: ${one.error.message}` : ""}`;
    if (!stream.reading && !["ended", "failed"].includes(one.status)) follow(one.id, stream);
  }
}

$("add-stream").addEventListener("submit", guarded(async () => {
  const question = $("stream-alert").value.trim();
  await json("POST", "/v1/video/streams", { url: $("stream-url").value, ...(question ? { alerts: [{ question }] } : {}) });
  $("add-stream").reset();
  await look();
}));

async function begin() {
  if (!$("main").hidden) {
    const { allowed } = await json("GET", "/v1/video/streams").catch(() => ({ allowed: false }));
    $("streams").hidden = !allowed;
    if (allowed) await look().catch(() => {});
  }
  setTimeout(begin, EVERY);
}

begin();
