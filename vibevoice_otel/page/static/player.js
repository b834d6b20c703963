// Web Audio: what the listener's device really plays, and when.

export class Player {
  #context = null;
  #node = null;
  #ready = null;
  #analyser = null;
  #run = 0;
  #on = () => {};
  #said = () => {};

  constructor() {
    this.worker = new Worker("socket-worker.js");
    this.worker.onmessage = ({ data }) => {
      if (data.run === this.#run) this.#said(data);
    };
  }

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
    // The socket's worker hands its chunks to the audio thread without a stop here.
    const { port1, port2 } = new MessageChannel();
    this.#node.port.postMessage({ type: "socket", port: port1 }, [port1]);
    this.worker.postMessage({ type: "player", port: port2 }, [port2]);
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

  /**
   * Begin a new stream from `address`. `on` gets the audio thread's first, dry, fed and status messages with `at`, a performance.now()
   * time; `said` the socket's opened, chunk, text and closed messages. Resolves to false where there is no sound.
   */
  async start(address, on, said) {
    const run = (this.#run += 1);
    [this.#on, this.#said] = [on, said];
    let silent = false;
    try {
      await this.prepare();
      await this.#context.resume();
      this.#node.port.postMessage({ type: "reset", run });
    } catch {
      silent = true;
    }
    if (run === this.#run) this.worker.postMessage({ type: "open", address, run, silent });
    return !silent;
  }

  stop() {
    this.#run += 1;
    this.worker.postMessage({ type: "close" });
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
