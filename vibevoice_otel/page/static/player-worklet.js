// On the audio thread: a queue of PCM16 chunks, played at once and without a head start, so that a late chunk is heard as it is.

class Player extends AudioWorkletProcessor {
  constructor() {
    super();
    this.reset();
    this.port.onmessage = ({ data }) => this.receive(data);
  }

  receive(data) {
    if (data.type === "socket") data.port.onmessage = ({ data: sent }) => this.receive(sent);
    else if (data.type === "reset") this.reset(data.run);
    else if (data.run !== this.run) return;
    else if (data.type === "end") this.ended = true;
    else if (data.type === "chunk") {
      this.chunks.push(data.samples);
      this.queued += data.samples.length;
    }
  }

  reset(run = null) {
    this.run = run;
    this.chunks = [];
    this.queued = 0; // samples waiting
    this.position = 0; // in the first chunk, fractional where the device's rate is not ours
    this.played = 0;
    this.started = this.ended = this.finished = this.starving = false;
    this.underruns = 0;
    this.starved = 0; // seconds
    this.gap = this.worst = 0; // seconds of the silence that goes on, and of the longest one
    this.blocks = 0;
    this.peak = 0;
  }

  next(step) {
    const chunk = this.chunks[0];
    const sample = chunk[Math.floor(this.position)] / 32768;
    this.position += step;
    this.played += step;
    while (this.chunks.length && this.position >= this.chunks[0].length) {
      this.position -= this.chunks[0].length;
      this.queued -= this.chunks[0].length;
      this.chunks.shift();
    }
    if (!this.chunks.length) this.position = 0;
    return sample;
  }

  process(_inputs, outputs) {
    if (this.run === null) return true;
    const out = outputs[0][0];
    const step = 24000 / sampleRate;
    for (let i = 0; i < out.length; i++) {
      if (this.chunks.length) {
        if (!this.started) {
          this.started = true;
          this.port.postMessage({ type: "first", run: this.run, time: currentTime + i / sampleRate });
        }
        if (this.starving) {
          this.starving = false;
          this.port.postMessage({ type: "fed", run: this.run, time: currentTime + i / sampleRate });
        }
        out[i] = this.next(step);
        this.peak = Math.max(this.peak, Math.abs(out[i]));
      } else if (this.started && !this.ended) {
        if (!this.starving) {
          this.starving = true;
          this.gap = 0;
          this.underruns += 1;
          this.port.postMessage({ type: "dry", run: this.run, time: currentTime + i / sampleRate });
        }
        this.starved += 1 / sampleRate;
        this.gap += 1 / sampleRate;
        this.worst = Math.max(this.worst, this.gap);
      }
    }
    const finished = this.ended && !this.chunks.length;
    if (++this.blocks % 8 === 0 || (finished && !this.finished)) {
      this.port.postMessage({
        type: "status", run: this.run, time: currentTime, buffered: Math.max(0, this.queued - this.position) / 24000,
        played: this.played / 24000, underruns: this.underruns, starved: this.starved, worst: this.worst, peak: this.peak, finished,
      });
      this.peak = 0;
    }
    if (finished) {
      this.finished = true;
      this.run = null;
    }
    return true;
  }
}

registerProcessor("player", Player);
