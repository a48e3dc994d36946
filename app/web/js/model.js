// The model that is served: its card, and a colour for each of its labels.

import { get } from "./api.js";

let asked = null;
export let card = null;

// Asked for once; again after an error.
export function loadCard() {
  asked ??= get("/v1/model").then(
    (found) => {
      card = found;
      places = new Map(hues(found.labels, found.background));
      return found;
    },
    (error) => {
      asked = null;
      throw error;
    });
  return asked;
}

export const isBackground = (label) => card !== null && label === card.background;

let places = new Map();

// Labels of one kind (Drink.Fromcup, Drink.Fromcan) share a hue; falls are red, and nothing else is.
function hues(labels, background) {
  const kinds = [...new Set(labels.filter((one) => one !== background).map((one) => one.split(".")[0]))];
  const others = kinds.filter((kind) => !/^fall/i.test(kind));
  return labels.map((label) => {
    const kind = label.split(".")[0];
    const same = labels.filter((one) => one.split(".")[0] === kind);
    const shift = same.length > 1 ? same.indexOf(label) / (same.length - 1) - 0.5 : 0;
    const step = 300 / Math.max(1, others.length);
    // Neighbours in the list are far apart on the wheel.
    const place = (others.indexOf(kind) * 5) % Math.max(1, others.length);
    const hue = label === background ? null : /^fall/i.test(kind) ? 25 : 52 + place * step + shift * step * 0.9;
    return [label, { hue, shift }];
  });
}

const media = matchMedia("(prefers-color-scheme: dark)");
export function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : media.matches;
}

// kind: "solid" for bars, "soft" for what lies behind text, "ink" for text.
export function colour(label, kind = "solid", dark = isDark()) {
  const { hue, shift } = places.get(label) ?? { hue: 250, shift: 0 };
  const [light, chroma] = {
    solid: dark ? [0.72, 0.13] : [0.6, 0.14],
    soft: dark ? [0.36, 0.06] : [0.92, 0.05],
    ink: dark ? [0.9, 0.06] : [0.36, 0.09],
  }[kind];
  if (hue === null) return `oklch(${light + (kind === "solid" ? (dark ? -0.2 : 0.14) : 0)} 0.006 100)`;
  return `oklch(${light + (kind === "solid" ? shift * 0.16 : 0)} ${chroma} ${hue})`;
}

// The same for elements, which change with the scheme by themselves.
export const css = (label, kind = "solid") => `light-dark(${colour(label, kind, false)}, ${colour(label, kind, true)})`;
