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
  starved = 0;
  buffered = 0;
  chunks = 0;
  outcome = null;
  said = []; // sentences about what the service changed or refused
  closeCode = null;
  #socket = null;
  #opened = false;
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
    const sound = this.player.start((message) => this.#heard(message)).catch(() => {
      this.said.push("This browser gives the page no sound; the stream is received all the same.");
      this.silent = true;
    });
    this.#socket = new WebSocket(`${address}?${query}`);
    this.#socket.binaryType = "arraybuffer";
    this.#socket.onopen = () => (this.#opened = true);
    const waiting = [];
    let ready = false;
    this.#socket.onmessage = (event) => (ready ? this.#receive(event.data) : waiting.push(event.data));
    this.#socket.onclose = async (event) => {
      await sound;
      this.#closed(event.code);
    };
    await sound;
    ready = true;
    for (const data of waiting) this.#receive(data);
  }

  #receive(data) {
    if (typeof data === "string") this.#log(data);
    else if (data.byteLength && this.running) {
      this.firstChunk ??= wall();
      this.chunks += 1;
      if (!this.silent) this.player.push(data);
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
      if (this.firstSound !== null) this.curve.push([at, message.buffered]);
      if (message.finished && this.running) this.#finish("complete", at);
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
    if (this.silent) return this.#finish("complete");
    return this.player.end(); // what is in the buffer is still to be heard
  }

  stop() {
    if (!this.running) return;
    this.#finish("stopped");
    this.player.stop();
    this.#socket?.close(1000);
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
