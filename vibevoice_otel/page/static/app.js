// Wiring: the form, the stream of all requests, the trace that is looked at.

import { Unauthorized, clock, get, lines, measureClock, setToken } from "./api.js";
import { $, color, duration, el } from "./dom.js";
import { Overview } from "./overview.js";
import { Player } from "./player.js";
import { Session } from "./speak.js";
import { account, story } from "./story.js";
import { Trace } from "./trace.js";
import { Waterfall } from "./waterfall.js";

const KEYS = [["queue", "waiting"], ["model_load", "load model"], ["voice_load", "load voice"], ["preprocess", "prepare text"], ["prefill", "read text"], ["lm", "language model"], ["step", "diffusion steps"], ["decode", "decode"], ["semantic", "listen to itself"], ["frame", "rest of a frame"]];
const OUTCOMES = {
  complete: "Done.", stopped: "Stopped.", busy: "The service is busy: every place is taken. Try again in a moment.",
  error: "The request failed.", dropped: "The connection was lost.",
};
const player = new Player();
const sessions = new Map(); // trace id -> Session, the last few
let meta = null;
let service = null;
let overview = null;
let waterfall = null;
let shown = null; // the Trace looked at
let looking = null; // aborts its stream
let session = null; // the latest
let waiting = null; // a drawing that is due

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// ------------------------------------------------------------------------------------------------------------------ start

async function start() {
  story($("story"), null, null);
  try {
    meta = await get("/api/meta");
  } catch (error) {
    if (!(error instanceof Unauthorized)) {
      connected("off", "the page's server does not answer");
      await sleep(2000);
      return start();
    }
    $("token-form").hidden = false;
    $("token-form").addEventListener("submit", (event) => {
      event.preventDefault();
      setToken($("token").value);
      location.reload();
    });
    connected("off", "locked");
    return;
  }
  overview = new Overview(meta, look);
  waterfall = new Waterfall($("waterfall"), meta, detail);
  toolbar();
  links();
  words();
  followAll();
  findService();
  measureClock().catch(() => {});
  setInterval(() => measureClock().catch(() => {}), 60_000);
  setInterval(() => overview.tick(), 1000);
  requestAnimationFrame(meter);
}

function connected(state, text) {
  $("connection").className = `connection ${state}`;
  $("connection").textContent = text;
}

async function findService() {
  for (;;) {
    try {
      service = await get("/api/service");
    } catch {
      await sleep(2000);
      continue;
    }
    const select = $("voice");
    const before = select.value;
    const voices = service.voices.map((voice) => el("option", { value: voice }, voice + (voice === service.default_voice ? " (default)" : "")));
    const own = service.default_voice ? [] : [el("option", { value: "" }, "the service's own")];
    select.replaceChildren(...own, ...voices);
    select.value = before || service.default_voice || "";
    if (!before) {
      if (service.cfg) $("cfg").value = service.cfg;
      if (service.steps) $("steps").value = service.steps;
    }
    $("notice").hidden = !service.notice;
    $("notice").textContent = service.notice ? `${service.notice[0].toUpperCase()}${service.notice.slice(1)}. All times are real.` : "";
    if (service.where && service.voices.length) return;
    await sleep(2000);
  }
}

function address() {
  if (service?.url) return service.url;
  if (!service?.where) return null;
  const { scheme, host, port, path } = service.where;
  const name = host || location.hostname;
  return `${scheme}://${name.includes(":") && !name.startsWith("[") ? `[${name}]` : name}:${port}${path}`;
}

async function followAll() {
  for (;;) {
    try {
      for await (const message of lines("/api/events")) {
        connected("on", `watching, version ${meta.version}`);
        overview.take(message);
        if (message.type === "requests" && shown?.done) {
          const fresh = overview.find(shown.key);
          if (fresh && fresh !== shown.summary) {
            shown.summary = fresh;
            redraw();
          }
        }
      }
    } catch {
      // said below
    }
    connected("off", "the page's server does not answer; trying again");
    await sleep(1000);
  }
}

// --------------------------------------------------------------------------------------------------------------- one trace

/** Show a request, by its number or trace id; follows it while it grows. */
async function look(key, own = null) {
  const known = overview.find(key);
  looking?.abort();
  looking = new AbortController();
  const { signal } = looking;
  const trace = new Trace(key);
  trace.session = own ?? sessions.get(known?.trace) ?? null;
  shown = trace;
  overview.chosen = trace.session?.trace ?? key;
  redraw(true);
  while (!signal.aborted && !trace.done) {
    trace.reset();
    try {
      for await (const message of lines(`/api/requests/${key}`, signal)) {
        if (message.type === "gone") return redraw();
        if (trace.take(message)) redraw();
      }
    } catch {
      if (signal.aborted) return;
    }
    if (!trace.done) await sleep(500);
  }
}

/** Draw what is known of the trace: at once when `fresh`, else soon, ten times a second at most. */
function redraw(fresh = false) {
  if (fresh) return draw(true);
  waiting ??= setTimeout(() => draw(false), 100);
}

function draw(fresh) {
  clearTimeout(waiting);
  waiting = null;
  if (!shown) return;
  story($("story"), shown, meta);
  account($("sides"), shown);
  $("trace-card").hidden = shown.origin === null;
  if (shown.origin === null) return;
  const summary = shown.summary;
  $("trace-name").textContent = summary
    ? `${summary.voice}, cfg ${summary.cfg}, ${summary.steps} steps a frame, ${summary.spans.toLocaleString()} spans${shown.omitted ? `, ${shown.omitted.toLocaleString()} of them no longer kept here` : ""}`
    : "growing while it is made";
  const tempo = meta.links.tempo && summary?.trace ? el("a", { href: meta.links.tempo.replace("{trace_id}", summary.trace), target: "_blank", rel: "noreferrer" }, "See it in Tempo") : null;
  $("trace-links").replaceChildren(...(tempo ? [tempo] : []));
  if (fresh || waterfall.trace !== shown) {
    waterfall.trace = shown;
    waterfall.show(shown);
  } else waterfall.changed();
}

function detail(row) {
  if (!row) {
    $("detail").replaceChildren(el("p", { class: "small" }, "Select a row to see what it is: arrow keys move, Enter opens a frame, + and − zoom (or Ctrl with the wheel)."));
    return;
  }
  const kind = meta.kinds[row.kind];
  const value = (each) => (typeof each === "number" && !Number.isInteger(each) ? String(+each.toPrecision(6)) : String(each));
  $("detail").replaceChildren(
    el("p", {}, el("b", {}, kind.name), ` ${kind.brief} `, el("b", {}, duration((row.end - row.start) / 1e9)), ` from ${duration(row.start / 1e9)} after arrival.`,
      row.kept || row.kind === "listen" ? "" : " Left out of the export by the span budget."),
    el("dl", {}, ...Object.entries(row.info).map(([key, each]) => el("div", {}, el("dt", {}, key), el("dd", {}, value(each))))),
  );
}

function toolbar() {
  detail(null);
  const pressed = () => {
    for (const button of document.querySelectorAll("[data-range]")) button.setAttribute("aria-pressed", button.dataset.range === waterfall.state.range);
    $("expand").setAttribute("aria-pressed", waterfall.state.all);
    $("expand").textContent = waterfall.state.all ? "Close all frames" : "Open all frames";
  };
  for (const button of document.querySelectorAll("[data-range]"))
    button.addEventListener("click", () => {
      waterfall.setRange(button.dataset.range);
      pressed();
    });
  const act = (id, action) => $(id).addEventListener("click", () => (action(), pressed()));
  act("zoom-in", () => waterfall.zoom(1.6));
  act("zoom-out", () => waterfall.zoom(1 / 1.6));
  act("expand", () => waterfall.setAll(!waterfall.state.all));
  const key = () => $("key").replaceChildren(...KEYS.map(([kind, text]) => el("span", {}, el("i", { css: { background: color(`k-${kind}`) } }), text)));
  key();
  document.addEventListener("theme", () => (key(), redraw()));
}

function links() {
  const all = [];
  if (meta.links.grafana) all.push(el("a", { href: meta.links.grafana, target: "_blank", rel: "noreferrer" }, "Grafana"));
  $("links").replaceChildren(...all);
}

function words() {
  const goals = [
    ["First audio", "from the request's arrival at the service to the first chunk of sound handed to its socket."],
    ["Goal", `${meta.slo.first_audio_ratio * 100} of 100 requests get their first audio within ${duration(meta.slo.first_audio)}, and ${meta.slo.success_ratio * 100} of 100 succeed.`],
    ["Ran dry", "a listener who plays at once had nothing left to play, and heard a gap."],
    ["Speed", "seconds of audio made in a second of work. Below 1× the listener must wait."],
    ["Frame", "the piece of sound that the model makes at a time, 0.13 s of it."],
  ];
  const spans = Object.values(meta.kinds).map(({ name, brief }) => [el("code", {}, name), brief]);
  $("words").replaceChildren(...[...goals, ...spans].map(([term, text]) => el("div", {}, el("dt", {}, term), el("dd", {}, text))));
}

// ------------------------------------------------------------------------------------------------------------------- speak

$("speak").addEventListener("submit", async (event) => {
  event.preventDefault();
  const clicked = event.submitter && lastClick && performance.now() - lastClick < 1000 ? lastClick : performance.now();
  const text = $("text").value;
  if (!text.trim()) return say("Type something to speak first.", true);
  const where = address();
  if (!where) return say("The service's address is not known yet: it has not been reached by anyone (VIBEVOICE_OTEL_PAGE_SERVICE says it).", true);
  session?.stop();
  const own = new Session(player, () => spoken(own));
  session = own;
  sessions.set(own.trace, own);
  if (sessions.size > 20) sessions.delete(sessions.keys().next().value);
  own.start(where, { text, voice: $("voice").value, cfg: $("cfg").value, steps: $("steps").value }, clicked);
  look(own.trace, own);
  spoken(own);
});

let lastClick = 0;
$("play").addEventListener("click", (event) => (lastClick = event.timeStamp));
$("stop").addEventListener("click", () => session?.stop());
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("speak").requestSubmit();
});
for (const gesture of ["pointerdown", "keydown"]) window.addEventListener(gesture, () => player.prepare().catch(() => {}), { once: true });
window.addEventListener("pagehide", () => session?.stop());

function say(text, bad = false) {
  if ($("speak-state").textContent !== text) $("speak-state").textContent = text; // a screen reader says every change
  $("speak-state").classList.toggle("bad", bad);
}

let drawing = false;
function spoken(own) {
  if (own !== session || drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    const now = session;
    $("stop").hidden = !now.running;
    $("play").querySelector("span").nextSibling.textContent = now.running ? " Play again" : " Play";
    const heard = now.firstSound === null ? null : duration(now.firstSound - now.started);
    Object.assign($("speak-state").dataset, { outcome: now.outcome ?? "running", trace: now.trace, played: now.played.toFixed(3), chunks: now.chunks, first: now.firstSound === null ? "" : (now.firstSound - now.started).toFixed(6) });
    $("speak-now").hidden = !now.running || heard === null;
    $("speak-now").textContent = `${duration(now.buffered)} of audio waiting; ran dry ${now.underruns === 0 ? "never" : `${now.underruns}×`}`;
    if (now.running) say(heard === null ? "Waiting for the first sound …" : `You heard the first sound after ${heard}.`);
    else say([OUTCOMES[now.outcome], heard && now.outcome === "complete" ? `You heard the first sound ${heard} after the click.` : "", ...now.said].filter(Boolean).join(" "), !["complete", "stopped"].includes(now.outcome));
    if (shown?.session === now) redraw();
  });
}

function meter() {
  const level = session && !session.silent ? player.level() : 0;
  $("meter").firstChild.style.transform = `scaleX(${Math.min(1, level * 2.5).toFixed(3)})`;
  if (level > 0.001) $("meter").dataset.peak = Math.max(level, Number($("meter").dataset.peak ?? 0)).toFixed(4);
  requestAnimationFrame(meter);
}

start();

// For tests and the curious: what the page has in hand.
window.vibevoice = { get trace() { return shown; }, get waterfall() { return waterfall; }, get session() { return session; }, clock };
