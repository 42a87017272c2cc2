// Search in all videos, and questions to those that are found. Text of others is only ever text.

import { $, call, choose, clock, events, guarded, json, made, mark, refresh, seek, state } from "./page.js";

let searching = 0;

$("find").addEventListener("submit", (event) => { event.preventDefault(); guarded(find)(); });
$("best").addEventListener("click", () => { if ($("find").reportValidity()) guarded(askBest)(); });

async function find() {
  const mine = ++searching;
  $("best-answer").hidden = true;
  const reply = await json("POST", "/v1/video/search", { query: $("query").value, limit: 12 });
  if (mine !== searching) return; // a later search was begun
  $("found").replaceChildren(...reply.data.map(drawHit));
  note(reply, reply.data.length ? [] : ["Nothing was found."]);
}

function note(reply, more) {
  const left = reply.not_searched.map((one) => `${state.files.get(one.id)?.filename || one.id} (${one.reason || one.status})`);
  const most = left.slice(0, 5).join(", ") + (reply.not_searched_total > 5 ? ` and ${reply.not_searched_total - 5} more` : "");
  const lines = [...more, ...reply.notes.map((text) => `${text[0].toUpperCase()}${text.slice(1)}.`), ...(left.length ? [`Not searched, or not wholly: ${most}.`] : [])];
  $("found-notes").textContent = lines.join(" ");
  $("found-notes").hidden = !lines.length;
}

// ---------------------------------------------------------------------------------------------- what was found

function drawHit(hit) {
  const line = made("li");
  line.tabIndex = 0;
  line.append(picture(hit), about(hit));
  line.addEventListener("click", () => guarded(open)(hit));
  line.addEventListener("keydown", (event) => { if (event.key === "Enter") guarded(open)(hit); });
  return line;
}

function picture(hit) {
  if (!hit.thumbnail_url) return made("div", undefined, "still");
  const image = made("img");
  image.loading = "lazy";
  image.alt = "";
  image.src = hit.thumbnail_url;
  image.addEventListener("error", () => image.replaceWith(made("div", undefined, "still")));
  return image;
}

function about(hit) {
  const box = made("div");
  const said = made("div", undefined, "said");
  said.append(...hit.parts.map((part) => (part.marked ? made("mark", part.text) : document.createTextNode(part.text))));
  const facts = `${clock(hit.start)}–${clock(hit.end)} · ${hit.track}${hit.memory_id ? "" : " · not read"}`;
  box.append(made("div", hit.filename, "name"), made("div", facts, "facts"), said);
  return box;
}

// A memory opens at its moment. A file that was not read can be watched, and not be asked.
async function open(hit) {
  if (hit.memory_id && !state.memories.has(hit.memory_id)) await refresh();
  const player = $("player");
  if (state.chosen[0] === hit.memory_id && player.readyState) seek(hit.start);
  else player.addEventListener("loadedmetadata", () => { seek(hit.start); }, { once: true });
  if (state.memories.has(hit.memory_id)) {
    choose(hit.memory_id);
    mark([{ start: hit.start, end: hit.end, share: 1 }], state.memories.get(hit.memory_id).memory);
  } else await watchOnly(hit);
  $("watch").scrollIntoView({ block: "nearest", behavior: "smooth" });
}

async function watchOnly(hit) {
  for (const id of [...state.chosen]) choose(id, true);
  $("watch").hidden = false;
  $("ask").hidden = true;
  $("history").replaceChildren(made("li", "This file was not read: it can be watched, and not be asked.", "warning"));
  $("unplayable").hidden = true;
  $("player").hidden = false;
  $("player").addEventListener("loadedmetadata", () => mark([{ start: hit.start, end: hit.end, share: 1 }]), { once: true });
  $("player").src = (await json("POST", `/v1/files/${hit.file_id}/link`)).url;
}

// ------------------------------------------------------------------------------------------------ ask the best

async function askBest() {
  const mine = ++searching;
  const text = $("query").value.trim();
  const body = { model: state.model, stream: true, messages: [{ role: "user", content: text }], videoxl: { search: {} } };
  const box = $("best-answer");
  const said = made("div", "", "said");
  box.replaceChildren(made("div", text, "facts"), said);
  box.hidden = false;
  $("found").replaceChildren();
  $("found-notes").hidden = true;
  $("best").disabled = true;
  try {
    for await (const event of events(await call("POST", "/v1/chat/completions", body))) {
      if (mine !== searching) return;
      if (event.error) throw new Error(event.error.message);
      said.textContent += event.choices[0]?.delta.content || "";
      const told = event.videoxl;
      if (told?.search) box.append(made("div", `Asking ${told.search.asking.map((one) => one.name).join(", ")} ...`, "facts"));
      if (told?.answers) { box.replaceChildren(made("div", text, "facts"), said, ...drawBest(told)); note(told, []); }
    }
  } catch (error) {
    box.hidden = true;
    throw error;
  } finally {
    $("best").disabled = false;
  }
}

const percent = (logprob) => (logprob === null ? "" : ` (${Math.round(100 * Math.exp(logprob))} % sure)`);

function drawBest(told) {
  const spans = made("div");
  const best = told.read[0];
  for (const span of told.answers[0].evidence) {
    const one = made("button", `${clock(span.start)}–${clock(span.end)} · ${Math.round(100 * span.share)} %`);
    one.addEventListener("click", () => guarded(open)({ ...best, ...span }));
    spans.append(one);
  }
  const others = told.read.slice(1).map((one) => `${one.name}: ${one.text}${percent(one.confidence)}`);
  const lines = [
    `From ${best.name}${percent(best.confidence)}`,
    ...(others.length ? [`Read too: ${others.join(" · ")}`] : []),
    ...told.failed.map((one) => `${one.name}: ${one.message}`),
    ...(told.searched_only_total ? [`Only searched: ${told.searched_only.map((one) => `${one.name} (${one.reason})`).join(", ")}`] : []),
  ];
  return [spans, ...lines.map((line) => made("div", line, "facts"))];
}
