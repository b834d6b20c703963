// All requests: tiles, charts and the list. Figures are of the finished requests that the page's server still keeps, no estimate.

import { $, bytes, color, duration, el, percent, plural, quantile } from "./dom.js";

const SVG = { left: 128, right: 56, top: 22, height: 186 };
const SAMPLES = 900;

export class Overview {
  #requests = new Map(); // number -> summary
  #active = [];
  #samples = [[], [], []]; // time, open requests, memory
  #plots = {};
  #memory = [];

  /**
   * @param meta of the server
   * @param choose called with a request's key when the user picks it
   */
  constructor(meta, choose) {
    this.meta = meta;
    this.choose = choose;
    this.chosen = null;
    for (const status of meta.statuses) $("filter-status").append(el("option", { value: status }, status));
    for (const id of ["filter-voice", "filter-status"]) $(id).addEventListener("change", () => this.#list());
    document.addEventListener("theme", () => this.#redraw());
    new ResizeObserver(() => this.#charts()).observe($("by-voice"));
  }

  take(message) {
    if (message.type === "requests") {
      for (const number of message.gone) this.#requests.delete(number);
      for (const summary of message.fresh) this.#requests.set(summary.number, summary);
      this.#voices();
      this.#charts();
    } else if (message.type === "live") {
      this.#active = message.active;
      this.#memory = message.memory;
      this.#sample(message.at / 1000);
    }
    this.#list();
    this.#tiles();
  }

  /** Once a second, so that the time lines go on when nothing happens. */
  tick() {
    this.#sample(Date.now() / 1000);
  }

  find(key) {
    return [...this.#requests.values()].find((each) => String(each.number) === key || each.trace === key) ?? null;
  }

  #sample(at) {
    const [times, active, memory] = this.#samples;
    if (times.length && at - times.at(-1) < 0.2) return;
    times.push(at);
    active.push(this.#active.length);
    memory.push(this.#memory.reduce((sum, each) => sum + each.used, 0) || null);
    for (const column of this.#samples) if (column.length > SAMPLES) column.shift();
    this.#lines();
  }

  // --------------------------------------------------------------------------------------------------------------- tiles

  #tiles() {
    const all = [...this.#requests.values()].filter((each) => !each.synthetic);
    const count = (status) => all.filter((each) => each.status === status).length;
    const counted = count("success") + count("error") + count("timeout");
    const success = counted ? count("success") / counted : null;
    const judged = all.filter((each) => each.in_time !== null);
    const inTime = judged.length ? judged.filter((each) => each.in_time).length / judged.length : null;
    const heard = all.filter((each) => (each.continuous ?? null) !== null);
    const whole = heard.length ? heard.filter((each) => each.continuous).length / heard.length : null;
    const left = whole === null ? null : 1 - (1 - whole) / (1 - this.meta.slo.gap_ratio);
    const latencies = all.map((each) => each.first_audio).filter((each) => each !== null);
    const speeds = all.map((each) => each.real_time_factor).filter(Boolean);
    const goal = this.meta.slo;
    const refused = count("rejected");
    const memory = this.#memory[0];
    const tile = (what, value, note, verdict) => el("div", { class: "tile" }, el("p", { class: "what" }, what), el("p", { class: `value ${verdict ?? ""}` }, value), el("p", { class: "small" }, note));
    const against = (share, least) => (share === null ? "" : share >= least ? "good" : "bad");
    $("tiles").replaceChildren(
      tile("Open now", String(this.#active.length), "requests waiting or being spoken"),
      tile("Success", percent(success), `of ${plural(counted, "request")}; the goal is ${percent(goal.success_ratio)}${refused ? `; ${refused} turned away, not counted` : ""}`, against(success, goal.success_ratio)),
      tile("First audio in time", percent(inTime), `within ${duration(goal.first_audio)}; the goal is ${percent(goal.first_audio_ratio)} of requests`, against(inTime, goal.first_audio_ratio)),
      tile("Without a hole", percent(whole), `no gap above ${duration(goal.gap)}; the goal is ${percent(goal.gap_ratio)} of requests${left === null ? "" : `; ${percent(left)} of its budget is left`}`, against(whole, goal.gap_ratio)),
      tile("First audio, median", duration(quantile(latencies, 0.5)), latencies.length ? `95 of 100 within ${duration(quantile(latencies, 0.95))}` : "nothing has been spoken yet"),
      tile("Speed, median", speeds.length ? `${(1 / quantile(speeds, 0.5)).toFixed(1)}×` : "–", "audio made per second of work; below 1× playback must wait"),
      ...(memory ? [tile(memory.device === "process" ? "Memory of the service" : `Memory, ${memory.device}`, bytes(memory.used), memory.total ? `of ${bytes(memory.total)}${memory.device === "process" ? "; no GPU is in use" : ", by torch's allocator"}` : "")] : []),
    );
    $("all-note").textContent = `the last ${plural(this.#requests.size, "finished request")} of this process (it keeps ${this.meta.requests})`;
  }

  // -------------------------------------------------------------------------------------------------------------- charts

  #redraw() {
    for (const plot of Object.values(this.#plots)) plot.destroy();
    this.#plots = {};
    this.#charts();
    this.#lines();
  }

  #charts() {
    const root = $("by-voice").querySelector(".plot");
    const voices = new Map();
    for (const each of this.#requests.values()) {
      if (each.first_audio === null) continue;
      if (!voices.has(each.voice)) voices.set(each.voice, []);
      voices.get(each.voice).push(each);
    }
    const width = Math.max(240, root.clientWidth);
    if (!voices.size) {
      root.replaceChildren(el("p", { class: "small" }, "Nothing has been spoken yet."));
      return;
    }
    const goal = this.meta.slo.first_audio;
    const values = [...voices.values()].flat().map((each) => each.first_audio);
    const low = Math.min(goal / 3, ...values) * 0.8;
    const high = Math.max(goal * 1.6, ...values) * 1.15;
    const x = (value) => SVG.left + ((Math.log(value) - Math.log(low)) / (Math.log(high) - Math.log(low))) * (width - SVG.left - SVG.right);
    const tall = Math.min(38, Math.max(20, (SVG.height - SVG.top - 22) / voices.size));
    const height = SVG.top + voices.size * tall + 22;
    const svg = el("svg:svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img" });
    const ticks = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50].filter((each) => each > low && each < high);
    let last = -Infinity;
    for (const each of ticks) {
      svg.append(el("svg:line", { x1: x(each), x2: x(each), y1: SVG.top - 4, y2: height - 18, stroke: color("line") }));
      if (x(each) - last < 44) continue;
      last = x(each);
      svg.append(el("svg:text", { x: x(each), y: height - 5, "text-anchor": "middle" }, duration(each)));
    }
    svg.append(el("svg:line", { x1: x(goal), x2: x(goal), y1: SVG.top - 6, y2: height - 18, stroke: color("soft"), "stroke-dasharray": "4 3", "stroke-width": 1.5 }));
    svg.append(el("svg:text", { x: x(goal), y: 11, "text-anchor": "middle" }, `goal ${duration(goal)}`));
    const said = [];
    [...voices.entries()].sort(([a], [b]) => a.localeCompare(b)).forEach(([voice, list], index) => {
      const y = SVG.top + index * tall + tall / 2;
      const median = quantile(list.map((each) => each.first_audio), 0.5);
      said.push(`${voice} median ${duration(median)} of ${list.length}`);
      svg.append(el("svg:text", { x: 0, y: y + 4 }, voice.length > 19 ? `${voice.slice(0, 18)}…` : voice));
      for (const each of list) svg.append(el("svg:circle", { cx: x(each.first_audio), cy: y, r: 4.5, fill: each.first_audio <= goal ? color("good") : color("bad"), "fill-opacity": 0.55 }));
      svg.append(el("svg:line", { x1: x(median), x2: x(median), y1: y - 9, y2: y + 9, stroke: color("ink"), "stroke-width": 2.5 }));
      svg.append(el("svg:text", { x: width, y: y + 4, "text-anchor": "end" }, duration(median)));
    });
    svg.setAttribute("aria-label", `First audio by voice: ${said.join("; ")}. The goal is ${duration(goal)}.`);
    root.replaceChildren(svg);
  }

  #lines() {
    const [times, active, memory] = this.#samples;
    if (times.length < 2 || typeof uPlot === "undefined") return;
    const gpu = this.#memory.length > 0 && this.#memory[0].device !== "process";
    $("memory-note").textContent = gpu ? "Bytes that torch has handed out on the GPUs, since this page was opened." : "Resident memory of the service's process, since this page was opened. With a GPU, the GPU's stands here.";
    this.#plot("streams", [times, active], (value) => String(value), { stepped: true, least: 3 });
    this.#plot("memory", [times, memory.map((each) => (each === null ? null : each / 2 ** 30))], (value) => `${+value.toFixed(2)} GiB`, { least: 0.5 });
  }

  #plot(id, data, say, { stepped = false, least }) {
    const root = $(id).querySelector(".plot");
    if (!this.#plots[id]) {
      const axis = { stroke: color("soft"), grid: { stroke: color("line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
      this.#plots[id] = new uPlot({
        width: root.clientWidth, height: 186, legend: { show: false }, cursor: { show: false },
        scales: { y: { range: (_, __, most) => [0, Math.max(least, (most ?? 0) * 1.15)] } },
        axes: [{ ...axis, space: 74, size: 26, values: (_, marks) => marks.map((each) => new Date(each * 1000).toLocaleTimeString([], { timeStyle: "medium" })) }, { ...axis, size: 62, space: 34, values: (_, marks) => marks.map((each) => (stepped && each % 1 ? "" : say(each))) }],
        series: [{}, { stroke: color("accent"), width: 2, fill: `color-mix(in srgb, ${color("accent")} 16%, transparent)`, points: { show: false }, paths: stepped ? uPlot.paths.stepped({ align: 1 }) : undefined }],
      }, data, root);
    } else {
      this.#plots[id].setData(data);
      if (Math.abs(this.#plots[id].width - root.clientWidth) > 2) this.#plots[id].setSize({ width: root.clientWidth, height: 186 });
    }
  }

  // ---------------------------------------------------------------------------------------------------------------- list

  #voices() {
    const select = $("filter-voice");
    const known = new Set([...select.options].map((option) => option.value));
    for (const voice of [...new Set([...this.#requests.values()].map((each) => each.voice))].sort())
      if (!known.has(voice)) select.append(el("option", { value: voice }, voice));
  }

  #list() {
    const [voice, status] = [$("filter-voice").value, $("filter-status").value];
    const fits = (each) => (!voice || each.voice === voice) && (!status || each.status === status);
    const finished = [...this.#requests.values()].filter(fits).sort((a, b) => b.number - a.number);
    const open = status ? [] : this.#active.filter((each) => !voice || each.voice === voice).sort((a, b) => b.number - a.number);
    const slowest = Math.max(this.meta.slo.first_audio * 2, ...finished.map((each) => each.first_audio ?? 0));
    const focus = document.activeElement?.closest?.("#requests tr")?.dataset.key;
    const body = $("requests").tBodies[0];
    body.replaceChildren(...open.map((each) => this.#openRow(each)), ...finished.map((each) => this.#row(each, slowest)));
    if (focus) body.querySelector(`tr[data-key="${CSS.escape(focus)}"] button`)?.focus();
    $("no-requests").hidden = body.rows.length > 0;
    if (!$("no-requests").hidden && this.#requests.size) $("no-requests").textContent = "None of the requests fits these filters.";
  }

  #shell(each, key, when, ...cells) {
    const on = this.chosen !== null && (this.chosen === key || this.chosen === each.trace);
    const pick = () => this.choose(key);
    const link = el("button", { type: "button", "aria-label": `Show the request of ${when}`, "aria-current": on ? "true" : null }, when);
    return el("tr", { class: on ? "on" : null, data: { key, trace: each.trace, status: each.status ?? "open", voice: each.voice }, on: { click: pick } }, el("td", {}, link), el("td", {}, each.voice), ...cells);
  }

  #openRow(each) {
    const more = (text) => el("td", { class: "more" }, text);
    const when = new Date(Date.now() - each.seconds * 1000).toLocaleTimeString();
    return this.#shell(each, String(each.number), when, el("td", {}, el("span", { class: "badge open" }, each.phase)), el("td", {}, "…"), more(""), more(""), more(""), more(""), more(""));
  }

  #row(each, slowest) {
    const more = (text) => el("td", { class: "more" }, text);
    const late = each.first_audio > this.meta.slo.first_audio;
    const spark = each.first_audio === null ? null : el("span", { class: `spark ${late ? "bad" : ""}`, css: { width: `${Math.max(2, (each.first_audio / slowest) * 90)}px` } });
    const badge = el("span", { class: `badge ${each.status}`, title: each.error ?? "" }, each.status === "success" || !each.error ? each.status : `${each.status}: ${each.error}`);
    return this.#shell(each, String(each.number), new Date(each.started).toLocaleTimeString(),
      el("td", {}, badge), el("td", {}, duration(each.first_audio), spark), more(each.listener ? duration(each.listener.first_audio) : "–"),
      more(each.audio ? duration(each.audio) : "–"), more(each.real_time_factor ? `${(1 / each.real_time_factor).toFixed(1)}×` : "–"), more(String(each.underruns)), more(String(each.spans)));
  }
}
