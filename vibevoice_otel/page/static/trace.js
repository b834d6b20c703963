// One request's spans, as they come and as a tree.

export const LEAVES = new Set(["lm", "step", "decode", "semantic", "connector"]);
/** Seconds of PCM16 audio at 24 kHz in so many bytes. */
const audio = (count) => count / 48000;

function unpack(messages) {
  const rows = [];
  for (const columns of messages)
    for (let i = 0; i < columns.kind.length; i++)
      rows.push({
        // Stays the same while the request is open, when ids are provisional, and afterwards.
        key: `${columns.kind[i]}@${columns.start[i]}`,
        kind: columns.kind[i], id: columns.id[i], parent: columns.parent[i], start: columns.start[i], end: columns.end[i],
        info: columns.info[i], kept: columns.kept[i], children: [],
      });
  return rows;
}

export class Trace {
  constructor(key) {
    this.key = key;
    this.session = null; // ours, when we are its listener
    this.reset();
  }

  reset() {
    this.settled = [];
    this.fresh = []; // settled rows and sends that are still among the open ones, until the next message replaces those
    this.open = [];
    this.settledSends = [];
    this.freshSends = [];
    this.openSends = [];
    this.parts = null;
    this.origin = null; // milliseconds since 1970
    this.phase = "arriving";
    this.summary = null;
    this.omitted = 0;
    this.version = 0;
  }

  /** Take a message of /api/requests/…; true when it changed something. */
  take(message) {
    if (message.origin) this.origin = message.origin;
    if (message.parts) this.parts = message.parts;
    if (message.type === "settled") {
      this.fresh.push(...unpack(message.rows));
      this.freshSends.push(...(message.sends ?? []));
      return false;
    }
    this.version += 1;
    this.settled.push(...this.fresh);
    this.settledSends.push(...this.freshSends);
    [this.fresh, this.freshSends] = [[], []];
    if (message.type === "open") {
      this.open = unpack(message.rows);
      this.openSends = message.sends;
      this.phase = message.phase;
    } else if (message.type === "done") {
      [this.open, this.openSends] = [[], []];
      this.summary = message.summary;
      this.omitted = message.omitted;
      this.origin = message.summary.started;
      this.parts = message.summary.parts;
      this.phase = "done";
    } else return false;
    return true;
  }

  get done() {
    return this.summary !== null;
  }

  /** Our clock's seconds since 1970 as nanoseconds after the request's arrival at the server. */
  fromOurs(seconds, offset) {
    return ((seconds + offset) * 1000 - this.origin) * 1e6;
  }

  get sends() {
    return [...this.settledSends, ...this.openSends];
  }

  /** The listener's own span: as reported, or as it grows here. */
  listen(offset) {
    const told = this.summary?.listener;
    if (told) {
      const info = { outcome: told.outcome, "first sound after": told.first_audio, underruns: told.underruns, "clock error": told.clock_error };
      return { key: "listen", kind: "listen", id: told.span, parent: "", start: told.start, end: told.end, info, kept: told.exported, children: [],
        heard: told.first_audio === null ? null : told.start + told.first_audio * 1e9 };
    }
    const session = this.session;
    if (!session || session.started === null || this.origin === null) return null;
    const end = session.ended ?? Math.max(session.firstSound ?? 0, session.curve.at(-1)?.[0] ?? 0, session.started);
    return { key: "listen", kind: "listen", id: session.span, parent: "", start: this.fromOurs(session.started, offset), end: this.fromOurs(end, offset),
      info: {}, kept: false, children: [], heard: session.firstSound === null ? null : this.fromOurs(session.firstSound, offset) };
  }

  /** Every row, parents before children, in order of time: roots of a tree. */
  tree(offset) {
    const rows = [...this.settled, ...this.open];
    const listen = this.listen(offset);
    const known = new Map();
    for (const row of rows) {
      row.children = [];
      known.set(row.id, row);
    }
    const top = rows.find((row) => row.kind === "request") ?? null;
    const roots = [];
    if (listen) roots.push(listen);
    for (const row of rows) {
      const parent = known.get(row.parent) ?? (row === top ? null : top);
      if (parent === null) roots.push(row);
      else parent.children.push(row);
    }
    if (listen && top) {
      roots.splice(roots.indexOf(top), 1);
      listen.children.push(top);
    }
    for (const row of rows) row.children.sort((a, b) => a.start - b.start || b.end - a.end);
    return { roots, rows: listen ? [listen, ...rows] : rows, top, listen };
  }

  /** How much audio a listener who plays at once has waiting, by what the server sent: [nanoseconds, seconds] points, and when it ran dry. */
  reckoned() {
    const points = [];
    const dry = [];
    let empty = null; // when all that was sent has been played
    for (const [at, count] of this.sends) {
      const length = audio(count) * 1e9;
      if (empty === null || at > empty) {
        if (empty !== null) {
          points.push([empty, 0]);
          dry.push([empty, at]);
        }
        points.push([at, 0]);
        empty = at;
      } else points.push([at, (empty - at) / 1e9]);
      empty += length;
      points.push([at, (empty - at) / 1e9]);
    }
    if (empty !== null) points.push([empty, 0]);
    return { points, dry, end: empty ?? 0 };
  }
}
