// The timeline's lanes on canvas. Each gets a place { ctx, width, height, x(time) -> pixels, from, to } and what it shows.

import { colour, isDark } from "./model.js";

const GAP = 1; // pixels between neighbours, where there is room

export const ink = () => (isDark() ? "#ecebe7" : "#1c1b19");
const faint = () => (isDark() ? "#ffffff1c" : "#00000014");
const muted = () => (isDark() ? "#a9a7a0" : "#5f5c56");
const accent = () => (isDark() ? "#2dd4bf" : "#0f766e");

function visible({ from, to }, list) {
  return list.filter((one) => one.end > from && one.start < to);
}

function box({ x }, { start, end }) {
  const left = x(start);
  const wide = x(end) - left;
  return [left, Math.max(1, wide - (wide > 5 ? GAP : 0))];
}

export function axis(place, ticksFor) {
  const { ctx, height, width, x } = place;
  ctx.fillStyle = muted();
  ctx.font = "11px system-ui, sans-serif";
  ctx.textBaseline = "middle";
  for (const { time, text } of ticksFor) {
    const at = x(time);
    const wide = ctx.measureText(text).width;
    ctx.fillRect(Math.round(at), height - 5, 1, 5);
    if (at + 4 + wide <= width) ctx.fillText(text, at + 4, height / 2 - 1);
  }
}

// Runs of one label as blocks with their name; below, each segment's confidence.
export function labels(place, segments, provisional) {
  const { ctx, height } = place;
  const upper = Math.round(height * 0.56);
  const all = visible(place, provisional ? [...segments, { ...provisional, filling: true }] : segments);
  let run = null;
  const runs = [];
  for (const one of all) {
    const label = one.labels[0].label;
    if (run && run.label === label && Math.abs(run.end - one.start) < 0.05 && !one.filling) run.end = one.end;
    else runs.push((run = { label, start: one.start, end: one.end, filling: one.filling }));
    const [left, wide] = box(place, one);
    const tall = Math.max(2, (height - upper - 3) * one.labels[0].score);
    ctx.globalAlpha = one.filling ? 0.45 : 1;
    ctx.fillStyle = faint();
    ctx.fillRect(left, upper + 3, wide, height - upper - 3);
    ctx.fillStyle = colour(label);
    ctx.fillRect(left, height - tall, wide, tall);
  }
  ctx.font = "600 12px system-ui, sans-serif";
  ctx.textBaseline = "middle";
  for (const one of runs) {
    const [left, wide] = box(place, one);
    ctx.globalAlpha = one.filling ? 0.55 : 1;
    ctx.fillStyle = colour(one.label, "soft");
    ctx.beginPath();
    ctx.roundRect(left, 0, wide, upper, Math.min(5, wide / 2));
    ctx.fill();
    write(ctx, one.label, Math.max(left, 0) + 7, wide - 12 + Math.min(left, 0), upper / 2 + 1, colour(one.label, "ink"));
  }
  ctx.globalAlpha = 1;
}

function write(ctx, text, left, room, middle, style) {
  ctx.fillStyle = style;
  let shown = text;
  if (ctx.measureText(shown).width > room) shown = text.includes(".") ? text.split(".").pop() : text;
  while (shown.length > 2 && ctx.measureText(`${shown}…`).width > room) shown = shown.slice(0, -1);
  if (room < 22 || shown.length < 3) return;
  const whole = shown === text || (text.includes(".") && shown === text.split(".").pop() && ctx.measureText(shown).width <= room);
  ctx.fillText(whole ? shown : `${shown}…`, left, middle);
}

// Columns of the memory, one a segment, in tiles that are painted once.
export class Heat {
  #tiles = new Map();
  #known = new Map(); // index -> the vector that was painted
  #dark = isDark();
  static WIDE = 256;

  draw(place, segments, order) {
    if (this.#dark !== isDark()) {
      this.#dark = isDark();
      this.#known.clear();
    }
    const { ctx, height } = place;
    ctx.imageSmoothingEnabled = false;
    for (const one of visible(place, segments)) {
      const vector = one.memory?.vector;
      if (!vector) continue;
      const tile = this.#tile(Math.floor(one.index / Heat.WIDE), vector.length);
      if (this.#known.get(one.index) !== vector) this.#paint(tile, one.index, vector, order);
      const left = place.x(one.start);
      const wide = place.x(one.end) - left;
      ctx.drawImage(tile, one.index % Heat.WIDE, 0, 1, vector.length, left, 0, wide > 6 ? wide - GAP : wide + 0.5, height);
    }
  }

  #tile(number, tall) {
    if (!this.#tiles.has(number)) this.#tiles.set(number, Object.assign(document.createElement("canvas"), { width: Heat.WIDE, height: tall }));
    return this.#tiles.get(number);
  }

  #paint(tile, index, vector, order) {
    const pixels = new ImageData(1, vector.length);
    for (let row = 0; row < vector.length; row++) {
      pixels.data.set(heat(vector[order ? order[row] : row]), row * 4);
    }
    tile.getContext("2d").putImageData(pixels, index % Heat.WIDE, 0);
    this.#known.set(index, vector);
  }
}

// -1 is teal, 0 the paper, 1 amber.
export function heat(value) {
  const paper = isDark() ? [28, 31, 30] : [250, 248, 244];
  const far = value < 0 ? (isDark() ? [45, 212, 191] : [13, 115, 107]) : isDark() ? [251, 191, 36] : [217, 119, 6];
  const share = Math.min(1, Math.abs(value)) ** 0.8;
  return [...paper.map((one, i) => one + (far[i] - one) * share), 255];
}

// One bar a segment: how much was read, or how much was changed.
export function bars(place, segments, valueOf, { strong = true } = {}) {
  const { ctx, height } = place;
  for (const one of visible(place, segments)) {
    const [left, wide] = box(place, one);
    ctx.fillStyle = faint();
    ctx.fillRect(left, 0, wide, height);
    const value = valueOf(one);
    if (value === null || value === undefined) continue;
    const tall = Math.max(1, height * Math.min(1, value));
    ctx.fillStyle = strong ? accent() : muted();
    ctx.fillRect(left, height - tall, wide, tall);
  }
}

export function events(place, rows, list, tall) {
  const { ctx, width } = place;
  rows.forEach((label, i) => {
    ctx.fillStyle = faint();
    ctx.fillRect(0, i * tall + tall / 2, width, 1);
  });
  for (const one of visible(place, list)) {
    const row = rows.indexOf(one.label);
    const [left, wide] = box(place, one);
    ctx.fillStyle = colour(one.label);
    ctx.globalAlpha = 0.45 + 0.55 * one.confidence;
    ctx.beginPath();
    ctx.roundRect(left, row * tall + 3, Math.max(3, wide), tall - 6, 4);
    ctx.fill();
  }
  ctx.globalAlpha = 1;
}
