// How good the call is: what the browser counts, and what the server tells.

const SECONDS = 10; // that loss is told of
const FRAME_MS = 80; // the model's, which has to be full before it is heard
const LEAD_MS = 20; // sound that the server has ready at least

/** Shares of what was lost in the last SECONDS, from counters that only rise. */
export class Loss {
  constructor() {
    this.counts = [];
  }

  add(received, lost) {
    this.counts.push([received, lost]);
    if (this.counts.length > SECONDS + 1) this.counts.shift();
    const [firstReceived, firstLost] = this.counts[0];
    const gone = Math.max(0, lost - firstLost);
    const all = received - firstReceived + gone;
    return all > 0 ? gone / all : 0;
  }
}

export class Quality {
  constructor() {
    this.in = new Loss();
    this.out = new Loss();
    this.server = {};
    this.buffer = [0, 0];
    this.known = {};
  }

  /** What the server tells once a second. */
  told(statistics) {
    this.server = statistics;
    if (!this.#ofRoom) this.known.out = this.out.add(statistics.packets_received, statistics.packets_lost);
  }

  /** Read the browser's own counters; gives all that is known, times in milliseconds. */
  async read(connection) {
    let network = null;
    let buffer = 0;
    for (const report of (await connection.getStats()).values()) {
      if (report.type === 'candidate-pair' && report.nominated && report.currentRoundTripTime !== undefined) {
        network = report.currentRoundTripTime * 1000;
      } else if (report.type === 'inbound-rtp' && report.kind === 'audio') {
        this.known.in = this.in.add(report.packetsReceived ?? 0, report.packetsLost ?? 0);
        buffer = this.#buffer(report.jitterBufferDelay ?? 0, report.jitterBufferEmittedCount ?? 0);
      }
    }
    const step = this.server.step_s == null ? null : this.server.step_s * 1000;
    const latency =
      network === null || step === null || this.#ofRoom
        ? null
        : network + buffer + (this.server.playout_delay_s ?? 0) * 1000 + FRAME_MS + step + LEAD_MS;
    return { ...this.known, network, model: step, latency };
  }

  /** Whether what the server tells is of a room, and not of our own way there. */
  get #ofRoom() {
    return this.server.codec === 'room';
  }

  /** Mean milliseconds that sound waited in the browser's buffer since the last time. */
  #buffer(delay, count) {
    const [delayBefore, countBefore] = this.buffer;
    this.buffer = [delay, count];
    return count > countBefore ? ((delay - delayBefore) / (count - countBefore)) * 1000 : 0;
  }
}

export const milliseconds = (value) => (value == null ? '–' : `${Math.round(value)} ms`);
export const percent = (share) => (share == null ? '–' : `${(share * 100).toFixed(1)} %`);
