// The trace as a waterfall. Only the rows near the window exist: names as elements (for the keyboard and screen readers), bars on a
// canvas that scrolls with them, so that ten thousand spans scroll like ten.

import { clock } from "./api.js";
import { color, duration, el, sized } from "./dom.js";
import { LEAVES } from "./trace.js";

const ROW = 22;
const SPARE = 24; // rows drawn above and below the window
const LANE = 66;
const AXIS = 38;
const STEPS = [1, 2, 5];

export class Waterfall {
  #trace = null;
  #tree = { roots: [], rows: [], top: null, listen: null };
  #flat = [];
  #closed = new Set(); // keys of closed rows
  #opened = new Set(); // keys of opened frames
  #all = false; // every frame open
  #selected = null; // key
  #range = "making";
  #zoom = null; // [start, end] chosen by hand
  #window = [-1, -1];
  #pool = [];
  #asked = false;
  #follow = true;

  /**
   * @param root where to draw
   * @param meta of the server: kinds and goals
   * @param onSelect called with the selected row or null
   */
  constructor(root, meta, onSelect) {
    this.meta = meta;
    this.onSelect = onSelect;
    this.axis = el("canvas", { "aria-hidden": "true" });
    this.lane = el("canvas", { role: "img", "aria-label": "Audio waiting to be played over time" });
    this.laneNote = el("span");
    this.canvas = el("canvas", { "aria-hidden": "true" });
    this.sheet = el("div", { class: "sheet" }, this.canvas);
    this.rows = el("div", { class: "rows", tabindex: "0", role: "treegrid", "aria-label": "Spans of the request", "aria-readonly": "true" }, this.sheet);
    root.replaceChildren(
      el("div", { class: "lane" }, el("div", { class: "name" }, el("b", {}, "Audio waiting to be played"), this.laneNote, el("em", {}, "you"), " ", el("em", { class: "server" }, "as the server reckons")), this.lane),
      el("div", { class: "lane" }, el("div", { class: "name" }, "Span"), this.axis),
      this.rows,
    );
    this.rows.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.rows.addEventListener("keydown", (event) => this.#key(event));
    this.rows.addEventListener("click", (event) => this.#click(event));
    this.rows.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    this.#dragging();
    new ResizeObserver(() => this.refresh()).observe(root);
    document.addEventListener("theme", () => this.refresh());
  }

  show(trace) {
    if (trace !== this.#trace) {
      [this.#trace, this.#selected, this.#zoom, this.#follow] = [trace, null, null, true];
      this.#closed.clear();
      this.#opened.clear();
      this.rows.scrollTop = 0;
      this.onSelect(null);
    }
    this.changed();
  }

  /** The trace has grown. */
  changed() {
    if (this.#asked || !this.#trace) return;
    this.#asked = true;
    requestAnimationFrame(() => {
      this.#asked = false;
      this.#tree = this.#trace.tree(clock.offset);
      this.version = this.#trace.version; // what is drawn
      this.#flatten();
      this.refresh();
      if (this.#selected) this.#select(this.#selected); // its row may say more now
      if (this.#selected || !this.#follow) return;
      // While it grows the newest row is of interest, afterwards the first ones.
      if (!this.#trace.done) this.rows.scrollTop = this.rows.scrollHeight;
      else [this.rows.scrollTop, this.#follow] = [0, false];
    });
  }

  get state() {
    return { range: this.#zoom ? null : this.#range, all: this.#all };
  }

  get drawn() {
    return this.#tree.rows;
  }

  setRange(range) {
    [this.#range, this.#zoom] = [range, null];
    this.refresh();
  }

  setAll(all) {
    this.#all = all;
    this.#opened.clear();
    this.#flatten();
    this.refresh();
  }

  zoom(factor, at = null) {
    const [start, end] = this.#view();
    const middle = at ?? (start + end) / 2;
    const whole = this.#extent(this.#range);
    const span = Math.min(Math.max((end - start) / factor, 20_000), (whole[1] - whole[0]) * 4);
    this.#zoom = [middle - ((middle - start) / (end - start)) * span, 0];
    this.#zoom[1] = this.#zoom[0] + span;
    this.refresh();
  }

  // ---------------------------------------------------------------------------------------------------------------- rows

  #isOpen(row) {
    if (row.kind === "frame") return this.#all !== this.#opened.has(row.key);
    return !this.#closed.has(row.key);
  }

  #flatten() {
    const flat = [];
    const walk = (rows, depth) => {
      for (const row of rows) {
        flat.push({ row, depth });
        if (row.children.length && this.#isOpen(row)) walk(row.children, depth + 1);
      }
    };
    walk(this.#tree.roots, 0);
    this.#flat = flat;
    this.rows.setAttribute("aria-rowcount", flat.length);
    this.sheet.style.height = `${flat.length * ROW}px`;
    this.#window = [-1, -1];
  }

  #label(row) {
    const kind = this.meta.kinds[row.kind];
    const short = kind.name.replace(/^vibevoice\./, "");
    const numbers = Object.entries(row.info);
    const index = (suffix) => numbers.find(([key]) => key.endsWith(suffix))?.[1];
    if (row.kind === "frame") return `frame ${index("frame.index") ?? ""}${index("frame.defect") ? ` (${index("frame.defect")})` : ""}`;
    if (row.kind === "step") return `diffusion step ${index("step.index") ?? ""}`;
    if (row.kind === "lm") return `lm.forward ${index("lm.branch") ?? ""}`;
    if (row.kind === "listen") return "listen (you)";
    if (["model_load", "voice_load", "preprocess"].includes(row.kind) && index("cache") === "hit") return `${short} (was ready)`;
    return short;
  }

  #scrolled() {
    const { scrollTop, clientHeight, scrollHeight } = this.rows;
    this.#follow = scrollTop + clientHeight > scrollHeight - 2 * ROW;
    this.#render();
  }

  #render() {
    const first = Math.floor(this.rows.scrollTop / ROW);
    const last = Math.min(this.#flat.length, first + Math.ceil(this.rows.clientHeight / ROW) + 1);
    const [from, to] = this.#window;
    if (from >= 0 && first >= from && last <= to) return; // still within what is drawn
    this.#window = [Math.max(0, first - SPARE), Math.min(this.#flat.length, last + SPARE)];
    this.#names();
    this.#bars();
  }

  #names() {
    const [from, to] = this.#window;
    while (this.#pool.length < to - from) {
      const twist = el("span", { class: "twist", "aria-hidden": "true" });
      const label = el("span", { class: "label" });
      const time = el("span", { class: "ms" });
      const node = el("div", { class: "row", role: "row" }, el("div", { class: "name", role: "gridcell" }, twist, label, time));
      this.sheet.append(node);
      this.#pool.push({ node, twist, label, time });
    }
    this.#pool.forEach((slot, i) => {
      const entry = this.#flat[from + i];
      slot.node.hidden = i >= to - from;
      if (slot.node.hidden) {
        slot.node.removeAttribute("id"); // it may be another row's by now
        return;
      }
      const { row, depth } = entry;
      const open = this.#isOpen(row);
      const label = this.#label(row);
      const time = duration((row.end - row.start) / 1e9);
      slot.node.style.transform = `translateY(${(from + i) * ROW}px)`;
      slot.node.id = `row-${row.key}`;
      slot.node.dataset.key = row.key;
      slot.node.setAttribute("aria-level", depth + 1);
      slot.node.setAttribute("aria-rowindex", from + i + 1);
      slot.node.setAttribute("aria-selected", row.key === this.#selected);
      slot.node.setAttribute("aria-label", `${label}, ${time}, ${duration(row.start / 1e9)} after the request's arrival`);
      if (row.children.length) slot.node.setAttribute("aria-expanded", open);
      else slot.node.removeAttribute("aria-expanded");
      slot.label.textContent = label;
      slot.time.textContent = time;
      slot.twist.textContent = row.children.length ? (open ? "▾" : "▸") : "";
      slot.twist.style.marginLeft = `${depth * 10 + 4}px`;
    });
  }

  // ---------------------------------------------------------------------------------------------------------------- time

  #firstAudio() {
    const row = this.#tree.rows.find((each) => each.kind === "first_chunk");
    return row ? row.end : null;
  }

  #extent(range) {
    const { top, listen } = this.#tree;
    const goal = this.meta.slo.first_audio * 1e9;
    const start = Math.min(0, listen?.start ?? 0);
    const made = Math.max(top?.end ?? 0, 1e6);
    const first = this.#firstAudio();
    if (range === "first") return [start, Math.max(first ?? made, goal) * 1.12];
    const making = Math.max(made, goal) * 1.04;
    if (range === "hearing") return [start, Math.max(making, (listen?.end ?? 0) * 1.02, this.#trace.reckoned().end * 1.02)];
    return [start, making];
  }

  #view() {
    return this.#zoom ?? this.#extent(this.#range);
  }

  get #labelWidth() {
    return parseFloat(getComputedStyle(this.rows.parentElement).getPropertyValue("--label"));
  }

  refresh() {
    if (!this.#trace) return;
    this.width = Math.max(50, this.rows.clientWidth - this.#labelWidth);
    this.#window = [-1, -1];
    this.#render();
    this.#drawAxis();
    this.#drawLane();
  }

  #scale() {
    const [start, end] = this.#view();
    const per = this.width / (end - start);
    return (at) => (at - start) * per;
  }

  #ticks() {
    const [start, end] = this.#view();
    const wanted = (end - start) / Math.max(2, this.width / 110);
    const power = 10 ** Math.floor(Math.log10(wanted));
    const step = power * (STEPS.find((each) => each * power >= wanted) ?? 10);
    const ticks = [];
    for (let at = Math.ceil(start / step) * step; at <= end; at += step) ticks.push(at);
    return ticks;
  }

  #marks(context, height, x) {
    context.lineWidth = 1;
    context.strokeStyle = color("line");
    for (const tick of this.#ticks()) line(context, x(tick), height);
    const goal = this.meta.slo.first_audio * 1e9;
    const first = this.#firstAudio();
    context.lineWidth = 1.5;
    context.strokeStyle = color("soft");
    context.setLineDash([4, 3]);
    line(context, x(goal), height);
    context.setLineDash([]);
    if (first !== null) {
      context.strokeStyle = first <= goal ? color("good") : color("bad");
      line(context, x(first), height);
    }
  }

  #drawAxis() {
    const context = sized(this.axis, this.width, AXIS);
    const x = this.#scale();
    this.#marks(context, AXIS, x);
    context.font = "11px system-ui, sans-serif";
    context.fillStyle = color("soft");
    const span = this.#view()[1] - this.#view()[0];
    for (const tick of this.#ticks()) {
      const text = tick === 0 ? "arrival" : span < 2e6 ? `${(tick / 1e3).toFixed(0)} µs` : span < 2e9 ? `${+(tick / 1e6).toFixed(1)} ms` : `${+(tick / 1e9).toFixed(2)} s`;
      if (x(tick) > -1 && x(tick) < this.width - 30) context.fillText(text, x(tick) + 4, AXIS - 6);
    }
    const goal = this.meta.slo.first_audio * 1e9;
    const first = this.#firstAudio();
    const taken = [];
    const tag = (at, text, paint) => {
      const width = context.measureText(text).width + 8;
      let left = Math.min(Math.max(0, x(at) + 3), this.width - width);
      for (const [a, b] of taken) if (left < b && left + width > a) left = b + width < this.width ? b + 4 : a - width - 4;
      taken.push([left, left + width]);
      context.fillStyle = color("card");
      context.fillRect(left, 1, width, 15);
      context.fillStyle = paint;
      context.fillText(text, left + 4, 13);
    };
    context.font = "600 11px system-ui, sans-serif";
    if (first !== null && x(first) >= 0 && x(first) <= this.width) tag(first, `first audio ${duration(first / 1e9)}`, first <= goal ? color("good") : color("bad"));
    if (x(goal) <= this.width) tag(goal, `goal ${duration(goal / 1e9)}`, color("soft"));
  }

  #drawLane() {
    const context = sized(this.lane, this.width, LANE);
    const x = this.#scale();
    const reckoned = this.#trace.reckoned();
    const session = this.#trace.session;
    const curve = session && this.#trace.origin !== null ? session.curve.map(([at, left]) => [this.#trace.fromOurs(at, clock.offset), left]) : [];
    const most = Math.max(0.2, ...reckoned.points.map((point) => point[1]), ...curve.map((point) => point[1]));
    const y = (seconds) => LANE - 4 - (seconds / most) * (LANE - 14);
    this.#marks(context, LANE, x);
    if (curve.length) {
      context.fillStyle = color("k-listen");
      context.globalAlpha = 0.28;
      context.beginPath();
      context.moveTo(x(curve[0][0]), y(0));
      for (const [at, left] of curve) context.lineTo(x(at), y(left));
      context.lineTo(x(curve.at(-1)[0]), y(0));
      context.fill();
      context.globalAlpha = 1;
      context.strokeStyle = color("k-listen");
      path(context, curve.map(([at, left]) => [x(at), y(left)]));
    }
    context.strokeStyle = color("ink");
    context.lineWidth = 1;
    path(context, reckoned.points.map(([at, left]) => [x(at), y(left)]));
    context.fillStyle = color("bad");
    for (const [from, to] of reckoned.dry) context.fillRect(x(from), LANE - 6, Math.max(2, x(to) - x(from)), 6);
    for (const at of session?.dry ?? []) context.fillRect(x(this.#trace.fromOurs(at, clock.offset)) - 1, 0, 3, LANE);
    const ran = session ? session.underruns : reckoned.dry.length;
    const any = curve.length > 0 || reckoned.points.length > 0;
    const said = any ? `at most ${duration(most)}; ran dry ${ran === 0 ? "never" : ran === 1 ? "once" : `${ran} times`}` : "none";
    this.laneNote.textContent = said;
    this.lane.setAttribute("aria-label", `Audio waiting to be played over time: ${said}`);
  }

  #bars() {
    const [from, to] = this.#window;
    const height = (to - from) * ROW;
    const context = sized(this.canvas, this.width, height);
    this.canvas.style.transform = `translateY(${from * ROW}px)`;
    const x = this.#scale();
    this.#marks(context, height, x);
    const bar = (row, paint, top, tall) => {
      const left = x(row.start);
      const right = x(row.end);
      if (right < 0 || left > this.width) return;
      context.fillStyle = paint;
      const a = Math.max(-2, left);
      context.fillRect(a, top, Math.max(1, Math.min(this.width + 2, right) - a), tall);
    };
    for (let i = from; i < to; i++) {
      const { row } = this.#flat[i];
      const top = (i - from) * ROW;
      if (row.kind === "first_chunk") this.#milestone(context, row, top, x);
      else if (["request", "generate", "listen"].includes(row.kind)) this.#bracket(context, row, top, x);
      else if (row.kind === "frame") {
        bar(row, color("k-frame"), top + 4, ROW - 8);
        for (const child of row.children) bar(child, paint(child), top + 4, ROW - 8);
      } else bar(row, paint(row), top + (LEAVES.has(row.kind) ? 6 : 4), ROW - (LEAVES.has(row.kind) ? 12 : 8));
    }
  }

  #bracket(context, row, top, x) {
    const [left, right] = [Math.max(-2, x(row.start)), Math.min(this.width + 2, x(row.end))];
    context.fillStyle = color(`k-${row.kind}`);
    context.globalAlpha = 0.35;
    context.fillRect(left, top + 8, Math.max(1, right - left), 6);
    context.globalAlpha = 1;
    context.fillRect(left, top + 5, 2, 12);
    context.fillRect(right - 2, top + 5, 2, 12);
    if (row.heard !== undefined && row.heard !== null) {
      context.beginPath();
      context.arc(x(row.heard), top + 11, 5, 0, 7);
      context.fill();
      this.#beside(context, "you hear it", x(row.heard), 9, top + 15);
    }
  }

  #milestone(context, row, top, x) {
    const good = row.end <= this.meta.slo.first_audio * 1e9;
    context.strokeStyle = context.fillStyle = good ? color("good") : color("bad");
    context.lineWidth = 1.5;
    path(context, [[x(row.start), top + 11], [x(row.end), top + 11]]);
    const at = x(row.end);
    context.beginPath();
    context.moveTo(at - 6, top + 11);
    context.lineTo(at, top + 5);
    context.lineTo(at + 6, top + 11);
    context.lineTo(at, top + 17);
    context.fill();
    this.#beside(context, good ? "within the goal" : "later than the goal", at, 10, top + 15);
  }

  /** Words to the right of a mark, to its left where there is no room. */
  #beside(context, text, at, gap, y) {
    context.font = "600 11px system-ui, sans-serif";
    const width = context.measureText(text).width;
    if (at + gap + width < this.width) return context.fillText(text, at + gap, y);
    const ink = context.fillStyle;
    context.fillStyle = color("card");
    context.fillRect(at - gap - width - 4, y - 11, width + 6, 15);
    context.fillStyle = ink;
    return context.fillText(text, at - gap - width, y);
  }

  // ------------------------------------------------------------------------------------------------------------- by hand

  #select(key) {
    this.#selected = key;
    const entry = this.#flat.find((each) => each.row.key === key);
    this.rows.setAttribute("aria-activedescendant", entry ? `row-${key}` : "");
    this.#names();
    this.onSelect(entry?.row ?? null);
  }

  #toggle(row) {
    if (!row.children.length) return;
    const set = row.kind === "frame" ? this.#opened : this.#closed;
    if (!set.delete(row.key)) set.add(row.key);
    this.#flatten();
    this.refresh();
  }

  #click(event) {
    const key = event.target.closest(".row")?.dataset.key;
    const entry = this.#flat.find((each) => each.row.key === key);
    if (!entry) return;
    if (event.target.closest(".twist") || (entry.row.kind === "frame" && this.#selected === key)) this.#toggle(entry.row);
    this.#select(key);
  }

  #key(event) {
    const at = this.#flat.findIndex((each) => each.row.key === this.#selected);
    const row = this.#flat[at]?.row;
    const page = Math.max(1, Math.floor(this.rows.clientHeight / ROW) - 1);
    const moves = { ArrowDown: at + 1, ArrowUp: Math.max(0, at - 1), PageDown: at + page, PageUp: at - page, Home: 0, End: this.#flat.length - 1 };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in moves) {
      const next = Math.min(Math.max(0, moves[event.key]), this.#flat.length - 1);
      if (this.#flat.length) this.#reveal(next);
    } else if (event.key === "ArrowRight" && row) {
      if (row.children.length && !this.#isOpen(row)) this.#toggle(row);
      else if (row.children.length) this.#reveal(at + 1);
    } else if (event.key === "ArrowLeft" && row) {
      if (row.children.length && this.#isOpen(row)) this.#toggle(row);
      else {
        const depth = this.#flat[at].depth;
        let up = at;
        while (up > 0 && this.#flat[up].depth >= depth) up -= 1;
        this.#reveal(up);
      }
    } else if ((event.key === "Enter" || event.key === " ") && row) this.#toggle(row);
    else if (event.key === "+" || event.key === "=") this.zoom(1.6);
    else if (event.key === "-") this.zoom(1 / 1.6);
    else if (event.key === "0") this.setRange(this.#range);
    else return;
    event.preventDefault();
  }

  #reveal(index) {
    const top = index * ROW;
    if (top < this.rows.scrollTop) this.rows.scrollTop = top;
    else if (top + ROW > this.rows.scrollTop + this.rows.clientHeight) this.rows.scrollTop = top + ROW - this.rows.clientHeight;
    this.#render();
    this.#select(this.#flat[index].row.key);
  }

  #wheel(event) {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const [start, end] = this.#view();
    const at = event.clientX - this.rows.getBoundingClientRect().left - this.#labelWidth;
    this.zoom(Math.exp(-event.deltaY / 300), start + (at / this.width) * (end - start));
  }

  #dragging() {
    let from = null;
    this.rows.addEventListener("pointerdown", (event) => {
      if (this.#zoom && event.pointerType === "mouse") from = [event.clientX, ...this.#zoom];
    });
    window.addEventListener("pointermove", (event) => {
      if (!from || !this.#zoom) return;
      const shift = ((event.clientX - from[0]) / this.width) * (from[2] - from[1]);
      this.#zoom = [from[1] - shift, from[2] - shift];
      this.refresh();
    });
    window.addEventListener("pointerup", () => (from = null));
  }
}

function paint(row) {
  if (row.kind !== "step") return color(`k-${row.kind}`);
  const index = Object.entries(row.info).find(([key]) => key.endsWith("step.index"))?.[1] ?? 0;
  return color(index % 2 ? "k-step2" : "k-step");
}

function line(context, at, height) {
  context.beginPath();
  context.moveTo(at, 0);
  context.lineTo(at, height);
  context.stroke();
}

function path(context, points) {
  context.beginPath();
  points.forEach(([px, py], i) => (i ? context.lineTo(px, py) : context.moveTo(px, py)));
  context.stroke();
}
