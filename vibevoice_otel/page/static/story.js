// Where the time of one request went, in words and one strip.

import { clock } from "./api.js";
import { color, duration, el, percent, plural } from "./dom.js";

/** Parts of the first-audio latency, in order: name, colour, what each is, and the sentence for when it is the largest. */
export const PARTS = {
  queue: ["Waiting", "k-queue", "for its turn while the service worked for others.", "went by in the waiting line: the service was busy with other requests"],
  model_load: ["Loading the model", "k-model_load", "into memory. Only the first request after a start pays this.", "went into loading the model, which only the first request after a start has to wait for"],
  voice_load: ["Loading the voice", "k-voice_load", "that was asked for. It stays in memory afterwards.", "went into loading the voice, which stays in memory from now on"],
  preprocess: ["Preparing the text", "k-preprocess", "so that the model can read it.", "went into preparing the text for the model"],
  prefill: ["Reading the text", "k-prefill", "by the language model, once, before it says anything.", "went into reading the text, which the language model does before it says anything"],
  lm: ["Language model", "k-lm", "decides what the first frame of sound is to say.", "went into the language model, which decides what the first frame of sound is to say"],
  diffusion: ["Diffusion steps", "k-step", "turn noise into the first frame. Fewer steps are faster.", "went into the diffusion steps, which turn noise into the first frame; fewer steps are faster"],
  decode: ["Decoding", "k-decode", "makes a waveform of the first frame.", "went into decoding the first frame into a waveform"],
  delivery: ["Handing over", "k-delivery", "of the first chunk, from the model to the socket.", "went into handing the finished chunk over to the socket"],
  other: ["In between", "k-other", "of these: threads that wait for a processor, and bookkeeping.", "lies between the parts: threads that wait for a processor or for each other, as on a machine with too much to do"],
};
const PHASES = {
  arriving: "The request is on its way …", waiting: "Waiting for a turn …", preparing: "Getting the model, the voice and the text ready …",
  generating: "The model is making the first frame …", speaking: "Speaking …", closing: "The last of it is on its way …",
  leaving: "The listener has left; the model is being stopped …",
};

export function story(root, trace, meta) {
  if (!trace) {
    root.replaceChildren(
      el("p", { class: "headline" }, "Press play."),
      el("p", { class: "lead" }, "Your sentence becomes one request to the speech service, and its trace grows here while you listen: waiting, loading, and every frame of sound with its diffusion steps. Then this page tells you where the time went. Until the first sound, it can go into any of these:"),
      el("ul", { class: "parts still" }, ...Object.values(PARTS).map(([label, paint, what]) => el("li", {}, el("i", { css: { background: color(paint) } }), el("b", {}, label), el("span", { class: "why" }, what)))),
    );
    return;
  }
  const parts = trace.parts;
  const first = parts ? Object.values(parts).reduce((sum, each) => sum + each, 0) : null;
  root.replaceChildren(...headline(trace, first, meta), ...(parts ? [strip(parts, first, meta), list(parts, first)] : []));
}

/** The listener's account beside the server's; empty when nobody here listens. */
export function account(root, trace) {
  const parts = trace?.parts;
  root.replaceChildren(...(trace ? sides(trace, parts ? Object.values(parts).reduce((sum, each) => sum + each, 0) : null) : []));
}

function headline(trace, first, meta) {
  const goal = meta.slo.first_audio;
  const summary = trace.summary;
  const session = trace.session;
  if (first === null) {
    if (!summary) {
      if (session && !session.running) return ended(session);
      return [el("p", { class: "headline" }, PHASES[trace.phase] ?? "…")];
    }
    return failed(summary, session);
  }
  const late = first > goal;
  const verdict = el("span", { class: late ? "bad" : "good" }, late ? `${duration(first - goal)} later than the goal` : "within the goal");
  const title = el("p", { class: "headline" }, `First audio after ${duration(first)}, `, verdict, ` of ${duration(goal)}.`);
  const [name, seconds] = Object.entries(trace.parts).sort((a, b) => b[1] - a[1])[0];
  const most = `${seconds / first > 0.5 ? "Most of it" : "The largest part of it"}, ${percent(seconds / first)}, ${PARTS[name][3]}.`;
  const lead = [el("p", { class: "lead" }, most)];
  if (!summary) lead.push(el("p", { class: "lead" }, PHASES[trace.phase] ?? ""));
  else if (["error", "timeout"].includes(summary.status)) lead.push(el("p", { class: "state bad" }, outcome(summary, session)));
  else if (summary.audio && summary.real_time_factor) {
    const speed = 1 / summary.real_time_factor;
    const pace = speed >= 1 ? `${speed.toFixed(1)}× faster than it plays` : `${(1 / speed).toFixed(1)}× slower than it plays, so playback has to wait`;
    const end = summary.status === "cancelled" ? " Then the listener left." : summary.finish === "length" ? " The model's length budget cut the speech off." : "";
    lead.push(el("p", { class: "lead" }, `In all, ${plural(summary.frames, "frame")} made ${duration(summary.audio)} of audio in ${duration(summary.audio * summary.real_time_factor)}: ${pace}.${end}`));
  }
  return [title, ...lead];
}

function outcome(summary, session) {
  if (session?.outcome === "dropped") return "The connection to the service was lost before the end.";
  const why = { rejected: "The service turned the request away", error: "The request failed", timeout: "The request took longer than the service allows", cancelled: "The listener left before the first audio", success: "The request ended without audio" }[summary.status];
  return `${why}${summary.error ? ` (${summary.error})` : ""}, after ${duration(summary.seconds)}.`;
}

function failed(summary, session) {
  const busy = summary.error === "busy";
  const lead = busy
    ? "Every place at work and in the waiting line was taken, so nothing was generated. Such refusals are counted apart: they are no failures of the model, but a sign that the service is too small for its listeners."
    : "No audio was made, so there is no first-audio latency. The waterfall below shows how far the request came.";
  return [el("p", { class: "headline" }, busy ? "The service was busy." : outcome(summary, session)), el("p", { class: "lead" }, lead)];
}

function ended(session) {
  const titles = { busy: "The service was busy.", error: "The request failed.", dropped: "The connection to the service was lost.", stopped: "Stopped.", complete: "Done." };
  return [el("p", { class: "headline" }, titles[session.outcome]), el("p", { class: "lead" }, session.said.join(" "))];
}

function strip(parts, first, meta) {
  const goal = meta.slo.first_audio;
  const scale = Math.max(first, goal) * 1.06;
  const at = (seconds) => `${(seconds / scale) * 100}%`;
  const track = el("div", { class: "track" });
  for (const [name, [label, paint]] of Object.entries(PARTS)) {
    const seconds = parts[name] ?? 0;
    if (seconds <= 0) continue;
    const wide = seconds / scale > 0.13;
    track.append(el("i", { class: wide ? "named" : null, title: `${label} ${duration(seconds)}`, css: { width: at(seconds), background: color(paint) } }, wide ? label : ""));
  }
  const mark = (kind, seconds, text) => el("span", { class: `${kind}${seconds / scale > 0.8 ? " flip" : ""}`, css: { left: at(seconds) } }, el("b", {}, text));
  const near = Math.abs(first - goal) / scale < 0.2;
  const marks = [mark("end", first, near ? "" : `first audio ${duration(first)}`), mark("goal", goal, `goal ${duration(goal)}`)];
  const said = Object.entries(PARTS).filter(([name]) => parts[name] > 0).map(([name, [label]]) => `${label} ${duration(parts[name])}`).join(", ");
  return el("div", { class: "strip", role: "img", "aria-label": `First audio after ${duration(first)}: ${said}. Goal ${duration(goal)}.` }, track, ...marks);
}

function list(parts, first) {
  const items = [];
  let small = 0;
  for (const [name, [label, paint, why]] of Object.entries(PARTS)) {
    const seconds = parts[name] ?? 0;
    if (seconds / first < 0.01) {
      small += seconds;
      continue;
    }
    items.push(el("li", {}, el("i", { css: { background: color(paint) } }), el("b", {}, label), el("span", { class: "num" }, duration(seconds)), el("span", { class: "num" }, percent(seconds / first)), el("span", { class: "why" }, why)));
  }
  if (small > 0) items.push(el("li", {}, el("i"), el("b", {}, "The rest"), el("span", { class: "num" }, duration(small)), el("span", { class: "num" }, percent(small / first)), el("span", { class: "why" }, "parts below 1 % each.")));
  return el("ul", { class: "parts" }, ...items);
}

function sides(trace, first) {
  const summary = trace.summary;
  const session = trace.session;
  const told = summary?.listener;
  if (!session && !told) return [];
  const heard = told ? told.first_audio : session.firstSound === null ? null : session.firstSound - session.started;
  if (heard === null && first === null) return [];
  const underruns = told ? told.underruns : session.underruns;
  const played = told ? told.played : session.played;
  const dry = (count) => (count === 0 ? "never" : count === 1 ? "once" : `${count} times`);
  const gap = (seconds) => (seconds === undefined || seconds === null ? "–" : seconds ? duration(seconds) : "none");
  const reckoned = summary ? summary.underruns : trace.reckoned().dry.length;
  const row = (what, yours, theirs) => el("tr", {}, el("th", { scope: "row" }, what), el("td", {}, el("b", {}, yours)), el("td", {}, el("b", {}, theirs)));
  const table = el("table", { class: "sides" },
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, ""), el("th", { scope: "col" }, "You, in this browser"), el("th", { scope: "col" }, "The server"))),
    el("tbody", {},
      row("First sound", duration(heard), duration(first)),
      row("Buffer ran dry", dry(underruns), dry(reckoned)),
      row("Longest gap", gap(session?.worst), gap(summary?.gap)),
      row("Audio", `${duration(played)} played`, summary ? `${duration(summary.audio)} made` : "–")));
  const notes = [];
  if (heard !== null && first !== null) notes.push(`You count from your click, the server from the request's arrival. The ${duration(heard - first)} more are the connection's set-up, the network, and the browser's audio output.`);
  const error = told ? told.clock_error : clock.error;
  const offset = told ? told.clock_offset : clock.offset;
  if (error !== null) notes.push(`The server's clock is ${duration(Math.abs(offset))} ${offset < 0 ? "behind" : "ahead of"} yours, known to ± ${duration(error)} and allowed for.`);
  return [table, el("p", { class: "small" }, notes.join(" "))];
}
