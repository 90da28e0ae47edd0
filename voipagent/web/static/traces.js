// How loud somebody is, as bars that wander to the left; with reduced motion, as one bar that grows and shrinks.

const BAR = 3; // pixels
const GAP = 2;
const EVERY = 50; // milliseconds a bar
const FLOOR = -54; // dB of full scale that are nothing
const still = matchMedia('(prefers-reduced-motion: reduce)');

/** The level of a stream, 0 to 1, by decibels. */
export class Meter {
  constructor(context, stream) {
    this.source = context.createMediaStreamSource(stream);
    this.analyser = context.createAnalyser();
    this.analyser.fftSize = 2048; // 43 ms at 48 kHz
    this.source.connect(this.analyser);
    this.samples = new Float32Array(this.analyser.fftSize);
  }

  get level() {
    this.analyser.getFloatTimeDomainData(this.samples);
    let sum = 0;
    for (const sample of this.samples) sum += sample * sample;
    const decibels = 10 * Math.log10(sum / this.samples.length + 1e-9);
    return Math.min(1, Math.max(0, 1 - decibels / FLOOR));
  }

  close() {
    this.source.disconnect();
  }
}

export class Trace {
  constructor(canvas) {
    this.canvas = canvas;
    this.levels = [];
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.draw());
  }

  push(level) {
    this.levels.push(level);
    if (this.levels.length > 600) this.levels.splice(0, 200);
    this.draw();
  }

  clear() {
    this.levels = [];
    this.draw();
  }

  draw() {
    const { canvas } = this;
    const ratio = devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width) return;
    if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
    if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
    const pen = canvas.getContext('2d');
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.fillStyle = getComputedStyle(canvas).color;
    if (still.matches) this.#bar(pen, width, height);
    else this.#bars(pen, width, height);
  }

  #bars(pen, width, height) {
    const count = Math.floor((width + GAP) / (BAR + GAP));
    const shown = Array.from({ length: count }, (_, index) => this.levels[this.levels.length - count + index] ?? 0);
    for (const silent of [true, false]) {
      pen.beginPath();
      shown.forEach((level, index) => {
        if ((level === 0) !== silent) return;
        const tall = Math.max(BAR, level * height);
        pen.roundRect(index * (BAR + GAP), (height - tall) / 2, BAR, tall, BAR / 2);
      });
      pen.globalAlpha = silent ? 0.35 : 0.9;
      pen.fill();
    }
    pen.globalAlpha = 1;
  }

  #bar(pen, width, height) {
    const level = this.levels.at(-1) ?? 0;
    pen.globalAlpha = 0.2;
    pen.fillRect(0, height / 2 - 4, width, 8);
    pen.globalAlpha = 0.9;
    pen.fillRect(0, height / 2 - 4, width * level, 8);
    pen.globalAlpha = 1;
  }
}

/** Calls `tick` with each bar's time, as long as the page is seen; gives what ends that. */
export function beat(tick) {
  let last = 0;
  let handle = 0;
  const frame = (now) => {
    if (now - last >= (still.matches ? 250 : EVERY)) {
      last = now;
      tick();
    }
    handle = requestAnimationFrame(frame);
  };
  handle = requestAnimationFrame(frame);
  return () => cancelAnimationFrame(handle);
}
