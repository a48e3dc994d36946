// What is known of one run, a video's or a stream's: segments by index, events, memories. Views draw it; it knows no view.

const SURE = 0.5; // the score from which one of several labels is said, as in pipelines/events.py
const MOST = 20_000; // segments: eleven hours of two seconds each

export class Record extends EventTarget {
  segments = []; // ascending by index; with gaps where something was not heard of
  provisional = null; // the segment that is still filling
  events = [];
  latency = null;
  order = null; // of the memory's rows, taken from the first one, so that rows never change places
  #told = false; // whether the service told events itself
  #due = false;

  take(message) {
    switch (message.type) {
      case "segment":
        if (message.final === false) this.provisional = message;
        else this.#add(message);
        if (message.latency !== null && message.latency !== undefined) this.latency = message.latency;
        break;
      case "event":
        this.#event(message);
        break;
      case "rewound":
        this.cut(message.segment);
        break;
      default:
        return;
    }
    this.#changed();
  }

  #add(segment) {
    const kept = { ...segment, memory: segment.memory ? { ...segment.memory, vector: Float32Array.from(segment.memory.vector) } : null };
    this.provisional = null;
    if (kept.memory && !this.order) {
      const first = kept.memory.vector;
      this.order = [...first.keys()].sort((a, b) => first[a] - first[b]);
    }
    const last = this.segments.at(-1);
    if (!last || kept.index > last.index) this.segments.push(kept);
    else {
      const place = this.segments.findIndex((one) => one.index >= kept.index);
      const there = this.segments[place].index === kept.index;
      // Said again after a break, it comes without its memory.
      if (there) kept.memory ??= this.segments[place].memory;
      this.segments.splice(place, there ? 1 : 0, kept);
    }
    if (this.segments.length > MOST) this.segments.splice(0, this.segments.length - MOST);
  }

  #event({ state, label, start, end, confidence }) {
    this.#told = true;
    const open = this.events.findLast((one) => one.label === label && Math.abs(one.start - start) < 1e-3);
    const known = open ?? { label, start };
    Object.assign(known, { end, confidence, open: state !== "ended" });
    if (!open) this.events.push(known);
    if (this.events.length > MOST) this.events.shift();
  }

  // A video's result has all of its events.
  finish(events) {
    this.#told = true;
    this.events = events.map((one) => ({ ...one, open: false }));
    this.#changed();
  }

  // The stream went back: what came after is no more.
  cut(index) {
    this.segments = this.segments.filter((one) => one.index < index);
    this.provisional = null;
    const end = this.segments.at(-1)?.end ?? -Infinity;
    this.events = this.events.filter((one) => one.start < end).map((one) => ({ ...one, end: Math.min(one.end, end), open: false }));
    this.#changed();
  }

  // Events as told; before that, runs of one label as they look so far. Of a model's several labels the best may still be unlikely.
  shown({ background, several } = {}) {
    if (this.#told) return this.events;
    const runs = [];
    for (const { start, end, labels: [best] } of this.segments) {
      if (several && best.score < SURE) continue;
      const last = runs.at(-1);
      if (last && last.label === best.label && Math.abs(last.end - start) < 0.01) {
        last.confidence += (best.score - last.confidence) * ((end - start) / (end - last.start));
        last.end = end;
      } else runs.push({ label: best.label, start, end, confidence: best.score, open: false });
    }
    return runs.filter((one) => one.label !== background);
  }

  get start() {
    return this.segments[0]?.start ?? this.provisional?.start ?? 0;
  }

  get end() {
    return this.provisional?.end ?? this.segments.at(-1)?.end ?? 0;
  }

  get last() {
    return this.provisional ?? this.segments.at(-1) ?? null;
  }

  at(time) {
    const found = this.segments.findLast((one) => one.start <= time + 1e-6);
    return found && time <= found.end + 1e-6 ? found : null;
  }

  #changed() {
    if (this.#due) return;
    this.#due = true;
    // Not requestAnimationFrame alone: it rests in a tab that is hidden.
    setTimeout(() => {
      this.#due = false;
      this.dispatchEvent(new Event("change"));
    }, 30);
  }
}
