// The figures of the dashboard: what /metrics says, and what two readings of it say together. Nothing
// here touches the page, so that it can be tried without one.

const LINE = /^velvetrope_(\w+)(?:\{(.*)\})? (\S+)$/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
const number = (text) => (text === "+Inf" ? Infinity : Number(text));

// One reading: of each metric (without prefix and `_total`) its samples, as [labels, value].
export class Reading {
  constructor(text, at) {
    this.at = at; // ms
    this.metrics = new Map();
    for (const line of text.split("\n")) {
      const found = LINE.exec(line);
      if (!found) continue;
      const name = found[1].replace(/_total$/, "");
      if (!this.metrics.has(name)) this.metrics.set(name, []);
      const labels = Object.fromEntries([...(found[2] ?? "").matchAll(LABEL)].map(([, key, value]) => [key, value]));
      this.metrics.get(name).push([labels, number(found[3])]);
    }
  }

  samples(name, want = {}) {
    const wanted = Object.entries(want);
    return (this.metrics.get(name) ?? []).filter(([labels]) => wanted.every(([key, value]) => labels[key] === value));
  }

  // The sum, or null: nobody knows. A counter with labels is not told before it first rose.
  sum(name, want) {
    const found = this.samples(name, want);
    return found.length ? found.reduce((sum, [, value]) => sum + value, 0) : null;
  }

  max(name, want) {
    const found = this.samples(name, want);
    return found.length ? Math.max(...found.map(([, value]) => value)) : null;
  }

  // By one label: Map of its value to the sum.
  by(name, label) {
    const sums = new Map();
    for (const [labels, value] of this.samples(name)) sums.set(labels[label], (sums.get(labels[label]) ?? 0) + value);
    return sums;
  }
}

// What happened between two readings.
export class Span {
  constructor(then, now) {
    [this.then, this.now] = [then, now];
    this.seconds = (now.at - then.at) / 1000;
  }

  // A counter that fell began anew: the folder of the counts was emptied.
  rise(name, want) {
    const [then, now] = [this.then.sum(name, want) ?? 0, this.now.sum(name, want) ?? 0];
    return now < then ? now : now - then;
  }

  rate(name, want) {
    return this.rise(name, want) / this.seconds;
  }

  rates(name, label) {
    const then = this.then.by(name, label), found = new Map();
    for (const [key, value] of this.now.by(name, label)) {
      found.set(key, Math.max(value - (then.get(key) ?? 0), 0) / this.seconds);
    }
    return found;
  }

  // As Prometheus estimates it: even within a bucket. Null: nothing happened.
  quantile(q, name, want) {
    const then = new Map(this.then.samples(`${name}_bucket`, want).map(([{ le }, value]) => [le, value]));
    const below = this.now.samples(`${name}_bucket`, want)
      .map(([{ le }, value]) => [number(le), value - (then.get(le) ?? 0)])
      .sort(([a], [b]) => a - b);
    const all = below.at(-1)?.[1] ?? 0;
    if (all <= 0) return null;
    const found = below.findIndex(([, count]) => count >= q * all);
    const [floor, before] = found ? below[found - 1] : [0, 0];
    const [bound, count] = below[found];
    return bound === Infinity ? floor : floor + (bound - floor) * ((q * all - before) / (count - before));
  }

  // The mean of a histogram, by one label; where nothing happened there is none.
  means(name, label) {
    const times = this.rates(`${name}_count`, label), sums = this.rates(`${name}_sum`, label);
    return new Map([...times].filter(([, rate]) => rate > 0).map(([key, rate]) => [key, sums.get(key) / rate]));
  }
}

export function count(value) {
  if (value === null || value === undefined) return "–";
  const digits = value !== 0 && Math.abs(value) < 10 && !Number.isInteger(value) ? 1 : 0;
  return value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: 0 });
}

// With its word: "1 unit", "2 units", "– units".
export const many = (value, word) => `${count(value)} ${word}${value === 1 ? "" : "s"}`;

export function time(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds === 0) return "0 s";
  if (seconds < 0.001) return `${(seconds * 1000).toFixed(2)} ms`;
  if (seconds < 1) return `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
  if (seconds < 120) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86400)} d`;
}
