// One request as its listener lives it: the socket, the sound, and an account of both.

import { clock, post, wall } from "./api.js";

const hex = (count) => Array.from(crypto.getRandomValues(new Uint8Array(count)), (byte) => byte.toString(16).padStart(2, "0")).join("");
const FAILED = new Set(["generation_error", "backend_error"]);

export class Session {
  trace = hex(16);
  span = hex(8);
  curve = []; // [seconds since 1970 by our clock, seconds of audio waiting]
  dry = []; // when the buffer ran out, seconds since 1970
  started = null;
  firstChunk = null; // when the first audio came from the network
  firstSound = null; // when it was heard
  ended = null;
  played = 0;
  underruns = 0;
  worst = 0; // seconds of the longest silence
  starved = 0;
  buffered = 0;
  chunks = 0;
  outcome = null;
  said = []; // sentences about what the service changed or refused
  closeCode = null;
  #opened = false;
  #finishedAt = null;
  #failed = null;
  #busy = false;

  /**
   * @param player Web Audio
   * @param changed called whenever something here has changed
   */
  constructor(player, changed) {
    this.player = player;
    this.changed = changed;
  }

  get running() {
    return this.outcome === null;
  }

  /** Speak. `address` is the service's WebSocket, `clicked` a performance.now() time. */
  async start(address, { text, voice, cfg, steps }, clicked) {
    this.started = wall(clicked);
    const query = new URLSearchParams({ text, ...(voice && { voice }), ...(cfg && { cfg }), ...(steps && { steps }) });
    query.set("traceparent", `00-${this.trace}-${this.span}-01`);
    this.address = address;
    const sound = await this.player.start(`${address}?${query}`, (message) => this.#heard(message), (message) => this.#said(message));
    if (sound) return;
    this.silent = true;
    this.said.push("This browser gives the page no sound; the stream is received all the same.");
  }

  #said(message) {
    if (!this.running) return;
    if (message.type === "opened") this.#opened = true;
    else if (message.type === "text") this.#log(message.text);
    else if (message.type === "closed") this.#closed(message.code);
    else if (message.type === "chunk") {
      this.firstChunk ??= message.at;
      this.chunks += 1;
      this.changed();
    }
  }

  #log(data) {
    let message = {};
    try {
      message = JSON.parse(data);
    } catch {
      return;
    }
    const { event, data: detail = {} } = message;
    if (event === "backend_busy") this.#busy = true;
    if (FAILED.has(event)) this.#failed = String(detail.message ?? event);
    if (event === "voice_replaced") this.said.push(`The service has no such voice and used ${detail.used}.`);
    if (event === "parameter_replaced") this.said.push(`The service did not take ${detail.parameter} and used ${detail.used}.`);
  }

  #heard(message) {
    const at = wall(message.at);
    if (message.type === "first") this.firstSound = at;
    if (message.type === "dry") this.dry.push(at);
    if (message.type === "status") {
      Object.assign(this, { buffered: message.buffered, played: message.played, starved: message.starved });
      this.underruns = message.underruns;
      this.worst = message.worst;
      if (this.firstSound !== null) this.curve.push([at, message.buffered]);
      // The audio thread may have finished before the socket's end was told: then that decides.
      if (message.finished) this.#finishedAt = at;
      if (message.finished && this.running && this.closeCode !== null) this.#finish("complete", at);
    }
    this.changed();
  }

  #closed(code) {
    if (!this.running) return;
    this.closeCode = code;
    if (this.#busy || code === 1013) return this.#finish("busy");
    if (!this.#opened) {
      this.said.push(`Nothing answers at ${this.address}.`);
      return this.#finish("dropped");
    }
    if (this.#failed !== null || ![1000, 1005, 1006].includes(code)) {
      this.said.push(this.#failed ?? `The service closed the connection with code ${code}.`);
      this.player.stop();
      return this.#finish("error");
    }
    if (code === 1006) {
      this.player.stop();
      return this.#finish("dropped");
    }
    if (!this.chunks) {
      this.said.push("The service sent no audio.");
      return this.#finish("error");
    }
    // Otherwise it ends when the last sound has been heard.
    if (this.silent || this.#finishedAt !== null) this.#finish("complete", this.#finishedAt ?? wall());
  }

  stop() {
    if (!this.running) return;
    this.#finish("stopped");
    this.player.stop();
  }

  #finish(outcome, at = wall()) {
    this.outcome = outcome;
    this.ended = at;
    this.changed();
    this.#report();
  }

  async #report() {
    const seconds = Math.max(0, this.ended - this.started, this.firstSound === null ? 0 : this.firstSound - this.started);
    const report = {
      trace: this.trace, started: this.started, seconds, first_sound: this.firstSound === null ? null : this.firstSound - this.started,
      outcome: this.outcome, underruns: this.underruns, underrun_seconds: Math.min(this.starved, seconds), played_seconds: this.played,
      clock_offset: clock.offset, clock_error: clock.error ?? 60, close_code: this.closeCode,
    };
    try {
      this.reported = await post("/api/listener", report);
    } catch (error) {
      this.reported = null;
      console.debug(`the listener's report was not taken: ${error.message}`);
    }
    this.changed();
  }
}
