// <crt-timeline>: labels, confidence, what was read from the memory, the memory itself and events over one axis of time.
//
// .show(record, { live, duration })   what to draw; duration is a video's, in seconds
// .playhead = seconds                 where the player is; of a stream null, which is the latest
// "seek" (detail: { time, segment })  a click, or the arrow keys

import { h, say } from "./dom.js";
import { clock, percent, span } from "./format.js";
import * as lanes from "./lanes.js";
import { card } from "./model.js";

const ROW = 22; // pixels of a row of events
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 86400];
const SPANS = [["all", "All"], ["60", "1 minute"], ["300", "5 minutes"], ["1800", "30 minutes"]];
const LANES = [
  { name: "time", title: "", tall: 22 },
  { name: "labels", title: "Label", note: "what the model says, and how sure it is", tall: 46 },
  { name: "read", title: "Read", note: "share of attention that the label took from the memory", tall: 30 },
  { name: "memory", title: "Memory", note: "the numbers that each segment left behind", tall: 116 },
  { name: "changed", title: "Changed", note: "how much of the memory each segment wrote anew", tall: 24 },
];

class Timeline extends HTMLElement {
  #record = null;
  #live = false;
  #duration = 0;
  #playhead = null;
  #hover = null;
  #rows = [];
  #heat = new lanes.Heat();
  #canvases = {};
  #drawn = 0;
  #onChange = () => this.draw();

  #build() {
    if (this.firstChild) return;
    this.span = h("select", { "aria-label": "Time that is shown", onchange: () => this.draw() },
      SPANS.map(([value, text]) => h("option", { value }, text)));
    this.readout = h("div", { class: "tl-readout" });
    this.slider = h("div", {
      class: "tl-slider", role: "slider", tabindex: "0", "aria-label": "Position in the timeline", "aria-valuemin": "0",
      "aria-valuemax": "0", "aria-valuenow": "0", "aria-valuetext": "nothing yet",
      onkeydown: (event) => this.#key(event), onpointermove: (event) => this.#point(event), onpointerleave: () => this.#leave(),
      onpointerdown: (event) => this.#press(event),
    });
    this.line = h("div", { class: "tl-line" });
    this.ghost = h("div", { class: "tl-line ghost", hidden: true });
    const made = LANES.map(({ name, title, note, tall }) => {
      const canvas = h("canvas", { class: "tl-canvas", "aria-hidden": "true" });
      canvas.style.height = `${tall}px`;
      this.#canvases[name] = canvas;
      return h("div", { class: `lane lane-${name}` }, h("span", { class: "lane-title", title: note }, title), canvas);
    });
    this.names = h("div", { class: "tl-names" });
    const canvas = (this.#canvases.events = h("canvas", { class: "tl-canvas", "aria-hidden": "true", onpointerdown: (event) => this.#press(event) }));
    this.append(
      h("div", { class: "tl-head" }, this.readout, h("label", { class: "tl-span" }, h("span", {}, "Show"), this.span)),
      h("div", { class: "tl-body" }, made, h("div", { class: "tl-track" }, this.ghost, this.line, this.slider)),
      h("div", { class: "lane tl-events", tabindex: "0", role: "group", "aria-label": "Events by class" }, this.names, canvas));
  }

  connectedCallback() {
    this.#build();
    this.observer = new ResizeObserver(this.#onChange);
    this.observer.observe(this);
    window.addEventListener("crt-scheme", this.#onChange);
    this.draw();
  }

  disconnectedCallback() {
    this.observer?.disconnect();
    window.removeEventListener("crt-scheme", this.#onChange);
    this.#record?.removeEventListener("change", this.#onChange);
  }

  show(record, { live = false, duration = 0 } = {}) {
    this.#build();
    this.#record?.removeEventListener("change", this.#onChange);
    if (record !== this.#record) [this.#rows, this.#playhead, this.#heat] = [[], null, new lanes.Heat()];
    [this.#record, this.#live, this.#duration] = [record, live, duration];
    record.addEventListener("change", this.#onChange);
    if (live && !this.#drawn) this.span.value = "60";
    this.draw();
  }

  get playhead() {
    return this.#playhead;
  }

  set playhead(time) {
    this.#playhead = time;
    this.#place();
  }

  get selected() {
    const { segments } = this.#record ?? { segments: [] };
    return this.#playhead === null ? (segments.at(-1) ?? null) : this.#record.at(this.#playhead);
  }

  // The stretch of time that is shown.
  get range() {
    const record = this.#record;
    const begin = this.#live ? record.start : 0;
    const end = Math.max(record.end, begin + this.#duration);
    const wanted = this.span.value === "all" ? Infinity : Number(this.span.value);
    if (end - begin <= wanted) return [begin, this.#live && Number.isFinite(wanted) ? begin + wanted : Math.max(end, begin + 1)];
    if (this.#live && this.#playhead === null) return [end - wanted, end];
    const page = Math.floor(((this.#playhead ?? begin) - begin) / wanted);
    return [begin + page * wanted, begin + (page + 1) * wanted];
  }

  draw() {
    if (!this.#record || !this.isConnected || !this.clientWidth) return;
    cancelAnimationFrame(this.#drawn);
    this.#drawn = requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    const record = this.#record;
    const shown = record.shown(card ?? {});
    for (const { label } of shown) if (!this.#rows.includes(label)) this.#rows.push(label);
    if (this.names.children.length !== this.#rows.length) this.names.replaceChildren(...this.#rows.map((label) => h("span", {}, label)));
    const change = (one) => (one.memory?.change ?? null) === null ? null : one.memory.change / 0.6;
    const drawing = {
      time: (place) => lanes.axis(place, this.#ticks(place)),
      labels: (place) => lanes.labels(place, record.segments, record.provisional),
      read: (place) => lanes.bars(place, record.segments, (one) => one.memory?.read),
      memory: (place) => this.#heat.draw(place, record.segments, record.order),
      changed: (place) => lanes.bars(place, record.segments, change, { strong: false }),
      events: (place) => lanes.events(place, this.#rows, shown, ROW),
    };
    this.#canvases.events.style.height = `${Math.max(this.#rows.length, 1) * ROW}px`;
    for (const [name, canvas] of Object.entries(this.#canvases)) {
      const scale = devicePixelRatio || 1;
      const { clientWidth: width, clientHeight: height } = canvas;
      if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
        Object.assign(canvas, { width: Math.round(width * scale), height: Math.round(height * scale) });
      }
      const ctx = canvas.getContext("2d");
      ctx.setTransform(scale, 0, 0, scale, 0, 0);
      ctx.clearRect(0, 0, width, height);
      const [from, to] = this.range;
      drawing[name]({ ctx, width, height, from, to, x: (time) => ((time - from) / (to - from)) * width });
    }
    this.#place();
  }

  #ticks({ from, to, width }) {
    const step = STEPS.find((one) => ((to - from) / one) * 74 <= width) ?? STEPS.at(-1);
    const ticks = [];
    for (let time = Math.ceil(from / step) * step; time < to; time += step) ticks.push({ time, text: clock(time) });
    return ticks;
  }

  // The lines, the slider's value and what is read out.
  #place() {
    const record = this.#record;
    if (!record) return;
    const [from, to] = this.range;
    const time = this.#playhead ?? record.end;
    this.line.style.left = `${Math.min(100, Math.max(0, ((time - from) / (to - from)) * 100))}%`;
    this.line.hidden = !record.segments.length && !this.#duration;
    this.ghost.hidden = this.#hover === null;
    if (this.#hover !== null) this.ghost.style.left = `${((this.#hover - from) / (to - from)) * 100}%`;
    const at = this.#hover !== null ? record.at(this.#hover) : this.#playhead !== null ? record.at(this.#playhead) : record.last;
    this.readout.replaceChildren(...read(at, record));
    const chosen = this.#playhead !== null ? record.at(time) : record.last;
    const set = (name, value) => this.slider.getAttribute(name) !== value && this.slider.setAttribute(name, value);
    set("aria-valuemin", String(Math.floor(from)));
    set("aria-valuemax", String(Math.ceil(to)));
    set("aria-valuenow", String(Math.round(Math.min(Math.max(time, from), to))));
    set("aria-valuetext", chosen ? `${span(chosen.start, chosen.end)}: ${chosen.labels[0].label}, ${percent(chosen.labels[0].score)}` : clock(time));
  }

  #timeAt(event) {
    const { left, width } = this.slider.getBoundingClientRect();
    const [from, to] = this.range;
    return from + Math.min(1, Math.max(0, (event.clientX - left) / width)) * (to - from);
  }

  #point(event) {
    this.#hover = this.#timeAt(event);
    if (event.buttons & 1 && !this.#live) this.#seek(this.#hover);
    this.#place();
  }

  #leave() {
    this.#hover = null;
    this.#place();
  }

  #press(event) {
    if (event.button !== 0 || !this.#record) return;
    this.#seek(this.#timeAt(event));
  }

  #key(event) {
    const { segments } = this.#record ?? { segments: [] };
    if (!segments.length) return;
    const now = Math.max(0, segments.indexOf(this.selected ?? segments.at(-1)));
    const next = {
      ArrowRight: now + 1, ArrowUp: now + 1, ArrowLeft: now - 1, ArrowDown: now - 1, PageUp: now + 10, PageDown: now - 10, Home: 0, End: segments.length - 1,
    }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    if (this.#live && next >= segments.length - 1) this.latest();
    else this.#seek(segments[Math.min(segments.length - 1, Math.max(0, next))].start + 1e-3);
  }

  // Of a stream: follows what comes again.
  latest() {
    this.#playhead = null;
    this.draw();
    this.dispatchEvent(new CustomEvent("seek", { detail: { time: null, segment: this.selected } }));
  }

  #seek(time) {
    if (this.#live && time >= this.#record.end) {
      this.latest();
      return;
    }
    this.#playhead = time;
    this.draw();
    this.dispatchEvent(new CustomEvent("seek", { detail: { time, segment: this.#record.at(time) } }));
  }
}

// A segment in a line: when, what, and what the memory had to do with it.
function read(segment, record) {
  if (!segment) return [h("span", { class: "muted" }, record.segments.length ? "Nothing was seen at that moment." : "Labels appear here as they are made.")];
  const { labels: [best], memory } = segment;
  const parts = [
    h("span", { class: "tl-when" }, span(segment.start, segment.end)),
    h("strong", {}, best.label), h("span", {}, percent(best.score)),
  ];
  if (segment.final === false) parts.push(h("span", { class: "muted" }, "so far"));
  if (memory && memory.read !== null && memory.read !== undefined) {
    parts.push(h("span", { class: "tl-fact" }, `${percent(memory.read)} read from memory`));
  }
  if (memory?.without) {
    const same = memory.without.label === best.label;
    parts.push(h("span", { class: same ? "tl-fact" : "tl-fact tells" },
      same ? `the same without memory, ${percent(memory.without.score)}` : `without memory: ${memory.without.label} ${percent(memory.without.score)}`));
  }
  return parts;
}

customElements.define("crt-timeline", Timeline);
