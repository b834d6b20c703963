// Web Audio: what the listener's device really plays, and when.

export class Player {
  #context = null;
  #node = null;
  #ready = null;
  #analyser = null;
  #run = 0;
  #on = () => {};

  /** Get the audio device ready; browsers want a click or a key first. Rejects when there is no audio here. */
  prepare() {
    this.#ready ??= this.#open();
    return this.#ready;
  }

  async #open() {
    this.#context = new AudioContext({ sampleRate: 24000, latencyHint: "interactive" });
    await this.#context.audioWorklet.addModule("player-worklet.js");
    this.#node = new AudioWorkletNode(this.#context, "player", { numberOfInputs: 0, outputChannelCount: [1] });
    this.#analyser = this.#context.createAnalyser();
    this.#node.connect(this.#analyser).connect(this.#context.destination);
    this.#node.port.onmessage = ({ data }) => {
      if (data.run === this.#run) this.#on({ ...data, at: this.#heardAt(data.time) });
    };
  }

  /** performance.now() at which what the audio thread made at `time` is heard. */
  #heardAt(time) {
    const stamp = this.#context.getOutputTimestamp?.();
    if (stamp?.performanceTime > 0 && stamp.contextTime > 0) return stamp.performanceTime + (time - stamp.contextTime) * 1000;
    return performance.now() + (this.#context.baseLatency + (this.#context.outputLatency || 0)) * 1000;
  }

  /** Begin a new stream; `on` gets first, dry, fed and status messages with `at`, a performance.now() time. */
  async start(on) {
    this.#run += 1;
    this.#on = on;
    await this.prepare();
    await this.#context.resume();
    this.#node.port.postMessage({ type: "reset", run: this.#run });
    return this.#run;
  }

  /** PCM16 samples as they came from the socket. */
  push(buffer) {
    const samples = new Int16Array(buffer, 0, Math.floor(buffer.byteLength / 2));
    this.#node.port.postMessage({ type: "chunk", run: this.#run, samples }, [buffer]);
  }

  end() {
    this.#node?.port.postMessage({ type: "end", run: this.#run });
  }

  stop() {
    this.#run += 1;
    this.#node?.port.postMessage({ type: "reset", run: null });
  }

  /** The loudest sample that is at the output now, 0 to 1. */
  level() {
    if (!this.#analyser) return 0;
    const samples = new Float32Array(this.#analyser.fftSize);
    this.#analyser.getFloatTimeDomainData(samples);
    return samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
  }
}
